"""A space of fillings: a deterministic character automaton with exact counts. The rest is derived here, once.

A kind of space says where a filling starts, which characters may come next, where it may end and how many fillings
are left. Drawing, ranking and membership follow from those four without ever listing the space. Spaces are frozen: a
constructor that checks its arguments writes them through `vars(self)`.

Below the spaces are the random numbers behind a draw: distinct indices below any bound, and ids that tell nothing.
"""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from hf_exposure.checks import encodable_text, index_below
from hf_exposure.errors import InputError, described
from hf_exposure.launch import job_token

State = Any  # hashable; each kind of space has its own


class Space(ABC):
    """The set `R` of texts that may fill one hole of a template.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 3.

    Instances are immutable, hashable, picklable and equal by value. Every state can be completed (there are no dead
    ends), and no filling is the empty text.
    """

    @property
    @abstractmethod
    def start(self) -> State:
        """The state before the first character."""

    @abstractmethod
    def moves(self, state: State) -> dict[str, State]:
        """The characters that may come next, in sorted order, each with the state that it leads to."""

    @abstractmethod
    def is_end(self, state: State) -> bool:
        """Whether the characters read so far are a whole filling (which may still go on)."""

    @abstractmethod
    def count(self, state: State) -> int:
        """How many fillings can be completed from `state`, exactly; one that is complete already counts as one."""

    @property
    @abstractmethod
    def alphabet(self) -> frozenset[str]:
        """The characters that fillings are made of."""

    @property
    @abstractmethod
    def fixed_length(self) -> int | None:
        """The length of every filling in characters, or None where lengths differ."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The space as plain values for JSON; `space_from_dict` is the way back."""

    @property
    def continuations(self) -> frozenset[str]:
        """Characters by which a whole filling may go on to a longer one; may hold others of the alphabet."""
        return frozenset() if self.fixed_length is not None else self.alphabet

    @property
    def size(self) -> int:
        """The number of fillings `|R|`, exactly."""
        return self.count(self.start)

    def text_at(self, index: int) -> str:
        """The filling at `index` in lexicographic order of code points, from 0 to `size - 1`.

        Raises:
            InputError: the index is outside the space.
        """
        index = index_below(self.size, index, "Draw it below space.size.")
        state = self.start
        characters: list[str] = []
        while True:
            if self.is_end(state):
                if index == 0:
                    return "".join(characters)
                index -= 1  # a text sorts before its own continuations
            for character, following, fillings in _steps(self, state):
                if index < fillings:
                    characters.append(character)
                    state = following
                    break
                index -= fillings

    def index_of(self, text: str) -> int:
        """The inverse of `text_at`.

        Raises:
            InputError: the text is not a filling of this space.
        """
        state, index = self.start, 0
        for position, character in enumerate(encodable_text("text", text)):
            moves = self.moves(state)
            if character not in moves:
                raise self._not_a_filling(text, f"character {position} does not fit")
            index += self.is_end(state)
            for smaller, following in moves.items():
                if smaller == character:
                    break
                index += self.count(following)
            state = moves[character]
        if not self.is_end(state):
            raise self._not_a_filling(text, "it stops too early")
        return index

    def contains(self, text: str) -> bool:
        """Whether `text` is a filling of this space."""
        return isinstance(text, str) and len(text) in self.lengths_at(text, 0)

    def lengths_at(self, text: str, position: int) -> list[int]:
        """The lengths in characters, ascending, of the fillings that stand in `text` from `position` on."""
        state, lengths = self.start, []
        for length, character in enumerate(text[position:], start=1):
            moves = self.moves(state)
            if character not in moves:
                break
            state = moves[character]
            if self.is_end(state):
                lengths.append(length)
        return lengths

    def _not_a_filling(self, text: str, why: str) -> InputError:
        rule = f"must be a filling of {self!r}; {why}"
        return InputError("text", rule, described(text), "Check it with space.contains(text).")


@lru_cache(maxsize=4096)
def _steps(space: Space, state: State) -> tuple[tuple[str, State, int], ...]:
    """The moves of a state with their counts: thousands of texts are drawn at a time, and pass the same few states."""
    return tuple((character, following, space.count(following)) for character, following in space.moves(state).items())


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
