"""Which token automaton a template gets under a tokenizer: the cheapest one that holds every sampled encoding."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import flag
from hf_exposure.errors import InputError, rows_named
from hf_exposure.extraction.character_automaton import character_automaton
from hf_exposure.extraction.encoding_trie import LARGEST_TRIE, trie_automaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.slot_automaton import slot_automaton
from hf_exposure.extraction.token_automaton import TokenAutomaton
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import Encoder

# The last few automata, so that one search after another need not audit the same tokenizer again.


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


Backend = Callable[[CanaryTemplate, Encoder, SampledEncodings], tuple[TokenAutomaton | None, str | None]]
_REMEMBERED = RememberedAutomata(most=4)
_SMALL_TRIE = 10_000  # as many encodings as an audit takes
_CHEAP_TRIE = 100_000  # a second or two of encoding, where nothing could be proven


def check_template(template: CanaryTemplate, *, end_token: bool) -> None:
    """Refuses what is no template, and one whose last hole may go on: nothing would tell a text from a longer one."""
    if not isinstance(template, CanaryTemplate):
        remedy = 'Write CanaryTemplate("... {number}", number=Digits(9)).'
        raise InputError("template", "must be a CanaryTemplate", type(template).__name__, remedy)
    flag("end_token", end_token)
    if template.ends_in_variable_length and not end_token:
        raise InputError(
            "template",
            "must not end in a hole of variable length",
            template.text,
            "Add a fixed suffix, or pass end_token=True.",
        )


def build_automaton(
    template: CanaryTemplate, encoder: Encoder, *, one_path: bool = False, also: Sequence[str] = ()
) -> TokenAutomaton:
    """The automaton of a template under a tokenizer.

    Characters or slots where the tokenizer keeps them apart; every text encoded where the space is small; else the
    vocabulary is walked. Each is tried on the encodings of 10,000 sampled texts (all texts of a smaller space), and a
    single miss refuses it. What the tokenizer's own data show for all texts is proven, the rest is audited. The last
    few automata are remembered: a second search of one template under an unchanged tokenizer starts at once, with
    nothing but `also` audited again.

    Args:
        template: the texts.
        encoder: of the tokenizer.
        one_path: only a graph without paths that are not canonical, as enumeration needs.
        also: texts of the template that must be found: canaries, whose encodings may be rarer than a sample shows.

    Raises:
        InputError: the template ends in a hole of variable length and no end token is scored; two texts have the same
            tokens; or no automaton holds every sampled encoding.
    """
    check_template(template, end_token=bool(encoder.ending))
    question = Question.of(template, encoder, one_path)

    def found() -> TokenAutomaton:
        known = _REMEMBERED.find(question, encoder, also)
        return known or _REMEMBERED.keep(question, encoder, _audited(template, encoder, one_path, also))

    # The number of a text among those of a space would tell the text.
    return rows_named(lambda row: "a text of the template", found)


def _audited(template: CanaryTemplate, encoder: Encoder, one_path: bool, also: Sequence[str]) -> TokenAutomaton:
    sample = SampledEncodings.of(template, encoder, also)
    backends: list[Backend] = [character_automaton, slot_automaton]
    missed, refusal = None, None
    if not one_path and template.space_size > _SMALL_TRIE:
        backends.append(vocabulary_automaton)
    for backend in backends:
        try:
            automaton, missed = backend(template, encoder, sample)
        except InputError as error:
            missed, refusal = None, error
            continue
        if automaton is not None:
            is_sure = automaton.exactness == "proven" or template.space_size > _CHEAP_TRIE
            return automaton if is_sure else trie_automaton(template, encoder)
    if template.space_size <= LARGEST_TRIE:
        return trie_automaton(template, encoder)
    if missed is None:
        assert refusal is not None
        raise refusal
    rule = f"must encode the template in a way that can be searched, or its space have at most {LARGEST_TRIE} texts"
    value = f"{type(encoder.tokenizer).__name__}, which misses one"  # not quoted: it may be a canary
    raise InputError("tokenizer", rule, value, "Use method='sample' or 'skew_normal', which need no search.")
