"""Proofs about an automaton for all texts of a template, from the tokenizer's own data and not from samples.

A fast tokenizer normalizes a text, cuts it into words, and encodes each word separately. Inside a word, the behavior
of BPE, Unigram and WordPiece does not depend on the template. The starts of words do: so the template's characters are
read together with the splits of the pre-tokenizer (`TokenizerReading.machine`). The proofs are about boundaries of
words, and a failed proof raises an `UnknownSplit` that says why nothing is claimed. The argument is in
docs/design/0011-what-a-certificate-rests-on.md.

Automata that encode a text piece by piece (`prove_graph` for characters, `prove_slots` for slots) rest on one claim:
the encoding of a text is that of its pieces, one after the other. It holds if every piece starts a word, and is cut
into the same words whatever the text before it. A piece may also continue a word if no entry of the vocabulary spans
its beginning.

A search over the vocabulary (`prove_claims`) rests on two:

- *complete*: the canonical encoding of each text is a path from the root;
- *prefixes*: each beginning of a canonical encoding that ends between characters is itself the canonical encoding of
  what it spells, so that other paths may be dropped.

Example: GPT-2 splits "pin 12" into "pin" and " 12". A further digit continues the last word and moves no boundary, so
"pin 1" is cut in the same way as in "pin 12", and beginnings are canonical. With digits grouped from the right, "1234"
is cut into "1" and "234" but its beginning "12" is one word: the boundary moves, and nothing is claimed about
beginnings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from tokenizers import models

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.tokenizer_reading import FIRST_BYTE, MOST_STEPS, WORD_STARTS, TokenizerReading

_JOINED = "the tokenizer may encode pieces of a text together"
_MOVES = "the tokenizer may cut a text into other words when more text follows"


class GraphPiece(NamedTuple):
    """A piece that may follow a state of the template.

    Attributes:
        text: the text of the piece.
        after: the template's state after it.
        is_in_context: whether its encoding was computed directly after the prefix.
    """

    text: str
    after: Any
    is_in_context: bool


@dataclass(frozen=True)
class _Place:
    """The state in which a piece begins.

    Attributes:
        configuration: the configuration of the splits.
        before: the last normalized character; "" at the start of a text.
    """

    configuration: Any
    before: str


class _PieceCuts:
    """The cuts of each piece into words, which must be the same wherever it occurs.

    Raises:
        UnknownSplit: a character of the texts may have no entry.
    """

    def __init__(self, reading: TokenizerReading) -> None:
        reading.check_entries()
        self._reading, self._machine = reading, reading.machine
        self._cuts: dict[object, list[str]] = {}

    def start(self) -> _Place:
        """The state after the prefix."""
        section = self._reading.section
        if not section and self._machine.marks_starts:
            raise UnknownSplit("a text begins with a hole, and the tokenizer marks its beginning")
        configuration = self._machine.read(section)[1] if section else self._machine.start
        if configuration is None:
            raise UnknownSplit(_JOINED)
        return _Place(configuration, self._machine.map(section)[-1:])

    def after(self, place: _Place, piece: str, key: object) -> _Place:
        """The state after a piece; pieces with the same `key` must be cut in the same way.

        Raises:
            UnknownSplit: as for `check_start` and `inside`.
        """
        self.check_start(place, piece[0])
        return self.inside(place.configuration, piece, key)

    def check_start(self, place: _Place, character: str) -> None:
        """Raises `UnknownSplit` if a piece's first character may be encoded together with the text before it."""
        steps = self._machine.step(place.configuration, character)
        if not steps or steps[0].kind == "moved":
            raise UnknownSplit(_JOINED)
        image = self._machine.map.images[character]
        if steps[0].kind == "continues" and place.before and not self._reading.stay_apart(place.before, image[0]):
            raise UnknownSplit(_JOINED)

    def inside(self, configuration: Any, piece: str, key: object) -> _Place:
        """The state after a piece whose start is known to be separate from the text before it.

        Raises:
            UnknownSplit: the piece is cut in two ways, moves a boundary, or leaves no token.
        """
        kinds: list[str] = []
        for character in piece:
            for kind, reached in self._machine.step(configuration, character):
                kinds.append(kind)
                configuration = reached
            if kinds[-1:] == ["moved"]:
                raise UnknownSplit(_JOINED)
        if all(kind == "dropped" for kind in kinds):
            raise UnknownSplit("a piece of a text leaves no token")
        # The first character starts a word, or behaves as if it did.
        if self._cuts.setdefault(key, kinds[1:]) != kinds[1:]:
            raise UnknownSplit(_JOINED)
        return _Place(configuration, "".join(self._machine.map.images[character] for character in piece)[-1:])


