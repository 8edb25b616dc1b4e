"""Exposures against the definition, counted text by text on a space small enough to score whole."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import (
    Bounded,
    Canary,
    CanarySet,
    CanaryTemplate,
    Digits,
    Letters,
    draw_canaries,
    log_perplexity,
    measure_exposure,
)
from hf_exposure.canaries.space import distinct_ids
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.estimators import epsilon_from_ranks, epsilon_lower_bound
from hf_exposure.measures import ExposureMeter
from hf_exposure.measures.methods import uniform_references

TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(3))
CANARIES = draw_canaries(TEMPLATE, {1: 3, 4: 3}, controls=4, seed=11)
TEXTS = [f"pin {''.join(digits)} ok" for digits in product("0123456789", repeat=3)]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., nn.Module]) -> nn.Module:
    return make_model("gpt2", seed=1, scale=0.5).double()


@pytest.fixture(scope="module")
def bits(model: nn.Module) -> dict[str, float]:
    """Log-perplexity of every text of the space: one plain forward pass, summed by hand."""
    ids = torch.tensor([[byte + 3 for byte in text.encode()] for text in TEXTS])
    with torch.no_grad():
        logits = model(input_ids=ids).logits.double()
    chances = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, ids[:, 1:, None])[..., 0]
    return dict(zip(TEXTS, (-chances.sum(dim=1) / math.log(2)).tolist(), strict=True))


@pytest.fixture(scope="module")
def defined(bits: dict[str, float]) -> list[tuple[int, float]]:
    """Rank and exposure of each canary, word for word as the definition has them."""
    inserted = {canary.text for canary in CANARIES.inserted}
    found = []
    for canary in CANARIES:
        rivals = [text for text in TEXTS if text != canary.text and text not in inserted]
        rank = 1 + sum(bits[text] <= bits[canary.text] for text in rivals)
        found.append((rank, math.log2(len(rivals) + 1) - math.log2(rank)))
    return found


def of(report: Any) -> list[float]:
    return [estimate.exposure_bits for estimate in report.estimates]


@pytest.mark.parametrize("method", ["enumerate", "bounded", "auto"])
def test_exact_methods_equal_the_definition(
    model: nn.Module, bits: dict[str, float], defined: list[tuple[int, float]], method: Any
) -> None:
    report = measure_exposure(model, ByT5Tokenizer(), CANARIES, method=method)
    assert [e.canary_id for e in report.estimates] == [c.id for c in CANARIES]
    assert [e.repetitions for e in report.estimates] == [1, 1, 1, 4, 4, 4, 0, 0, 0, 0]
    for estimate, canary, (rank, exposure) in zip(report.estimates, CANARIES, defined, strict=True):
        assert estimate.log_perplexity_bits == pytest.approx(bits[canary.text], abs=1e-6)
        assert (estimate.rank_low, estimate.rank_high) == (rank, rank)
        assert estimate.exposure_bits == pytest.approx(exposure, abs=1e-12)
    # Ranks under a random model are spread out; equal ones would prove little.
    assert len({rank for rank, _ in defined}) >= 8


def test_the_size_of_the_space_is_without_the_other_inserted(make_model: Callable[..., nn.Module]) -> None:
    class Constant(nn.Module):
        """Every text costs the same: each canary ranks last."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, input_ids: torch.Tensor, **more: Any) -> Any:
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 384), "past_key_values": None})()

    report = measure_exposure(Constant(), ByT5Tokenizer(), CANARIES, method="enumerate")
    # Ties count against a canary: R' is 1000 minus the 5 other inserted ones, or minus all 6 for a control.
    assert of(report) == [0.0] * 10
    assert [e.rank_high for e in report.estimates] == [995] * 6 + [994] * 4
    assert [e.rank_low for e in report.estimates] == [1] * 10
    assert [e.high_bits for e in report.estimates] == pytest.approx([math.log2(995)] * 6 + [math.log2(994)] * 4)


