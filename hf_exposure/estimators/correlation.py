"""Correlations of two figures with intervals: Pearson's over several models, Spearman's over canaries or examples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hf_exposure.checks import whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.limits import LARGEST_SEED


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r, of figures or of their ranks.

    Attributes:
        r: from -1 to 1; NaN if a figure does not vary, or with fewer than 2 pairs.
        low, high: ends of its confidence interval; NaN with fewer than 4 pairs, and if r is NaN.
        pairs: the number of pairs.
    """

    r: float
    low: float
    high: float
    pairs: int


def pearson_correlation(x: ArrayLike, y: ArrayLike, confidence_level: float = 0.95) -> Correlation:
    """Pearson's r of pairs of figures, with Fisher's interval.

    The interval assumes pairs that are independent and about jointly normal: treat it as a guide if exposures are at
    their ceiling.

    Args:
        x, y: (N,) finite figures, one pair for each model.
        confidence_level: of the interval.

    Raises:
        InputError: the arrays are not flat, not of equal length or not finite, or the level is impossible.

    Source: Carlini et al. 2019, Section 6.2 (r of test perplexity and exposure); Fisher, Biometrika 10 (1915).

    Example (by hand: the deviations are -1, 0, 1 and -1, 1, 0, so r is 1 / 2):
        >>> found = pearson_correlation([1, 2, 3], [1, 3, 2])
        >>> round(found.r, 6), found.low, found.pairs
        (0.5, nan, 3)
    """
    level = checked_confidence(confidence_level)
    x_N, y_N = _checked_pairs(x, y, "Pass one pair for each model.")
    if x_N.size < 2 or not (np.ptp(x_N) and np.ptp(y_N)):
        return Correlation(r=math.nan, low=math.nan, high=math.nan, pairs=x_N.size)
    found = stats.pearsonr(x_N, y_N)
    low, high = found.confidence_interval(level) if x_N.size > 3 else (math.nan, math.nan)
    return Correlation(r=float(found.statistic), low=float(low), high=float(high), pairs=x_N.size)


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    confidence_level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation of pairs of figures, with a bootstrap interval: do two measures give the same order?

    Equal figures share the mean of their ranks. The interval consists of percentiles of the correlations over
    `resamples` draws of N pairs with replacement, so it applies to other canaries in the same model, not to other
    models.

    With strata, such as the number of times that each canary was inserted, ranks are computed and centered within each
    stratum, and pairs are drawn within it, so that differences between strata do not count.

    Args:
        x, y: (N,) figures, one pair for each canary or example. Infinity is a figure: it ranks last.
        strata: (N,) the stratum of each pair; one stratum by default.
        confidence_level: of the interval.
        resamples: the number of bootstrap draws.
        seed: the seed of the bootstrap.

    Returns:
        The correlation; NaN if there is no stratum in which both figures vary. Such draws are left out of the
        interval, which is NaN if they are more than one in ten, or with fewer than 4 pairs.

    Raises:
        InputError: the arrays are not flat, not of equal length or contain NaN, or the level is impossible.

    Source: Spearman, The American Journal of Psychology 15 (1904); Efron and Tibshirani, "An Introduction to the
        Bootstrap" (1993), section 13.3, for percentile intervals.

    Example (by hand: the ranks are those of the figures, so r is that of 1, 2, 3 and 1, 3, 2):
        >>> round(rank_correlation([1, 20, 300], [5, 7, 6]).r, 6)
        0.5
        >>> round(rank_correlation([1, 2, 10, 20], [2, 1, 20, 10]).r, 6)
        0.6
        >>> round(rank_correlation([1, 2, 10, 20], [2, 1, 20, 10], strata=[0, 0, 1, 1]).r, 6)
        -1.0
    """
    level = checked_confidence(confidence_level)
    whole_number("resamples", resamples, 100)
    generator = np.random.default_rng(whole_number("seed", seed, 0, LARGEST_SEED))
    x_N, y_N = _checked_pairs(x, y, "Pass one pair for each canary.", infinite=True)
    strata_N = np.zeros(x_N.size) if strata is None else np.asarray(strata)
    if strata_N.shape != x_N.shape:
        raise InputError("strata", f"must be {x_N.size} of them", strata_N.shape, "Pass one for each pair.")
    own = [np.flatnonzero(strata_N == one) for one in np.unique(strata_N)]
    whole = [rows[None] for rows in own]
    r = float(_rank_correlations(x_N, y_N, whole)[0]) if x_N.size > 1 else math.nan
    low = high = math.nan
    if x_N.size > 3 and not math.isnan(r):
        drawn = [rows[generator.integers(len(rows), size=(resamples, len(rows)))] for rows in own]
        found = _rank_correlations(x_N, y_N, drawn)
        found = found[~np.isnan(found)]
        if len(found) >= 0.9 * resamples:
            low, high = np.quantile(found, [(1.0 - level) / 2.0, (1.0 + level) / 2.0]).tolist()
    return Correlation(r=r, low=low, high=high, pairs=x_N.size)


def _rank_correlations(x_N: FloatArray, y_N: FloatArray, strata_BS: list[np.ndarray]) -> FloatArray:
    """(B,) the correlation of centered ranks, for B draws of the pairs of each stratum.

    NaN if both figures vary in no stratum. If only the first varies in one stratum and only the second in another, the
    correlation is unknown.
    """
    product_B, first_B, second_B = np.zeros((3, len(strata_BS[0])))
    vary_B = np.zeros(len(product_B), dtype=bool)
    for rows_BS in strata_BS:
        own = [stats.rankdata(values[rows_BS], axis=1) for values in (x_N, y_N)]
        first_BS, second_BS = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in own)
        squares = (first_BS**2).sum(axis=1), (second_BS**2).sum(axis=1)
        product_B, first_B, second_B = (
            product_B + (first_BS * second_BS).sum(axis=1), first_B + squares[0], second_B + squares[1],
        )  # fmt: skip
        vary_B |= (squares[0] > 0) & (squares[1] > 0)
    found: FloatArray = np.full(len(product_B), np.nan)
    found[vary_B] = product_B[vary_B] / np.sqrt(first_B[vary_B] * second_B[vary_B])
    return found


def _checked_pairs(
    x: ArrayLike, y: ArrayLike, remedy: str, *, infinite: bool = False
) -> tuple[FloatArray, FloatArray]:
    x_N, y_N = number_array("x", x), number_array("y", y)
    bad = np.isnan if infinite else lambda values: ~np.isfinite(values)
    if x_N.ndim != 1 or x_N.shape != y_N.shape or bad(x_N).any() or bad(y_N).any():
        rule = f"must be flat, of one length and {'numbers' if infinite else 'finite'}"
        raise InputError("x, y", rule, f"shapes {x_N.shape} and {y_N.shape}", remedy)
    return x_N, y_N
