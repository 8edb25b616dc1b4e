"""Templates: a text with named holes, each filled from a space. The fillings are the secret."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hf_exposure.canaries.segments import Hole, Segment, SegmentAutomaton, refuse_ambiguity
from hf_exposure.canaries.space import Space
from hf_exposure.canaries.spaces import space_from_dict
from hf_exposure.checks import encodable_text, index_below
from hf_exposure.errors import InputError, described
from hf_exposure.limits import LARGEST_SPACE_DIGITS, LONGEST_TEMPLATE, MOST_HOLES

_EXAMPLE = 'CanaryTemplate("The random number is {number}", number=Digits(9))'


@dataclass(frozen=True, init=False, repr=False)
class CanaryTemplate(SegmentAutomaton):
    """A format `s` with holes, and the space `R` from which they are filled: `s[r]` is a canary.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 3. The whole template is also an automaton over
    characters, with the four methods of a `Space`: `start`, `moves`, `is_end`, `count`.

    Args:
        text: fixed text with named holes in braces; `{{` and `}}` are literal braces.
        **spaces: the space of each hole, by name. Different fillings must render different texts.

    Raises:
        InputError: there is no hole, or there are more than 100; a hole has no space or a space has no hole; a hole is
            unnamed, named twice, or has a format; UTF-8 cannot encode the text; two fillings render the same text; or
            there are more than 10^4000 fillings.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits
        >>> template = CanaryTemplate("The random number is {number}", number=Digits(9))
        >>> template.space_size, round(template.log2_space_size, 3)
        (1000000000, 29.897)
        >>> template.render(number="281265017")
        'The random number is 281265017'
        >>> template.parse("The random number is 281265017"), template.contains("The random number is 28")
        ({'number': '281265017'}, False)
    """

    text: str
    segments: tuple[Segment, ...]

    def __init__(self, text: str, /, **spaces: Space) -> None:
        if len(encodable_text("text", text)) > LONGEST_TEMPLATE:
            raise InputError("text", f"must be at most {LONGEST_TEMPLATE} characters", text, "Shorten it.")
        segments = _segments(text, spaces)
        unused = [name for name in spaces if name not in {hole for hole, _ in _holes(segments)}]
        if unused:
            raise InputError(
                "spaces", f"must each have a hole in {text!r}", unused, f"Add {{{unused[0]}}} to the text."
            )
        vars(self).update(text=text, segments=segments)
        if self.log2_space_size >= LARGEST_SPACE_DIGITS * math.log2(10):
            rule = f"must have at most 10^{LARGEST_SPACE_DIGITS} candidate secrets"
            raise InputError("spaces", rule, f"2^{self.log2_space_size:.0f}", "Fill its holes from smaller spaces.")
        refuse_ambiguity(self, text)

    def __repr__(self) -> str:
        return f"CanaryTemplate({', '.join([repr(self.text), *(f'{k}={v!r}' for k, v in self.spaces.items())])})"

    def __getstate__(self) -> dict[str, Any]:
        return {"text": self.text, "segments": self.segments}  # without cached values

    @property
    def spaces(self) -> dict[str, Space]:
        """The space of each hole by name, in the order of the text."""
        return dict(_holes(self.segments))

    @property
    def space_size(self) -> int:
        """The number of fillings `|R|`, exactly."""
        return math.prod(space.size for _, space in _holes(self.segments))

    @property
    def log2_space_size(self) -> float:
        """`log2 |R|` in bits: the largest exposure that a canary of this template can have."""
        return math.log2(self.space_size)

    @property
    def prefix(self) -> str:
        """The fixed text before the first hole; may be empty."""
        return self.segments[0] if isinstance(self.segments[0], str) else ""

    @property
    def suffix(self) -> str:
        """The fixed text after the last hole; may be empty."""
        return self.segments[-1] if isinstance(self.segments[-1], str) else ""

    @property
    def ends_in_variable_length(self) -> bool:
        """Whether the text ends in a hole whose fillings differ in length, so that one may extend another."""
        last = self.segments[-1]
        return not isinstance(last, str) and last[1].fixed_length is None

    def render(self, /, **fillings: str) -> str:
        """The text with its holes filled.

        Raises:
            InputError: a hole has no filling, a filling has no hole, or a filling is not in the hole's space.
        """
        spaces = self.spaces
        if fillings.keys() != spaces.keys():
            remedy = f"Write render({', '.join(f'{name}=...' for name in spaces)})."
            raise InputError("fillings", f"must be given for {', '.join(spaces)}", sorted(fillings), remedy)
        for name, space in spaces.items():
            if not isinstance(fillings[name], str) or not space.contains(fillings[name]):
                remedy = f"A possible filling is {space.text_at(0)!r}."
                raise InputError(
                    name, f"must be a filling of {space!r}", described(fillings[name], numbers=False), remedy
                )
        return "".join(part if isinstance(part, str) else fillings[part[0]] for part in self.segments)

    def contains(self, text: str) -> bool:
        """Whether some filling renders `text`."""
        return self._fillings(text) is not None

    def parse(self, text: str) -> dict[str, str]:
        """The filling of each hole that renders `text`: the inverse of `render`.

        Raises:
            InputError: no filling renders it.
        """
        fillings = self._fillings(text)
        if fillings is None:
            rule = f"must be a text of the template {self.text!r}"
            raise InputError("text", rule, described(text), f"A text of it is {self.text_at(0)!r}.")
        return fillings

    def text_at(self, index: int) -> str:
        """The text of the filling at `index`, from 0 to `space_size - 1`: the last hole changes fastest.

        Raises:
            InputError: the index is outside the space.
        """
        index = index_below(self.space_size, index, "Draw it below template.space_size.")
        parts: list[str] = []
        for segment in reversed(self.segments):
            if isinstance(segment, str):
                parts.append(segment)
            else:
                index, inner = divmod(index, segment[1].size)
                parts.append(segment[1].text_at(inner))
        return "".join(reversed(parts))

    def index_of(self, text: str) -> int:
        """The inverse of `text_at`.

        Raises:
            InputError: no filling renders `text`.
        """
        fillings, index = self.parse(text), 0
        for name, space in _holes(self.segments):
            index = index * space.size + space.index_of(fillings[name])
        return index

    def to_dict(self) -> dict[str, Any]:
        """The template as plain values for JSON."""
        return {"text": self.text, "spaces": {name: space.to_dict() for name, space in _holes(self.segments)}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CanaryTemplate:
        """The template from the values of `to_dict`.

        Raises:
            InputError: the constructor or `space_from_dict` refuses the values.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("spaces"), Mapping) or "text" not in values:
            remedy = "Write what template.to_dict() gives."
            raise InputError("template", "must have a text and the spaces of its holes", type(values).__name__, remedy)
        return cls(values["text"], **{str(name): space_from_dict(space) for name, space in values["spaces"].items()})

    def _fillings(self, text: str) -> dict[str, str] | None:
        """Searches depth-first over the lengths of the holes; positions that failed once are not tried again."""
        if not isinstance(text, str):
            return None
        failed: set[tuple[int, int]] = set()

        def read(index: int, position: int) -> dict[str, str] | None:
            if index == len(self.segments):
                return {} if position == len(text) else None
            if (index, position) in failed:
                return None
            segment = self.segments[index]
            if isinstance(segment, str):
                return read(index + 1, position + len(segment)) if text.startswith(segment, position) else None
            name, space = segment
            for length in space.lengths_at(text, position):
                rest = read(index + 1, position + length)
                if rest is not None:
                    return {name: text[position : position + length], **rest}
            failed.add((index, position))
            return None

        return read(0, 0)


