"""Clopper-Pearson against scipy's own and against the binomial tails that define it."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy.stats import binom, binomtest

from hf_exposure.errors import InputError
from hf_exposure.estimators import clopper_pearson
from hf_exposure.estimators.intervals import beta_quantiles


@pytest.mark.parametrize("draws", [1, 2, 7, 100, 20_000])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.999])
def test_limits_equal_scipys(draws: int, level: float) -> None:
    hits = np.unique([0, 1, draws // 3, draws - 1, draws])
    low, high = clopper_pearson(hits, draws, level)
    for k, m in enumerate(hits):
        expected = binomtest(int(m), draws).proportion_ci(level, method="exact")
        assert low[k] == pytest.approx(expected.low, rel=1e-9, abs=1e-12)
        assert high[k] == pytest.approx(expected.high, rel=1e-9)


@pytest.mark.parametrize("draws", [1, 5, 12])
def test_cover_by_exhaustion(draws: int) -> None:
    """For every proportion, the probability of the outcomes whose interval contains it is computed."""
    outcomes = np.arange(draws + 1)
    low, high = clopper_pearson(outcomes, draws, 0.9)
    for p in np.linspace(0.0, 1.0, 201):
        assert binom.pmf(outcomes, draws, p)[(low <= p) & (p <= high)].sum() >= 0.9 - 1e-12


@pytest.mark.parametrize("share", [1e-20, 1e-10, 1.1e-9, 0.9e-9, 1e-3, 0.7])
@pytest.mark.parametrize("hits", [0.4, 3.7, 250.0])
def test_beta_quantiles_against_mpmath(share: float, hits: float) -> None:
    """The regularized incomplete beta at either quantile is the tail, however rare the share."""
    low, high = beta_quantiles(np.array([share]), np.array([hits]), 0.95)
    with mpmath.workdps(40):
        rest = mpmath.mpf(hits) * (1 - mpmath.mpf(share)) / mpmath.mpf(share)
        for quantile, tail in ((low[0], 0.025), (high[0], 0.975)):
            assert float(mpmath.betainc(hits, rest, 0, quantile, regularized=True)) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("share", [1e-200, 1e-300])
def test_shares_of_spaces_near_the_largest_float(share: float) -> None:
    """The Beta law of a rare share is a Gamma law: its quantiles are in proportion to the share."""
    rare = beta_quantiles(np.array([share]), np.array([50.0]), 0.95)
    known = beta_quantiles(np.array([1e-10]), np.array([50.0]), 0.95)
    for quantile, other in zip(rare, known, strict=True):
        assert quantile[0] / share == pytest.approx(other[0] / 1e-10, rel=1e-6)


def test_certainty_and_impossibility() -> None:
    low, high = beta_quantiles(np.array([0.0, 1.0, 0.3]), np.array([0.0, np.inf, np.inf]), 0.95)
    assert low[:2].tolist() == [0.0, 1.0] and high[:2].tolist() == [0.0, 1.0]
    assert low[2] == pytest.approx(0.3, rel=1e-5) and high[2] == pytest.approx(0.3, rel=1e-5)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(InputError, match="hits: must lie in 0..draws"):
        clopper_pearson(3, 2)
    with pytest.raises(InputError, match="confidence_level: must lie strictly between 0 and 1, got 95"):
        clopper_pearson(1, 2, 95)


@pytest.mark.parametrize(
    ("hits", "draws", "argument"), [([1, 2], [3, 4, 5], "draws"), (["few"], 3, "hits"), ([1], ["many"], "draws")]
)
def test_what_cannot_be_counted_is_refused_by_its_name(hits: list[object], draws: object, argument: str) -> None:
    with pytest.raises(InputError) as refusal:
        clopper_pearson(hits, draws)  # type: ignore[arg-type]
    assert refusal.value.argument == argument
    assert ("one number for each of hits" in refusal.value.rule) == (draws == [3, 4, 5])
