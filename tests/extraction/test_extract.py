"""What `extract` and `rank_bounds` promise: ties, budgets, exclusions, precision, low cost for memorized secrets."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import character_tokenizer, tiny_model
from test_search_brute_force import BagOfBytes, byte_ids
from torch import nn
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Choice, Digits, extract, log_perplexity, rank_bounds
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.extraction import CharacterAutomaton, build_automaton, search_likeliest, search_ranks
from hf_exposure.scoring import CausalScorer
from hf_exposure.testing import TIE_BITS, assert_close, brute_force_bits

PIN = CanaryTemplate("pin {pin}", pin=Digits(3))
TEXTS = [PIN.text_at(index) for index in range(PIN.space_size)]


def constant_model() -> nn.Module:
    """Every byte is equally likely, so all texts of one length tie."""
    model = tiny_model("gpt2", n_layer=1, n_embd=16, n_head=2)
    nn.init.zeros_(model.lm_head.weight)
    return model


def prepared(model: nn.Module, tokenizer: Any, template: CanaryTemplate) -> tuple[CausalScorer, CharacterAutomaton]:
    """A scorer and an automaton for many searches, so that the tokenizer is audited once."""
    scorer = CausalScorer(model, tokenizer)
    return scorer, build_automaton(template, scorer.encoder)


def costs_of(model: nn.Module, texts: list[str]) -> np.ndarray:
    return np.array([brute_force_bits(model, byte_ids(text), 1) for text in texts])


def test_ties_come_in_the_order_of_their_texts(byte_tokenizer: ByT5Tokenizer) -> None:
    found = extract(constant_model(), byte_tokenizer, PIN, top_k=7)
    assert [candidate.text for candidate in found.candidates] == TEXTS[:7]
    assert_close([candidate.log_perplexity_bits for candidate in found.candidates], [6 * math.log2(384)] * 7, 1e-3)
    assert found.certified


@pytest.mark.parametrize("excluded, high", [([], 1000), (["pin 000", "pin 999"], 998), (["pin 123"], 1000)])
def test_ties_count_against_the_text(excluded: list[str], high: int, byte_tokenizer: ByT5Tokenizer) -> None:
    bounds = rank_bounds(constant_model(), byte_tokenizer, "pin 123", PIN, exclude=excluded)
    assert (bounds.low, bounds.high, bounds.certified) == (1, high, True)


def test_the_batch_size_changes_no_answer(byte_tokenizer: ByT5Tokenizer) -> None:
    model, template = tiny_model("llama"), CanaryTemplate("pin {pin}", pin=Digits(2))
    texts = [template.text_at(index) for index in range(100)]
    expected = costs_of(model, texts)
    for batch_size in (1, 3, 1000):
        found = extract(model, byte_tokenizer, template, top_k=20, batch_size=batch_size)
        assert [candidate.text for candidate in found.candidates] == [texts[i] for i in np.argsort(expected)[:20]]
        bounds = rank_bounds(model, byte_tokenizer, "pin 12", template, batch_size=batch_size)
        assert bounds.low == bounds.high == (expected <= expected[12] + TIE_BITS).sum()


def test_excluding_what_is_no_text_of_the_template_is_refused(byte_tokenizer: ByT5Tokenizer) -> None:
    with pytest.raises(
        InputError, match="text: must be a text of the template 'pin {pin}', got 'a text of 7 characters'"
    ):
        rank_bounds(BagOfBytes(), byte_tokenizer, TEXTS[0], PIN, exclude=["pin 12x"])


def test_excluded_texts_do_not_compete(byte_tokenizer: ByT5Tokenizer) -> None:
    model = BagOfBytes()
    expected = costs_of(model, TEXTS)
    order = np.argsort(expected)
    cheaper, dearer = [TEXTS[i] for i in order[:9]], [TEXTS[i] for i in order[-5:]]
    own = TEXTS[order[20]]
    scorer, automaton = prepared(model, byte_tokenizer, PIN)
    for exclude, rank in ((cheaper, 12), (dearer, 21), ([*cheaper, *dearer, own, own], 12), ([], 21)):
        bounds = rank_bounds(model, byte_tokenizer, own, PIN, exclude=exclude)
        assert (bounds.low, bounds.high) == (rank, rank)
        competitors = 1000 - len(set(exclude) & set(TEXTS) - {own})
        for budget in (1, 2, 3, 5, 8, 13, 21, 34):
            (partial,) = search_ranks(scorer, automaton, [own], max_expansions=budget, exclude=exclude)
            assert partial.low <= rank <= partial.high <= competitors


def test_many_texts_in_one_search_get_what_each_gets_alone(byte_tokenizer: ByT5Tokenizer) -> None:
    model = BagOfBytes()
    order = np.argsort(costs_of(model, TEXTS))
    scorer, automaton = prepared(model, byte_tokenizer, PIN)
    wanted = [TEXTS[order[place]] for place in (500, 0, 999, 17, 3)]
    exclude = [wanted[1], wanted[3], TEXTS[order[1]]]
    together = search_ranks(scorer, automaton, wanted, exclude=exclude)
    alone = [search_ranks(scorer, automaton, [text], exclude=exclude)[0] for text in wanted]
    for joint, single in zip(together, alone, strict=True):
        assert (joint.low, joint.high, joint.certified) == (single.low, single.high, True)
    assert together[0].low == 501 - 3 and together[1].low == 1 and together[3].low == 18 - 2
    assert search_ranks(scorer, automaton, []) == []


@pytest.mark.parametrize("text", ["pin {pin}", "pin {pin} ok"])
def test_a_search_for_exact_ranks_alone_ends_early_and_certifies_as_many(
    text: str, byte_tokenizer: ByT5Tokenizer
) -> None:
    """With a text after the hole, open nodes with only one possible continuation do not use the budget."""
    model, template = BagOfBytes(), CanaryTemplate(text, pin=Digits(4))
    texts = [template.text_at(index) for index in range(template.space_size)]
    scorer, automaton = prepared(model, byte_tokenizer, template)
    order = np.argsort(scorer.sequence_bits(scorer.encode(texts)), kind="stable")
    wanted = [texts[order[place]] for place in (0, 30, 400, 2000, 9000)]
    spared = 0
    for budget in (1, 2, 5, 20, 50, 111, 200, 500, 800, 1111):
        whole = search_ranks(scorer, automaton, wanted, max_expansions=budget, batch_size=8)
        early = search_ranks(scorer, automaton, wanted, max_expansions=budget, batch_size=8, only_exact=True)
        assert [one.certified for one in early] == [one.certified for one in whole]
        for one, other in zip(early, whole, strict=True):
            assert one.low <= other.low <= other.high <= one.high
            assert not one.certified or (one.low, one.high) == (other.low, other.high)
        assert early[0].expansions <= whole[0].expansions
        if early[0].expansions < whole[0].expansions:
            spared += 1
            assert f"since max_expansions={budget} would not be enough" in early[-1].note
    assert spared >= 4 and all(one.certified for one in early)


def test_a_budget_gives_the_best_so_far_without_a_certificate(byte_tokenizer: ByT5Tokenizer) -> None:
    model, template = BagOfBytes(), CanaryTemplate("pin {pin} ok", pin=Digits(3))
    texts = [template.text_at(index) for index in range(1000)]
    expected = costs_of(model, texts)
    scorer, automaton = prepared(model, byte_tokenizer, template)
    whole = search_likeliest(scorer, automaton, top_k=3)
    assert whole.certified
    for budget in (*range(1, 9), 20, 40, whole.expansions):
        found = search_likeliest(scorer, automaton, top_k=3, max_expansions=budget)
        assert found.expansions <= budget
        best = [candidate.log_perplexity_bits for candidate in found.candidates]
        assert_close(best, [expected[texts.index(candidate.text)] for candidate in found.candidates], 1e-3)
        if found.certified:
            assert_close(best, np.sort(expected)[:3], 1e-3)
        else:
            assert f"max_expansions={budget}" in found.note
    assert found.certified, "the budget was just enough"


def test_forced_runs_cost_no_expansion(byte_tokenizer: ByT5Tokenizer) -> None:
    """Two holes of one digit: one expansion for the first and ten for the second, whatever text surrounds them."""
    template = CanaryTemplate("{a} and a long way off {b} with more behind", a=Digits(1), b=Digits(1))
    found = extract(BagOfBytes(), byte_tokenizer, template, top_k=100)
    assert found.expansions == 11 and len(found.candidates) == 100
    only = CanaryTemplate("pin {a} only", a=Choice(["1234"]))
    single = extract(BagOfBytes(), byte_tokenizer, only)
    assert (single.expansions, single.certified, single.candidates[0].text) == (0, True, "pin 1234 only")
    bounds = rank_bounds(BagOfBytes(), byte_tokenizer, "pin 1234 only", only)
    assert (bounds.low, bounds.high, bounds.expansions, bounds.certified) == (1, 1, 0, True)


class Forbids(BagOfBytes):
    """Gives some bytes the probability 0."""

    def __init__(self, forbidden: str) -> None:
        super().__init__()
        with torch.no_grad():
            self.table[0][:, [ord(character) + 3 for character in forbidden]] = -float("inf")


def test_texts_of_probability_zero(byte_tokenizer: ByT5Tokenizer) -> None:
    """Texts with a 7 cannot be generated; each ranks last, behind the 729 without, and ties with the others."""
    model = Forbids("7")
    found = extract(model, byte_tokenizer, PIN, top_k=729)
    assert found.certified and all("7" not in candidate.text for candidate in found.candidates)
    for budget in (1, 5, 100_000):
        bounds = rank_bounds(model, byte_tokenizer, "pin 171", PIN, max_expansions=budget)
        assert bounds.log_perplexity_bits == math.inf and bounds.low <= 730 and bounds.high == 1000
    assert (bounds.low, bounds.certified) == (730, True)
    bounds = rank_bounds(model, byte_tokenizer, found.candidates[99].text, PIN)
    assert (bounds.low, bounds.high) == (100, 100)


def test_nan_is_an_error(byte_tokenizer: ByT5Tokenizer) -> None:
    model = BagOfBytes()
    with torch.no_grad():
        model.table[0][ord("4") + 3] = float("nan")
    for ask in (
        lambda: extract(model, byte_tokenizer, PIN, top_k=1000),
        lambda: rank_bounds(model, byte_tokenizer, "pin 141", PIN),
    ):
        with pytest.raises(NonFiniteScoreError, match="NaN"):
            ask()


def test_bfloat16_widens_the_ties_and_certifies_correctly(byte_tokenizer: ByT5Tokenizer) -> None:
    """A rank is certified only up to ties within the rounding of the model's own dtype."""
    model = tiny_model("llama").bfloat16()
    places = np.random.default_rng(0).choice(1000, 8, replace=False)
    exact = log_perplexity(model, byte_tokenizer, TEXTS)
    scorer, automaton = prepared(model, byte_tokenizer, PIN)
    found = search_ranks(scorer, automaton, [TEXTS[place] for place in places])
    for place, bounds in zip(places, found, strict=True):
        assert bounds.certified
        assert bounds.low <= 1 + (np.delete(exact, place) <= exact[place]).sum() <= bounds.high


