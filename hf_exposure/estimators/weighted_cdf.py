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

A draw may also be a whole row of texts: those that it could have ended with, each with the probability of that (its
share). Every text then counts with its weight times its share, which is what the draw would count on average, so the
estimate keeps its mean and loses the variance of the last step (Rao-Blackwell). The variance is that of the rows. A
row never counts more than its heaviest text. So the canary, counted as one whole draw, counts at least as much as the
texts of its own row that are at or below it; with these, the share is its rank among all texts of N + 1 exchangeable
rows, and therefore the p-value stays valid. A draw of one text is the row with a share of 1.

Weights are divided by their sum, not by the number of draws. The latter is unbiased, while the former has a bias of
order 1/N; but the latter keeps the noise of the mean weight at shares near 1, where the former is exact, and in
measurements its intervals miss there.

Legend: K costs, N draws, C texts of a draw (padded with shares of 0), S strata.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        gain_K: (K,) the variance of as many draws of one text each, divided by this one; both with the canary as one
            more draw.
    """

    share_K: FloatArray
    low_K: FloatArray
    high_K: FloatArray
    variance_K: FloatArray
    hits_K: NDArray[np.int64]
    gain_K: FloatArray


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums over the draws, stratum by stratum, for each cost (SK) or over all (S1).

    With x the weight of a draw's texts at or below the cost and u that of the others, `weight_SK` is the sum of x, and
    `below_SK`, `cross_SK` and `above_SK` are those of x^2, x u and u^2.
    """

    weight_SK: FloatArray
    below_SK: FloatArray
    cross_SK: FloatArray
    above_SK: FloatArray
    weight_S1: FloatArray
    draws_S1: FloatArray


def weighted_cdf(
    costs_K: FloatArray,
    references_NC: FloatArray,
    weights_NC: FloatArray,
    shares_NC: FloatArray,
    *,
    limits_K: FloatArray | None,
    strata_N: NDArray[np.int64],
    confidence_level: float,
) -> WeightedCdf:
    """Estimates, for every cost, the share of the space that costs no more, with limits.

    Args:
        costs_K: costs of the canaries.
        references_NC: costs of the texts of each draw.
        weights_NC: at least 0, mean about 1, in units of (uniform probability) / (probability of being drawn).
        shares_NC: the probability that each text is the one drawn, given its row; 0 for padding.
        limits_K: the largest weight that a text at or below each cost can have. None: the largest weight drawn for
            the interval, and for the point the heaviest draw at or below the cost.
        strata_N: label 0..S-1 of the proposal that each draw came from, if their numbers were fixed in advance; all 0
            for one sample.
        confidence_level: of the two-sided interval.

    Example (by hand: 3 of 4 equal draws are at or below 2.5, and the canary makes it 4 of 5):
        >>> ones, one_stratum = np.ones((4, 1)), np.zeros(4, dtype=int)
        >>> shares = weighted_cdf(np.array([2.5]), np.array([[1.0], [2.0], [2.0], [3.0]]), ones, ones,
        ...                          limits_K=None, strata_N=one_stratum, confidence_level=0.95)
        >>> shares.share_K, shares.hits_K
        (array([0.8]), array([3]))
    """
    draws = _Draws(costs_K, references_NC, strata_N)
    own_NC = draws.by_cost(np.where(shares_NC > 0.0, weights_NC, 0.0))
    mass_NC = own_NC * draws.by_cost(shares_NC)
    heaviest, heaviest_hit_K = float(own_NC.max()), draws.largest_below(own_NC)
    if limits_K is None:
        unseen_K = np.full(costs_K.shape, heaviest)
        own_K = np.where(heaviest_hit_K > 0.0, heaviest_hit_K, heaviest)
    else:
        unseen_K = own_K = np.maximum(limits_K, heaviest_hit_K)
    sums, none_K = _sums(draws, mass_NC), np.zeros(costs_K.shape)
    share_K, variance_K = _moments(sums, hit_K=own_K, miss_K=none_K)
    low_K, _ = _limits(*_moments(sums, hit_K=none_K, miss_K=none_K + heaviest), confidence_level)
    _, high_K = _limits(*_moments(sums, hit_K=unseen_K, miss_K=none_K), confidence_level)
    gain_K = np.ones(costs_K.shape)
    if references_NC.shape[1] > 1:
        _, singles_K = _moments(_sums_of_singles(draws, sums, mass_NC * own_NC), hit_K=own_K, miss_K=none_K)
        np.divide(singles_K, variance_K, out=gain_K, where=variance_K > 0.0)
    is_first_NC = (mass_NC > 0.0) & (_before(mass_NC) == 0.0)
    return WeightedCdf(
        share_K=share_K,
        low_K=low_K,
        high_K=high_K,
        variance_K=variance_K,
        hits_K=draws.below(is_first_NC.astype(np.float64)).sum(axis=0).astype(np.int64),
        gain_K=np.maximum(gain_K, 1.0),
    )


