"""The log-CDF against mpmath, which integrates the density with 25 digits."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import norm, skewnorm

from hf_exposure.errors import InputError
from hf_exposure.estimators import log_cdf

SHAPES = [0.0, 0.001, -0.5, -4.0, 4.0, -1000.0, 1000.0]
POINTS = [-150.0, -38.0, -9.0, -4.3, -1.0, -0.01, -0.001, 0.01, 1.0]


def reference(z: float, shape: float) -> mpmath.mpf:
    """ln of the integral of the density below z, over panels that double from the scale on which it decays."""
    steepness = abs(z) + (shape * shape * abs(z) if shape * z < 0 else 0) + 1
    panels = [0] + [mpmath.mpf(2) ** k / steepness for k in range(-3, 9)] + [mpmath.mpf(2) ** 9 / steepness + 60]
    if shape and z > 0:  # the density's step at 0
        panels = sorted({*panels, z, z + 1 / abs(shape), max(z - 1 / abs(shape), 0), z + 5 / abs(shape)})

    def density(t: mpmath.mpf) -> mpmath.mpf:
        return 2 * mpmath.npdf(z - t) * mpmath.erfc(-shape * (z - t) / mpmath.sqrt(2)) / 2

    return mpmath.log(mpmath.quad(density, panels))


@pytest.mark.parametrize("shape", SHAPES)
def test_against_mpmath(shape: float) -> None:
    values = log_cdf(POINTS, shape)
    with mpmath.workdps(25):
        for z, value in zip(POINTS, values, strict=True):
            expected = reference(z, shape)
            assert abs(mpmath.mpf(float(value)) - expected) < 1e-9 * abs(expected) + 1e-15, z
            if expected > math.log(1e-300):
                assert abs(mpmath.expm1(mpmath.mpf(float(value)) - expected)) < 1e-9, z


@pytest.mark.parametrize("shape", [-1000.0, -4.0, -0.7, 0.0, 0.7, 4.0, 1000.0])
def test_the_bulk_is_scipys(shape: float) -> None:
    points = np.linspace(-2.0, 9.0, 60)
    theirs = skewnorm.cdf(points, shape)
    solid = theirs > 1e-4
    np.testing.assert_allclose(np.exp(log_cdf(points, shape))[solid], theirs[solid], rtol=1e-9)


def test_shape_zero_is_the_normal_law() -> None:
    points = np.array([-100.0, -30.0, -4.0, 0.0, 3.0, 40.0])
    np.testing.assert_allclose(log_cdf(points * 2 + 5, 0.0, 5.0, 2.0), norm.logcdf(points), rtol=1e-11, atol=1e-300)


@pytest.mark.parametrize("shape", [-300.0, -4.0, 0.0, 4.0, 300.0, 1e6])
def test_it_rises_across_the_seam_between_the_two_forms(shape: float) -> None:
    """The two forms meet at CDF 1e-5: the function has no jump there."""
    at = skewnorm.ppf(1e-5, shape)
    around = at + np.linspace(-1e-3, 1e-3, 401) * abs(at)
    steps = np.diff(log_cdf(around, shape))
    assert (steps > 0).all()
    assert steps.max() < 1.5 * np.median(steps)


def test_ends_and_not_a_number() -> None:
    assert log_cdf([math.inf, -math.inf], 4.0).tolist() == [0.0, -math.inf]
    assert math.isnan(log_cdf(math.nan, 4.0))
    assert log_cdf(np.zeros((2, 3)), 0.0).shape == (2, 3)
    with pytest.raises(InputError, match="shape, loc, scale: must be finite, the scale above 0"):
        log_cdf(0.0, 1.0, 0.0, 0.0)
