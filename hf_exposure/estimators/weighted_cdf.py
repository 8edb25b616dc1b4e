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

Draws may also depend on each other in batches, as those that were spread evenly do. A batch then counts as one row
with the texts of all its draws, and the variance is that of independent batches. The canary remains one draw.

Weights are divided by their sum, not by the number of draws. The latter is unbiased, while the former has a bias of
order 1/N; but the latter keeps the noise of the mean weight at shares near 1, where the former is exact, and in
measurements its intervals miss there.

Legend: K costs, N draws, C texts of a draw (padded with shares of 0), S strata. If draws depend on each other, N and
C are batches and the texts of a batch from `_Draws` on.
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
        gain_K: (K,) the variance of as many independent draws of one text each, divided by this one; both with the
            canary as one more draw.
    """

    share_K: FloatArray
    low_K: FloatArray
    high_K: FloatArray
    variance_K: FloatArray
    hits_K: NDArray[np.int64]
    gain_K: FloatArray


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Sums over the rows, stratum by stratum, for each cost (SK) or over all (S1).

    With n the number of draws in a row, x the weight of its texts at or below the cost and u that of the others,
    `weight_SK` is the sum of x, `sized_SK` that of n x, and `below_SK`, `cross_SK` and `above_SK` are those of x^2,
    x u and u^2. `weight_S1` and `sized_S1` are the first two over all texts; `draws_S1` and `squares_S1` are the sums
    of n and n^2. `correction_S1` is the factor of the variance that makes up for the mean that is estimated.
    """

    weight_SK: FloatArray
    sized_SK: FloatArray
    below_SK: FloatArray
    cross_SK: FloatArray
    above_SK: FloatArray
    weight_S1: FloatArray
    sized_S1: FloatArray
    draws_S1: FloatArray
    squares_S1: FloatArray
    correction_S1: FloatArray


