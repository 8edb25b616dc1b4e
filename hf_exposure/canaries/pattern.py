"""A space of all texts that match a finite regular expression, each of them counted once.

Python's own parser reads the expression. Its tree becomes an automaton with empty moves (Thompson 1968), and that
becomes a deterministic one (Rabin and Scott 1959), in which every text leads to one state, even if the expression
matches it in two ways, as `a|ab|a(b)` does. Numbers of texts are then sums over the automaton, exact and without
listing any text. Expressions that would make it too large are refused while it is built: see `limits`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from hf_exposure.canaries.space import Space, State
from hf_exposure.checks import encodable_text
from hf_exposure.errors import InputError
from hf_exposure.limits import (
    DEEPEST_PATTERN,
    LARGEST_SPACE_DIGITS,
    LONGEST_FILLING,
    LONGEST_PATTERN,
    MOST_PATTERN_MOVES,
    MOST_PATTERN_STATES,
)

_PRINTABLE = frozenset(map(chr, range(0x20, 0x7F)))
_DIGITS = frozenset("0123456789")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") | _DIGITS
_CLASSES = {
    sre.CATEGORY_DIGIT: _DIGITS,
    sre.CATEGORY_WORD: _WORD,
    sre.CATEGORY_NOT_DIGIT: _PRINTABLE - _DIGITS,
    sre.CATEGORY_NOT_WORD: _PRINTABLE - _WORD,
}
# The limit on states of the simple automaton, summed over those of the deterministic one, since nested repetitions may
# put all of them into each.
_LARGEST_IN_ALL = 2_000_000


@dataclass(frozen=True)
class Automaton:
    """A deterministic automaton without cycles, in which every state leads to an end.

    Attributes:
        moves: for each state, the next state for each character, in sorted order. State 0 is the start.
        ends: for each state, whether a text may end there.
        counts: for each state, the number of texts from there on.
    """

    moves: tuple[dict[str, int], ...]
    ends: tuple[bool, ...]
    counts: tuple[int, ...]


def compile_regex(regex: str) -> tuple[Automaton, int | None]:
    """The automaton of a finite regular expression, and the length of its texts, or None if lengths differ.

    Raises:
        InputError: this is not a regular expression, or one that is not supported.
    """
    if len(regex) > LONGEST_PATTERN:
        raise _refused(regex, f"at most {LONGEST_PATTERN} characters", "Use Choice for a list of texts.")
    if _depth(regex) > DEEPEST_PATTERN:
        raise _refused(regex, f"at most {DEEPEST_PATTERN} groups inside each other", "Take out some parentheses.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about nested sets, whose meaning is kept
            tree = _parser.parse(regex)
    except (re.error, OverflowError) as error:
        raise InputError("pattern", f"must be a regular expression ({error})", regex, _EXAMPLE) from None
    if tree.state.flags & ~re.UNICODE:
        raise _refused(regex, "no flags", "Write both letters, as [Aa].")
    builder = _Builder(regex)
    end = builder.add(tree, 0)
    shortest, longest = tree.getwidth()
    if longest > LONGEST_FILLING:
        raise _refused(regex, f"texts of at most {LONGEST_FILLING} characters", "Use smaller repetitions.")
    automaton = _determinize(builder, end)
    if any("\ud800" <= character <= "\udfff" for row in automaton.moves for character in row):
        raise _refused(regex, "no surrogates, which UTF-8 cannot encode", "Leave them out of the class.")
    if automaton.ends[0]:
        raise _refused(regex, "no empty text", "Write {1,3} instead of {0,3}.")
    if automaton.counts[0] >= 10**LARGEST_SPACE_DIGITS:
        raise _refused(regex, f"at most 10^{LARGEST_SPACE_DIGITS} texts", "Use smaller repetitions.")
    return automaton, shortest if shortest == longest else None


_EXAMPLE = 'Write Pattern(r"[A-Z]{2}\\d{6}").'


def _depth(regex: str) -> int:
    """The maximum depth of groups. It is an upper bound, since a parenthesis in a class counts too."""
    depth = deepest = 0
    for character in re.sub(r"\\.", "", regex, flags=re.DOTALL):
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _refused(regex: str, rule: str, remedy: str) -> InputError:
    return InputError("pattern", f"must have {rule}", regex, remedy)


class _Builder:
    """States with empty moves and moves on sets of characters."""

    def __init__(self, regex: str) -> None:
        self.regex = regex
        self.steps = 0
        self.empty: list[list[int]] = [[]]
        self.moves: list[list[tuple[frozenset[str], int]]] = [[]]

    def new_state(self) -> int:
        if len(self.empty) >= MOST_PATTERN_STATES:
            raise _refused(self.regex, f"at most {MOST_PATTERN_STATES} states", "Use smaller repetitions.")
        self.empty.append([])
        self.moves.append([])
        return len(self.empty) - 1

    def add(self, tree: Iterable[tuple[Any, Any]], state: int) -> int:
        """Adds `tree` after `state`, and returns the state at its end."""
        self.spend(1)
        for operation, argument in tree:
            state = self._add_one(operation, argument, state)
        return state

    def _add_one(self, operation: Any, argument: Any, state: int) -> int:
        if operation is sre.SUBPATTERN:
            _, added, removed, inner = argument
            if added or removed:
                raise _refused(self.regex, "no flags", "Write both letters, as [Aa].")
            return self.add(inner, state)
        if operation is sre.BRANCH:
            after = self.new_state()
            for way in argument[1]:
                self.empty[self.add(way, state)].append(after)
            return after
        if operation in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            return self._repeat(argument, state)
        characters = self._characters(operation, argument)
        after = self.new_state()
        self.moves[state].append((characters, after))
        return after

    def _repeat(self, argument: tuple[int, Any, Any], state: int) -> int:
        least, most, inner = argument
        if most is sre.MAXREPEAT:
            raise _refused(self.regex, "bounded repetitions", "Write {1,8} instead of + or *.")
        if most > MOST_PATTERN_STATES:
            raise _refused(self.regex, f"at most {MOST_PATTERN_STATES} states", "Use smaller repetitions.")
        for _ in range(least):
            state = self.add(inner, state)
        after = self.new_state()
        self.empty[state].append(after)
        for _ in range(most - least):
            state = self.add(inner, state)
            self.empty[state].append(after)
        return after

    def _characters(self, operation: Any, argument: Any) -> frozenset[str]:
        if operation is sre.LITERAL:
            return frozenset(chr(argument))
        if operation is sre.NOT_LITERAL:
            return self._some(_PRINTABLE - {chr(argument)})
        if operation is sre.ANY:
            return _PRINTABLE
        if operation is sre.IN:
            negated = argument[0][0] is sre.NEGATE
            self.spend(sum(item[1][1] - item[1][0] for item in argument[negated:] if item[0] is sre.RANGE))
            inside = frozenset().union(*(self._members(*item) for item in argument[negated:]))
            return self._some(_PRINTABLE - inside if negated else inside)
        kind = {sre.AT: "anchors", sre.GROUPREF: "backreferences"}.get(operation, "look-arounds or conditions")
        raise _refused(self.regex, f"no {kind}", "The pattern always matches whole fillings: leave them out.")

    def _members(self, operation: Any, argument: Any) -> frozenset[str]:
        if operation is sre.RANGE:
            return frozenset(map(chr, range(argument[0], argument[1] + 1)))
        if operation is sre.CATEGORY:
            if argument not in _CLASSES:
                raise _refused(self.regex, r"no class but \d, \w, \D and \W", "List the characters, as [ab].")
            return _CLASSES[argument]
        return frozenset(chr(argument))

    def spend(self, moves: int) -> None:
        """Counts the moves that are built, and stops before there are too many."""
        self.steps += moves
        if self.steps > MOST_PATTERN_MOVES:
            rule = f"at most {MOST_PATTERN_MOVES} characters in its classes, summed over its states"
            raise _refused(self.regex, rule, "Use smaller classes or repetitions.")

    def _some(self, characters: frozenset[str]) -> frozenset[str]:
        if not characters:
            raise _refused(self.regex, "at least one printable ASCII character in each class", _EXAMPLE)
        return characters

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """All states that empty moves reach."""
        found, open_states = set(states), list(states)
        while open_states:
            for following in self.empty[open_states.pop()]:
                if following not in found:
                    found.add(following)
                    open_states.append(following)
        return frozenset(found)


def _determinize(builder: _Builder, end: int) -> Automaton:
    start = builder.closure([0])
    number_of = {start: 0}
    found, moves, size = [start], [], len(start)
    for states in found:  # the list grows during the loop
        following: dict[str, set[int]] = {}
        for state in states:
            for characters, after in builder.moves[state]:
                builder.spend(len(characters))
                for character in characters:
                    following.setdefault(character, set()).add(after)
        row = {}
        # Characters that lead to the same states share one closure.
        closures: dict[frozenset[int], frozenset[int]] = {}
        for character in sorted(following):
            key = frozenset(following[character])
            if key not in closures:
                closures[key] = builder.closure(key)
            to = closures[key]
            if to not in number_of:
                size += len(to)
                if size > _LARGEST_IN_ALL:
                    raise _refused(builder.regex, f"at most {MOST_PATTERN_STATES} states", "Use smaller repetitions.")
                number_of[to] = len(found)
                found.append(to)
            row[character] = number_of[to]
        moves.append(row)
    ends = tuple(end in states for states in found)
    return Automaton(tuple(moves), ends, _counts(moves, ends))


def _counts(moves: list[dict[str, int]], ends: tuple[bool, ...]) -> tuple[int, ...]:
    """The number of texts from each state on; without recursion, since a filling may be long."""
    counts: list[int | None] = [None] * len(moves)
    open_states = [0]
    while open_states:
        state = open_states[-1]
        unknown = [after for after in set(moves[state].values()) if counts[after] is None]
        if unknown:
            open_states += unknown
            continue
        counts[state] = ends[state] + sum(counts[after] or 0 for after in moves[state].values())
        open_states.pop()
    return tuple(count or 0 for count in counts)


@dataclass(frozen=True, init=False, repr=False)
class Pattern(Space):
    r"""Every text that a finite regular expression matches as a whole, each counted once.

    It may have literals, classes, groups, alternatives and bounded repetitions, in Python's syntax. `\d` and `\w`
    match ASCII; `.` and negated classes match printable ASCII.

    Args:
        pattern: the expression, without anchors.

    Raises:
        InputError: `pattern` is not a regular expression; it has an unbounded repetition (`*`, `+`), an anchor, a
            backreference, a look-around or a flag; it matches the empty text, or a text of more than 1,000 characters;
            or it has more than 100,000 states.

    Example:
        >>> plate = Pattern(r"[A-Z]{2}\d{6}")
        >>> plate.size, plate.text_at(1), plate.index_of("ZZ999999"), plate.contains("A1")
        (676000000, 'AA000001', 675999999, False)
        >>> Pattern(r"a|ab|a(b|c)").size
        3
    """

    pattern: str
    _automaton: Automaton = field(compare=False)
    _length: int | None = field(compare=False)

    def __init__(self, pattern: str) -> None:
        automaton, length = compile_regex(encodable_text("pattern", pattern))
        vars(self).update(pattern=pattern, _automaton=automaton, _length=length)

    def __repr__(self) -> str:
        return f"Pattern({self.pattern!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.pattern,)

    @property
    def start(self) -> State:
        return 0

    def moves(self, state: State) -> dict[str, State]:
        return dict(self._automaton.moves[state])

    def is_end(self, state: State) -> bool:
        return self._automaton.ends[state]

    def count(self, state: State) -> int:
        return self._automaton.counts[state]

    @property
    def alphabet(self) -> frozenset[str]:
        return frozenset().union(*self._automaton.moves)

    @property
    def continuations(self) -> frozenset[str]:
        ends = zip(self._automaton.moves, self._automaton.ends, strict=True)
        return frozenset().union(*(moves for moves, is_end in ends if is_end))

    @property
    def fixed_length(self) -> int | None:
        return self._length

    def to_dict(self) -> dict[str, Any]:
        return {"type": "pattern", "pattern": self.pattern}
