"""Problems that a sample of random texts does not show: dead ends, tokens added for one secret, texts without
predictions.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import character_tokenizer, merging_tokenizer, tiny_model
from token_models import BagOfTokens, bare_costs, entries_of
from tokenizer_styles import tokenizer_in_style
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PerceiverTokenizer, PreTrainedTokenizerFast

from hf_exposure import CanaryTemplate, Digits, Letters, Pattern, extract, measure_exposure, rank_bounds
from hf_exposure.canaries import CanarySet
from hf_exposure.errors import InputError
from hf_exposure.extraction import build_automaton, search_likeliest, search_ranks
from hf_exposure.extraction.build import AutomatonCache, CacheKey
from hf_exposure.extraction.character_automaton import character_automaton
from hf_exposure.extraction.expansion import SearchProgress
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.token_automaton import (
    NO_TRANSITIONS,
    Exactness,
    OnePathPerText,
    Transitions,
    follow_tokens,
)
from hf_exposure.extraction.tokenizer_reading import fingerprint
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import CausalScorer, Encoder


def _without_a_piece() -> PreTrainedTokenizerFast:
    """WordPiece in which Q can follow only in one piece with a or b: it cannot follow a lone b."""
    pieces = ["[UNK]", "key", "a", "b", "##a", "##b", "##aQ", "##bQ", "##1", "##2"]
    backend = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_a_dead_end_is_no_text() -> None:
    tokenizer = _without_a_piece()
    model = BagOfTokens(entries_of(tokenizer)).eval()
    template = CanaryTemplate("key {x}Q{y}", x=Letters(5, "ab"), y=Letters(3, "12"))
    scorer = CausalScorer(model, tokenizer)
    automaton, _ = vocabulary_automaton(template, scorer.encoder, SampledEncodings.of(template, scorer.encoder))
    assert automaton is not None
    texts = [template.text_at(index) for index in range(template.space_size)]
    costs = bare_costs(model, scorer.encode(texts).ids, scorer.encoder.first_scored)
    order = np.argsort(costs, kind="stable")
    found = search_likeliest(scorer, automaton, top_k=5)
    assert found.certified and [one.text for one in found.candidates] == [texts[at] for at in order[:5]]
    for rank in (1, 10, 100):
        (bounds,) = search_ranks(scorer, automaton, [texts[order[rank - 1]]])
        assert bounds.certified and bounds.low <= rank <= bounds.high <= rank + 1


def _with_a_token_for_the_secret() -> PreTrainedTokenizerFast:
    tokenizer = tokenizer_in_style("qwen")
    copied = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    copied.add_tokens(["313371"])
    return copied


def test_a_token_that_was_added_for_a_secret_hides_it_from_no_search() -> None:
    tokenizer, template = _with_a_token_for_the_secret(), CanaryTemplate("the number is {n}", n=Digits(9))
    secret = "the number is 313371222"
    ids = tokenizer(secret)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("313371") in ids
    model = tiny_model("gpt2", vocab_size=entries_of(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimizer.step()
    found = extract(model.eval(), tokenizer, template)
    assert found.certified and found.candidates[0].text == secret
    bounds = rank_bounds(model, tokenizer, secret, template)
    assert bounds.certified and (bounds.low, bounds.high) == (1, 1)
    report = measure_exposure(model, tokenizer, CanarySet.from_secrets(template, [secret]), references=256)
    assert report.estimates[0].rank_high == 1


def test_a_canary_that_the_sample_misses_is_added_to_it() -> None:
    """Pattern texts with an added token that is longer than the places tried: only the canary itself reveals it."""
    tokenizer = _with_a_token_for_the_secret()
    template = CanaryTemplate("code {c}", c=Pattern(r"31337[0-9]{5}|[02-9]{10}"))
    text = "code 3133712345"
    model = tiny_model("gpt2", vocab_size=entries_of(tokenizer))
    scorer = CausalScorer(model, tokenizer)
    automaton = build_automaton(template, scorer.encoder, also=[text])
    assert search_ranks(scorer, automaton, [text], max_expansions=5)[0].low >= 1


def test_nothing_is_known_of_texts_whose_first_token_is_not_scored() -> None:
    """If a search without a prefix is interrupted before its first batch, the whole space is open."""
    tokenizer, template = tokenizer_in_style("characters"), CanaryTemplate("{n} ok", n=Digits(4))
    scorer = CausalScorer(tiny_model("gpt2", vocab_size=entries_of(tokenizer)), tokenizer)
    automaton = build_automaton(template, scorer.encoder)
    assert not automaton.prefix
    progress = SearchProgress()
    progress.interrupted = True
    (bounds,) = search_ranks(scorer, automaton, ["1234 ok"], progress=progress)
    assert (bounds.low, bounds.high) == (1, 10_000)


def test_a_text_that_predicts_nothing_is_refused() -> None:
    tokenizer, template = merging_tokenizer(), CanaryTemplate("{n}", n=Digits(2))
    model = tiny_model("gpt2", vocab_size=entries_of(tokenizer))
    with pytest.raises(InputError, match="at least one token that the model predicts"):
        extract(model, tokenizer, template, end_token=False)


def test_limits_are_whole_numbers() -> None:
    tokenizer, template = tokenizer_in_style("characters"), CanaryTemplate("pin {n}", n=Digits(2))
    model = tiny_model("gpt2", vocab_size=entries_of(tokenizer))
    with pytest.raises(InputError, match="top_k: must be a whole number"):
        extract(model, tokenizer, template, top_k="3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_expansions: must be a whole number"):
        rank_bounds(model, tokenizer, "pin 12", template, max_expansions=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_expansions: must be a whole number of at least 1, got 0"):
        rank_bounds(model, tokenizer, "pin 12", template, max_expansions=0)


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    tokenizer, template = tokenizer_in_style("characters"), CanaryTemplate("pin {n}", n=Digits(2))
    model = tiny_model("gpt2", vocab_size=12)
    with pytest.raises(InputError, match="must be the model's own: the model knows 12 tokens"):
        extract(model, tokenizer, template)


class _Counting(PreTrainedTokenizerFast):
    """Counts the texts that it encodes."""

    texts = 0

    def __call__(self, text, *arguments, **keywords):  # type: ignore[no-untyped-def]
        type(self).texts += len(text) if isinstance(text, list) else 1
        return super().__call__(text, *arguments, **keywords)


def test_a_second_search_does_not_audit_an_unchanged_tokenizer_again() -> None:
    source = tokenizer_in_style("qwen").backend_tokenizer.to_str()
    tokenizer = _Counting(tokenizer_object=Tokenizer.from_str(source))
    model, template = tiny_model("gpt2", vocab_size=entries_of(tokenizer)), CanaryTemplate("no {n}.", n=Digits(6))
    automata, encodings = [], []
    for also in (["no 313371."], ["no 000004."], ["no 313371.", "no 271828."]):
        before = _Counting.texts
        automata.append(build_automaton(template, CausalScorer(model, tokenizer).encoder, also=also))
        encodings.append(_Counting.texts - before)
    assert encodings[0] > 10_000 and max(encodings[1:]) < 1_000
    assert automata[0] is automata[1] is automata[2]
    copied = _Counting(tokenizer_object=Tokenizer.from_str(source))
    assert build_automaton(template, CausalScorer(model, copied).encoder) is not automata[0]
    tokenizer.add_tokens(["3133"])  # now a different tokenizer, though the same object
    again = build_automaton(template, CausalScorer(model, tokenizer).encoder)
    ids = tuple(tokenizer("no 313371.")["input_ids"])
    assert again is not automata[0]
    assert follow_tokens(again, ids[len(again.prefix) :]) == "no 313371." != follow_tokens(automata[0], ids)


def test_a_canary_that_a_cached_automaton_lacks_is_audited_with_the_whole_again() -> None:
    tokenizer, template = tokenizer_in_style("qwen"), CanaryTemplate("no {n}.", n=Digits(6))
    encoder = Encoder.of(tokenizer)
    cache, known = AutomatonCache(size=2), build_automaton(template, encoder)
    key = CacheKey.of(template, encoder, one_path=False)
    cache.put(key, known)
    assert cache.find(key, encoder, ["no 123456."]) is known
    assert cache.find(key, encoder, ["no 12345x."]) is None
    for number in (4, 5):
        other = CanaryTemplate("no {n}.", n=Digits(number))
        cache.put(CacheKey.of(other, encoder, one_path=False), build_automaton(other, encoder))
    assert cache.find(key, encoder, []) is None


def test_the_automaton_that_was_used_longest_ago_leaves_the_cache() -> None:
    encoder, template = Encoder.of(tokenizer_in_style("qwen")), CanaryTemplate("no {n}.", n=Digits(2))
    first, second, third = (
        CacheKey.of(CanaryTemplate("no {n}.", n=Digits(digits)), encoder, one_path=False) for digits in (2, 3, 4)
    )
    cache, automaton = AutomatonCache(size=2), build_automaton(template, encoder)
    cache.put(first, automaton)
    cache.put(second, automaton)
    assert cache.find(first, encoder, []) is automaton  # used later than the second, though inserted before it
    cache.put(third, automaton)
    assert cache.find(second, encoder, []) is None and cache.find(first, encoder, []) is automaton


def _own_copy(style: str) -> PreTrainedTokenizerFast:
    source = tokenizer_in_style(style).backend_tokenizer.to_str()
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(source))


def _changed(tokenizer: PreTrainedTokenizerFast, what: str) -> None:
    """Changes a tokenizer in place."""
    backend = tokenizer.backend_tokenizer
    if what == "a setting":
        backend.model.dropout = 0.5
    elif what == "the normalizer":
        backend.normalizer = normalizers.Lowercase()
    elif what == "the pre-tokenizer":
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), backend.pre_tokenizer])
    elif what == "an added token":
        tokenizer.add_tokens(["3133"])
    else:  # merges of the same entries, in the opposite order
        model = json.loads(backend.to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]][::-1]
        backend.model = models.BPE(vocab=model["vocab"], merges=merges)


@pytest.mark.parametrize(
    "what", ["a setting", "the normalizer", "the pre-tokenizer", "an added token", "the order of the merges"]
)
def test_a_tokenizer_that_is_changed_in_place_is_another(what: str) -> None:
    tokenizer = _own_copy("gpt2")
    before = fingerprint(tokenizer)
    assert before is not None and before == fingerprint(tokenizer)
    _changed(tokenizer, what)
    assert fingerprint(tokenizer) != before


def test_a_tokenizer_whose_rules_are_code_has_no_fingerprint() -> None:
    tokenizer = _own_copy("gpt2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.PreTokenizer.custom(object())
    assert fingerprint(tokenizer) is None
    assert fingerprint(type("Own", (ByT5Tokenizer,), {})()) is None


@pytest.mark.parametrize("kind", [ByT5Tokenizer, PerceiverTokenizer])
def test_bytes_are_proven_and_cached_though_the_tokenizer_is_slow(kind: type) -> None:
    template, tokenizer = CanaryTemplate("caf\u00e9 {n}.", n=Digits(9)), kind()
    automaton = build_automaton(template, Encoder.of(tokenizer))
    assert (automaton.name, automaton.exactness, automaton.unproven) == ("characters", "proven", "")
    assert build_automaton(template, Encoder.of(tokenizer)) is automaton
    tokenizer.add_tokens(["31337"])  # some texts contain this token, and the graph lacks their encodings
    with pytest.raises(InputError, match="must be a fast one to search a large space"):
        build_automaton(template, Encoder.of(tokenizer))
    short = CanaryTemplate("caf\u00e9 {n}.", n=Digits(5))
    exact = build_automaton(short, Encoder.of(tokenizer))
    (ids,) = Encoder.of(tokenizer).encode([short.text_at(31337)]).ids
    assert exact.name == "trie" and follow_tokens(exact, ids[len(exact.prefix) :]) == short.text_at(31337)


def test_an_added_token_that_a_sample_misses_leaves_bytes_audited() -> None:
    tokenizer, template = ByT5Tokenizer(), CanaryTemplate("key {x}", x=Letters(9, "abcdefgh"))
    tokenizer.add_tokens(["abcdefgh"])
    encoder = Encoder.of(tokenizer)
    texts = [template.text_at(index) for index in range(100)]
    sample = SampledEncodings.among(texts, encoder, "audited")  # none of them has it
    automaton, missed = character_automaton(template, encoder, sample)
    assert automaton is not None and missed is None and automaton.exactness == "audited"
    assert automaton.unproven == "a token that was added to the tokenizer may occur in a text"


class _Lowercase(OnePathPerText):
    """An automaton that wrongly assumes that the tokenizer keeps capital letters."""

    name, prefix, prefix_text, root = "lowercase", (), "", 0
    exactness: Exactness = "proven"

    def __init__(self, ids: dict[str, int]) -> None:
        order = sorted(ids, key=ids.__getitem__)
        tokens = np.array([ids[letter] for letter in order])
        self._transitions = Transitions(tokens, tuple(order), (1,) * len(order), self)

    def transitions(self, state: Any) -> Transitions:
        return self._transitions if state == 0 else NO_TRANSITIONS

    def count(self, state: Any) -> int:
        return len(self._transitions) if state == 0 else 1


def test_a_path_that_spells_another_text_is_a_miss() -> None:
    tokenizer = character_tokenizer("ab", lowercase=True, special=True)
    encoder = Encoder.of(tokenizer)
    automaton = _Lowercase({letter: tokenizer.convert_tokens_to_ids(letter) for letter in "ab"})
    automaton.prefix = encoder.leading
    right = SampledEncodings.of(CanaryTemplate("{x}", x=Letters(1, "ab")), encoder)
    assert right.first_missed(automaton) is None
    wrong = SampledEncodings.of(CanaryTemplate("{x}", x=Letters(1, "aB")), encoder)
    assert wrong.first_missed(automaton) == "B"
