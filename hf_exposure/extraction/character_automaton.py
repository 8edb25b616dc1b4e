"""The token automaton for templates that the tokenizer encodes piece by piece.

Right where a text's encoding is the fixed pieces' tokens and each hole character's own tokens, one after the other:
byte and character tokenizers, and subword tokenizers that split every character of the holes from its neighbours
(single digits, say). This is checked on the tokenizer itself, on sampled texts of the template.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.token_automaton import Moves, State
from hf_exposure.scoring import Encoder

__all__ = ["CharacterAutomaton", "build_automaton"]

AUDITED_ENCODINGS = 10_000
_END = "end"
_AUDIT_SEED = 20190814


class CharacterAutomaton:
    """One token path per text: the template's character automaton with each character's tokens in its place.

    Args:
        template: the texts.
        prefix: tokens of everything before the first hole, special tokens included.
        tokens_of: the tokens of each character after the prefix, in context.
        ending: tokens after each text (an end token), or ().

    Raises:
        InputError: while walking, where one text of the template is the beginning of another and no end token tells
            them apart.
    """

    name = "characters"

    def __init__(
        self, template: CanaryTemplate, prefix: tuple[int, ...], tokens_of: dict[str, tuple[int, ...]], ending: tuple
    ) -> None:
        self.template, self.prefix, self.prefix_text = template, prefix, template.prefix
        self._tokens_of, self._ending = tokens_of, ending
        state: Hashable = template.start
        for character in template.prefix:
            state = template.moves(state)[character]
        # A state: the template's own, and the tokens already taken of the next character.
        self.root: State = (state, ())
        self.moves = lru_cache(maxsize=None)(self._moves)

    def count(self, state: Any) -> int:
        position, taken = state
        if position == _END:
            return 1
        if not taken:
            return self.template.count(position)
        moves = self.template.moves(position)
        return sum(self.template.count(moves[c]) for c in moves if self._tokens_of[c][: len(taken)] == taken)

    def _moves(self, state: Any) -> Moves:
        position, taken = state
        found: dict[int, tuple[str, Any]] = {}
        if position == _END:
            return Moves(np.zeros(0, dtype=np.int64), (), ())
        for character, after in self.template.moves(position).items():
            tokens = self._tokens_of[character]
            if tokens[: len(taken)] == taken:
                whole = len(tokens) == len(taken) + 1
                piece = character if whole else ""
                found[tokens[len(taken)]] = (piece, (after, ()) if whole else (position, tokens[: len(taken) + 1]))
        if not taken and self.template.is_end(position):
            if self._ending:
                found[self._ending[0]] = ("", (_END, ()))
            elif found:
                raise InputError(
                    "template",
                    "must not have a text that begins another of its texts",
                    self.template.text,
                    "Add a fixed suffix, or pass end_token=True.",
                )
        order = sorted(found)
        return Moves(
            np.array(order, dtype=np.int64), tuple(found[t][0] for t in order), tuple(found[t][1] for t in order)
        )


def build_automaton(template: CanaryTemplate, encoder: Encoder) -> CharacterAutomaton:
    """The automaton of a template under a tokenizer, audited on sampled encodings.

    Raises:
        InputError: the template ends in a hole of variable length and no end token is scored; or the tokenizer does
            not encode the template piece by piece (it merges characters of the holes).
    """
    if template.ends_in_variable_length and not encoder.ending:
        raise InputError(
            "template",
            "must not end in a hole of variable length",
            template.text,
            "Add a fixed suffix, or pass end_token=True.",
        )
    prefix = tuple(encoder.plain_ids([template.prefix])[0]) if template.prefix else ()
    tokens_of = _character_tokens(template, prefix, encoder)
    texts = _audit_texts(template)
    for text, ids in zip(texts, encoder.plain_ids(texts), strict=True):
        spelt = prefix + tuple(t for c in text[len(template.prefix) :] for t in tokens_of[c])
        if spelt != tuple(ids):
            raise InputError(
                "tokenizer",
                "must encode each character of the holes by itself (byte and character tokenizers do) for search",
                f"{type(encoder.tokenizer).__name__} on {text!r}",
                "Use method='sample' or 'skew_normal', which need no search.",
            )
    return CharacterAutomaton(template, (*encoder.leading, *prefix), tokens_of, encoder.ending)


def _character_tokens(
    template: CanaryTemplate, prefix: tuple[int, ...], encoder: Encoder
) -> dict[str, tuple[int, ...]]:
    """The tokens that each character adds after the template's prefix; wrong guesses are caught by the audit."""
    characters: set[str] = set()
    for segment in template.segments:
        characters.update(segment if isinstance(segment, str) else segment[1].alphabet)
    ordered = sorted(characters)
    encoded = encoder.plain_ids([template.prefix + character for character in ordered])
    return {c: tuple(ids[len(prefix) :]) or tuple(ids) for c, ids in zip(ordered, encoded, strict=True)}


def _audit_texts(template: CanaryTemplate) -> list[str]:
    """Every text of a small template, else a fixed random sample with the first and the last."""
    size = template.space_size
    if size <= AUDITED_ENCODINGS:
        return [template.text_at(index) for index in range(size)]
    draw = random.Random(_AUDIT_SEED)
    return [template.text_at(i) for i in (0, size - 1, *(draw.randrange(size) for _ in range(AUDITED_ENCODINGS)))]
