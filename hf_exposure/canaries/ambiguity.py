"""Whether two different fillings of a template can render the same text. If they could, ranks would be off.

Such a template is an automaton that reads one text in two ways. The check walks the pairs of positions that one text
leads to (the squared automaton; Book, Even, Greibach and Ott 1971, "Ambiguity in graphs and expressions").
"""

from __future__ import annotations

from collections.abc import Iterator

from hf_exposure.canaries.segments import Position, SegmentAutomaton
from hf_exposure.errors import InputError

_BUDGET = 50_000
"""Positions and pairs of them that are tried before giving up: about a second."""


def refuse_ambiguity(template: SegmentAutomaton, text: str) -> None:
    """Raise an `InputError` that shows a text which two fillings of the template render; `text` is the template's."""
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
    """Whether a hole may go on with a character that also starts the next segment. If none does, reading is forced."""
    segment, following = template.segments[index], template.segments[index + 1]
    if isinstance(segment, str) or segment[1].fixed_length is not None:
        return False
    first = {following[0]} if isinstance(following, str) else set(following[1].moves(following[1].start))
    return not first.isdisjoint(segment[1].continuations)


def _text_read_twice(template: SegmentAutomaton) -> str | None:
    """A text that can be read in two ways, or None.

    First the single positions, noting where one character leads to two; then pairs of positions from there. A pair
    that meets again, or ends together, was two readings of one text.
    """
    (first,) = template.start
    seen: set[Position | tuple[Position, Position]] = {first}
    singles, pairs = [(first, "")], []
    for position, read in singles:  # both lists grow while they are walked
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
    """Some text that leads from `position` to an end."""
    characters = []
    while not template.position_is_end(position):
        character, following = next(_following(template, position))
        characters.append(character)
        position = following[-1]  # out of the hole where it may end
    return "".join(characters)
