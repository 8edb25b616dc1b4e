"""Texts of a template and their encodings, on which a guess about the tokenizer is tried before it is believed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.token_automaton import Exactness, TokenAutomaton, follow_tokens
from hf_exposure.scoring import Encoder

__all__ = ["SampledEncodings"]

AUDITED_ENCODINGS = 10_000
"""No miss among them bounds the share of misses by 3 / 10,000 = 0.03 % with 95 % confidence."""

_AUDIT_SEED = 20190814


@dataclass(frozen=True)
class SampledEncodings:
    """N texts with their plain token ids.

    Attributes:
        texts: all texts of a small template, else a fixed random sample with the first and the last.
        ids: their tokens, without special ones.
        exactness: of what holds for all of them.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    exactness: Exactness

    @classmethod
    def of(cls, template: CanaryTemplate, encoder: Encoder) -> SampledEncodings:
        """The sample of `template`.

        Raises:
            InputError: the tokenizer maps part of a text to its unknown token, or the context changes its last token.
        """
        size, whole = template.space_size, template.space_size <= AUDITED_ENCODINGS
        draw = random.Random(_AUDIT_SEED)
        places = range(size) if whole else [0, size - 1, *(draw.randrange(size) for _ in range(AUDITED_ENCODINGS))]
        texts = [template.text_at(index) for index in places]
        encoder.check_end(texts)
        ids = tuple(tuple(found) for found in encoder.plain_ids(texts))
        return cls(tuple(texts), ids, "proven" if whole else "audited")

    def first_missed(self, automaton: TokenAutomaton, encoder: Encoder) -> str | None:
        """The first text whose encoding is no path of the automaton, or another text's path; None: there is none."""
        length = len(automaton.prefix)
        for text, ids in zip(self.texts, self.ids, strict=True):
            whole = (*encoder.leading, *ids, *encoder.ending)
            if whole[:length] != automaton.prefix or follow_tokens(automaton, whole[length:]) != text:
                return text
        return None