class _Draws:
    """The texts of each draw in ascending order of cost, and the place of each among the costs of the canaries."""

    def __init__(self, costs_K: FloatArray, references_NC: FloatArray, strata_N: NDArray[np.int64]) -> None:
        order_K = np.argsort(costs_K, kind="stable")
        self._place_K = np.empty_like(order_K)
        self._place_K[order_K] = np.arange(costs_K.size)
        self._order_NC = np.argsort(references_NC, axis=1, kind="stable")
        # The first of the sorted costs that a text is at or below; K if there is none.
        self._first_NC = np.searchsorted(costs_K[order_K], self.by_cost(references_NC))
        self._bins, self.strata_N = costs_K.size + 1, strata_N
        self._strata = int(strata_N.max()) + 1

    def by_cost(self, values_NC: FloatArray) -> FloatArray:
        """The values in the order of the texts' costs."""
        return np.take_along_axis(values_NC, self._order_NC, axis=1)

    def below_and_all(self, values_NC: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(S, K) sums over the texts at or below each cost, and (S, 1) over all, equal where all are; by cost."""
        sums_SB = np.cumsum(self._binned(values_NC), axis=1)
        return sums_SB[:, self._place_K], sums_SB[:, -1:]

    def below(self, values_NC: FloatArray) -> FloatArray:
        """(S, K) sums over the texts at or below each cost; the values are by cost."""
        return self.below_and_all(values_NC)[0]

    def above(self, values_NC: FloatArray) -> FloatArray:
        """(S, K) sums over the other texts, which are added from the other end, so that nothing is left of none."""
        return np.cumsum(self._binned(values_NC)[:, :0:-1], axis=1)[:, ::-1][:, self._place_K]

    def largest_below(self, values_NC: FloatArray) -> FloatArray:
        """(K,) the largest value at or below each cost; 0 if there is none."""
        largest = np.zeros(self._bins)
        np.maximum.at(largest, self._first_NC.ravel(), values_NC.ravel())
        return np.maximum.accumulate(largest)[self._place_K]

    def _binned(self, values_NC: FloatArray) -> FloatArray:
        numbers_NC = self.strata_N[:, None] * self._bins + self._first_NC
        sums = np.bincount(numbers_NC.ravel(), values_NC.ravel(), self._strata * self._bins)
        return sums.reshape(self._strata, self._bins).astype(np.float64, copy=False)


def _before(mass_NC: FloatArray) -> FloatArray:
    """The sum of those before each text in its row."""
    return np.pad(np.cumsum(mass_NC[:, :-1], axis=1), ((0, 0), (1, 0)))


def _sums(draws: _Draws, mass_NC: FloatArray) -> _Sums:
    """The sums for the weights times shares of the texts, by cost.

    When a text of mass p moves below the cost, x^2 grows by p (2 x + p), and u^2 and x u change likewise.
    """
    before_NC, after_NC = _before(mass_NC), _before(mass_NC[:, ::-1])[:, ::-1]
    weight_SK, weight_S1 = draws.below_and_all(mass_NC)
    return _Sums(
        weight_SK=weight_SK,
        below_SK=draws.below(mass_NC * (2.0 * before_NC + mass_NC)),
        cross_SK=draws.below(mass_NC * (after_NC - before_NC)),
        above_SK=draws.above(mass_NC * (2.0 * after_NC + mass_NC)),
        weight_S1=weight_S1,
        draws_S1=np.bincount(draws.strata_N)[:, None].astype(np.float64),
    )


def _sums_of_singles(draws: _Draws, sums: _Sums, square_NC: FloatArray) -> _Sums:
    """What the sums would be on average if each draw were one of its texts; `square_NC` is share times weight^2."""
    return replace(
        sums,
        below_SK=draws.below(square_NC),
        cross_SK=np.zeros_like(sums.cross_SK),
        above_SK=draws.above(square_NC),
    )


def _moments(sums: _Sums, *, hit_K: FloatArray, miss_K: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Share and variance of the sample with one more hit of weight `hit_K` and one more miss of weight `miss_K`.

    This is a ratio estimator: the residual of a draw is (1 - y) x - y u: its weight times (1 - y) for a hit, and times
    -y for a miss. Differences between strata are not random, since their sizes are fixed, and are left out of the
    variance.
    """
    total_K = sums.weight_S1.sum(axis=0) + hit_K + miss_K
    y = (sums.weight_SK.sum(axis=0) + hit_K) / total_K
    squares_SK = (1.0 - y) ** 2 * sums.below_SK - 2.0 * y * (1.0 - y) * sums.cross_SK + y**2 * sums.above_SK
    mean_SK = (sums.weight_SK - y * sums.weight_S1) / sums.draws_S1
    overall_K = (sums.weight_SK.sum(axis=0) - y * sums.weight_S1.sum(axis=0)) / sums.draws_S1.sum()
    within_SK = np.maximum(squares_SK - sums.draws_S1 * (mean_SK - overall_K) ** 2, 0.0)
    added_K = (hit_K * (1.0 - y)) ** 2 + (miss_K * y) ** 2
    return y, (within_SK.sum(axis=0) + added_K) / total_K**2


def _limits(share: FloatArray, variance: FloatArray, confidence_level: float) -> tuple[FloatArray, FloatArray]:
    """The quantiles of the Beta law with that mean and the variance of as many equal draws."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(variance > 0.0, share**2 * (1.0 - share) / variance, np.inf)
    return beta_quantiles(share, hits, confidence_level)
