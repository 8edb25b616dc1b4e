"""When one run suffices: the lasting share of the variance, by analysis of variance and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_exposure.errors import InputError
from hf_exposure.estimators import one_run_reliability, runs_for_reliability


def simulated(generator, runs, canaries, between, within, share=1.0):
    """Exposures as the sum of lasting differences between canaries, shifts of whole runs, and chance."""
    lasting, shift = generator.normal(size=canaries) * between, generator.normal(size=(runs, 1)) * 5.0
    exposures = 10.0 + lasting + shift + generator.normal(size=(runs, canaries)) * within
    return exposures, generator.random((runs, canaries)) < share


def test_balanced_runs_give_the_table_of_two_ways():
    exposures, _ = simulated(np.random.default_rng(0), 7, 5, 2.0, 1.0)
    rows, columns = exposures.mean(1, keepdims=True), exposures.mean(0, keepdims=True)
    residual = ((exposures - rows - columns + exposures.mean()) ** 2).sum() / (6 * 4)
    columns_square = 7 * exposures.mean(0).var(ddof=1)
    found = one_run_reliability(exposures, np.ones_like(exposures))
    assert found.within_bits**2 == pytest.approx(residual)
    assert found.between_bits**2 == pytest.approx((columns_square - residual) / 7)
    # Shrout and Fleiss, ICC(3, 1).
    assert found.reliability == pytest.approx((columns_square - residual) / (columns_square + 6 * residual))
    assert (found.canaries, found.runs, found.exposures) == (5, 7, 35)


@pytest.mark.parametrize("truth", [0.0, 0.3, 0.8])
def test_it_finds_the_truth_with_canaries_that_coins_include(truth):
    generator, found = np.random.default_rng(1), []
    for _ in range(150):
        data = simulated(generator, 20, 15, math.sqrt(truth), math.sqrt(1.0 - truth), share=0.5)
        found.append(one_run_reliability(*data, confidence_level=0.9))
    assert np.mean([one.within_bits**2 for one in found]) == pytest.approx(1.0 - truth, rel=0.05)
    if truth:
        assert np.mean([one.between_bits**2 for one in found]) == pytest.approx(truth, abs=0.05)
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.82 <= covered <= 1.0  # 0.9, and four standard errors of 150 tries


def test_k_runs_together_are_as_reliable_as_promised():
    generator = np.random.default_rng(2)
    exposures, included = simulated(generator, 60, 200, 1.0, 2.0)
    found = one_run_reliability(exposures, included)
    needed = runs_for_reliability(found, 0.8)
    assert needed == pytest.approx(16, abs=3)
    halves = [exposures[:needed].mean(0), exposures[needed : 2 * needed].mean(0)]
    assert np.corrcoef(*halves)[0, 1] == pytest.approx(0.8, abs=0.1)


def test_what_is_undefined_says_why():
    ceiling = one_run_reliability(np.full((4, 3), 13.3), np.ones((4, 3)))
    assert math.isnan(ceiling.reliability) and "same exposure" in ceiling.reason
    assert runs_for_reliability(ceiling) is None
    for included in ([[1, 0], [0, 1]], [[0, 0], [0, 0]], [[1, 1], [0, 0]]):
        few = one_run_reliability([[1.0, 2.0], [2.0, 4.0]], included)
        assert math.isnan(few.low) and "too few" in few.reason
    same = one_run_reliability([[1.0, 2.0], [3.0, 4.0]], [[1, 1], [1, 1]])
    assert (same.reliability, same.low, same.high) == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="^target"):
        runs_for_reliability(same, 1.0)
    with pytest.raises(InputError, match="^exposures_MC"):
        one_run_reliability([[math.nan]], [[1]])