def test_a_long_prefix_does_not_blur_the_rank(byte_tokenizer: ByT5Tokenizer) -> None:
    """The rounding of 120 prefix tokens affects no comparison."""
    template = CanaryTemplate("x" * 120 + "{pin}", pin=Digits(2))
    model = tiny_model("gpt2", scale=0.6)
    costs = costs_of(model, [template.text_at(index) for index in range(100)])
    scorer, automaton = prepared(model, byte_tokenizer, template)
    for place in range(0, 100, 9):
        (bounds,) = search_ranks(scorer, automaton, [template.text_at(place)])
        assert bounds.low == bounds.high == 1 + (np.delete(costs, place) <= costs[place]).sum()


def test_input_errors(byte_tokenizer: ByT5Tokenizer) -> None:
    model = BagOfBytes()
    for name in ("top_k", "batch_size", "max_expansions"):
        with pytest.raises(InputError, match=rf"^{name}: must be a whole number of at least 1, got 0"):
            extract(model, byte_tokenizer, PIN, **{name: 0})
    for name in ("batch_size", "max_expansions"):
        with pytest.raises(InputError, match=rf"^{name}: must be a whole number of at least 1, got 0"):
            rank_bounds(model, byte_tokenizer, "pin 123", PIN, **{name: 0})
    for text in ("pin 12", "pin 1234", "pan 123"):
        with pytest.raises(
            InputError, match=rf"^text: must be a text of the template .*, got 'a text of {len(text)} characters'"
        ):
            rank_bounds(model, byte_tokenizer, text, PIN)
    long = CanaryTemplate("x" * 130 + "{pin}", pin=Digits(2))
    with pytest.raises(InputError, match="must fit the model's context of 128 tokens"):
        extract(tiny_model("gpt2"), byte_tokenizer, long)