def weighted_cdf(
    costs_K: FloatArray,
    references_NC: FloatArray,
    weights_NC: FloatArray,
    shares_NC: FloatArray,
    *,
    limits_K: FloatArray | None,
    own_K: FloatArray | None = None,
    strata_N: NDArray[np.int64],
    batches_N: NDArray[np.int64] | None = None,
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
        own_K: the weight with which the canary counts in the point estimate, if it is known; NaN or None if not, and
            then the limit takes its place. Of all canaries at or below a cost, the heaviest counts, so that the share
            never falls as the cost rises.
        strata_N: label 0..S-1 of the proposal that each draw came from, if their numbers were fixed in advance; all 0
            for one sample.
        batches_N: labels of the batches of draws that depend on each other, each within one stratum; None if all draws
            are independent.
        confidence_level: of the two-sided interval.

    Example (by hand: 3 of 4 equal draws are at or below 2.5, and the canary makes it 4 of 5):
        >>> ones, one_stratum = np.ones((4, 1)), np.zeros(4, dtype=int)
        >>> shares = weighted_cdf(np.array([2.5]), np.array([[1.0], [2.0], [2.0], [3.0]]), ones, ones,
        ...                          limits_K=None, strata_N=one_stratum, confidence_level=0.95)
        >>> shares.share_K, shares.hits_K
        (array([0.8]), array([3]))
    """
    counted_NC = np.where(shares_NC > 0.0, weights_NC, 0.0)
    counts_N = (counted_NC > 0.0).any(axis=1)
    first_N = np.where(counted_NC > 0.0, references_NC, np.inf).min(axis=1)[counts_N]
    singles_S1, is_plain = np.bincount(strata_N)[:, None].astype(np.float64), references_NC.shape[1] == 1
    size_N = np.ones(len(strata_N))
    if batches_N is not None:
        row_NC = _of_batches(batches_N)
        references_NC, counted_NC, shares_NC = (
            _joined(values_NC, row_NC, padding)
            for values_NC, padding in ((references_NC, np.inf), (counted_NC, 0.0), (shares_NC, 0.0))
        )
        strata_N, size_N = strata_N[row_NC[:, 0]], (row_NC >= 0).sum(axis=1).astype(np.float64)
    draws = _Draws(costs_K, references_NC, strata_N)
    own_NC = draws.by_cost(counted_NC)
    mass_NC = own_NC * draws.by_cost(shares_NC)
    heaviest, heaviest_hit_K = float(own_NC.max()), draws.largest_below(own_NC)
    if limits_K is None:
        unseen_K = np.full(costs_K.shape, heaviest)
        unknown_K = np.where(heaviest_hit_K > 0.0, heaviest_hit_K, heaviest)
    else:
        unseen_K = unknown_K = np.maximum(limits_K, heaviest_hit_K)
    if own_K is None:
        own_K = unknown_K
    else:
        order_K = np.argsort(costs_K, kind="stable")
        own_K = np.where(np.isnan(own_K), unknown_K, own_K)
        own_K[order_K] = np.maximum.accumulate(own_K[order_K])
    sums, none_K = _sums(draws, mass_NC, size_N, batches_N is not None), np.zeros(costs_K.shape)
    share_K, variance_K = _moments(sums, hit_K=own_K, miss_K=none_K)
    low_K, _ = _limits(*_moments(sums, hit_K=none_K, miss_K=none_K + heaviest), confidence_level)
    _, high_K = _limits(*_moments(sums, hit_K=unseen_K, miss_K=none_K), confidence_level)
    gain_K = np.ones(costs_K.shape)
    if not is_plain or batches_N is not None:
        singles = _sums_of_singles(draws, sums, mass_NC * own_NC, singles_S1)
        _, singles_K = _moments(singles, hit_K=own_K, miss_K=none_K)
        np.divide(singles_K, variance_K, out=gain_K, where=variance_K > 0.0)
    return WeightedCdf(
        share_K=share_K,
        low_K=low_K,
        high_K=high_K,
        variance_K=variance_K,
        hits_K=np.searchsorted(np.sort(first_N), costs_K, side="right"),
        gain_K=np.maximum(gain_K, 1.0),
    )


def _of_batches(batches_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of the draws of each batch, one batch per row, padded with -1."""
    _, batch_N = np.unique(batches_N, return_inverse=True)
    order_N = np.argsort(batch_N, kind="stable")
    first_N = np.searchsorted(batch_N[order_N], batch_N[order_N])
    column_N = np.arange(len(order_N)) - first_N
    rows = np.full((int(batch_N.max()) + 1, int(column_N.max()) + 1), -1, dtype=np.int64)
    rows[batch_N[order_N], column_N] = order_N
    return rows


def _joined(values_NC: FloatArray, rows: NDArray[np.int64], padding: float) -> FloatArray:
    """The values of all draws in each of the rows, one after another."""
    found = np.where((rows >= 0)[:, :, None], values_NC[rows], padding)
    return found.reshape(len(rows), -1)


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


def _sums(draws: _Draws, mass_NC: FloatArray, size_N: FloatArray, depend: bool) -> _Sums:
    """The sums for the weights times shares of the texts, by cost; `depend` says that rows are batches.

    When a text of mass p moves below the cost, x^2 grows by p (2 x + p), and u^2 and x u change likewise.
    """
    before_NC, after_NC = _before(mass_NC), _before(mass_NC[:, ::-1])[:, ::-1]
    weight_SK, weight_S1 = draws.below_and_all(mass_NC)
    sized_SK, sized_S1 = draws.below_and_all(mass_NC * size_N[:, None])
    draws_S1, squares_S1 = (
        np.bincount(draws.strata_N, values_N)[:, None].astype(np.float64) for values_N in (size_N, size_N**2)
    )
    return _Sums(
        weight_SK=weight_SK,
        sized_SK=sized_SK,
        below_SK=draws.below(mass_NC * (2.0 * before_NC + mass_NC)),
        cross_SK=draws.below(mass_NC * (after_NC - before_NC)),
        above_SK=draws.above(mass_NC * (2.0 * after_NC + mass_NC)),
        weight_S1=weight_S1,
        sized_S1=sized_S1,
        draws_S1=draws_S1,
        squares_S1=squares_S1,
        # Of independent draws there is one more, the canary.
        correction_S1=mean_correction(draws_S1, squares_S1) if depend else np.ones_like(draws_S1),
    )


def mean_correction(draws: FloatArray, squares: FloatArray) -> FloatArray:
    """The factor that makes up for squares around a mean that was estimated from the same batches.

    For batches of n draws, whose sums have variances in proportion to n, it is N^2 / (N^2 - sum of n^2). For B batches
    of one size that is B / (B - 1).
    """
    return draws**2 / (draws**2 - squares)


def _sums_of_singles(draws: _Draws, sums: _Sums, square_NC: FloatArray, draws_S1: FloatArray) -> _Sums:
    """What the sums would be on average if each draw were independent and one of its texts.

    `square_NC` is share times weight^2.
    """
    return replace(
        sums,
        sized_SK=sums.weight_SK,
        sized_S1=sums.weight_S1,
        draws_S1=draws_S1,
        squares_S1=draws_S1,
        correction_S1=np.ones_like(draws_S1),
        below_SK=draws.below(square_NC),
        cross_SK=np.zeros_like(sums.cross_SK),
        above_SK=draws.above(square_NC),
    )


def _moments(sums: _Sums, *, hit_K: FloatArray, miss_K: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Share and variance of the sample with one more hit of weight `hit_K` and one more miss of weight `miss_K`.

    This is a ratio estimator: the residual of a row is (1 - y) x - y u: its weight times (1 - y) for a hit, and times
    -y for a miss. Differences between strata are not random, since their sizes are fixed, and are left out of the
    variance, and so are those between batches of different sizes.
    """
    total_K = sums.weight_S1.sum(axis=0) + hit_K + miss_K
    y = (sums.weight_SK.sum(axis=0) + hit_K) / total_K
    squares_SK = (1.0 - y) ** 2 * sums.below_SK - 2.0 * y * (1.0 - y) * sums.cross_SK + y**2 * sums.above_SK
    mean_SK = (sums.weight_SK - y * sums.weight_S1) / sums.draws_S1
    overall_K = (sums.weight_SK.sum(axis=0) - y * sums.weight_S1.sum(axis=0)) / sums.draws_S1.sum()
    off_SK, sized_SK = mean_SK - overall_K, sums.sized_SK - y * sums.sized_S1
    squares_SK += off_SK * ((off_SK + 2.0 * overall_K) * sums.squares_S1 - 2.0 * sized_SK)
    within_SK = sums.correction_S1 * np.maximum(squares_SK, 0.0)
    added_K = (hit_K * (1.0 - y)) ** 2 + (miss_K * y) ** 2
    return y, (within_SK.sum(axis=0) + added_K) / total_K**2


def _limits(share: FloatArray, variance: FloatArray, confidence_level: float) -> tuple[FloatArray, FloatArray]:
    """The quantiles of the Beta law with that mean and the variance of as many equal draws."""
    with np.errstate(divide="ignore", invalid="ignore"):
        hits = np.where(variance > 0.0, share**2 * (1.0 - share) / variance, np.inf)
    return beta_quantiles(share, hits, confidence_level)
