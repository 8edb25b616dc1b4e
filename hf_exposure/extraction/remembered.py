"""The last few automata, so that one search after another need not audit the same tokenizer again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.token_automaton import TokenAutomaton
from hf_exposure.scoring import Encoder

__all__ = ["Question", "RememberedAutomata"]


@dataclass(frozen=True)
class Question:
    """What an automaton was built for. Two that are equal have the same answer."""

    tokenizer_state: str
    around: tuple[Any, ...]
    template_text: str
    segments: Sequence[Any]
    one_path: bool

    @classmethod
    def of(cls, template: CanaryTemplate, encoder: Encoder, one_path: bool) -> Question | None:
        """None for a tokenizer that cannot say all that it is: a slow one."""
        backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        # Everything that an encoding hangs on, so that a token that is added later is noticed.
        state = hashlib.sha256(backend.to_str().encode()).hexdigest()
        around = (encoder.leading, encoder.before, encoder.ending)
        return cls(state, around, template.text, template.segments, one_path)


class RememberedAutomata:
    """The automata of the last `most` questions, each with its tokenizer.

    Found again are only those of the very same tokenizer object, unchanged: a subclass may encode as it likes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[tuple[Question, Any, TokenAutomaton]] = []

    def find(self, question: Question | None, encoder: Encoder, also: Sequence[str]) -> TokenAutomaton | None:
        """The automaton, if it holds the texts `also`, pruning included."""
        for entry in self._kept:
            known, tokenizer, automaton = entry
            if known == question and tokenizer is encoder.tokenizer:
                sample = SampledEncodings.among(also, encoder, automaton.exactness)
                missed = sample.first_missed(automaton, encoder)
                if missed is None and sample.beginnings_are_kept(automaton, encoder):
                    self._kept.sort(key=lambda kept: kept is entry)  # the last used one goes last
                    return automaton
        return None

    def keep(self, question: Question | None, encoder: Encoder, automaton: TokenAutomaton) -> TokenAutomaton:
        """The automaton itself, remembered from now on in the place of the one that was used longest ago."""
        if question is not None:
            others = [kept for kept in self._kept if kept[0] != question or kept[1] is not encoder.tokenizer]
            self._kept = [*others, (question, encoder.tokenizer, automaton)][-self._most :]
        return automaton
