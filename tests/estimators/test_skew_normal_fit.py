"""The fit, its judgment and the extrapolated exposure, against scipy and mpmath."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import binomtest, logistic, skewnorm

from hf_exposure.errors import InputError
from hf_exposure.estimators import fit_skew_normal, judge_fit, skew_normal_exposure

REFERENCES = skewnorm.rvs(4, 50, 3, size=10_000, random_state=0)


def test_fit_is_scipys() -> None:
    fit = fit_skew_normal(REFERENCES)
    assert (fit.shape, fit.loc, fit.scale) == pytest.approx((3.85319, 50.00716, 2.95301), abs=1e-4)
    likelihood = skewnorm.logpdf(REFERENCES, fit.shape, fit.loc, fit.scale).sum()
    assert fit.log_likelihood == pytest.approx(likelihood, abs=1e-6)
    assert fit_skew_normal(REFERENCES) == fit


@pytest.mark.parametrize(
    ("shape", "count"), [(-30, 1000), (-4, 20), (-1, 100), (0, 1000), (0.3, 100), (4, 100), (300, 1000)]
)
def test_no_likelier_fit_is_known_to_scipy(shape: float, count: int) -> None:
    references = skewnorm.rvs(shape, 10, 2, size=count, random_state=count)
    fit = fit_skew_normal(references)
    theirs = skewnorm.logpdf(references, *skewnorm.fit(references)).sum()
    # Where the likelihood rises indefinitely, our fit stops at |shape| = 1000.
    assert fit.log_likelihood >= theirs - (1e-4 if abs(fit.shape) < 1000 else 0.5)


def test_mirrored_references_mirror_the_fit() -> None:
    fit, mirrored = fit_skew_normal(REFERENCES), fit_skew_normal(-REFERENCES)
    assert (-mirrored.shape, -mirrored.loc, mirrored.scale) == pytest.approx((fit.shape, fit.loc, fit.scale), abs=1e-4)


def test_extrapolated_exposures_in_input_order() -> None:
    estimates = skew_normal_exposure([48.0, 50.0, 46.0, 1000.0, math.inf], REFERENCES)
    bits = [e.exposure_bits for e in estimates]
    assert bits == pytest.approx([12.18799, 3.64633, 29.65006, 0.0, 0.0], abs=5e-4)
    assert all(math.isnan(e.low_bits) and math.isnan(e.high_bits) for e in estimates)
    assert all("extrapolated" in e.note and e.method == "skew_normal" for e in estimates)


def test_far_tail_is_mpmaths_and_not_clipped() -> None:
    fit = fit_skew_normal(REFERENCES)
    (e,) = skew_normal_exposure([20.0], REFERENCES)
    with mpmath.workdps(30):
        z, a = (mpmath.mpf(20) - fit.loc) / fit.scale, mpmath.mpf(fit.shape)
        panels = [mpmath.mpf(k) / 64 for k in range(0, 65, 4)] + [2, 4]
        below = mpmath.quad(lambda t: mpmath.npdf(z - t) * mpmath.erfc(-a * (z - t) / mpmath.sqrt(2)), panels)
        assert e.exposure_bits == pytest.approx(float(-mpmath.log(below, 2)), rel=1e-9)
    assert e.exposure_bits > 1000


def test_judgment_counts_the_left_tail() -> None:
    fit = fit_skew_normal(REFERENCES)
    judgment = judge_fit(REFERENCES, fit)
    quantile = skewnorm.ppf(0.01, fit.shape, fit.loc, fit.scale)
    assert judgment.quantile_bits == pytest.approx(quantile, abs=1e-6)
    assert judgment.observed == int((quantile >= REFERENCES).sum()) == 93
    assert judgment.p_value == pytest.approx(binomtest(93, 10_000, 0.01).pvalue)
    assert judgment.good and judgment.predicted == 100.0 and judgment.ks_p_value > 0.5


def test_a_bad_fit_gives_no_figure_unless_accepted() -> None:
    """A logistic law has a heavier left tail than any skew-normal."""
    heavy = logistic.rvs(100, 2, size=20_000, random_state=0)
    (refused,) = skew_normal_exposure([80.0], heavy)
    assert math.isnan(refused.exposure_bits)
    assert "the skew-normal does not fit" in refused.note and "200.0 predicted" in refused.note
    assert "accept_bad_fit=True" in refused.note
    (accepted,) = skew_normal_exposure([80.0], heavy, accept_bad_fit=True)
    assert accepted.exposure_bits > -math.log2(logistic.cdf(80.0, 100, 2)) + 2
    assert "the skew-normal does not fit" in accepted.note


def test_a_shape_at_its_bound_is_reported() -> None:
    """For half-normal quantiles the likelihood rises indefinitely with the shape."""
    half = skewnorm.ppf((np.arange(50) + 0.5) / 50, 1e9)
    (e,) = skew_normal_exposure([0.0], half, accept_bad_fit=True)
    assert "its shape reached the limit of 1000" in e.note


def test_bad_references_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="references: must not all be equal, got 5.0"):
        fit_skew_normal([5.0] * 30)
    with pytest.raises(InputError, match="references: must hold at least 20 costs, got 3"):
        skew_normal_exposure([1.0], [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="references: .*all finite.*inf at position 0"):
        fit_skew_normal([math.inf] + [1.0, 2.0] * 20)
    with pytest.raises(InputError, match="costs: .*nan at position 0"):
        skew_normal_exposure([math.nan], REFERENCES)
