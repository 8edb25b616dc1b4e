"""The histogram of the references that canaries were compared with."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_exposure import CanaryTemplate, Digits, draw_canaries, log_perplexity, measure_exposure
from hf_exposure.estimators import fit_skew_normal
from hf_exposure.records import ReferenceCosts


def test_bins_count_every_cost_once() -> None:
    costs = np.random.default_rng(0).normal(50, 4, 5000)
    summary = ReferenceCosts.of(np.append(costs, [np.nan, np.inf]))
    assert summary is not None
    assert (summary.count, sum(summary.counts)) == (5000, 5000)
    assert (summary.low_bits, summary.high_bits) == (costs.min(), costs.max())
    edges = summary.edges_bits
    for place in (0, 40, 127):
        inside = (costs >= edges[place]) & ((costs < edges[place + 1]) | (place == 127))
        assert summary.counts[place] == pytest.approx(inside.sum(), abs=1)


def test_the_law_of_the_bins_is_that_of_the_costs() -> None:
    costs = stats.skewnorm.rvs(3.0, loc=40.0, scale=6.0, size=3000, random_state=1)
    summary = ReferenceCosts.of(costs)
    assert summary is not None and summary.law is not None
    direct = fit_skew_normal(costs)
    for quantile in (0.01, 0.5, 0.99):
        law = stats.skewnorm(summary.law.shape, summary.law.loc, summary.law.scale)
        expected = stats.skewnorm(direct.shape, direct.loc, direct.scale).ppf(quantile)
        assert law.ppf(quantile) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("costs", [[5.0] * 100, [1.0, 2.0]], ids=["equal", "few"])
def test_what_allows_no_law_has_none(costs: list[float]) -> None:
    summary = ReferenceCosts.of(costs)
    assert summary is not None and summary.law is None


def test_nothing_finite_is_no_histogram() -> None:
    assert ReferenceCosts.of([]) is None
    assert ReferenceCosts.of([np.nan]) is None


@pytest.mark.parametrize("method", ["enumerate", "sample", "importance", "bounded"])
def test_a_measurement_keeps_what_it_compared_with(method: str, make_model, byte_tokenizer) -> None:  # type: ignore[no-untyped-def]
    template = CanaryTemplate("pin {pin}.", pin=Digits(3))
    canaries = draw_canaries(template, {1: 2}, controls=2, seed=0)
    model = make_model("gpt2")
    found = measure_exposure(model, byte_tokenizer, canaries, method=method, references=400, max_expansions=5)
    if method == "bounded":
        assert found.references is None
        return
    assert found.references is not None
    every = log_perplexity(model, byte_tokenizer, [template.text_at(i) for i in range(1000)])
    assert found.references.low_bits >= every.min() - 1e-3
    assert found.references.high_bits <= every.max() + 1e-3
    assert found.references.whole_space == (method == "enumerate")
    if method == "enumerate":
        assert found.references.counts == tuple(np.histogram(every, bins=128)[0].tolist())
    if method == "sample":
        assert found.references.count == 400
