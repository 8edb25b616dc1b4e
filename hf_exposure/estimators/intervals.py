"""Confidence limits: on a share, from equal or from weighted draws, and on the mean of bounded values.

A *share* has the exact limits of Clopper and Pearson, which are quantiles of Beta laws. `beta_quantiles` computes them
for any mean and any number of draws, whole or not, and for shares as small as a float can hold, for weighted draws.

For a *mean of exposures*, the usual limits fail. Exposures lie between 0 and log2 |R|, most of them near 0 and a few
at the top; some are lower bounds. Student's t is wrong for such values: if one canary in ten is memorized, four in ten
samples of eight contain none of those, and t then excludes the mean by far. A valid interval must allow for values
that were not drawn. `mean_interval` is Gaffke's, with one more draw at the end:

    low limit   the (1 - c) / 2 quantile of    D_0 * 0   + D_1 l_1 + ... + D_n l_n
    high limit  the (1 + c) / 2 quantile of    D_0 * top + D_1 h_1 + ... + D_n h_n

with (D_0, ..., D_n) uniform on the simplex, like the probabilities between n ordered draws from any continuous law. It
is the Bayesian bootstrap with one more draw, as far out as possible, like `weighted_cdf.py`. For values that are only
0 or `top` it is the Clopper-Pearson interval, digit for digit. The limits grow with the values, so they may be
computed at the low ends l and the high ends h of the interval of each value; a censored value reaches to the top. That
the coverage is never below nominal is proven for two-valued populations and conjectured for all others. The tests
compute it for three-valued ones, `benchmarks/group_intervals.py` measures it for exposures, and
`docs/design/0004-estimators.md` has the table.

Legend: K shares, n draws, V distinct values, Z nodes of an integral.

Source of the mean's limits: Gaffke, "Nonparametric one-sided testing for the mean and related extremum problems",
    Mathematical Methods of Operations Research 60 (2004); Learned-Miller and Thomas, "A new confidence interval for
    the mean of a bounded random variable" (2019), who find the same limits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import betainccinv, betaincinv, gammainccinv, gammaincinv

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.limits import LARGEST_FIGURE

# Below this share, the Beta quantile equals the Gamma quantile in double precision, and scipy's Beta fails near
# 1e-300.
_GAMMA_BELOW = 1e-9
# With more hits than this, the share is known to six digits; scipy's quantiles fail well beyond it.
_MOST_HITS = 1e12


def clopper_pearson(
    hits: ArrayLike, draws: ArrayLike, confidence_level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Exact two-sided limits on a binomial proportion: they cover it with probability at least `confidence_level`.

    Args:
        hits: (K,) ints, from 0 to `draws`.
        draws: scalar or (K,), at least 1.
        confidence_level: strictly between 0 and 1; half of the remaining probability lies beyond each end.

    Returns:
        `low`, `high`: (K,) proportions. No hit gives low = 0, all hits give high = 1.

    Raises:
        InputError: hits are outside 0..draws, there are no draws, or the confidence level is impossible.

    Source: Clopper and Pearson, Biometrika 26 (1934); in Beta form, Brown, Cai and DasGupta, Statistical Science 16
        (2001), section 4.2.1.

    Example:
        >>> low, high = clopper_pearson([0, 10], 10)
        >>> low.round(6).tolist(), high.round(6).tolist()      # by hand: 1 - 0.025 ** 0.1 = 0.308497
        ([0.0, 0.691503], [0.308497, 1.0])
    """
    level = checked_confidence(confidence_level)
    try:
        hits_K, draws_K = np.broadcast_arrays(number_array("hits", hits), number_array("draws", draws))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        rule = "must be one number for each of hits, or one for all"
        raise InputError(
            "draws", rule, f"shapes {np.shape(hits)} and {np.shape(draws)}", "Count them again."
        ) from None
    if not (draws_K >= 1).all() or not ((hits_K >= 0) & (hits_K <= draws_K)).all():
        raise InputError("hits", "must lie in 0..draws, of at least one draw", "others", "Count them again.")
    # Add one more draw on the other side at each end: this is the special case of `weighted_cdf` with equal weights.
    low, _ = beta_quantiles(hits_K / (draws_K + 1), hits_K, level)
    _, high = beta_quantiles((hits_K + 1) / (draws_K + 1), hits_K + 1, level)
    return low, high


