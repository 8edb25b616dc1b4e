"""A template's fixed texts and holes, read as one deterministic character automaton.

A *position* is one way to have read the characters so far: `(segment, offset)` in a fixed text, `(segment, state)` in
a hole. A hole that may end or go on makes two positions of one text, so a *state* is the tuple of its positions:
nearly always one. No two fillings render the same text (`ambiguity.py` sees to it), so the counts of the positions add
up.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Any

from hf_exposure.canaries.space import Space

Hole = tuple[str, Space]
Segment = str | Hole
Position = tuple[int, Any]


class SegmentAutomaton:
    """The four methods of a `Space`, for the whole text of a template.

    Two fixed texts never stand side by side, none is empty, and neither is any filling.
    """

    segments: tuple[Segment, ...]

    @cached_property
    def _fillings_after(self) -> tuple[int, ...]:
        """For each segment, the number of ways to fill the holes behind it."""
        sizes = [1 if isinstance(segment, str) else segment[1].size for segment in self.segments]
        return tuple(prod(sizes[index + 1 :]) for index in range(len(sizes)))

    @property
    def start(self) -> tuple[Position, ...]:
        """The state before the first character."""
        return (self._entry(0),)

    def moves(self, state: tuple[Position, ...]) -> dict[str, tuple[Position, ...]]:
        """The characters that may come next, in sorted order, each with the state that it leads to."""
        if len(state) == 1:
            onward = self.position_moves(state[0])
            if len(onward) == 1:  # a fixed text, or a hole that can only go on: the usual case
                return {character: (following,) for character, following in onward[0].items()}
        else:
            onward = [moves for position in state for moves in self.position_moves(position)]
        merged: dict[str, tuple[Position, ...]] = {}
        for moves in onward:
            for character, following in moves.items():
                merged[character] = (*merged.get(character, ()), following)
        return dict(sorted(merged.items()))

    def is_end(self, state: tuple[Position, ...]) -> bool:
        """Whether the characters read so far are a whole text of the template (which may still go on)."""
        return any(self.position_is_end(position) for position in state)

    def count(self, state: tuple[Position, ...]) -> int:
        """How many texts of the template can be completed from `state`, exactly, counting one that is complete."""
        total = 0
        for index, inner in state:
            segment = self.segments[index]
            fillings = 1 if isinstance(segment, str) else segment[1].count(inner)
            total += fillings * self._fillings_after[index]
        return total

    def position_is_end(self, position: Position) -> bool:
        index, inner = position
        if index < len(self.segments) - 1:
            return False
        segment = self.segments[index]
        return bool(inner == len(segment)) if isinstance(segment, str) else segment[1].is_end(inner)

    def position_moves(self, position: Position) -> list[dict[str, Position]]:
        """One to two sets of moves: those inside the segment, and where a hole may end, those into the next one."""
        index, inner = position
        segment = self.segments[index]
        if isinstance(segment, str):
            return [self._literal_moves(index, inner)]
        _, space = segment
        inside = {character: (index, following) for character, following in space.moves(inner).items()}
        if index + 1 == len(self.segments) or not space.is_end(inner):
            return [inside]
        onward = [self._entry_moves(index + 1)]
        return [inside, *onward] if inside else onward

    def _entry(self, index: int) -> Position:
        segment = self.segments[index]
        return (index, 0) if isinstance(segment, str) else (index, segment[1].start)

    def _entry_moves(self, index: int) -> dict[str, Position]:
        return self.position_moves(self._entry(index))[0]  # no filling is empty, so an entry has moves of one kind

    def _literal_moves(self, index: int, offset: int) -> dict[str, Position]:
        text = self.segments[index]
        if offset == len(text):
            return {}
        at_its_end = offset + 1 == len(text) and index + 1 < len(self.segments)
        following = self._entry(index + 1) if at_its_end else (index, offset + 1)
        return {str(text[offset]): following}
