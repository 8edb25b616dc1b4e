"""A space of all texts that match a regular expression."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_exposure.canaries.regular import Automaton, compile_regex
from hf_exposure.canaries.space import Space, State
from hf_exposure.checks import encodable_text

__all__ = ["Pattern"]


@dataclass(frozen=True, init=False, repr=False)
class Pattern(Space):
    r"""Every text that a finite regular expression matches as a whole, each counted once.

    Literals, classes, groups, alternatives and bounded repetitions, in Python's syntax. `\d` and `\w` are ASCII; `.`
    and negated classes stand for printable ASCII.

    Args:
        pattern: the expression, without anchors.

    Raises:
        InputError: not a regular expression; one with an unbounded repetition (`*`, `+`), an anchor, a backreference,
            a look-around or a flag; one that matches the empty text, or a text of more than 1,000 characters; one of
            more than 100,000 states.

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
        object.__setattr__(self, "pattern", encodable_text("pattern", pattern))
        automaton, length = compile_regex(self.pattern)
        object.__setattr__(self, "_automaton", automaton)
        object.__setattr__(self, "_length", length)

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
