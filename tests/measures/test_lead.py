"""The lead over the likeliest text that was not inserted, and the guesses, against every text of a small space."""

from __future__ import annotations

import math

import numpy as np
import pytest
from conftest import tiny_model
from transformers import ByT5Tokenizer

from hf_exposure import Auto, Bounded, CanarySet, CanaryTemplate, Digits, log_perplexity, measure_exposure
from hf_exposure.canaries import Canary
from hf_exposure.estimators import lead_over_runner_up

TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(3))
TEXTS = [TEMPLATE.text_at(index) for index in range(TEMPLATE.space_size)]


MODEL, TOKENIZER = tiny_model("gpt2").eval(), ByT5Tokenizer()


@pytest.fixture(scope="module")
def costs() -> np.ndarray:
    return log_perplexity(MODEL, TOKENIZER, TEXTS)


def chosen(costs: np.ndarray, inserted: list[int], controls: list[int]) -> CanarySet:
    """Canaries at the given places in the model's order."""
    order = np.argsort(costs)
    return CanarySet(
        inserted=tuple(Canary(text=TEXTS[order[place]], template=TEMPLATE, repetitions=1) for place in inserted),
        controls=tuple(Canary(text=TEXTS[order[place]], template=TEMPLATE, repetitions=0) for place in controls),
        template=TEMPLATE,
    )


def expected(costs: np.ndarray, canaries: CanarySet) -> list[float]:
    by_text = dict(zip(TEXTS, costs.tolist(), strict=True))
    inserted = {canary.text for canary in canaries.inserted}
    return [
        min(cost for text, cost in by_text.items() if text not in inserted and text != canary.text)
        - by_text[canary.text]
        for canary in canaries
    ]


CASES = [
    ([0], [500]),  # the likeliest of all
    ([0, 1, 40], [3]),  # two that rank first, since inserted ones do not compete
    ([30, 60], [0, 1]),  # a control is the likeliest, and its rival is another control
    ([5], []),
]


@pytest.mark.parametrize(("inserted", "controls"), CASES)
@pytest.mark.parametrize("method", ["enumerate", Bounded(max_expansions=1000), Auto(references=999)])
def test_leads_are_those_of_the_whole_space(
    costs: np.ndarray,
    method: object,
    inserted: list[int],
    controls: list[int],
) -> None:
    canaries = chosen(costs, inserted, controls)
    report = measure_exposure(MODEL, TOKENIZER, canaries, method=method, lead=True)  # type: ignore[arg-type]
    found = [estimate.lead_bits for estimate in report.estimates]
    np.testing.assert_allclose(found, expected(costs, canaries), atol=1e-3)
    for estimate in report.estimates:
        if estimate.rank_high == 1:
            assert estimate.lead_bits > 0


def test_nothing_is_searched_unless_it_is_asked_for(costs: np.ndarray) -> None:
    canaries = chosen(costs, [0], [500])
    assert math.isnan(measure_exposure(MODEL, TOKENIZER, canaries).estimates[0].lead_bits)
    starved = measure_exposure(MODEL, TOKENIZER, canaries, method=Bounded(max_expansions=1), lead=True)
    assert all(math.isnan(estimate.lead_bits) for estimate in starved.estimates), "an open search knows no runner-up"


def test_guesses_are_the_rank(costs: np.ndarray) -> None:
    canaries = chosen(costs, [7, 90], [300])
    for estimate in measure_exposure(MODEL, TOKENIZER, canaries, method="enumerate").estimates:
        assert estimate.rank_high is not None
        assert 2**estimate.guessing_entropy_bits == pytest.approx(estimate.rank_high, rel=1e-9)


def test_a_lead_without_a_rival_is_undefined() -> None:
    assert math.isnan(lead_over_runner_up([1.0], [])[0])
    assert math.isnan(lead_over_runner_up([1.0], [1.0], is_rival=True)[0])
    assert lead_over_runner_up([1.0], [math.inf])[0] == math.inf


@pytest.mark.parametrize("rounding", [-1e-6, 0.0, 1e-6])
def test_a_control_is_not_its_own_rival_if_its_cost_moves_by_rounding(rounding: float) -> None:
    rivals = [7.0, 3.0, 5.0, math.inf]
    leads = lead_over_runner_up([3.0 + rounding, 5.0 + rounding, 7.0 + rounding], rivals, is_rival=True)
    np.testing.assert_allclose(leads, [2.0, -2.0, -4.0], atol=1e-5)
    assert lead_over_runner_up([3.0 + rounding], [3.0, math.inf], is_rival=True)[0] == math.inf
