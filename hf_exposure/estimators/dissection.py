"""Do networks learn alike but memorize differently? Comparisons of networks trained with several seeds.

Networks that learn true labels should agree about unseen rows and have similar representations, and the gradients of
their examples should point the same way. Networks that memorize random labels should each do so differently. Given a
figure for each pair of networks (such as their disagreement, or `linear_cka` of their features), its means over pairs
within or between groups are compared. Pairs that share a network are not independent, so standard errors come from
leaving out one network at a time.

Legend: M networks, A and B of two groups; N examples; P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array


@dataclass(frozen=True, kw_only=True)
class PairMean:
    """The mean of a figure over pairs of networks.

    Attributes:
        mean: over pairs of different networks; NaN with fewer than 2.
        standard_error: from the jackknife over networks; NaN with fewer than 3 networks in one group, or fewer than 2
            in one of two groups.
        low, high: limits by Student's t with the degrees of freedom of the networks (of the smaller of two groups).
        networks: the number of networks, in one group or in both.
        confidence_level: as asked.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    networks: int
    confidence_level: float


def disagreement(decisions_MN: ArrayLike) -> FloatArray:
    """The share of examples on which each pair of networks decides differently.

    Args:
        decisions_MN: the class that network m predicts for example n.

    Returns:
        (M, M), 0 on the diagonal.

    Raises:
        InputError: no matrix of finite numbers.

    Example:
        >>> disagreement([[0, 1, 2], [0, 1, 1], [1, 0, 0]]).round(2).tolist()
        [[0.0, 0.33, 1.0], [0.33, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    found = number_array("decisions_MN", decisions_MN)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError("decisions_MN", "must be (networks, examples) classes", f"shape {found.shape}", "Stack them.")
    return np.array([(found != row_N).mean(1) for row_N in found])


def pair_figures(networks: Sequence[Any], figure: Callable[[Any, Any], float]) -> FloatArray:
    """(M, M) of a symmetric figure for each pair, such as `linear_cka` of two networks' features; 1 on the diagonal.

    Example:
        >>> pair_figures([1.0, 2.0, 4.0], lambda a, b: min(a, b) / max(a, b)).tolist()
        [[1.0, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 1.0]]
    """
    found = np.eye(len(networks))
    for i in range(len(networks)):
        for j in range(i):
            found[i, j] = found[j, i] = figure(networks[i], networks[j])
    return found


def mean_over_pairs(values_MM: ArrayLike, confidence_level: float = 0.95) -> PairMean:
    """The mean over the pairs of different networks of one group.

    Args:
        values_MM: symmetric; the diagonal is not used.
        confidence_level: two-sided.

    Raises:
        InputError: the matrix is not square, finite and symmetric, or the level is impossible.

    Source: Arvesen, Annals of Mathematical Statistics 40 (1969): the jackknife of U-statistics.

    Example (by hand: pairs 0.2, 0.4 and 0.6; without one network 0.6, 0.4 and 0.2):
        >>> found = mean_over_pairs([[0, 0.2, 0.4], [0.2, 0, 0.6], [0.4, 0.6, 0]])
        >>> round(found.mean, 6), round(found.standard_error, 4)
        (0.4, 0.2309)
    """
    level = checked_confidence(confidence_level)
    values = number_array("values_MM", values_MM)
    count = len(values) if values.ndim == 2 else 0
    if values.shape != (count, count):
        raise InputError("values_MM", "must be a square matrix", f"shape {values.shape}", "Pass disagreement(...).")
    own = ~np.eye(count, dtype=bool)
    if not np.isfinite(values[own]).all() or not np.allclose(values[own], values.T[own]):
        raise InputError("values_MM", "must be finite and symmetric", "others", "Leave diverged networks out.")
    sums_M = np.where(own, values, 0.0).sum(1)
    total, pairs = sums_M.sum() / 2.0, count * (count - 1) / 2.0
    mean = float(total) / pairs if pairs else math.nan
    error = math.nan
    if count >= 3:
        without_M = (total - sums_M) / ((count - 1) * (count - 2) / 2.0)
        error = math.sqrt((count - 1) / count * float(((without_M - without_M.mean()) ** 2).sum()))
    return _limited(mean, error, count - 1, count, level)


def mean_between(values_AB: ArrayLike, confidence_level: float = 0.95) -> PairMean:
    """The mean over pairs of one network from each of two groups.

    Args:
        values_AB: a figure for each pair.
        confidence_level: two-sided.

    Raises:
        InputError: this is no matrix of finite numbers, or the level is impossible.

    Source: as for `mean_over_pairs`, for two samples.

    Example (by hand: rows have means 1 and 3, columns 1.5 and 2.5; sqrt(1 + 0.25)):
        >>> found = mean_between([[0.5, 1.5], [2.5, 3.5]])
        >>> round(found.mean, 6), round(found.standard_error, 4)
        (2.0, 1.118)
    """
    level = checked_confidence(confidence_level)
    values = number_array("values_AB", values_AB)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InputError("values_AB", "must be a matrix of finite numbers", f"shape {values.shape}", "Pass all pairs.")
    sizes = values.shape
    variances = [values.mean(axis).var(ddof=1) / values.shape[1 - axis] for axis in (0, 1) if min(sizes) > 1]
    error = math.sqrt(sum(variances)) if variances else math.nan
    return _limited(float(values.mean()), error, min(sizes) - 1, sum(sizes), level)


def gradient_coherence(gradients_NP: ArrayLike) -> float:
    """How far the gradients of examples point the same way: the mean product of different ones over the mean square.

    1 if all are equal; 0 on average if they have nothing in common; below 0 if they contradict each other. It is the
    average effect of one example's step on another example, relative to its effect on itself.

    Args:
        gradients_NP: a row for each of two examples or more.

    Returns:
        From -1 / (N - 1) to 1; NaN if all gradients are 0.

    Raises:
        InputError: this is no matrix of finite numbers, or it has fewer than two rows.

    Source: Chatterjee and Zielinski, "Making Coherence Out of Nothing At All" (2020), section 2: their alpha, without
    the products of examples with themselves.

    Example (by hand: products 0 and 0 and 1 of three pairs; squares 1, 1 and 1):
        >>> round(gradient_coherence([[1, 0], [1, 0], [0, 1]]), 6)
        0.333333
    """
    gradients = number_array("gradients_NP", gradients_NP)
    if gradients.ndim != 2 or len(gradients) < 2 or not np.isfinite(gradients).all():
        rule = "must be (examples, parameters) of finite numbers, two examples or more"
        raise InputError("gradients_NP", rule, f"shape {gradients.shape}", "Pass example_gradients(...).")
    squares, summed = float((gradients**2).sum()), gradients.sum(0)
    if squares == 0.0:
        return math.nan
    return (float(summed @ summed) - squares) / ((len(gradients) - 1) * squares)


def _limited(mean: float, error: float, degrees: int, networks: int, level: float) -> PairMean:
    half = float(stats.t.isf((1.0 - level) / 2.0, degrees)) * error if not math.isnan(error) else math.nan
    return PairMean(
        mean=mean, standard_error=error, low=mean - half, high=mean + half, networks=networks, confidence_level=level
    )