def prove_slots(reading: TokenizerReading, slots: Sequence[Sequence[str]]) -> None:
    """Proves that a text is encoded as its pieces, one after the other.

    Args:
        reading: the reading of the tokenizer, with the text before the first slot as its prefix.
        slots: the pieces of each slot; slots that share their encodings share the object.

    Raises:
        UnknownSplit: there is no proof; the message says why.
    """
    cuts, steps = _PieceCuts(reading), 0
    reached: dict[tuple[int, Any], set[_Place]] = {}
    places = {cuts.start()}
    for pieces in slots:
        slot = id(pieces)
        steps += len(pieces)
        if steps > MOST_STEPS:
            raise UnknownSplit("the pieces are too many")
        for place, first in product(places, {piece[0] for piece in pieces}):
            cuts.check_start(place, first)
        for configuration in {place.configuration for place in places}:
            if (slot, configuration) not in reached:
                steps += sum(map(len, pieces))
                if steps > MOST_STEPS:
                    raise UnknownSplit("the pieces have too many characters")
                reached[slot, configuration] = {cuts.inside(configuration, piece, (slot, piece)) for piece in pieces}
        places = set().union(*(reached[slot, place.configuration] for place in places))


def prove_graph(reading: TokenizerReading, pieces: Callable[[Any], Iterable[GraphPiece]]) -> None:
    """Like `prove_slots`, for a graph: `pieces` returns those that may follow each state of the template."""
    cuts = _PieceCuts(reading)
    start = cuts.start()
    seen = {(reading.root, start)}
    open_nodes = list(seen)
    while open_nodes:
        position, place = open_nodes.pop()
        for piece in pieces(position):
            node = (piece.after, cuts.after(place, piece.text, piece.text))
            if piece.is_in_context:
                cuts.after(start, piece.text, piece.text)
            if node not in seen:
                seen.add(node)
                open_nodes.append(node)
        if len(seen) > MOST_STEPS:
            raise UnknownSplit("the template has too many states")


@dataclass(frozen=True)
class Claims:
    """The proven claims about a search over the vocabulary.

    Attributes:
        complete: why it is not proven that every encoding is a path; "" if it is.
        prefixes: why it is not proven that beginnings of encodings are canonical; "" if it is.
        may_prune: whether a sample of encodings may support `prefixes` if it is not proven.
    """

    complete: str = ""
    prefixes: str = ""
    may_prune: bool = True


@dataclass(frozen=True)
class Entries:
    """The part of a vocabulary that is searched.

    Attributes:
        model: the tokenizer's serialized model.
        surfaces: the entries that consist of `symbols`, with their ids.
        symbols: every symbol that a rendered text may have after the prefix.
        before: the last entry of the prefix; "" if there is none.
        first: the surfaces that may follow the prefix.
    """

    model: Mapping[str, Any]
    surfaces: Mapping[str, int]
    symbols: frozenset[str]
    before: str
    first: Sequence[str]


def unbuildable_entries(model: Mapping[str, Any], surfaces: Iterable[str]) -> frozenset[str]:
    """The entries that a tokenizer uses for whole words but that its merges cannot build.

    With `ignore_merges`, a word that is an entry is one token, whatever the merges are. It may then begin a longer
    word whose encoding begins differently.
    """
    if model["type"] != "BPE" or not model.get("ignore_merges"):
        return frozenset()
    merging = _merging(model)
    return frozenset(surface for surface in surfaces if not _is_built(merging, surface))


def prove_claims(reading: TokenizerReading, entries: Entries) -> Claims:
    """The claims that can be proven about a search over `entries`."""
    try:
        _check_model(reading, entries)
        boundaries = _Boundaries(reading)
        at_root = boundaries.stay(judged_everywhere=False)
    except UnknownSplit as error:
        return Claims(str(error), str(error), not error.may_move)
    complete = ""
    if not at_root or not (boundaries.root_ends_a_word or _stays_apart(entries)):
        complete = "the tokens before the first hole may depend on what is in it"
    try:
        stay = at_root and boundaries.stay(judged_everywhere=True)
    except UnknownSplit as error:
        return Claims(complete, str(error), not error.may_move)
    return Claims(complete, "" if stay else _MOVES, stay)


def ends_may_be_dropped(reading: TokenizerReading) -> bool:
    """Whether a text may end in characters that leave no token, where another text goes on."""
    machine, segments = reading.machine, reading.template.segments
    spaces = [segment[1] for segment in segments if not isinstance(segment, str)]

    def is_dropped(character: str) -> bool:
        return all(step.kind == "dropped" for step in machine.step(machine.start, character))

    if isinstance(segments[-1], str):
        if not all(map(is_dropped, segments[-1])):
            return False
        if any(space.fixed_length is None for space in spaces):
            return True
    return any(map(is_dropped, spaces[-1].alphabet))


def _merging(model: Mapping[str, Any]) -> models.BPE:
    """The merges alone, without the look-up of whole words."""
    split = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
    merges = [(left, right) for left, right in split]
    return models.BPE(vocab=model["vocab"], merges=merges)


def _is_built(merging: models.BPE, surface: str) -> bool:
    return [token.value for token in merging.tokenize(surface)] == [surface]