def test_sampling_counts_the_references(model: nn.Module, bits: dict[str, float]) -> None:
    meter = ExposureMeter(CANARIES, ByT5Tokenizer(), method="sample", references=200, seed=4)
    references = uniform_references(CANARIES, 200, seed=4)
    assert len(references) == len(set(references)) == 200
    assert not {canary.text for canary in CANARIES} & set(references)
    assert set(references) <= set(TEXTS)
    for estimate, canary in zip(meter.measure(model).estimates, CANARIES, strict=True):
        at_or_below = sum(bits[text] <= bits[canary.text] for text in references)
        assert estimate.exposure_bits == pytest.approx(math.log2(201 / (at_or_below + 1)), abs=1e-9)
        assert estimate.low_bits <= estimate.exposure_bits <= estimate.high_bits
        assert estimate.method == "sample"


def test_references_are_all_others_where_the_space_is_smaller() -> None:
    references = uniform_references(CANARIES, 5000, seed=0)
    assert sorted(references) == sorted(set(TEXTS) - {canary.text for canary in CANARIES})


def test_the_seed_fixes_the_references(model: nn.Module) -> None:
    def run(seed: int) -> list[float]:
        return of(measure_exposure(model, ByT5Tokenizer(), CANARIES, method="sample", references=50, seed=seed))

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_references_do_not_continue_the_random_numbers_of_the_draw() -> None:
    larger = CanaryTemplate("pin {pin} ok", pin=Digits(9))
    drawn = draw_canaries(larger, {1: 50}, seed=11)
    few = CanarySet(inserted=drawn.inserted[:2], template=larger, seed=11)
    references = uniform_references(few, 100, seed=11)
    assert not {canary.text for canary in drawn.inserted} & set(references)


@pytest.mark.parametrize("method", ["importance", "skew_normal"])
def test_estimates_of_a_small_space_are_near_the_truth(
    model: nn.Module, defined: list[tuple[int, float]], method: Any
) -> None:
    report = measure_exposure(
        model, ByT5Tokenizer(), CANARIES, method=method, references=4000, precision_bits=0.01, seed=2
    )
    assert {e.method for e in report.estimates} == {method}
    # 0.6 bits is loose, but a figure in nats or of another canary is further away.
    assert of(report) == pytest.approx([exposure for _, exposure in defined], abs=0.6)
    assert sorted(of(report)) != pytest.approx(of(report), abs=0.6)


@pytest.fixture(scope="module")
def memorized(make_model: Callable[..., nn.Module]) -> nn.Module:
    """A model that learned the form of the texts, and memorized the first canary."""
    model = make_model("gpt2", seed=3, scale=0.1)
    texts = [TEXTS[(389 * i) % 1000] for i in range(40)] + [CANARIES.inserted[0].text] * 40
    ids = torch.tensor([[byte + 3 for byte in text.encode()] for text in texts])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def test_auto_searches_where_that_is_cheap_and_draws_elsewhere(memorized: nn.Module) -> None:
    exact = measure_exposure(memorized, ByT5Tokenizer(), CANARIES, method="enumerate")
    report = measure_exposure(memorized, ByT5Tokenizer(), CANARIES, references=200, seed=1)
    methods = [estimate.method for estimate in report.estimates]
    assert methods[0] == "bounded"
    assert "importance" in methods
    assert exact.estimates[0].rank_high == 1
    for truth, estimate in zip(exact.estimates, report.estimates, strict=True):
        if estimate.method == "bounded":
            assert (estimate.rank_low, estimate.rank_high) == (truth.rank_low, truth.rank_high)
            assert estimate.exposure_bits == truth.exposure_bits
        else:
            assert estimate.low_bits <= truth.exposure_bits <= estimate.high_bits
    assert report.metrics()["eval_exposure_rank1_fraction"] == pytest.approx(1 / 6)


