"""The random numbers behind a draw: distinct indices below any bound, and ids that tell nothing."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator

from hf_exposure.checks import whole_number
from hf_exposure.limits import LARGEST_SEED


def seed_or_entropy(seed: int | None) -> int:
    """The given seed, or 128 bits of the system's entropy."""
    # random.Random takes the absolute value, so that -1 would silently be 1: no negative seeds.
    return secrets.randbits(128) if seed is None else whole_number("seed", seed, 0, LARGEST_SEED)


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


def distinct_ids(taken: Iterable[str] = ()) -> Iterator[str]:
    """Ids of eight hex digits from the system's entropy, none of them in `taken`."""
    seen = set(taken)
    while True:
        identifier = secrets.token_hex(4)
        if identifier not in seen:
            seen.add(identifier)
            yield identifier
