"""The share of a space at or below a cost, from draws of equal or unequal weight. It covers both uniform and
importance sampling.

One idea gives the point estimate and both limits: **one more draw, as heavy as possible**. The point estimate counts
the canary as such a draw (a hit). The upper limit adds one unseen hit; the lower limit adds one unseen miss. For each
of these samples, the weighted share `y` and its variance `V` are computed, and matched by the Beta law with mean `y`
and the variance of `n = y (1 - y) / V` equal draws: `Beta(n y, n (1 - y))`. With N equal weights and m hits this is

    point  (m + 1) / (N + 1)      upper  Beta(m + 1, N - m)      lower  Beta(m, N - m + 1)

which is the valid rank p-value and the Clopper-Pearson interval, digit for digit. For rare hits of unequal weight it
is the interval of Fay and Feuer (Stat. Med. 16, 1997, "Confidence intervals for directly standardized rates"), whose
upper limit also adds the heaviest weight. The weighted p-value is that of Tibshirani et al., "Conformal prediction
under covariate shift" (NeurIPS 2019): under the null it is valid whenever the limit is at least the canary's own
weight.

Weights are divided by their sum, not by the number of draws. The latter is unbiased, while the former has a bias of
order 1/N; but the latter keeps the noise of the mean weight at shares near 1, where the former is exact, and in
measurements its intervals miss there.

Legend: K costs, N references, S strata; A, Q: sums of weights and of squared weights at or below a cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.estimators.intervals import beta_quantiles


@dataclass(frozen=True, kw_only=True)
class WeightedCdf:
    """Shares of the space at or below each of K costs.

    Attributes:
        share_K: (K,) point estimates, in (0, 1].
        low_K, high_K: (K,) confidence limits, in [0, 1].
        variance_K: (K,) variances of `share_K`.
        hits_K: (K,) numbers of draws with weight above 0 at or below the cost.
    """

    share_K: FloatArray
    low_K: FloatArray
    high_K: FloatArray
    variance_K: FloatArray
    hits_K: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums over the draws, stratum by stratum, at or below each cost (SK) and over all (S1)."""

    weight_SK: FloatArray
    square_SK: FloatArray
    weight_S1: FloatArray
    square_S1: FloatArray
    draws_S1: FloatArray


def weighted_cdf(
    costs_K: FloatArray,
    references_N: FloatArray,
    weights_N: FloatArray,
    *,
    limits_K: FloatArray | None,
    strata_N: NDArray[np.int64],
    confidence_level: float,
) -> WeightedCdf:
    """Estimates, for every cost, the share of the space that costs no more, with limits.

    Args:
        costs_K: costs of the canaries.
        references_N: costs of the draws.
        weights_N: at least 0, mean about 1, in units of (uniform probability) / (probability of being drawn).
        limits_K: the largest weight that a text at or below each cost can have. None: the largest weight drawn for
            the interval, and for the point the heaviest draw at or below the cost.
        strata_N: label 0..S-1 of the proposal that each draw came from, if their numbers were fixed in advance; all 0
            for one sample.
        confidence_level: of the two-sided interval.

    Example (by hand: 3 of 4 equal draws are at or below 2.5, and the canary makes it 4 of 5):
        >>> ones, one_stratum = np.ones(4), np.zeros(4, dtype=int)
        >>> shares = weighted_cdf(np.array([2.5]), np.array([1.0, 2.0, 2.0, 3.0]), ones,
        ...                          limits_K=None, strata_N=one_stratum, confidence_level=0.95)
        >>> shares.share_K, shares.hits_K
        (array([0.8]), array([3]))
    """
    order = np.argsort(references_N, kind="stable")
    weights_N, strata_N = weights_N[order], strata_N[order]
    hits_K = np.searchsorted(references_N[order], costs_K, side="right")
    heaviest = float(weights_N.max())
    heaviest_hit_K = np.concatenate([[0.0], np.maximum.accumulate(weights_N)])[hits_K]
    if limits_K is None:
        unseen_K = np.full(costs_K.shape, heaviest)
        own_K = np.where(heaviest_hit_K > 0.0, heaviest_hit_K, heaviest)
    else:
        unseen_K = own_K = np.maximum(limits_K, heaviest_hit_K)
    counted_K = np.concatenate([[0], np.cumsum(weights_N > 0.0)])[hits_K]
    sums = _sums(weights_N, strata_N, hits_K)
    none_K = np.zeros(costs_K.shape)
    share_K, variance_K = _moments(sums, hit_K=own_K, miss_K=none_K)
    low_K, _ = _limits(*_moments(sums, hit_K=none_K, miss_K=none_K + heaviest), confidence_level)
    _, high_K = _limits(*_moments(sums, hit_K=unseen_K, miss_K=none_K), confidence_level)
    return WeightedCdf(share_K=share_K, low_K=low_K, high_K=high_K, variance_K=variance_K, hits_K=counted_K)


def _sums(weights_N: FloatArray, strata_N: NDArray[np.int64], hits_K: NDArray[np.int64]) -> _Sums:
    """Cumulative sums in order of cost, evaluated at each canary."""
    members_SN = strata_N == np.arange(int(strata_N.max()) + 1)[:, None]
    # The sum is in ascending order of cost: likely texts have small weights, so the small terms are added first.
    weight_SN = np.pad(np.cumsum(weights_N * members_SN, axis=1), ((0, 0), (1, 0)))
    square_SN = np.pad(np.cumsum(weights_N**2 * members_SN, axis=1), ((0, 0), (1, 0)))
    return _Sums(
        weight_SK=weight_SN[:, hits_K],
        square_SK=square_SN[:, hits_K],
        weight_S1=weight_SN[:, -1:],
        square_S1=square_SN[:, -1:],
        draws_S1=members_SN.sum(axis=1, keepdims=True).astype(np.float64),
    )


def _moments(sums: _Sums, *, hit_K: FloatArray, miss_K: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Share and variance of the sample with one more hit of weight `hit_K` and one more miss of weight `miss_K`.

    This is a ratio estimator: the residual of a draw is its weight times (1 - y) for a hit, and times -y for a miss.
    Differences between strata are not random, since their sizes are fixed, and are left out of the variance.
    """
    total_K = sums.weight_S1.sum() + hit_K + miss_K
    y = (sums.weight_SK.sum(axis=0) + hit_K) / total_K
    squares_SK = (1.0 - y) ** 2 * sums.square_SK + y**2 * (sums.square_S1 - sums.square_SK)
    mean_SK = (sums.weight_SK - y * sums.weight_S1) / sums.draws_S1
    overall_K = (sums.weight_SK.sum(axis=0) - y * sums.weight_S1.sum()) / sums.draws_S1.sum()
    within_SK = np.maximum(squares_SK - sums.draws_S1 * (mean_SK - overall_K) ** 2, 0.0)
    added_K = (hit_K * (1.0 - y)) ** 2 + (miss_K * y) ** 2
    return y, (within_SK.sum(axis=0) + added_K) / total_K**2


def _limits(share: FloatArray, variance: FloatArray, confidence_level: float) -> tuple[FloatArray, FloatArray]:
    """The quantiles of the Beta law with that mean and the variance of as many equal draws."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(variance > 0.0, share**2 * (1.0 - share) / variance, np.inf)
    return beta_quantiles(share, hits, confidence_level)