def clopper_pearson_low(hits: int, draws: int, confidence_level: float = 0.95) -> float:
    """The exact one-sided lower limit on a binomial proportion: all of the remaining probability lies below it.

    Example (by hand: 4 of 4 at 95 % is 0.05 ** (1 / 4)):
        >>> round(clopper_pearson_low(4, 4), 4), clopper_pearson_low(0, 4)
        (0.4729, 0.0)
    """
    level = checked_confidence(confidence_level)
    shapes = {number_array(name, value).shape for name, value in (("hits", hits), ("draws", draws))}
    if shapes != {()} or draws < 1 or not 0 <= hits <= draws:
        raise InputError("hits", "must lie in 0..draws, of at least one draw", (hits, draws), "Count them again.")
    return float(betaincinv(hits, draws - hits + 1, 1.0 - level)) if hits else 0.0


def beta_quantiles(share: FloatArray, hits: FloatArray, confidence_level: float) -> tuple[FloatArray, FloatArray]:
    """The two tail quantiles of the Beta law with mean `share` and `hits / share` draws, of which `hits` are hits.

    Args:
        share: (K,) means, in [0, 1].
        hits: (K,) first Beta parameter, at least 0 and not necessarily whole; inf means "no uncertainty".
        confidence_level: the mass between the two quantiles.

    Returns:
        `low`, `high`: (K,). A share of 0 gives 0 and 0, a share of 1 gives 1 and 1.

    Example:
        >>> low, high = beta_quantiles(np.array([0.5]), np.array([1.0]), 0.9)     # uniform
        >>> low.round(6).tolist(), high.round(6).tolist()
        ([0.05], [0.95])
    """
    tail = (1.0 - confidence_level) / 2.0
    share, hits = np.broadcast_arrays(share, np.minimum(hits, _MOST_HITS))
    inner = (share > 0.0) & (share < 1.0) & (hits > 0.0)
    y, a = np.where(inner, share, 0.5), np.where(inner, hits, 1.0)
    b = a * (1.0 - y) / y
    rare = y < _GAMMA_BELOW
    b_beta = np.where(rare, 1.0, b)
    low = np.where(rare, y * (gammaincinv(a, tail) / a), betaincinv(a, b_beta, tail))
    high = np.where(rare, y * (gammainccinv(a, tail) / a), betainccinv(a, b_beta, tail))
    outside = np.where(share >= 1.0, 1.0, 0.0)
    return np.where(inner, low, outside), np.where(inner, np.minimum(high, 1.0), outside)


# More distinct values than this are rounded outwards to this many levels, which changes the limits by less than the
# digits shown.
_LEVELS = 512
# Number of nodes of the integral over half of the line; the integrand is symmetric.
_STEP = 0.05
_NODES = np.arange(0.0, 15.0, _STEP)


