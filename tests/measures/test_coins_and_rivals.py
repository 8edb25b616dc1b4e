"""Two results that are easily wrong: what the coins refute, and which texts compete with a canary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries, log_perplexity, measure_exposure
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.measures import Importance
from hf_exposure.measures.exposure import epsilons_of
from hf_exposure.measures.settings import MeasureSettings

TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(3))
TOKENIZER = ByT5Tokenizer()


def learned(canaries: CanarySet, steps: int) -> GPT2LMHeadModel:
    """A model trained on each inserted canary as often as its repetitions say."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=48, n_positions=16))
    texts = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    ids = torch.tensor(TOKENIZER(texts, add_special_tokens=False)["input_ids"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def flipped() -> tuple[CanarySet, Any, np.ndarray]:
    """40 coins with memorized heads: the set, its report, and the canaries' costs."""
    canaries = draw_canaries(TEMPLATE, {}, controls=0, coin_flips=40, seed=4)
    model = learned(canaries, 60)
    costs = log_perplexity(model, TOKENIZER, [canary.text for canary in canaries])
    return canaries, measure_exposure(model, TOKENIZER, canaries, method="sample", references=50), costs


def test_the_epsilon_of_a_report_is_that_of_likelier_heads(flipped: tuple[CanarySet, Any, np.ndarray]) -> None:
    """Of 40 coins the 10 likeliest are guessed heads and the 10 least likely tails, counted by hand."""
    canaries, report, costs = flipped
    heads = [bool(canary.coin) for canary in canaries]
    order = np.argsort(costs).tolist()
    right = sum(heads[i] for i in order[:10]) + sum(not heads[i] for i in order[-10:])
    assert (report.epsilon["guesses"], report.epsilon["correct"]) == (20, right)
    # Reversed guesses would give 20 - right.
    assert right >= 16
    # q is the smallest probability of a right guess that this count does not refute, and epsilon = ln(q / (1 - q)).
    q = binomtest(right, 20, alternative="greater").proportion_ci(0.95).low
    assert report.epsilon["epsilon"] == pytest.approx(math.log(q / (1 - q)), abs=1e-6)


def test_controls_without_a_coin_are_not_guessed(flipped: tuple[CanarySet, Any, np.ndarray]) -> None:
    """Canaries without a coin are listed between those with coins, and must not shift their costs."""
    drawn = draw_canaries(TEMPLATE, {3: 5}, controls=7, coin_flips=40, seed=4)
    model = learned(drawn, 120)
    report = measure_exposure(model, TOKENIZER, drawn, method="sample", references=50)
    costs = log_perplexity(model, TOKENIZER, [canary.text for canary in drawn])
    coins = [(cost, bool(canary.coin)) for cost, canary in zip(costs, drawn, strict=True) if canary.coin is not None]
    coins.sort()
    right = sum(head for _, head in coins[:10]) + sum(not head for _, head in coins[-10:])
    assert (report.epsilon["canaries"], report.epsilon["correct"]) == (40, right)
    assert right >= 18


@pytest.fixture(scope="module")
def memorized() -> tuple[CanarySet, GPT2LMHeadModel]:
    """Six canaries that take the first six places, so that only the others rank near each of them."""
    canaries = draw_canaries(TEMPLATE, {20: 6}, controls=4, seed=8)
    return canaries, learned(canaries, 80)


def by_definition(canaries: CanarySet, model: GPT2LMHeadModel) -> list[float]:
    texts = [TEMPLATE.text_at(index) for index in range(1000)]
    bits = dict(zip(texts, log_perplexity(model, TOKENIZER, texts).tolist(), strict=True))
    inserted = {canary.text for canary in canaries.inserted}
    exposures = []
    for canary in canaries:
        rivals = [text for text in texts if text != canary.text and text not in inserted]
        rank = 1 + sum(bits[text] <= bits[canary.text] for text in rivals)
        exposures.append(math.log2(len(rivals) + 1) - math.log2(rank))
    return exposures


@pytest.mark.parametrize("method", ["importance", "auto", "bounded", "sample"])
def test_other_inserted_canaries_do_not_compete(memorized: tuple[CanarySet, GPT2LMHeadModel], method: Any) -> None:
    """This also holds for weighted draws, most of which hit one of the six."""
    canaries, model = memorized
    truth = by_definition(canaries, model)
    # If they were rivals, the sixth would rank sixth, which is 2.6 bits less.
    assert min(truth[:6]) > math.log2(994) - 0.6
    found = measure_exposure(model, TOKENIZER, canaries, method=method, references=900, precision_bits=0.01)
    for bits, estimate in zip(truth, found.estimates, strict=True):
        assert estimate.low_bits - 1e-6 <= bits <= estimate.high_bits + 1e-6
    if method == "importance":
        assert {estimate.method for estimate in found.estimates} == {"importance"}
        # The point estimate is checked too, since an interval up to the top contains any value.
        assert [e.exposure_bits for e in found.inserted] == pytest.approx(truth[:6], abs=0.5)


@pytest.mark.parametrize("coin", [True, False])
def test_coins_that_all_fell_alike_bound_no_epsilon(coin: bool) -> None:
    """Without both sides heads and tails cannot be compared; the estimator itself refuses such coins."""
    drawn = draw_canaries(TEMPLATE, {3: 2}, controls=0, coin_flips=40, seed=4)
    alike = CanarySet(
        template=drawn.template,
        inserted=tuple(canary for canary in drawn.inserted if canary.coin in (None, coin)),
        controls=tuple(canary for canary in drawn.controls if canary.coin in (None, coin)),
    )
    assert len(alike) > 10
    assert epsilons_of(alike, np.arange(float(len(alike))), MeasureSettings()) == []


@pytest.mark.parametrize(
    ("low", "hits", "converged"), [(11.9, 200.0, True), (11.5, 200.0, False), (11.9, 50.0, False)]
)
def test_drawing_stops_at_a_narrow_interval_however_high_it_lies(low: float, hits: float, converged: bool) -> None:
    estimate = CostEstimate(
        exposure_bits=12.0, low_bits=low, high_bits=12.1, method="importance", bound="interval", effective_hits=hits
    )
    assert Importance(precision_bits=0.25).has_converged(estimate) is converged
