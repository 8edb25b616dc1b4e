"""A space of fillings: a deterministic character automaton with exact counts, from which everything else is derived.

Each kind of space defines where a filling starts, which characters may come next, where it may end and how many
fillings are left. Drawing, ranking and membership tests follow from these four without listing the space. Spaces are
frozen: a constructor that checks its arguments stores them through `vars(self)`.

The end of the file has the random numbers for a draw: distinct indices below any bound, and ids that reveal nothing.
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

State = Any  # hashable; each kind of space has its own type


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
        """The exact number of fillings that can be completed from `state`, including one that is complete."""

    @property
    @abstractmethod
    def alphabet(self) -> frozenset[str]:
        """The characters that fillings are made of."""

    @property
    @abstractmethod
    def fixed_length(self) -> int | None:
        """The length of every filling in characters, or None if lengths differ."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The space as plain values for JSON; `space_from_dict` is the inverse."""

    @property
    def continuations(self) -> frozenset[str]:
        """The characters that may extend a complete filling to a longer one; the set may contain other characters
        of the alphabet.
        """
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
        """The lengths in characters, ascending, of the fillings that occur in `text` at `position`."""
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
    """The moves of a state with their counts. They are cached, since thousands of texts are drawn at a time and
    pass through the same few states.
    """
    return tuple((character, following, space.count(following)) for character, following in space.moves(state).items())


# How often each draw was made in this process, so that repeated draws differ.
_draws: Counter[str] = Counter()


class Entropy:
    """The source of the seed, the ids and the salt of one draw: the system's entropy.

    In a job of several processes, each would otherwise draw its own secrets and train on different data. So the
    system's entropy is read once for the whole job. The values of a draw are hashes of that entropy, of the draw's
    arguments and of how often it was made: they are equal on every process, and a published id reveals nothing about
    them.

    Args:
        arguments: the arguments of the draw, as JSON values.
    """

    def __init__(self, arguments: Any) -> None:
        token = job_token()
        self._key, self._given = "", 0
        if token is not None:
            draw = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode("utf-8")).hexdigest()
            self._key = f"{token} {draw} {_draws[draw]}"
            _draws[draw] += 1

    def hex(self, size: int) -> str:
        """`size` random bytes in hex; at most 32."""
        if not self._key:
            return secrets.token_hex(size)
        self._given += 1
        return hashlib.sha256(f"{self._key} {self._given}".encode()).hexdigest()[: 2 * size]

    def seed(self) -> int:
        """128 random bits."""
        return int(self.hex(16), 16)


def distinct_indices(size: int, seed: int, taken: Iterable[int] = ()) -> Iterator[int]:
    """Indices below `size` that are not in `taken`, uniform and without replacement, in the order drawn.

    The caller must not request more than there are. `random.sample` accepts no range beyond 2**63, and its algorithm
    may change; `getrandbits` of a seeded generator is the Mersenne Twister's own output. A repeated index is drawn
    again. Never sort a draw and cut it: the first n of a sorted draw are not uniform.
    """
    generator, bits, seen = random.Random(seed), (size - 1).bit_length(), set(taken)
    while True:
        index = generator.getrandbits(bits)
        if index < size and index not in seen:
            seen.add(index)
            yield index


def distinct_ids(entropy: Entropy | None = None) -> Iterator[str]:
    """Distinct ids of eight hex digits, which reveal nothing."""
    entropy = entropy or Entropy("ids")
    seen: set[str] = set()
    while True:
        identifier = entropy.hex(4)
        if identifier not in seen:
            seen.add(identifier)
            yield identifier
