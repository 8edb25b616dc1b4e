"""The token automaton for templates that the tokenizer encodes piece by piece.

Right where a text's encoding is the fixed pieces' tokens and each hole character's own tokens, one after the other:
byte and character tokenizers, and subword tokenizers that split every character of the holes from its neighbours
(single digits, say). This is checked on the tokenizer itself, on sampled texts of the template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.canonicity import GraphPiece, why_graph_is_unproven
from hf_exposure.extraction.encoding_trie import alike, text_begins_another
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.token_automaton import NO_MOVES, Exactness, Moves, OnePathPerText, State
from hf_exposure.extraction.tokenizer_reading import TokenizerReading, position_after
from hf_exposure.scoring import Encoder

_REMEMBERED_STATES = 2**16
_END = "end"


class CharacterAutomaton(OnePathPerText):
    """One token path per text: the template's character automaton with tokens in the place of its characters.

    Args:
        template: the texts.
        prefix: tokens of everything before the first hole, special tokens included.
        tokens_of: the tokens of each character after the prefix, in context.
        tokens_of_literal: by segment, the tokens of fixed texts between and after the holes; where a hole may end or
            go on, its characters' own tokens stand for the text that follows.
        ending: tokens after each text (an end token), or ().

    Raises:
        InputError: while walking, where one text of the template is the beginning of another and no end token tells
            them apart, or where two of them have the same tokens.
    """

    name = "characters"
    exactness: Exactness = "audited"
    unproven = ""

    def __init__(
        self,
        template: CanaryTemplate,
        prefix: tuple[int, ...],
        tokens_of: dict[str, tuple[int, ...]],
        tokens_of_literal: dict[int, tuple[int, ...]],
        ending: tuple[int, ...],
    ) -> None:
        self.template, self.prefix, self.prefix_text = template, prefix, template.prefix
        self._tokens_of, self._tokens_of_literal, self.ending = tokens_of, tokens_of_literal, ending
        # A state: the template's own, and the tokens already taken of the next piece.
        self.root: State = (position_after(template, template.start, template.prefix), ())
        self.moves = lru_cache(maxsize=_REMEMBERED_STATES)(self._moves)

    def why_unproven(self, encoder: Encoder, texts: Sequence[str]) -> str:
        """Why it is not proven that each encoding is a path; "" where it is. `texts` are some of the template."""
        try:
            reading = TokenizerReading(self.template, encoder, self.prefix_text, self.prefix, texts)
        except UnknownSplit as error:
            return str(error)
        return why_graph_is_unproven(reading, self._graph_pieces)

    def _graph_pieces(self, position: Any) -> Iterator[GraphPiece]:
        is_literal = self._literal_after(position) is not None
        return ((piece, after, not is_literal) for piece, _, after in self._pieces(position))

    def count(self, state: Any) -> int:
        position, taken = state
        if position == _END:
            return 1
        if not taken:
            return self.template.count(position)
        return sum(
            self.template.count(after) for _, tokens, after in self._pieces(position) if _goes_on(tokens, taken)
        )

    def _moves(self, state: Any) -> Moves:
        position, taken = state
        found: dict[int, tuple[str, Any]] = {}
        if position == _END:
            return NO_MOVES
        for piece, tokens, after in self._pieces(position):
            if _goes_on(tokens, taken):
                whole = len(tokens) == len(taken) + 1
                child = (piece, (after, ())) if whole else ("", (position, tokens[: len(taken) + 1]))
                if found.setdefault(tokens[len(taken)], child) != child:
                    raise alike(piece, found[tokens[len(taken)]][0])
        if not taken and self.template.is_end(position):
            if self.ending:
                found[self.ending[0]] = ("", (_END, ()))
            elif found:
                raise text_begins_another(self.template)
        order = sorted(found)
        return Moves(
            np.array(order, dtype=np.int64), tuple(found[t][0] for t in order), tuple(found[t][1] for t in order)
        )

    def _pieces(self, position: Any) -> Iterator[tuple[str, tuple[int, ...], Any]]:
        """What may come next: (text, its tokens, the template's state after it)."""
        literal = self._literal_after(position)
        if literal is not None:
            text = str(self.template.segments[literal])
            yield text, self._tokens_of_literal[literal], position_after(self.template, position, text)
            return
        for character, after in self.template.moves(position).items():
            yield character, self._tokens_of[character], after

    def _literal_after(self, position: Any) -> int | None:
        """The fixed text that comes next, where a hole can only end; as a segment."""
        if len(position) != 1:
            return None
        index, inner = position[0]
        segment = self.template.segments[index]
        if isinstance(segment, str) or not segment[1].is_end(inner) or segment[1].moves(inner):
            return None
        return index + 1 if index + 1 in self._tokens_of_literal else None


def character_automaton(
    template: CanaryTemplate, encoder: Encoder, sample: SampledEncodings
) -> tuple[CharacterAutomaton | None, str | None]:
    """The automaton if it holds every sampled encoding, else None and one that it lacks.

    Raises:
        InputError: two texts have the same tokens, or one begins another.
    """
    prefix = tuple(encoder.plain_ids([template.prefix])[0]) if template.prefix else ()
    leads = [prefix]
    if not prefix:
        # Some tokenizers put a mark of their own before a text's first character: all texts then begin with it.
        leads.append(_shared_lead(encoder.plain_ids(list(template.moves(template.start)))))
    missed: str | None = None
    refusal: InputError | None = None
    for lead in leads:
        try:
            automaton = _guess(template, lead, encoder)
            missed = sample.first_missed(automaton, encoder)
        except InputError as error:
            refusal = error
            continue
        if missed is None:
            sample.vouch_for(automaton, partial(automaton.why_unproven, encoder, sample.texts))
            return automaton, None
    if missed is None and refusal is not None:
        raise refusal
    return None, missed


def _guess(template: CanaryTemplate, prefix: tuple[int, ...], encoder: Encoder) -> CharacterAutomaton:
    """An automaton from single characters and fixed texts in context; wrong guesses are caught by the audit."""
    parts = [segment if isinstance(segment, str) else segment[1].alphabet for segment in template.segments]
    ordered = sorted({character for part in parts for character in part})
    encoded = encoder.plain_ids([template.prefix + character for character in ordered])
    tokens_of = {c: tuple(ids[len(prefix) :]) or tuple(ids) for c, ids in zip(ordered, encoded, strict=True)}
    return CharacterAutomaton(
        template, (*encoder.leading, *prefix), tokens_of, _literal_tokens(template, encoder), encoder.ending
    )


def _literal_tokens(template: CanaryTemplate, encoder: Encoder) -> dict[int, tuple[int, ...]]:
    """What each fixed text after a hole adds to the tokens of a text, for those that only add."""
    fillings = template.parse(template.text_at(0))
    read, cuts = "", [""]
    for segment in template.segments:
        read += segment if isinstance(segment, str) else fillings[segment[0]]
        cuts.append(read)
    encoded = [tuple(ids) for ids in encoder.plain_ids(cuts[1:])]
    return {
        index: encoded[index][len(encoded[index - 1]) :]
        for index, segment in enumerate(template.segments)
        if index and isinstance(segment, str) and encoded[index][: len(encoded[index - 1])] == encoded[index - 1]
    }


def _shared_lead(encoded: list[list[int]]) -> tuple[int, ...]:
    """The first tokens that all encodings share, leaving one to each."""
    first, last = min(encoded), max(encoded)
    shared = 0
    while shared < min(map(len, encoded)) - 1 and first[shared] == last[shared]:
        shared += 1
    return tuple(first[:shared])


def _goes_on(tokens: tuple[int, ...], taken: tuple[int, ...]) -> bool:
    return len(tokens) > len(taken) and tokens[: len(taken)] == taken
