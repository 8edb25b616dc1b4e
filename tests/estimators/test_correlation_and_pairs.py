"""Pearson's r and the sign-flip test, against other libraries and against all swaps counted one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators import paired_p_value, pearson_correlation, rank_correlation


def counted(differences: list[float], alternative: str) -> float:
    """The share of all sign changes whose mean is at least as extreme; two-sided: twice the smaller tail."""
    means = [np.mean([s * d for s, d in zip(signs, differences, strict=True)])
             for signs in itertools.product((1, -1), repeat=len(differences))]  # fmt: skip
    observed = np.mean(differences)
    more = np.mean([mean >= observed - 1e-12 for mean in means])
    less = np.mean([mean <= observed + 1e-12 for mean in means])
    return float({"greater": more, "less": less, "two-sided": min(1.0, 2 * min(more, less))}[alternative])


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_p_value_counts_all_swaps(alternative: str) -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 3, 6):
        earlier, later = generator.normal(size=(2, count))
        found = paired_p_value(earlier, later, alternative=alternative)  # type: ignore[arg-type]
        assert found == pytest.approx(counted(list(later - earlier), alternative)), count


def test_equal_figures_are_no_evidence_and_a_missing_one_is_no_figure() -> None:
    assert paired_p_value([5.0, 6.0], [5.0, 6.0]) == 1.0
    assert math.isnan(paired_p_value([5.0, math.nan], [5.0, 6.0]))
    assert math.isnan(paired_p_value([], []))
    with pytest.raises(InputError, match="equal length"):
        paired_p_value([1.0], [1.0, 2.0])


def test_under_the_hypothesis_p_values_are_no_smaller_than_they_may_be() -> None:
    generator = np.random.default_rng(1)
    found = [paired_p_value(*generator.exponential(size=(2, 7)), alternative="less") for _ in range(400)]
    assert np.mean(np.array(found) <= 0.1) < 0.1 + 3 * math.sqrt(0.09 / 400)


def test_r_and_its_interval_are_those_of_fisher() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 30))
    y = y - 0.5 * x
    found = pearson_correlation(x, y, 0.9)
    assert found.r == pytest.approx(np.corrcoef(x, y)[0, 1])
    half = stats.norm.ppf(0.95) / math.sqrt(27)
    assert found.low == pytest.approx(math.tanh(math.atanh(found.r) - half))
    assert found.high == pytest.approx(math.tanh(math.atanh(found.r) + half))


def test_r_is_undefined_without_variation() -> None:
    assert math.isnan(pearson_correlation([1, 1, 1], [1, 2, 3]).r)
    assert math.isnan(pearson_correlation([], []).r)
    assert math.isnan(pearson_correlation([1, 2, 3], [1, 2, 4]).low), "three pairs have no interval"
    with pytest.raises(InputError, match="finite"):
        pearson_correlation([1.0, math.nan], [1.0, 2.0])


def test_ranks_correlate_as_scipy_says_and_their_interval_is_that_of_its_bootstrap() -> None:
    generator = np.random.default_rng(3)
    x = generator.integers(6, size=40).astype(float)
    y = x + generator.normal(size=40).round() * 2
    found = rank_correlation(x, y, confidence_level=0.9)
    assert found.r == pytest.approx(stats.spearmanr(x, y).statistic) and found.pairs == 40
    theirs = stats.bootstrap(
        (x, y), lambda x, y: stats.spearmanr(x, y).statistic, paired=True, vectorized=False, n_resamples=2000,
        confidence_level=0.9, method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert rank_correlation(np.where(x == 5, math.inf, x), y).r == found.r
    assert (
        rank_correlation(x, y, seed=1).low != found.low
        and rank_correlation(x, y, seed=0).low == rank_correlation(x, y).low
    )


def test_what_strata_have_in_common_does_not_count() -> None:
    """Two figures that both grow with the stratum and are independent within it."""
    generator = np.random.default_rng(4)
    strata = np.repeat(np.arange(4), 60)
    x, y = 10 * strata + generator.normal(size=(2, 240))
    assert rank_correlation(x, y).r > 0.9
    within = rank_correlation(x, y, strata)
    assert abs(within.r) < 0.2 and within.low < 0 < within.high
    means = [stats.rankdata(values[strata == one]).mean() for values in (x, y) for one in range(4)]
    assert means == [30.5] * 8
    ranks = [np.concatenate([stats.rankdata(v[strata == one]) for one in range(4)]) - 30.5 for v in (x, y)]
    assert within.r == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_rank_correlation_that_is_undefined() -> None:
    assert math.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).r)
    assert math.isnan(rank_correlation([1], [2]).r)
    # Each figure varies in a different stratum.
    assert math.isnan(rank_correlation([1, 2, 3, 3], [5, 5, 6, 7], strata=[0, 0, 1, 1]).r)
    few = rank_correlation([1, 2, 3], [1, 3, 2])
    assert few.r == pytest.approx(0.5) and math.isnan(few.low)
    # One of 5 values differs: a third of the draws do not contain it.
    assert math.isnan(rank_correlation([0, 0, 0, 0, 1], [1, 2, 3, 4, 5]).low)
    for x, y, strata in (([1, 2], [1], None), ([1, math.nan], [1, 2], None), ([1, 2], [1, 2], [0])):
        with pytest.raises(InputError):
            rank_correlation(x, y, strata)
