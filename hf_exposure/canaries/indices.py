"""The random numbers behind a draw: distinct indices below any bound, and ids that tell nothing."""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from hf_exposure.launch import job_token

# How often each draw was made in this process: two of one kind differ.
_draws: Counter[str] = Counter()


class Entropy:
    """Where the seed, the ids and the salt of one draw come from: the system's entropy.

    In a job of many processes each would draw secrets of its own, and train on other data. There the system's entropy
    is asked for once, for the whole job, and what a draw gets is hashed from that, from the draw's arguments and from
    how often it was made: the same on every process, and nothing that a published id gives away.

    Args:
        arguments: of the draw, as JSON can hold them.
    """

    def __init__(self, arguments: Any) -> None:
        token = job_token()
        self._key, self._given = "", 0
        if token is not None:
            draw = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode("utf-8")).hexdigest()
            self._key = f"{token} {draw} {_draws[draw]}"
            _draws[draw] += 1

    def hex(self, size: int) -> str:
        """So many random bytes, 32 at most, in hex."""
        if not self._key:
            return secrets.token_hex(size)
        self._given += 1
        return hashlib.sha256(f"{self._key} {self._given}".encode()).hexdigest()[: 2 * size]

    def seed(self) -> int:
        """128 random bits."""
        return int(self.hex(16), 16)


def distinct_indices(size: int, seed: int, taken: Iterable[int] = ()) -> Iterator[int]:
    """Indices below `size` that are not in `taken`, uniform and without replacement, in the order drawn.

    The caller takes no more than there are. `random.sample` takes no range beyond 2**63, and its algorithm may change;
    `getrandbits` of a seeded generator is the Mersenne Twister's own output. A repeated index is drawn again. Never
    sort what was drawn and cut: the first n of a sorted draw are not uniform.
    """
    generator, bits, seen = random.Random(seed), (size - 1).bit_length(), set(taken)
    while True:
        index = generator.getrandbits(bits)
        if index < size and index not in seen:
            seen.add(index)
            yield index


def distinct_ids(entropy: Entropy | None = None) -> Iterator[str]:
    """Ids of eight hex digits that tell nothing, each of them once."""
    entropy = entropy or Entropy("ids")
    seen: set[str] = set()
    while True:
        identifier = entropy.hex(4)
        if identifier not in seen:
            seen.add(identifier)
            yield identifier
