"""Builds the token automaton of a template under a tokenizer: the first backend that contains every sampled encoding.

The backends are tried in order of cost. `characters` and `slots` assume that the tokenizer encodes pieces of the text
separately; they have one path for each text. `vocabulary` searches over the entries and needs no such assumption, but
encodes the texts that it finds again. A `trie` encodes every text, which is right for any tokenizer and possible for a
small space. The assumptions of a backend are audited on sampled encodings, and the last few automata are cached, since
an audit takes seconds.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.checks import flag
from hf_exposure.errors import InputError, rows_named
from hf_exposure.extraction.character_automaton import character_automaton
from hf_exposure.extraction.encoding_trie import LARGEST_TRIE, trie_automaton
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.slot_automaton import slot_automaton
from hf_exposure.extraction.token_automaton import TokenAutomaton
from hf_exposure.extraction.tokenizer_reading import fingerprint
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import Encoder

Backend = Callable[[CanaryTemplate, Encoder, SampledEncodings], tuple[TokenAutomaton | None, str | None]]
_SMALL_TRIE = 10_000  # the number of encodings of an audit
_CHEAP_TRIE = 100_000  # a second or two of encoding, if nothing could be proven
_SPOT_CHECKED, _SPOT_SEED = 100, 20190815  # texts that show whether a tokenizer has changed


@dataclass(frozen=True)
class CacheKey:
    """Everything on which an automaton depends.

    The tokenizer must be the same object, unchanged, since a subclass may encode in any way. Its `fingerprint` is part
    of the key, so that tokens that are added later change the key.
    """

    tokenizer: Any = field(hash=False)
    tokenizer_state: Hashable
    around: tuple[Any, ...]
    template: CanaryTemplate = field(hash=False, compare=False)
    template_text: str
    segments: Sequence[Any] = field(hash=False)
    one_path: bool

    @classmethod
    def of(cls, template: CanaryTemplate, encoder: Encoder, one_path: bool) -> CacheKey | None:
        """The key; None for a tokenizer whose rules are code, since changes of it cannot be detected."""
        state = fingerprint(encoder.tokenizer)
        around = (encoder.leading, encoder.before, encoder.ending)
        if state is None:
            return None
        return cls(encoder.tokenizer, state, around, template, template.text, template.segments, one_path)


class AutomatonCache:
    """The last `size` automata that were used, so that a second search does not audit the same tokenizer again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._automata: OrderedDict[CacheKey, TokenAutomaton] = OrderedDict()

    def find(self, key: CacheKey | None, encoder: Encoder, also: Sequence[str]) -> TokenAutomaton | None:
        """The automaton, if it contains the texts `also` and some others, also with pruning."""
        if key is None or key not in self._automata:
            return None
        automaton, template = self._automata[key], key.template
        draw = random.Random(_SPOT_SEED)
        spots = [template.text_at(draw.randrange(template.space_size)) for _ in range(_SPOT_CHECKED)]
        sample = SampledEncodings.among([*also, *spots], encoder, automaton.exactness)
        if sample.first_missed(automaton) is not None or not sample.beginnings_are_kept(automaton):
            return None
        self._automata.move_to_end(key)
        return automaton

    def put(self, key: CacheKey | None, automaton: TokenAutomaton) -> TokenAutomaton:
        """Caches the automaton in place of the least recently used one, and returns it."""
        if key is not None:
            self._automata[key] = automaton
            self._automata.move_to_end(key)
            if len(self._automata) > self._size:
                self._automata.popitem(last=False)
        return automaton


_CACHE = AutomatonCache(size=4)


def check_template(template: CanaryTemplate, *, end_token: bool) -> None:
    """Refuses other objects than templates, and templates that end in a hole of variable length, where one text
    would begin a longer one.
    """
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

    It consists of characters or slots if the tokenizer encodes them separately, and of every text if the space is
    small; otherwise the vocabulary is searched. Each candidate is tested on the encodings of 10,000 sampled texts (all
    texts of a smaller space), and a single miss rejects it. It is proven if the tokenizer's own data show that it is
    right for all texts, and otherwise audited. The last few automata are cached, so that a second search of a template
    under an unchanged tokenizer only audits `also`.

    Args:
        template: the template of the texts.
        encoder: the encoder of the tokenizer.
        one_path: whether to accept only graphs without non-canonical paths, as enumeration needs.
        also: texts of the template that must be found, such as canaries, whose encodings may be too rare for a sample.

    Raises:
        InputError: the template ends in a hole of variable length and no end token is scored; two texts have the same
            tokens; or no automaton contains every sampled encoding.
    """
    check_template(template, end_token=bool(encoder.ending))
    key = CacheKey.of(template, encoder, one_path)

    def cached() -> TokenAutomaton:
        known = _CACHE.find(key, encoder, also)
        return known or _CACHE.put(key, _audited(template, encoder, one_path, also))

    # The number of a text within its space would reveal the text.
    return rows_named(lambda row: "a text of the template", cached)


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
    value = f"{type(encoder.tokenizer).__name__}, which misses one"  # the text is not quoted, since it may be a canary
    raise InputError("tokenizer", rule, value, "Use method='sample' or 'skew_normal', which need no search.")
