"""The pattern with which a tokenizer splits texts, read one character at a time.

A pre-tokenizer's regular expression is matched from left to right with backtracking, and its cuts may depend on later
characters (`\\s+(?!\\S)`, `'ll`). Here the expression becomes an automaton whose threads are kept in the order in
which a backtracking matcher tries them (Pike's machine). After each character, it shows whether the words before it
can still change.

Only the syntax of common tokenizers is supported: classes, groups, alternatives, repetitions, and looking one
character ahead. Everything else raises `UnknownSplit`, and nothing is claimed.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

_CATEGORIES = " L M N P S Z Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp "


class UnknownSplit(Exception):
    """A pre-tokenizer or normalizer about which nothing can be proven; the message says why.

    Attributes:
        may_move: whether it may move boundaries of words for few texts only, so that a sample cannot represent all.
    """

    def __init__(self, reason: str, *, may_move: bool = False) -> None:
        super().__init__(reason)
        self.may_move = may_move


Contains = Callable[[str], bool]


class Step(NamedTuple):
    """The effect of one more character.

    Attributes:
        kind: whether it continues the word before it, starts a word, is dropped, or may move an earlier boundary.
        configuration: the configuration after the character.
    """

    kind: Literal["continues", "starts", "dropped", "moved"]
    configuration: object


MOVED = Step("moved", None)


@dataclass
class _State:
    """One of: a character to read, the next states in order of preference, a look-ahead, or the end."""

    reads: Contains | None = None
    ways: list[int] = field(default_factory=list)
    ahead: Contains | None = None
    not_ahead: Contains | None = None
    is_match: bool = False


@dataclass(frozen=True)
class _Node:
    """A parsed part.

    Attributes:
        add: adds its states before a state and returns the first of them.
        first: returns whether a character may be the first that it reads.
        nullable: whether it may match the empty text.
        single: the class of a part that reads exactly one character.
    """

    add: Callable[[int], int]
    first: Contains
    nullable: bool
    single: Contains | None = None
    looks: bool = False


_GAP = (-1,)


class PatternSplit:
    """A pre-tokenizer that cuts a text into the matches of a pattern and the gaps between them.

    A configuration consists of the live threads in the word read so far, in order of preference; the whole word is
    always the match. Between matches it is `_GAP`.

    Args:
        pattern: in Oniguruma's syntax, as `tokenizers` reads it.
        keeps_gaps: whether the text between two matches is a word too; otherwise there must be none.

    Raises:
        UnknownSplit: a part of it is not supported.
    """

    start: object = ()

    def __init__(self, pattern: str, *, keeps_gaps: bool = True) -> None:
        self._keeps_gaps = keeps_gaps
        self.states: list[_State] = [_State(is_match=True)]
        parser = _Parser(pattern, self.states)
        self._start: tuple[int, ...] = (parser.whole().add(0),)
        self._disjoint = parser.disjoint
        self._steps: dict[tuple[object, str], Step] = {}

    def step(self, configuration: object, character: str) -> Step:
        """The effect of `character` after a word in that configuration; before any word it is `start`."""
        key = (configuration, character)
        if key not in self._steps:
            self._steps[key] = self._step(configuration, character)
        return self._steps[key]

    def read(self, text: str) -> tuple[list[str], object]:
        """The words of a whole text, and the configuration after it; None if a boundary in it is not settled.

        Raises:
            UnknownSplit: a part of the text is in no match.
        """
        words: list[str] = []
        at, is_settled, in_gap = 0, True, False
        while at < len(text):
            alive, end = self._start, at
            for place in range(at, len(text)):
                alive, ended = self._read(alive, text[place])
                end = place if ended else end
                if not alive:
                    break
            if alive and self._ends(alive):
                return [*words, text[at:]], alive if is_settled else None
            is_settled = is_settled and not alive
            if end == at:
                if not self._keeps_gaps:
                    raise UnknownSplit("the splitting pattern leaves out part of a text")
                words = [*words[:-1], words[-1] + text[at]] if in_gap else [*words, text[at]]
                at, in_gap = at + 1, True
                continue
            words.append(text[at:end])
            at, in_gap = end, False
        return words, (_GAP if in_gap else self.start) if is_settled else None

    def _step(self, configuration: object, character: str) -> Step:
        assert isinstance(configuration, tuple)
        if any(one(character) and other(character) for one, other in self._disjoint):
            raise UnknownSplit(f"the splitting pattern has a possessive repetition that holds back {character!r}")
        if configuration and configuration != _GAP:
            alive, ended = self._read(configuration, character)
            if alive:
                # With live threads, the word either continues or its end is not yet settled.
                return Step("continues", alive) if self._ends(alive) else MOVED
            if not ended:
                return MOVED
        alive, ended = self._read(self._start, character)
        if not alive and not ended and self._keeps_gaps:
            return Step("continues" if configuration == _GAP else "starts", _GAP)
        return Step("starts", alive) if alive and not ended and self._ends(alive) else MOVED

    def _read(self, threads: tuple[int, ...], character: str) -> tuple[tuple[int, ...], bool]:
        """The threads after `character`, and whether a preferred one ended before it."""
        alive: dict[int, None] = {}
        for state in self._closure(threads, character):
            if self.states[state].is_match:
                return tuple(alive), True
            reads = self.states[state].reads
            if reads is not None and reads(character):
                alive[self.states[state].ways[0]] = None
        return tuple(alive), False

    def _ends(self, threads: tuple[int, ...]) -> bool:
        """Whether the word read so far is a match if the text ends."""
        return any(self.states[state].is_match for state in self._closure(threads, None))

    def _closure(self, threads: tuple[int, ...], following: str | None) -> Iterator[int]:
        """The states that read or end, by preference; `following` is the next character, None at the text's end."""
        seen: set[int] = set()
        stack = list(reversed(threads))
        while stack:
            number = stack.pop()
            if number in seen:
                continue
            seen.add(number)
            state = self.states[number]
            if state.is_match or state.reads is not None:
                yield number
                continue
            if state.ahead is not None and (following is None or not state.ahead(following)):
                continue
            if state.not_ahead is not None and following is not None and state.not_ahead(following):
                continue
            stack.extend(reversed(state.ways))