def test_auto_searches_where_draws_leave_a_high_rank_open(
    make_model: Callable[..., nn.Module], byte_tokenizer: ByT5Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, budget = make_model("gpt2", seed=1), 250
    template = CanaryTemplate("pin {pin}", pin=Digits(4))
    costs = log_perplexity(model, byte_tokenizer, [template.text_at(index) for index in range(10**4)])
    first, last = (template.text_at(int(index)) for index in (costs.argmin(), costs.argmax()))
    ids = distinct_ids()
    made = tuple(Canary(id=next(ids), text=text, template=template, repetitions=1) for text in (first, last))
    canaries = CanarySet(inserted=made, controls=(), template=template)
    hole = costs.min() - log_perplexity(model, byte_tokenizer, ["pin "])[0]
    assert hole > math.log2(budget) + 2, "else its own bits bound the search"
    searched: list[list[int]] = []
    search = Bounded.search
    monkeypatch.setattr(
        Bounded,
        "search",
        lambda self, measured, which, **more: searched.append(which) or search(self, measured, which, **more),
    )
    drawn, found, cut = (
        measure_exposure(model, byte_tokenizer, canaries, references=budget, **how).estimates
        for how in ({"method": "importance"}, {}, {"max_expansions": 20})
    )
    assert drawn[0].high_bits - drawn[0].low_bits > 1
    assert (found[0].rank_low, found[0].rank_high) == (1, 1)
    # The least likely canary has a narrow interval far below; an incomplete search keeps the estimate from draws.
    assert searched[0] == [0] and found[1] == drawn[1]
    assert cut == drawn


def test_auto_measures_a_space_larger_than_any_float(byte_tokenizer: ByT5Tokenizer) -> None:
    template = CanaryTemplate("key {key}", key=Letters(230))
    canaries = draw_canaries(template, {1: 1}, controls=1, seed=0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=256))
    estimates = measure_exposure(model, byte_tokenizer, canaries, references=8).estimates
    assert all(0 <= estimate.low_bits <= estimate.high_bits <= template.log2_space_size for estimate in estimates)


def test_a_search_without_budget_bounds_the_rank(memorized: nn.Module) -> None:
    exact = measure_exposure(memorized, ByT5Tokenizer(), CANARIES, method="enumerate")
    cut = measure_exposure(memorized, ByT5Tokenizer(), CANARIES, method="bounded", max_expansions=2)
    assert any(estimate.is_lower_bound for estimate in cut.estimates)
    for truth, estimate in zip(exact.estimates, cut.estimates, strict=True):
        assert estimate.rank_low <= truth.rank_high <= estimate.rank_high
        assert estimate.exposure_bits == estimate.low_bits <= truth.exposure_bits <= estimate.high_bits


def test_the_base_model_is_reported_too(
    model: nn.Module, make_model: Callable[..., nn.Module], defined: list[tuple[int, float]]
) -> None:
    other = make_model("gpt2", seed=2, scale=0.5)
    report = measure_exposure(other, ByT5Tokenizer(), CANARIES, base_model=model)
    assert [e.base_exposure_bits for e in report.estimates] == pytest.approx([x for _, x in defined], abs=1e-9)
    assert of(report) != [e.base_exposure_bits for e in report.estimates]
    without = measure_exposure(other, ByT5Tokenizer(), CANARIES)
    assert all(math.isnan(e.base_exposure_bits) for e in without.estimates)


def test_the_report_says_what_was_done(model: nn.Module) -> None:
    report = measure_exposure(model, ByT5Tokenizer(), CANARIES, method="sample", references=20, seed=9)
    assert (report.settings["method"], report.settings["references"], report.settings["seed"]) == ("sample", 20, 9)
    assert (report.template, report.space_size) == ("pin {pin} ok", 1000)
    assert report.manifest_hash == CANARIES.manifest_hash
    assert report.model["class"] == "GPT2LMHeadModel"
    assert report.model["parameters"] == sum(p.numel() for p in model.parameters())
    assert report.seconds > 0
    assert (report.step, report.epoch) == (None, None)
    assert len(report.inserted) == 6
    assert len(report.controls) == 4