def _holes(segments: tuple[Segment, ...]) -> Iterator[Hole]:
    return (segment for segment in segments if not isinstance(segment, str))


def _segments(text: str, spaces: dict[str, Space]) -> tuple[Segment, ...]:
    """The fixed texts and holes of `text`, in order; adjacent fixed texts are joined."""
    try:
        fields = list(string.Formatter().parse(text))
    except ValueError as error:
        raise InputError(
            "text", f"must have matching braces ({error})", text, "Double a literal brace: {{ }}."
        ) from None
    segments: list[Segment] = []
    seen: set[str] = set()
    for literal, name, format_spec, conversion in fields:
        if literal and segments and isinstance(segments[-1], str):
            segments[-1] += literal
        elif literal:
            segments.append(literal)
        if name is None:
            continue
        if len(seen) == MOST_HOLES:
            raise InputError("text", f"must have at most {MOST_HOLES} holes", text, "Use larger spaces.")
        _check_hole(text, name, bool(format_spec or conversion), seen, spaces)
        seen.add(name)
        segments.append((name, spaces[name]))
    if not seen:
        raise InputError("text", "must have at least one hole", described(text), f"Write {_EXAMPLE}.")
    return tuple(segments)


def _check_hole(text: str, name: str, formatted: bool, seen: set[str], spaces: dict[str, Space]) -> None:
    if not name.isidentifier():
        raise InputError("text", f"must name its holes, unlike {{{name}}}", text, f"Write {_EXAMPLE}.")
    if formatted:
        raise InputError("text", f"must have holes without a format or conversion: {name}", text, f"Write {{{name}}}.")
    if name in seen:
        raise InputError("text", f"must name each hole once: {name}", text, f"Write {{{name}}} and {{{name}_2}}.")
    if name not in spaces:
        raise InputError("text", f"must have a space for each hole: {name}", text, f"Add {name}=Digits(9).")
    if not isinstance(spaces[name], Space):
        raise InputError(name, "must be a space", spaces[name], f"Write {name}=Digits(9) or {name}=Choice([...]).")
