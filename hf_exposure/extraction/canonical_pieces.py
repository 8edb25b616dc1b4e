"""What is proven, and not sampled, of a search whose texts are encoded piece by piece.

Where every piece starts a word, is cut into the same words whatever stands before it, and ends where a word ends, the
encoding of a text is that of its pieces, one after the other: a model sees one word at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.tokenizer_reading import MOST_STEPS, TokenizerReading

__all__ = ["GraphPiece", "why_graph_is_unproven", "why_slots_are_unproven"]

_JOINED = "the tokenizer may encode pieces of a text together"
GraphPiece = tuple[str, Any, bool]
"""(text, the template's state after it, whether its encoding was taken right behind the prefix)"""


class _Cuts:
    """How each piece is cut, which must be one way."""

    def __init__(self, reading: TokenizerReading) -> None:
        self._machine = reading.machine
        self._cuts: dict[object, list[str]] = {}

    def after(self, configuration: Any, piece: str, key: object) -> Any:
        """The configuration after a piece; `key` says which pieces must be cut alike.

        Raises:
            UnknownSplit: it does not start a word, is cut in two ways, or moves a boundary.
        """
        kinds: list[str] = []
        for character in piece:
            for kind, reached in self._machine.step(configuration, character):
                kinds.append(kind)
                configuration = reached
            if kinds[-1:] == ["moved"]:
                raise UnknownSplit(_JOINED)
        if "starts" not in kinds or kinds[0] == "goes on" or self._cuts.setdefault(key, kinds) != kinds:
            raise UnknownSplit(_JOINED)
        return configuration


def why_slots_are_unproven(reading: TokenizerReading, slots: Iterable[tuple[Sequence[str], object]]) -> str:
    """Why a text may not be encoded as its pieces; "" where it is proven that it is.

    Args:
        reading: of the tokenizer, with the text before the first slot as its prefix.
        slots: the pieces of each slot, and what slots that share their encodings share.
    """
    cuts, read, steps = _Cuts(reading), reading.machine.read, 0
    reached: dict[tuple[object, Any], set[Any]] = {}
    try:
        configurations = {_settled(read(reading.section)[1])} if reading.section else {None}
        for number, (pieces, kind) in enumerate(slots):
            share = ("slot", number) if kind is None else kind
            for before in configurations:
                if (share, before) in reached:
                    continue
                steps += len(pieces) if len(pieces) > MOST_STEPS else sum(map(len, pieces))
                if steps > MOST_STEPS:
                    raise UnknownSplit("the pieces have too many characters")
                if before is None:  # nothing stands before the first piece: it is encoded as in every text
                    reached[share, before] = {_settled(read(piece)[1]) for piece in pieces}
                else:
                    reached[share, before] = {cuts.after(before, piece, (share, piece)) for piece in pieces}
            configurations = set().union(*(reached[share, before] for before in configurations))
    except UnknownSplit as error:
        return str(error)
    return ""


def why_graph_is_unproven(reading: TokenizerReading, pieces: Callable[[Any], Iterable[GraphPiece]]) -> str:
    """As `why_slots_are_unproven`, for a graph: `pieces` says which may follow each state of the template."""
    if not reading.section:
        return "a text begins with a hole"
    cuts = _Cuts(reading)
    try:
        start = _settled(reading.machine.read(reading.section)[1])
        seen = {(reading.root, start)}
        open_nodes = list(seen)
        while open_nodes:
            position, before = open_nodes.pop()
            for piece, following, is_behind_prefix in pieces(position):
                node = (following, cuts.after(before, piece, piece))
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


def _settled(configuration: Any) -> Any:
    if configuration is None:
        raise UnknownSplit(_JOINED)
    return configuration