SECRET = CanaryTemplate("my number is {number}", number=Digits(9))


@cache
def memorized() -> tuple[nn.Module, str]:
    """A tiny GPT-2, trained for a few seconds on one canary among random bytes."""
    secret = SECRET.render(number="281265017")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_positions=64, n_embd=32, n_layer=1, n_head=2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        ids = torch.tensor([byte_ids(secret)])
        for _ in range(150):
            batch = torch.cat([ids, torch.randint(35, 130, (1, ids.shape[1]))])
            model(input_ids=batch, labels=batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), secret


def test_a_memorized_canary_costs_little(byte_tokenizer: ByT5Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most depth x 2^b expansions, b being the canary's bits after the prefix, among 10^9 texts."""
    monkeypatch.setattr("hf_exposure.extraction.sampled_encodings.AUDITED_ENCODINGS", 500)
    model, secret = memorized()
    scorer, automaton = prepared(model, byte_tokenizer, SECRET)
    whole, before = (brute_force_bits(model, byte_ids(text), 1) for text in (secret, SECRET.prefix))
    b = whole - before
    assert 0 < b < 3
    (bounds,) = search_ranks(scorer, automaton, [secret])
    assert (bounds.low, bounds.high, bounds.certified) == (1, 1, True)
    assert bounds.expansions <= 9 * 2**b
    one_by_one = search_likeliest(scorer, automaton, batch_size=1)
    growing = search_likeliest(scorer, automaton)
    for found in (one_by_one, growing):
        assert found.certified and [candidate.text for candidate in found.candidates] == [secret]
        assert_close(found.candidates[0].log_perplexity_bits, whole, 1e-3)
    assert one_by_one.expansions <= bounds.expansions
    assert growing.forward_passes <= one_by_one.forward_passes and growing.expansions <= 2 * one_by_one.expansions
    (other,) = search_ranks(scorer, automaton, [SECRET.render(number="281265018")], max_expansions=300)
    assert 2 <= other.low <= other.high <= 10**9 and other.expansions <= 300


def test_a_hole_first_and_nothing_before_it() -> None:
    """The first token has no prediction: it costs nothing, and ten beginnings share the lowest cost."""
    template, tokenizer = CanaryTemplate("{pin}", pin=Digits(3)), character_tokenizer("0123456789")
    model = BagOfBytes()
    texts = [template.text_at(index) for index in range(1000)]
    costs = np.array([brute_force_bits(model, tokenizer(text)["input_ids"], 1) for text in texts])
    scorer, automaton = prepared(model, tokenizer, template)
    for place in (int(costs.argmin()), 500, int(costs.argmax())):
        rank = 1 + int((np.delete(costs, place) <= costs[place]).sum())
        for budget in (1, 2, 3, 7, 20, 111):
            (bounds,) = search_ranks(scorer, automaton, [texts[place]], max_expansions=budget)
            assert bounds.low <= rank <= bounds.high
        assert bounds.low == bounds.high and bounds.certified


def test_a_low_precision_is_reported(byte_tokenizer: ByT5Tokenizer) -> None:
    assert extract(tiny_model("gpt2"), byte_tokenizer, PIN).note == ""
    note = extract(tiny_model("gpt2").bfloat16(), byte_tokenizer, PIN).note
    assert note == "in this precision costs vary by 0.1 bits: the order of texts closer than that is uncertain"
