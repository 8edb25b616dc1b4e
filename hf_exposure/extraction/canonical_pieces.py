"""What is proven, and not sampled, of a search whose texts are encoded piece by piece.

Where every piece starts a word, and is cut into the same words whatever stands before it, the encoding of a text is
that of its pieces, one after the other: a model sees one word at a time. A piece may also go on with a word, if no
entry of the vocabulary reaches over its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.tokenizer_reading import MOST_STEPS, TokenizerReading

__all__ = ["GraphPiece", "why_graph_is_unproven", "why_slots_are_unproven"]

_JOINED = "the tokenizer may encode pieces of a text together"
GraphPiece = tuple[str, Any, bool]
"""(text, the template's state after it, whether its encoding was taken right behind the prefix)"""


@dataclass(frozen=True)
class _Place:
    """Where a piece begins.

    Attributes:
        configuration: of the splits.
        before: the last normalized character, "" at the start of a text.
    """

    configuration: Any
    before: str


class _Cuts:
    """How each piece is cut, which must be one way."""

    def __init__(self, reading: TokenizerReading) -> None:
        self._reading, self._machine = reading, reading.machine
        self._cuts: dict[object, list[str]] = {}

    def start(self) -> _Place:
        """Behind the prefix."""
        section = self._reading.section
        if not section and self._machine.marks_starts:
            raise UnknownSplit("a text begins with a hole, and the tokenizer marks its beginning")
        configuration = self._machine.read(section)[1] if section else self._machine.start
        if configuration is None:
            raise UnknownSplit(_JOINED)
        return _Place(configuration, self._machine.map(section)[-1:])

    def after(self, place: _Place, piece: str, key: object) -> _Place:
        """Where the next piece begins; `key` says which pieces must be cut alike.

        Raises:
            UnknownSplit: as `join`; or the piece is cut in two ways, or moves a boundary.
        """
        self.join(place, piece[0])
        return self.inside(place.configuration, piece, key)

    def join(self, place: _Place, character: str) -> None:
        """Raises `UnknownSplit` where a character may be encoded together with what stands before it."""
        steps = self._machine.step(place.configuration, character)
        if not steps or steps[0][0] == "moved":
            raise UnknownSplit(_JOINED)
        image = self._machine.map.images[character]
        if steps[0][0] == "goes on" and place.before and not self._reading.stay_apart(place.before, image[0]):
            raise UnknownSplit(_JOINED)

    def inside(self, configuration: Any, piece: str, key: object) -> _Place:
        """As `after`, of a piece that was found to be apart from what stands before it."""
        kinds: list[str] = []
        for character in piece:
            for kind, reached in self._machine.step(configuration, character):
                kinds.append(kind)
                configuration = reached
            if kinds[-1:] == ["moved"]:
                raise UnknownSplit(_JOINED)
        if all(kind == "dropped" for kind in kinds):
            raise UnknownSplit("a piece of a text leaves no token")
        # The first character starts a word, or is as good as if it did.
        if self._cuts.setdefault(key, kinds[1:]) != kinds[1:]:
            raise UnknownSplit(_JOINED)
        return _Place(configuration, "".join(self._machine.map.images[character] for character in piece)[-1:])


def why_slots_are_unproven(reading: TokenizerReading, slots: Iterable[tuple[Sequence[str], object]]) -> str:
    """Why a text may not be encoded as its pieces; "" where it is proven that it is.

    Args:
        reading: of the tokenizer, with the text before the first slot as its prefix.
        slots: the pieces of each slot, and what slots that share their encodings share.
    """
    cuts, steps = _Cuts(reading), 0
    reached: dict[tuple[object, Any], set[_Place]] = {}
    try:
        places = {cuts.start()}
        for number, (pieces, kind) in enumerate(slots):
            share = ("slot", number) if kind is None else kind
            steps += len(pieces)
            if steps > MOST_STEPS:
                raise UnknownSplit("the pieces are too many")
            for place, first in product(places, {piece[0] for piece in pieces}):
                cuts.join(place, first)
            for configuration in {place.configuration for place in places}:
                if (share, configuration) not in reached:
                    steps += sum(map(len, pieces))
                    if steps > MOST_STEPS:
                        raise UnknownSplit("the pieces have too many characters")
                    reached[share, configuration] = {
                        cuts.inside(configuration, piece, (share, piece)) for piece in pieces
                    }
            places = set().union(*(reached[share, place.configuration] for place in places))
    except UnknownSplit as error:
        return str(error)
    return ""


def why_graph_is_unproven(reading: TokenizerReading, pieces: Callable[[Any], Iterable[GraphPiece]]) -> str:
    """As `why_slots_are_unproven`, for a graph: `pieces` says which may follow each state of the template."""
    cuts = _Cuts(reading)
    try:
        start = cuts.start()
        seen = {(reading.root, start)}
        open_nodes = list(seen)
        while open_nodes:
            position, place = open_nodes.pop()
            for piece, following, is_behind_prefix in pieces(position):
                node = (following, cuts.after(place, piece, piece))
                if is_behind_prefix:
                    cuts.after(start, piece, piece)
                if node not in seen:
                    seen.add(node)
                    open_nodes.append(node)
            if len(seen) > MOST_STEPS:
                raise UnknownSplit("the template has too many states")
    except UnknownSplit as error:
        return str(error)
    return ""