class _Parser:
    def __init__(self, pattern: str, states: list[_State]) -> None:
        self._pattern, self._at, self._states = pattern, 0, states
        self._ignores_case, self._depth = False, 0
        # A possessive repetition is equivalent to an ordinary one if no character may be both in it and after it.
        self.disjoint: list[tuple[Contains, Contains]] = []

    def whole(self) -> _Node:
        node = self._alternatives()
        if self._at < len(self._pattern):
            raise self._unknown("a closing parenthesis")
        return node

    def _alternatives(self) -> _Node:
        ways = [self._sequence()]
        while self._taken("|"):
            ways.append(self._sequence())
        if len(ways) == 1:
            return ways[0]
        return _Node(
            lambda after: self._new(ways=[way.add(after) for way in ways]),
            lambda c: any(way.first(c) for way in ways),
            any(way.nullable for way in ways),
            looks=any(way.looks for way in ways),
        )

    def _sequence(self) -> _Node:
        parts: list[tuple[_Node, bool]] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            parts.append(self._repeated(self._atom()))
        for place, (part, possessive) in enumerate(parts):
            if possessive:
                self._check_possessive(part, [node for node, _ in parts[place + 1 :]])
        return _concatenated([part for part, _ in parts])

    def _check_possessive(self, part: _Node, rest: list[_Node]) -> None:
        """Checks that a possessive repetition never needs to backtrack; then it is equivalent to an ordinary one."""
        following = _concatenated(rest)
        if following.looks:
            raise self._unknown("a possessive repetition before a look-around")
        if self._depth:
            raise self._unknown("a possessive repetition in a group")
        if not following.nullable:
            self.disjoint.append((part.first, following.first))

    def _repeated(self, part: _Node) -> tuple[_Node, bool]:
        least, most = 1, 1
        if self._taken("*"):
            least, most = 0, -1
        elif self._taken("+"):
            least, most = 1, -1
        elif self._taken("?"):
            least, most = 0, 1
        elif self._pattern.startswith("{", self._at):
            end = self._pattern.find("}", self._at)
            if end < 0:
                raise self._unknown("an open brace")
            low, comma, high = self._pattern[self._at + 1 : end].partition(",")
            if not low.isdecimal() or (high and not high.isdecimal()):
                raise self._unknown("braces that are no repetition")
            least, most = int(low), (int(high) if high else -1) if comma else int(low)
            self._at = end + 1
            if self._pattern[self._at : self._at + 1] in ("+", "?", "*"):
                raise self._unknown("a repetition of a repetition")
        else:
            return part, False
        if part.nullable or (most >= 0 and most < max(least, 1)):
            raise self._unknown("a repetition of what may be empty")
        lazy, possessive = self._taken("?"), self._taken("+")
        if possessive and (lazy or part.single is None):
            raise self._unknown("a possessive repetition of more than a character")
        if self._pattern[self._at : self._at + 1] in ("+", "?", "*"):
            raise self._unknown("a repetition of a repetition")

        def add(after: int) -> int:
            if most < 0:
                loop = self._new()
                again = part.add(loop)
                self._states[loop].ways = [after, again] if lazy else [again, after]
                first = again if least else loop
                needed = max(least - 1, 0)
            else:
                first, needed = after, least
                for _ in range(most - least):
                    inner = part.add(first)
                    first = self._new(ways=[after, inner] if lazy else [inner, after])
            for _ in range(needed):
                first = part.add(first)
            return first

        return _Node(add, part.first, least == 0, looks=part.looks), possessive

    def _atom(self) -> _Node:
        character = self._pattern[self._at]
        if character == "(":
            return self._group()
        if character == "[":
            self._at += 1
            return self._reading(self._class())
        self._at += 1
        if character == "\\":
            return self._reading(self._escaped())
        if character == ".":
            return self._reading(lambda c: c != "\n")
        if character in "^$*+?{":
            raise self._unknown(f"{character!r}")
        return self._reading(self._literal(character))

    def _group(self) -> _Node:
        self._depth += 1
        node = self._grouped()
        self._depth -= 1
        return node

    def _grouped(self) -> _Node:
        for opening, flips in (("(?:", False), ("(?i:", True)):
            if self._taken(opening):
                before, self._ignores_case = self._ignores_case, self._ignores_case or flips
                node = self._alternatives()
                self._ignores_case = before
                self._require(")")
                return node
        for opening, name in (("(?=", "ahead"), ("(?!", "not_ahead")):
            if self._taken(opening):
                node = self._alternatives()
                self._require(")")
                if node.single is None:
                    raise self._unknown("looking ahead by more than a character")
                return _Node(partial(self._looking, name, node.single), lambda c: False, True, looks=True)
        if self._pattern.startswith("(?", self._at):
            raise self._unknown("a group that starts with '(?'")
        self._require("(")
        node = self._alternatives()
        self._require(")")
        return node

    def _looking(self, name: str, contains: Contains, after: int) -> int:
        return self._new(ways=[after], **{name: contains})

    def _class(self) -> Contains:
        is_negative = self._taken("^")
        members: list[Contains] = []
        while not self._taken("]"):
            if self._at >= len(self._pattern):
                raise self._unknown("an open class")
            character = self._pattern[self._at]
            if character == "[" or self._pattern.startswith("&&", self._at):
                raise self._unknown("a class in a class")
            self._at += 1
            low = self._escape_in_class() if character == "\\" else character
            if self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] not in (
                "]",
                "",
            ):
                self._at += 1
                high: str | Contains = self._pattern[self._at]
                self._at += 1
                high = self._escape_in_class() if high == "\\" else high
                if not isinstance(low, str) or not isinstance(high, str) or self._ignores_case:
                    raise self._unknown("a range of classes")
                members.append(_range(low, high))
            else:
                members.append(self._literal(low) if isinstance(low, str) else low)
        if is_negative:
            return lambda c: not any(member(c) for member in members)
        return lambda c: any(member(c) for member in members)

    def _escape_in_class(self) -> str | Contains:
        literal = self._escaped_literal()
        return self._escaped() if literal is None else literal

    def _escaped(self) -> Contains:
        literal = self._escaped_literal()
        if literal is not None:
            return self._literal(literal)
        kind = self._pattern[self._at : self._at + 1]
        self._at += 1
        if kind in ("p", "P"):
            self._require("{")
            end = self._pattern.index("}", self._at)
            name, self._at = self._pattern[self._at : end], end + 1
            is_negative = (kind == "P") != name.startswith("^")
            return _category(name.removeprefix("^"), is_negative, self._unknown)
        if kind in ("s", "S"):
            return _is_space if kind == "s" else lambda c: not _is_space(c)
        if kind in ("d", "D"):
            return lambda c: (unicodedata.category(c) == "Nd") == (kind == "d")
        if kind in ("w", "W"):
            return lambda c: _is_word_character(c) == (kind == "w")
        raise self._unknown(f"\\{kind}")

    def _escaped_literal(self) -> str | None:
        """The character that an escape sequence represents; None for a class."""
        character = self._pattern[self._at : self._at + 1]
        known = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
        if character in known or (character and not character.isalnum()):
            self._at += 1
            return known.get(character, character)
        return None

    def _literal(self, character: str) -> Contains:
        if not self._ignores_case:
            return lambda c: c == character
        folded = character.casefold()

        def contains(c: str) -> bool:
            if len(c.casefold()) > 1:
                raise UnknownSplit(f"{c!r} in a pattern that ignores case")
            return c.casefold() == folded

        return contains

    def _reading(self, contains: Contains) -> _Node:
        return _Node(lambda after: self._new(reads=contains, ways=[after]), contains, False, contains)

    def _new(self, **values: Any) -> int:
        self._states.append(_State(**values))
        return len(self._states) - 1

    def _taken(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _require(self, text: str) -> None:
        if not self._taken(text):
            raise self._unknown(f"no {text!r}")

    def _unknown(self, what: str) -> UnknownSplit:
        return UnknownSplit(f"the splitting pattern has {what} at position {self._at}", may_move=True)


def _concatenated(parts: list[_Node]) -> _Node:
    if len(parts) == 1:
        return parts[0]

    def add(after: int) -> int:
        for part in reversed(parts):
            after = part.add(after)
        return after

    def first(character: str) -> bool:
        for part in parts:
            if part.first(character):
                return True
            if not part.nullable:
                return False
        return False

    return _Node(add, first, all(part.nullable for part in parts), looks=any(part.looks for part in parts))


def _range(low: str, high: str) -> Contains:
    return lambda c: low <= c <= high


def _is_space(character: str) -> bool:
    return character in "\t\n\v\f\r\x85" or unicodedata.category(character) in ("Zs", "Zl", "Zp")


def _is_word_character(character: str) -> bool:
    if not character.isascii():
        raise UnknownSplit(f"{character!r} in a pattern with \\w")
    return character.isalnum() or character == "_"


def _category(name: str, is_negative: bool, unknown: Callable[[str], UnknownSplit]) -> Contains:
    if f" {name} " not in _CATEGORIES:
        raise unknown(f"\\p{{{name}}}")
    return lambda c: unicodedata.category(c).startswith(name) != is_negative