def mean_interval(
    low_ends: ArrayLike, high_ends: ArrayLike, most: float, confidence_level: float = 0.95
) -> tuple[float, float]:
    """Limits on the mean of a population in [0, most], from n independent draws, each of which is known to lie in an
    interval.

    Args:
        low_ends, high_ends: (n,) ends of the interval of each drawn value; equal if the value is known exactly.
        most: the largest possible value. Ends outside [0, most] are clipped.
        confidence_level: of the two-sided interval.

    Returns:
        `low`, `high`.

    Raises:
        InputError: there are no draws, an end is NaN or the ends are in the wrong order, `most` is not above 0, or the
            level is impossible.

    Example (by hand: for one draw, D_1 is uniform; for eight of eight at the top, Clopper-Pearson gives 0.025 ** (1 /
    8)):
        >>> [round(limit, 6) for limit in mean_interval([4.0], [4.0], 10.0)]
        [0.1, 9.85]
        >>> [round(limit, 6) for limit in mean_interval([1.0] * 8, [1.0] * 8, 1.0)]
        [0.630583, 1.0]
    """
    low_n, high_n = number_array("low_ends", low_ends), number_array("high_ends", high_ends)
    level = checked_confidence(confidence_level)
    rule, remedy = "must be finite and above 0", "Pass log2 of the size of the space."
    most = real_number("most", most, rule, remedy, above=0.0)
    real_number("most", most, f"must be at most {LARGEST_FIGURE}", remedy, at_most=LARGEST_FIGURE)
    if low_n.ndim != 1 or low_n.shape != high_n.shape or not low_n.size or not (low_n <= high_n).all():
        rule = "must be two flat lists of equal length, low ends first, without NaN"
        raise InputError("low_ends, high_ends", rule, (low_ends, high_ends), "Pass one pair of ends for each draw.")
    tail = (1.0 - level) / 2.0
    low = _low_limit(np.clip(low_n, 0.0, most), tail)
    return low, most - _low_limit(most - np.clip(high_n, 0.0, most), tail)


def _low_limit(values_n: FloatArray, tail: float) -> float:
    """The `tail` quantile of the mean of (n,) values of at least 0 and one more value 0, under uniform weights."""
    values_V, counts_V = np.unique(np.append(values_n, 0.0), return_counts=True)
    if values_V.size > _LEVELS:
        level = float(values_V[-1]) / _LEVELS
        values_V, counts_V = np.unique(np.append(np.floor(values_n / level) * level, 0.0), return_counts=True)
    if values_V.size == 1:
        return 0.0
    # At the ends themselves the probability is 0 and 1.
    inside = float(values_V[-1]) * np.array([1e-9, 1.0 - 1e-9])
    low, high = (_share_at_or_below(values_V - limit, counts_V) - tail for limit in inside)
    if low > 0.0 or high < 0.0:
        return 0.0 if low > 0.0 else float(inside[1])
    return float(brentq(lambda t: _share_at_or_below(values_V - t, counts_V) - tail, *inside, xtol=1e-9))


def _share_at_or_below(coefficients_V: FloatArray, counts_V: NDArray[Any]) -> float:
    """`P(sum of a_i E_i <= 0)` for independent standard exponential E_i: the weights D_i are E_i over their sum.

    The moment generating function M(u) is the product of 1 / (1 - a_i u), and the probability is the integral of
    M(u) / (-2 pi i u) along any line left of 0. On the line through the saddle point the integrand does not oscillate,
    so the trapezoidal rule, in a variable that is fine in the middle and coarse far out, gives seven digits or more.
    """
    leftmost = 1.0 / coefficients_V[0]

    def slope(u: float) -> float:
        return float(counts_V @ (coefficients_V / (1.0 - coefficients_V * u))) - 1.0 / u

    saddle = brentq(slope, leftmost * (1.0 - 1e-12), leftmost * 1e-12, xtol=1e-300, rtol=1e-12)
    curvature = float(counts_V @ (coefficients_V / (1.0 - coefficients_V * saddle)) ** 2) + 1.0 / saddle**2
    width = 1.0 / math.sqrt(curvature)

    def log_of_integrand(nodes_Z: FloatArray) -> NDArray[np.complex128]:
        u_Z = saddle + 1j * width * np.sinh(nodes_Z)
        value_Z: NDArray[np.complex128] = -np.log(1.0 - u_Z[:, None] * coefficients_V) @ counts_V - np.log(-u_Z)
        return value_Z

    # The modulus decreases monotonically: parts below 1e-13 of its maximum add nothing.
    whole = log_of_integrand(_NODES[:: round(1.0 / _STEP)]).real
    fallen = int((whole > whole[0] - 30.0).sum())
    nodes_Z = _NODES[: fallen * round(1.0 / _STEP)]
    heights_Z = np.exp(log_of_integrand(nodes_Z)).real * np.cosh(nodes_Z) * width
    return float(heights_Z.sum() - 0.5 * heights_Z[0]) * _STEP / math.pi
