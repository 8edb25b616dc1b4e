"""A template's fixed texts and holes, read as one deterministic character automaton.

A *position* is one way to have read the characters so far: `(segment, offset)` in a fixed text, `(segment, state)` in
a hole. If a hole may either end or go on, one text has two positions, so a *state* is a tuple of positions, nearly
always of one.

The count of a state is the sum over its positions only if no two fillings render the same text; otherwise ranks would
be wrong. `refuse_ambiguity` checks this. A template with such a text is an automaton that reads one text in two ways,
so the check visits the pairs of positions that one text leads to (the squared automaton; Book, Even, Greibach and Ott
1971, "Ambiguity in graphs and expressions").
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import prod
from typing import Any

from hf_exposure.canaries.space import Space
from hf_exposure.errors import InputError

Hole = tuple[str, Space]
Segment = str | Hole
Position = tuple[int, Any]

_BUDGET = 50_000
"""Number of positions and pairs of positions that `refuse_ambiguity` tries before it gives up, which takes about a
second.
"""


class SegmentAutomaton:
    """Implements the four methods of a `Space` for the whole text of a template.

    Two fixed texts are never adjacent, and neither fixed texts nor fillings are empty.
    """

    segments: tuple[Segment, ...]

    @cached_property
    def _fillings_after(self) -> tuple[int, ...]:
        """For each segment, the number of ways to fill the holes after it."""
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
            if len(onward) == 1:  # the usual case: a fixed text, or a hole that cannot end here
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
        """The exact number of texts of the template that can be completed from `state`, including one that is
        complete.
        """
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
        """One or two sets of moves: those inside the segment and, if a hole may end, those into the next segment."""
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
        return self.position_moves(self._entry(index))[0]  # no filling is empty, so an entry has only one set of moves

    def _literal_moves(self, index: int, offset: int) -> dict[str, Position]:
        text = self.segments[index]
        if offset == len(text):
            return {}
        at_its_end = offset + 1 == len(text) and index + 1 < len(self.segments)
        following = self._entry(index + 1) if at_its_end else (index, offset + 1)
        return {str(text[offset]): following}


def refuse_ambiguity(template: SegmentAutomaton, text: str) -> None:
    """Raises an `InputError` with an example if two fillings of the template render the same text; `text` is the
    template's.
    """
    if not any(_may_blur(template, index) for index in range(len(template.segments) - 1)):
        return
    remedy = "Put a character that no filling holds between the hole and what follows."
    try:
        example = _text_read_twice(template)
    except _BudgetExceededError:
        rule = f"must have holes whose ends can be told within {_BUDGET} steps"
        raise InputError("text", rule, text, remedy) from None
    if example is not None:
        rule = f"must not render the same text from two different fillings, as {example!r}"
        raise InputError("text", rule, text, remedy)


class _BudgetExceededError(Exception):
    pass


def _may_blur(template: SegmentAutomaton, index: int) -> bool:
    """Whether a hole may go on with a character that also starts the next segment. Otherwise a text can be read in
    only one way.
    """
    segment, following = template.segments[index], template.segments[index + 1]
    if isinstance(segment, str) or segment[1].fixed_length is not None:
        return False
    first = {following[0]} if isinstance(following, str) else set(following[1].moves(following[1].start))
    return not first.isdisjoint(segment[1].continuations)


def _text_read_twice(template: SegmentAutomaton) -> str | None:
    """A text that can be read in two ways, or None.

    It first visits single positions, and notes where one character leads to two; then it visits pairs of positions
    from there. A pair that meets again, or ends together, comes from two readings of one text.
    """
    (first,) = template.start
    seen: set[Position | tuple[Position, Position]] = {first}
    singles, pairs = [(first, "")], []
    for position, read in singles:  # both lists grow during the loop
        for character, following in _following(template, position):
            if len(following) == 2:
                pairs.append((following[0], following[1], read + character))
            for one in following:
                if _is_new(one, seen):
                    singles.append((one, read + character))
    for left, right, read in pairs:
        if template.position_is_end(left) and template.position_is_end(right):
            return read
        right_moves = dict(_following(template, right))
        for character, onward in _following(template, left):
            for one in onward:
                for other in right_moves.get(character, ()):
                    if one == other:
                        return read + character + _completion(template, one)
                    if _is_new((one, other), seen):
                        pairs.append((one, other, read + character))
    return None


def _is_new(item: Position | tuple[Position, Position], seen: set[Position | tuple[Position, Position]]) -> bool:
    if item in seen:
        return False
    if len(seen) >= _BUDGET:
        raise _BudgetExceededError
    seen.add(item)
    return True


def _following(template: SegmentAutomaton, position: Position) -> Iterator[tuple[str, tuple[Position, ...]]]:
    yield from template.moves((position,)).items()


def _completion(template: SegmentAutomaton, position: Position) -> str:
    """A text that leads from `position` to an end."""
    characters = []
    while not template.position_is_end(position):
        character, following = next(_following(template, position))
        characters.append(character)
        position = following[-1]  # out of the hole if it may end
    return "".join(characters)
