"""Pearson's correlation of two figures over several models, such as utility and exposure, with an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import checked_confidence, number_array


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r.

    Attributes:
        r: from -1 to 1; NaN where a figure does not vary, or of fewer than 2 pairs.
        low, high: ends of its confidence interval; NaN below 4 pairs, and where r is NaN.
        pairs: how many there are.
    """

    r: float
    low: float
    high: float
    pairs: int


def pearson_correlation(x: ArrayLike, y: ArrayLike, confidence_level: float = 0.95) -> Correlation:
    """Pearson's r of pairs of figures, with Fisher's interval.

    The interval assumes pairs that are independent and about jointly normal: read it as a guide where exposures are at
    their ceiling.

    Args:
        x, y: (N,) finite figures, one pair for each model.
        confidence_level: of the interval.

    Raises:
        InputError: arrays that are not flat, not of one length or not finite; an impossible level.

    Source: Carlini et al. 2019, Section 6.2 (r of test perplexity and exposure); Fisher, Biometrika 10 (1915).

    Example (by hand: the deviations are -1, 0, 1 and -1, 1, 0, so r is 1 / 2):
        >>> found = pearson_correlation([1, 2, 3], [1, 3, 2])
        >>> round(found.r, 6), found.low, found.pairs
        (0.5, nan, 3)
    """
    level = checked_confidence(confidence_level)
    x_N, y_N = number_array("x", x), number_array("y", y)
    if x_N.ndim != 1 or x_N.shape != y_N.shape or not (np.isfinite(x_N).all() and np.isfinite(y_N).all()):
        shapes = f"shapes {x_N.shape} and {y_N.shape}"
        raise InputError("x, y", "must be flat, of one length and finite", shapes, "Pass one pair for each model.")
    if x_N.size < 2 or not (np.ptp(x_N) and np.ptp(y_N)):
        return Correlation(r=math.nan, low=math.nan, high=math.nan, pairs=x_N.size)
    found = stats.pearsonr(x_N, y_N)
    low, high = found.confidence_interval(level) if x_N.size > 3 else (math.nan, math.nan)
    return Correlation(r=float(found.statistic), low=float(low), high=float(high), pairs=x_N.size)
