"""The token automaton for templates in which the tokenizer encodes every character of a hole separately.

The assumption is that a text's encoding consists of the tokens of the fixed pieces and of each hole character, one
after the other. It is right for byte and character tokenizers, and for subword tokenizers that split every character
of the holes from its neighbors, such as single digits. The audit checks it on the tokenizer itself.

Example: "pin {a} ok" with two digits, under a tokenizer with the tokens 3 = "pin", 5 = " ", 10 to 19 = "0" to "9" and
7 = " ok":

    prefix [3, 5]    root --[10]..[19]--> one digit read --[10]..[19]--> two digits read --[7]--> leaf

The states are those of the template's own character automaton, so counts are exact for any space. A character with
several tokens (the two bytes of "é") adds a state for each beginning of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import lru_cache, partial
from typing import Any

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.canonicity import GraphPiece, prove_graph
from hf_exposure.extraction.encoding_trie import not_prefix_free_error, same_tokens_error, shared_lead
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.split_pattern import UnknownSplit
from hf_exposure.extraction.token_automaton import NO_TRANSITIONS, Exactness, OnePathPerText, State, Transitions
from hf_exposure.extraction.tokenizer_reading import (
    MOST_STEPS,
    TokenizerReading,
    check_one_by_one,
    encodes_one_by_one,
    position_after,
)
from hf_exposure.scoring import Encoder

_CACHED_STATES = 2**16
_END = "end"


class CharacterAutomaton(OnePathPerText):
    """One token path per text: the template's character automaton with tokens in place of characters.

    Args:
        template: the template of the texts.
        prefix: tokens of everything before the first hole, including special tokens.
        tokens_of: the tokens of each character after the prefix, in context.
        tokens_of_literal: by segment, the tokens of fixed texts between and after the holes. They are not used if the
            hole before may either continue or end: the text after it is then read character by character.
        ending: tokens after each text (an end token), or ().

    Raises:
        InputError: during the search, one text of the template begins another and no end token distinguishes them,
            or two of them have the same tokens.
    """

    name = "characters"
    exactness: Exactness = "audited"

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
        # A state consists of the template's own state and the tokens already read of the next piece.
        self.root: State = (position_after(template, template.start, template.prefix), ())
        self.transitions = lru_cache(maxsize=_CACHED_STATES)(self._transitions)

    def prove(self, encoder: Encoder, texts: Sequence[str]) -> None:
        """Proves that each encoding is a path, or raises `UnknownSplit`. `texts` are some texts of the template."""
        if encodes_one_by_one(encoder.tokenizer):
            check_one_by_one(self.template, encoder, self.prefix_text)
            self._check_added_tokens(encoder.tokenizer.added_tokens_decoder.keys())
            return
        reading = TokenizerReading(self.template, encoder, self.prefix_text, self.prefix, texts)
        prove_graph(reading, self._graph_pieces)
        self._check_added_tokens(reading.added.keys())

    def _check_added_tokens(self, added: Set[int]) -> None:
        """Raises `UnknownSplit` if a character was encoded as a token that was added to the tokenizer.

        Characters are encoded after the prefix, and the two need not begin any text, so a token that is in no text may
        be there.
        """
        seen = {position_after(self.template, self.template.start, self.prefix_text)}
        open_positions = list(seen)
        while open_positions:
            for piece in self._graph_pieces(open_positions.pop()):
                if piece.is_in_context and not added.isdisjoint(self._tokens_of[piece.text]):
                    raise UnknownSplit("a character was encoded as a token that was added to the tokenizer")
                if piece.after not in seen:
                    seen.add(piece.after)
                    open_positions.append(piece.after)
            if len(seen) > MOST_STEPS:
                raise UnknownSplit("the template has too many states")

    def _graph_pieces(self, position: Any) -> Iterator[GraphPiece]:
        is_literal = self._literal_after(position) is not None
        return (GraphPiece(text, after, not is_literal) for text, _, after in self._pieces(position))

    def count(self, state: Any) -> int:
        position, taken = state
        if position == _END:
            return 1
        if not taken:
            return self.template.count(position)
        return sum(
            self.template.count(after) for _, tokens, after in self._pieces(position) if _continues(tokens, taken)
        )

    def _transitions(self, state: Any) -> Transitions:
        position, taken = state
        found: dict[int, tuple[str, Any]] = {}
        if position == _END:
            return NO_TRANSITIONS
        for piece, tokens, after in self._pieces(position):
            if _continues(tokens, taken):
                whole = len(tokens) == len(taken) + 1
                child = (piece, (after, ())) if whole else ("", (position, tokens[: len(taken) + 1]))
                if found.setdefault(tokens[len(taken)], child) != child:
                    raise same_tokens_error(piece, found[tokens[len(taken)]][0])
        if not taken and self.template.is_end(position):
            if self.ending:
                found[self.ending[0]] = ("", (_END, ()))
            elif found:
                raise not_prefix_free_error(self.template)
        order = sorted(found)
        return Transitions(
            np.array(order, dtype=np.int64),
            tuple(found[t][0] for t in order),
            tuple(found[t][1] for t in order),
            self,
        )

    def _pieces(self, position: Any) -> Iterator[tuple[str, tuple[int, ...], Any]]:
        """The possible next pieces: (text, its tokens, the template's state after it)."""
        literal = self._literal_after(position)
        if literal is not None:
            text = str(self.template.segments[literal])
            yield text, self._tokens_of_literal[literal], position_after(self.template, position, text)
            return
        for character, after in self.template.moves(position).items():
            yield character, self._tokens_of[character], after

    def _literal_after(self, position: Any) -> int | None:
        """The segment of the next fixed text if a hole can only end here; else None."""
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
    """The automaton if it contains every sampled encoding, else None and a text that it lacks.

    Raises:
        InputError: two texts have the same tokens, or one begins another.
    """
    prefix = tuple(encoder.plain_ids([template.prefix])[0]) if template.prefix else ()
    leads = [prefix]
    if not prefix:
        # Some tokenizers add a mark before a text's first character; all texts then begin with it.
        leads.append(shared_lead(encoder.plain_ids(list(template.moves(template.start)))))
    automaton, missed = sample.first_fitting(partial(_guess, template, lead, encoder) for lead in leads)
    if automaton is not None:
        sample.set_exactness(automaton, partial(automaton.prove, encoder, sample.texts))
    return automaton, missed


def _guess(template: CanaryTemplate, prefix: tuple[int, ...], encoder: Encoder) -> CharacterAutomaton:
    """An automaton from single characters and fixed texts in context; the audit catches wrong guesses."""
    parts = [segment if isinstance(segment, str) else segment[1].alphabet for segment in template.segments]
    ordered = sorted({character for part in parts for character in part})
    encoded = encoder.plain_ids([template.prefix + character for character in ordered])
    tokens_of = {c: tuple(ids[len(prefix) :]) or tuple(ids) for c, ids in zip(ordered, encoded, strict=True)}
    return CharacterAutomaton(
        template, (*encoder.leading, *prefix), tokens_of, _literal_tokens(template, encoder), encoder.ending
    )


def _literal_tokens(template: CanaryTemplate, encoder: Encoder) -> dict[int, tuple[int, ...]]:
    """The tokens that each fixed text after a hole appends to those of a text, for texts that only append."""
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


def _continues(tokens: tuple[int, ...], taken: tuple[int, ...]) -> bool:
    return len(tokens) > len(taken) and tokens[: len(taken)] == taken