def _check_model(reading: TokenizerReading, entries: Entries) -> None:
    """Checks that the model is of a proven kind, and that it has an entry for every possible symbol."""
    model, surfaces = entries.model, entries.surfaces
    kind, vocabulary = model["type"], model["vocab"]
    if kind not in ("BPE", "Unigram", "WordPiece"):
        raise UnknownSplit(f"the model {kind} is not supported")
    continuation = model.get("continuing_subword_prefix") or ""
    if kind == "BPE" and continuation:
        raise UnknownSplit("merges that mark the symbols of a word are not supported")
    if kind == "WordPiece":
        if not continuation or not reading.machine.is_local or "" in reading.machine.map.images.values():
            raise UnknownSplit("two characters do not show where a word starts")
        if _longest(reading.template) + len(reading.section) > model["max_input_chars_per_word"]:
            raise UnknownSplit("a word may be longer than the tokenizer accepts")
    known = set(vocabulary) if isinstance(vocabulary, dict) else {entry for entry, _ in vocabulary}
    for symbol in entries.symbols - {WORD_STARTS}:
        is_byte = FIRST_BYTE <= ord(symbol) < FIRST_BYTE + 256
        entry = f"<0x{ord(symbol) - FIRST_BYTE:02X}>" if is_byte else symbol
        needed, spelled = (
            ({entry, continuation + entry}, {WORD_STARTS + symbol, symbol}) if continuation else ({entry}, {symbol})
        )
        if not known >= needed or not surfaces.keys() >= spelled:
            raise UnknownSplit("a character has no entry")
    special = {added.content for added in reading.added.values() if added.special} & known
    if special & reading.machine.map.symbols or any(
        entries.symbols.issuperset(entry.removeprefix(continuation)) for entry in special
    ):
        raise UnknownSplit("the template's characters spell a special token")


def _longest(template: CanaryTemplate) -> int:
    """The length of the longest text; the template's automaton has no cycles."""
    level, length, visited = {template.start}, 0, 0
    while following := {after for position in level for after in template.moves(position).values()}:
        level, length, visited = following, length + 1, visited + len(following)
        if visited > MOST_STEPS:
            raise UnknownSplit("the template has too many states")
    return length


def _stays_apart(entries: Entries) -> bool:
    """Whether no merge spans the end of the prefix if a word continues after it.

    This uses the pair rule of BPE: two neighbors that are not merged alone are not merged in any text.
    """
    model, before = entries.model, entries.before
    if model["type"] != "BPE" or model.get("ignore_merges") or not before:
        return False
    merging = _merging(model)
    merges_bytes = any("<0x" in entry for pair in model["merges"] for entry in pair)
    for first in entries.first:
        if before.startswith("<0x") or any(ord(symbol) >= FIRST_BYTE for symbol in first):
            apart = not merges_bytes
        else:  # an entry that is not built is no token of a canonical encoding
            joined = [token.value for token in merging.tokenize(before + first)]
            apart = joined == [before, first] or not _is_built(merging, first)
        if not apart:
            return False
    return True


class _Boundaries:
    """The template's characters and the pre-tokenizer's splits, read together.

    Attributes:
        root_ends_a_word: after `stay`, whether each first character after the prefix starts a word.
    """

    def __init__(self, reading: TokenizerReading) -> None:
        self._template, self._machine = reading.template, reading.machine
        self._root, self._section = reading.root, reading.section
        self.root_ends_a_word = True

    def stay(self, *, judged_everywhere: bool) -> bool:
        """Whether the words of judged beginnings stay the same, whatever follows.

        The prefix is judged and, if `judged_everywhere`, each beginning of several texts. A node is (position in the
        template, configuration of the splits, whether something was judged inside the open word).
        """
        template, machine = self._template, self._machine
        seen: set[tuple[Any, Any, bool]] = set()
        open_nodes: list[tuple[Any, Any, bool]] = []

        def open_node(position: Any, configuration: Any, inside: bool) -> None:
            inside = inside or (judged_everywhere and template.count(position) > 1)
            node = (position, configuration, inside)
            if inside and node not in seen:
                seen.add(node)
                open_nodes.append(node)
                if len(seen) > MOST_STEPS:
                    raise UnknownSplit("the template has too many states")

        if self._section:
            _, configuration = machine.read(self._section)
            if configuration is None:
                return False
            open_node(self._root, configuration, True)
        else:
            for character, following in template.moves(self._root).items():
                _, configuration = machine.read(character)
                if configuration is None:
                    return False
                open_node(following, configuration, False)
        while open_nodes:
            position, before, inside = open_nodes.pop()
            at_root = bool(self._section) and position == self._root
            for character, following in template.moves(position).items():
                steps = machine.step(before, character)
                kinds = [kind for kind, _ in steps]
                if at_root and (not kinds or kinds[0] == "continues"):
                    self.root_ends_a_word = False
                still_inside = inside and all(kind in ("continues", "moved") for kind in kinds)
                if "moved" not in kinds:
                    open_node(following, steps[-1].configuration if steps else before, still_inside)
                elif still_inside or (judged_everywhere and template.count(following) > 1):
                    return False
        return True