def test_p_value_is_that_of_scipy(model: nn.Module, bits: dict[str, float]) -> None:
    from scipy.stats import mannwhitneyu

    report = measure_exposure(model, ByT5Tokenizer(), CANARIES)
    costs = [[bits[canary.text] for canary in group] for group in (CANARIES.inserted, CANARIES.controls)]
    expected = mannwhitneyu(*costs, alternative="less", method="exact").pvalue
    assert report.p_value == pytest.approx(expected, rel=1e-9)
    assert report.metrics()["eval_exposure_p_value"] == report.p_value
    assert report.auc == np.mean([[a < b for b in costs[1]] for a in costs[0]])


def test_without_controls_there_is_no_p_value(model: nn.Module) -> None:
    alone = CanarySet(inserted=CANARIES.inserted, template=TEMPLATE)
    report = measure_exposure(model, ByT5Tokenizer(), alone)
    assert math.isnan(report.p_value)
    assert "eval_exposure_p_value" not in report.metrics()
    assert report.controls == ()


def test_end_token_counts_the_end(model: nn.Module) -> None:
    ended = measure_exposure(model, ByT5Tokenizer(), CANARIES, end_token=True)
    plain = measure_exposure(model, ByT5Tokenizer(), CANARIES)
    assert all(
        a.log_perplexity_bits > b.log_perplexity_bits for a, b in zip(ended.estimates, plain.estimates, strict=True)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"method": "guess"},
            r"^method: must be one of auto, .*, got 'guess'\. Use method='auto'\.$",
        ),
        ({"references": 0}, r"^references: must be a whole number of at least 1, got 0\. Leave references out"),
        ({"references": 2.5}, r"^references: must be a whole number of at least 1, got 2\.5\."),
        ({"max_expansions": -1}, r"^max_expansions: must be a whole number of at least 1, got -1\."),
        ({"precision_bits": 0.0}, r"^precision_bits: must be above 0, got 0\.0\. Leave it out for 0\.25\.$"),
        ({"precision_bits": math.nan}, r"^precision_bits: must be above 0, got nan\."),
        ({"confidence_level": 95}, r"^confidence_level: must lie between 0 and 1, got 95\. Leave it out for 0\.95\.$"),
        ({"max_batch_tokens": 0}, r"^max_batch_tokens: must be a whole number of at least 1, got 0\."),
        ({"method": "skew_normal", "references": 8}, r"^references: "),
    ],
)
def test_wrong_arguments_are_refused(model: nn.Module, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure_exposure(model, ByT5Tokenizer(), CANARIES, **arguments)


def test_a_space_too_large_to_enumerate_is_refused(model: nn.Module) -> None:
    large = draw_canaries(CanaryTemplate("pin {pin} ok", pin=Digits(7)), {1: 1}, seed=0)
    with pytest.raises(InputError, match=r"^method: 'enumerate' takes spaces of at most 1000000 texts, got"):
        measure_exposure(model, ByT5Tokenizer(), large, method="enumerate")


def test_nan_logits_are_an_error(make_model: Callable[..., nn.Module]) -> None:
    broken = make_model("gpt2")
    with torch.no_grad():
        broken.transformer.ln_f.weight.fill_(math.nan)
    with pytest.raises(NonFiniteScoreError, match="NaN logits"):
        measure_exposure(broken, ByT5Tokenizer(), CANARIES)


def test_a_tokenizer_larger_than_the_model_is_refused_before_scoring() -> None:
    small = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_layer=1, n_head=2, n_embd=16, bos_token_id=0, eos_token_id=1))
    with pytest.raises(InputError, match="tokenizer: must be the model's own: the model knows 40 tokens, got 'token"):
        measure_exposure(small, ByT5Tokenizer(), CANARIES, method="sample", references=20)


class Remembers(nn.Module):
    """Has memorized some texts; elsewhere each of 384 next bytes is equally likely, or nearly so."""

    def __init__(self, texts: list[str], spread: float = 0.0) -> None:
        super().__init__()
        self.following: dict[tuple[int, ...], set[int]] = {}
        for text in texts:
            ids = [byte + 3 for byte in text.encode()]
            for length in range(1, len(ids)):
                self.following.setdefault(tuple(ids[:length]), set()).add(ids[length])
        self.own = nn.Parameter(spread * torch.randn(384, 384, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        logits = self.own[input_ids]
        for row, ids in enumerate(input_ids.tolist()):
            for at in range(len(ids)):
                for token in self.following.get(tuple(ids[: at + 1]), ()):
                    logits[row, at, token] += 16.0
        return SimpleNamespace(logits=logits)


def test_other_inserted_canaries_do_not_compete_in_weighted_draws() -> None:
    """Six canaries are memorized equally well: each ranks first among 10^6 - 5 texts, without the other canaries."""
    template = CanaryTemplate("pin {pin}.", pin=Digits(6))
    canaries = draw_canaries(template, {1: 6}, controls=2, seed=4)
    model = Remembers([canary.text for canary in canaries.inserted])
    drawn = measure_exposure(model, ByT5Tokenizer(), canaries, method="importance", references=512)
    for estimate in drawn.estimates[:6]:
        assert estimate.exposure_bits == pytest.approx(math.log2(10**6 - 5), abs=0.2)
        assert estimate.high_bits == pytest.approx(math.log2(10**6 - 5))


@pytest.mark.parametrize("remembered", [True, False])
def test_the_epsilon_of_a_report_is_that_of_its_coins(remembered: bool) -> None:
    """Compared with the estimator on separately computed costs; all guesses are right if heads are remembered."""
    template = CanaryTemplate("pin {pin}.", pin=Digits(4))
    canaries = draw_canaries(template, {}, controls=0, coin_flips=40, seed=1)
    kept = [canary.text for canary in canaries if bool(canary.coin) is remembered]
    model = Remembers(kept, spread=0.1)
    report = measure_exposure(model, ByT5Tokenizer(), canaries, method="sample", references=16, delta=1e-6)
    costs = log_perplexity(model, ByT5Tokenizer(), [canary.text for canary in canaries])
    coins = [bool(canary.coin) for canary in canaries]
    expected = epsilon_lower_bound(costs, coins, delta=1e-6)
    assert report.epsilon == asdict(expected)
    gaussian = [epsilon_lower_bound(costs, coins, delta=1e-6, claim=c) for c in ("gdp", "independent_gaussian")]
    assert list(report.gaussian_epsilons) == [asdict(bound) for bound in gaussian]
    # All guesses are right, or all are wrong.
    guesses = report.epsilon["guesses"]
    assert report.epsilon["correct"] == (guesses if remembered else 0)
    assert (report.epsilon["epsilon"] > 1.0) is remembered
    assert measure_exposure(model, ByT5Tokenizer(), CANARIES, method="enumerate").epsilon is None


@pytest.mark.parametrize("method", ["enumerate", "bounded"])
def test_the_epsilon_of_ranks_is_that_of_places_among_all_texts(method: str) -> None:
    """Four of six canaries are remembered, so they are the likeliest texts; the estimator on their places agrees."""
    template = CanaryTemplate("pin {pin}.", pin=Digits(3))
    canaries = draw_canaries(template, {1: 6}, controls=2, seed=4)
    model = Remembers([canary.text for canary in canaries.inserted[:4]])
    report = measure_exposure(model, ByT5Tokenizer(), canaries, method=method)
    costs = log_perplexity(model, ByT5Tokenizer(), [template.text_at(i) for i in range(1000)])
    places = [int((costs <= costs[template.index_of(c.text)] + 0.01).sum()) for c in canaries.inserted]
    expected = epsilon_from_ranks(places, 1000, other_secrets=7)
    assert report.uniform_draw and report.complete_search
    assert (expected.threshold_rank, expected.successes) == (4, 4)
    assert report.rank_epsilons[1].epsilon == pytest.approx(expected.epsilon)
    assert report.metrics()["eval_exposure_rank_epsilon"] > 1.0
    given = CanarySet.from_secrets(template, [canary.text for canary in canaries.inserted])
    assert measure_exposure(model, ByT5Tokenizer(), given, method=method).rank_epsilons == {}
