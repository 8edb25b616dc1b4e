"""Exposure from draws of unequal weight. Uniform sampling is the case of equal weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.checks import at_most
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import (
    FloatArray,
    checked_confidence,
    checked_costs,
    checked_flags,
    checked_space_size,
    number_array,
)
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.weighted_cdf import WeightedCdf, mean_correction, weighted_cdf

# With fewer effective hits than this, the estimated rank is uncertain by more than a tenth.
ENOUGH_HITS = 100
# Without a hit the figure is a lower bound; if it is within this many bits of the maximum, no note says so.
CLOSE_TO_THE_SPACE = 0.1


@dataclass(frozen=True, kw_only=True)
class WeightCheck:
    """Whether the weights account for the whole space: `mean` estimates the share of it that the draws can reach, and
    should be 1.

    Attributes:
        mean: the mean of the weights.
        standard_error: of that mean, from the weights drawn; blind to heavy texts that were never drawn.
        good: within 4 standard errors of 1, and within 5 % unless 2 standard errors explain that.
    """

    mean: float
    standard_error: float
    good: bool


def check_weights(
    weights: ArrayLike, strata: ArrayLike | None = None, batches: ArrayLike | None = None
) -> WeightCheck:
    """Compares the mean weight of (N,) draws with 1; `strata` and `batches` are as in `importance_exposure`.

    Example:
        >>> check_weights([0.5, 1.5, 1.0, 1.0])
        WeightCheck(mean=1.0, standard_error=0.176..., good=True)
        >>> check_weights(np.full(100, 0.7)).good
        False
    """
    weights_N = _checked_weights(weights, (number_array("weights", weights).size,))
    strata_N = _checked_strata(strata, weights_N.size)
    batches_N = _checked_batches(batches, strata_N)
    counts_S = np.bincount(strata_N).astype(np.float64)
    means_S = np.bincount(strata_N, weights_N) / counts_S
    mean, off_N = float(weights_N.mean()), weights_N - means_S[strata_N]
    squares = off_N**2
    if batches_N is not None:
        stratum_B = strata_N[np.unique(batches_N, return_index=True)[1]]
        sizes_S = np.bincount(stratum_B, np.bincount(batches_N) ** 2.0).astype(np.float64)
        squares = np.bincount(batches_N, off_N) ** 2 * mean_correction(counts_S, sizes_S)[stratum_B]
    error = float(np.sqrt(squares.sum()) / weights_N.size)
    off = abs(mean - 1.0)
    # The 1e-9 allows for rounding of equal weights.
    good = off <= 4.0 * error + 1e-9 and (off <= 0.05 or off <= 2.0 * error)
    return WeightCheck(mean=mean, standard_error=error, good=bool(good))


def importance_exposure(
    costs: ArrayLike,
    references: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    space_size: int | None,
    confidence_level: float = 0.95,
    weight_limits: ArrayLike | None = None,
    own_weights: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    shares: ArrayLike | None = None,
    batches: ArrayLike | None = None,
    includes_self: ArrayLike = True,
) -> list[CostEstimate]:
    """Exposure as `-log2` of the weighted share of draws that cost no more than the canary.

    One weighted set of references serves every canary of the template, from 3 bits to `log2 |R'|`. With equal weights
    (None) this is sampling: m of N draws at or below give `log2((N + 1)/(m + 1))` with the Clopper-Pearson interval.
    `weighted_cdf.py` explains the method. The canary counts as one more draw, as heavy as `weight_limits` allows, so
    that a canary that was never inserted has `P(exposure >= x) <= 2^-x` here too, which is proven for independent
    draws and measured for batches of draws that are spread evenly.

    Args:
        costs: (K,) costs of the canaries in bits, lower = likelier.
        references: (N,) costs of the draws; (N, C) if each draw has `shares`.
        weights: (N,) `1 / (|R'| q(r))` with q the probability of being drawn; their mean is about 1. A draw outside R'
            (another inserted canary, an encoding that is not canonical) has weight 0 and stays in the list. None means
            uniform draws.
        space_size: |R'|, an exact int; None leaves the exposure without a ceiling.
        confidence_level: of the two-sided interval.
        weight_limits: (K,) or scalar: the largest weight of any text at or below that canary's cost. With a quarter of
            the draws uniform and a quarter from the model at temperature 1, it is `4 min(1, 2^b / |R'|)` for a canary
            of b bits; a heavier draw raises the limit to its own weight. Without limits only the heaviest drawn weight
            is known, and the `low_bits` of a memorized canary cannot exceed what one unseen text of that weight could
            hide: about `log2(N / heaviest)` minus 2.
        own_weights: (K,): the weight that each canary itself would have as a draw; NaN where unknown. It counts in the
            point estimate in place of the limit, which is at least as large, so that rare canaries are not
            underestimated. The interval does not depend on it.
        strata: (N,) the proposal that each draw came from, if the number from each was fixed in advance; this narrows
            the interval. Each needs at least 2 draws.
        shares: (N, C) if a draw is known up to its last step: the probability of each of the C texts that it can end
            with, given the rest. All of them count, which narrows the interval; `references` and `weights` are then
            (N, C) too. A row sums to at most 1. Padding has a share of 0, any cost and any finite weight.
        batches: (N,) labels of batches of draws that depend on each other, such as those that were spread evenly over
            what they could have been; batches are independent. The interval is that of their sums. Each batch belongs
            to one stratum, and each stratum needs at least 2; with 8 of each, intervals cover as they should. None
            means that all draws are independent.
        includes_self: scalar or (K,): whether the draws can hit the canary itself, with its weight. False if its own
            draws have weight 0; the canary is then added exactly, as 1 text of |R'|.

    Returns:
        One `CostEstimate` per cost, in input order, with `effective_hits` and `draw_gain`. The interval covers the
        exposure by enumeration, with ties against the canary. The errors of canaries that share draws are dependent.
        `bound` is "lower" if no draw is at or below the cost, else "interval". Notes report this, effective hits below
        100, missing `weight_limits`, and a mean weight other than 1. The last also widens the interval: the share that
        the draws did not account for may lie below the canary, unless `weight_limits` rule that out, and a surplus may
        have been counted there.

    Raises:
        InputError: a cost is NaN or -inf, there are no references, the weights are negative, not finite, all 0 or not
            in the shape of the references, or `shares` are negative, above 1 in a row or in another shape.

    Source: importance sampling with multiple proposals and the balance heuristic, Veach and Guibas, SIGGRAPH 1995.
        Coverage measured, independent draws from four toy models of 10^5 strings, as many of each of four proposals,
        38 canaries of rank 1 to 10^5, 1,000 fresh sets of 1,000 to 16,000 draws, `weight_limits` given: the 95 %
        interval contained the truth in 96.0 to 98.2 % of cases with `strata`, in 97.1 to 99.0 % without, and in at
        least 93.9 % for every single canary.

    Example (half of 8 draws uniform, half from a model that always generates the canary, |R'| = 1000, so q = 0.5005):
        >>> w = 1 / (1000 * np.array([0.0005] * 4 + [0.5005] * 4))
        >>> estimate, = importance_exposure([1.0], [9.0, 8.0, 9.0, 7.0, 1.0, 1.0, 1.0, 1.0], w, space_size=1000,
        ...                                 weight_limits=w.min(), strata=[0, 0, 0, 0, 1, 1, 1, 1])
        >>> round(estimate.exposure_bits, 2), round(float(np.log2(1000)), 2)      # one hit counted in addition
        (9.65, 9.97)
    """
    costs_K = checked_costs("costs", costs)
    references_NC, shares_NC = _checked_draws(references, shares)
    level = checked_confidence(confidence_level)
    log2_size = math.inf if space_size is None else math.log2(checked_space_size(space_size))
    draws = len(references_NC)
    weights_NC = _checked_weights(weights, (draws,) if shares is None else references_NC.shape).reshape(draws, -1)
    if not (weights_NC * shares_NC).any():
        raise InputError("weights", "must not all be 0 where shares are above 0", "0", "Draw more references.")
    strata_N = _checked_strata(strata, draws)
    batches_N = _checked_batches(batches, strata_N)
    limits_K = None if weight_limits is None else _checked_limits(weight_limits, costs_K.size)
    own_weight_K = None if own_weights is None else _checked_own(own_weights, costs_K.size)
    apart_K = ~checked_flags("includes_self", includes_self, costs_K.size, "Pass True, or one for each cost.")
    if space_size is None and apart_K.any():
        raise InputError("space_size", "is needed if includes_self is False", None, "Pass template.space_size.")
    found = weighted_cdf(
        costs_K,
        references_NC,
        weights_NC,
        shares_NC,
        limits_K=limits_K,
        own_K=own_weight_K,
        strata_N=strata_N,
        batches_N=batches_N,
        confidence_level=level,
    )
    check = check_weights((weights_NC * shares_NC).sum(axis=1), strata_N, batches_N)
    low_K, high_K = _widened(found, check, limits_K is not None)
    own_K = np.where(apart_K, 2.0**-log2_size, 0.0)
    point_bits, low_bits, high_bits = (_bits(share_K, own_K, log2_size) for share_K in (found.share_K, high_K, low_K))
    effective_K = _effective_hits(found, own_K)
    unlimited = weights is not None and limits_K is None
    open_K = (found.hits_K == 0) & (point_bits < log2_size - CLOSE_TO_THE_SPACE)
    return [
        CostEstimate(
            exposure_bits=float(point_bits[k]),
            low_bits=float(low_bits[k]),
            high_bits=float(high_bits[k]),
            method="importance",
            bound="lower" if open_K[k] else "interval",
            note=_note(open_K[k], draws, effective_K[k], log2_size, check, unlimited),
            effective_hits=float(effective_K[k]),
            draw_gain=float(found.gain_K[k]),
        )
        for k in range(costs_K.size)
    ]


def _bits(share_K: FloatArray, own_K: FloatArray, log2_size: float) -> FloatArray:
    """The bits of a share of the competitors, after adding the canary itself as `own_K` of the space."""
    with np.errstate(divide="ignore"):
        bits = -np.log2(own_K + (1.0 - own_K) * share_K)
    return np.clip(bits, 0.0, log2_size) + 0.0  # no -0.0


def _widened(shares: WeightedCdf, check: WeightCheck, limited: bool) -> tuple[FloatArray, FloatArray]:
    """The limits, widened if the mean weight is not 1.

    Below 1, a share `1 - mean` of the space was out of reach. With weight limits, no more of it can lie at or below
    the canary than the upper limit allows, so only the division by the mean is undone; without them, all of it may.
    Above 1, the surplus may have been counted at or below the canary, or elsewhere.
    """
    if check.good:
        return shares.low_K, shares.high_K
    if check.mean < 1.0:
        unseen = 0.0 if limited else 1.0 - check.mean
        return shares.low_K * check.mean, shares.high_K if limited else shares.high_K * check.mean + unseen
    surplus = check.mean - 1.0
    return np.maximum(shares.low_K - surplus, 0.0), np.minimum(shares.high_K * check.mean, 1.0)


def _effective_hits(shares: WeightedCdf, own_K: FloatArray) -> FloatArray:
    """The number of equal draws at or below the cost that would be as precise: m for m of N. A canary that is known
    exactly adds precision.
    """
    whole_K = own_K + (1.0 - own_K) * shares.share_K
    # A variance of 0 means that every draw outranks the canary: each of them is a hit.
    with np.errstate(divide="ignore", invalid="ignore"):
        equal_K = whole_K**2 * (1.0 - shares.share_K) / ((1.0 - own_K) ** 2 * shares.variance_K) - 1.0
    return np.maximum(np.where(shares.variance_K > 0.0, equal_K, shares.hits_K), 0.0)


def _note(is_open: bool, draws: int, effective: float, log2_size: float, check: WeightCheck, unlimited: bool) -> str:
    """The note for the reader, most important first; "" if there is nothing to note."""
    said = []
    if is_open:
        said.append(f"a lower bound: none of {draws} references is at or below its cost")
        if math.isinf(log2_size):
            said.append("no upper end without space_size")
    elif effective < ENOUGH_HITS:
        said.append(
            f"the estimate rests on few samples ({effective:.1f} effective, {ENOUGH_HITS} needed): use more references"
        )
    if unlimited:
        said.append("no weight_limits: low_bits rests on the heaviest drawn weight")
    if not check.good:
        said.append(
            f"mean weight {check.mean:.3f} +- {check.standard_error:.3f} should be 1: the draws miss or repeat part "
            "of the space, and the interval is widened accordingly"
        )
    return "; ".join(said)


def _checked_draws(references: ArrayLike, shares: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """(N, C) costs and shares; a draw of one text has the share 1."""
    if shares is None:
        references_N = checked_costs("references", references, smallest_count=1)
        return references_N[:, None], np.ones((references_N.size, 1))
    references_NC, shares_NC = number_array("references", references), number_array("shares", shares)
    if references_NC.ndim != 2 or shares_NC.shape != references_NC.shape:
        rule = "must be (N, C), as references then are"
        raise InputError("shares", rule, f"{shares_NC.shape} for {references_NC.shape}", "Pad rows with shares of 0.")
    checked_costs("references", references_NC.ravel(), smallest_count=1)
    if not (shares_NC >= 0.0).all():
        raise InputError("shares", "must be at least 0", "others", "Pass probabilities.")
    if not (shares_NC.sum(axis=1) <= 1.0 + 1e-9).all():
        raise InputError("shares", "must sum to at most 1 in each row", "more", "Divide each row by its sum.")
    return references_NC, shares_NC


def _checked_weights(weights: ArrayLike | None, shape: tuple[int, ...]) -> FloatArray:
    if weights is None:
        return np.ones(shape)
    weights_N = number_array("weights", weights)
    if weights_N.shape != shape or not shape[0]:
        raise InputError(
            "weights", f"must be one per reference, {shape}", weights_N.shape, "Pass them in the references' order."
        )
    if not np.isfinite(weights_N).all() or (weights_N < 0.0).any() or not (weights_N > 0.0).any():
        raise InputError(
            "weights",
            "must be finite, at least 0, and not all 0",
            "others",
            "Draw a part of the references uniformly.",
        )
    return weights_N


def _checked_limits(weight_limits: ArrayLike, canaries: int) -> FloatArray:
    limits = number_array("weight_limits", weight_limits)
    if limits.shape not in {(), (canaries,)} or not np.isfinite(limits).all() or not (limits > 0.0).all():
        raise InputError(
            "weight_limits",
            f"must be one finite number above 0, or one per cost, ({canaries},)",
            f"shape {limits.shape}" if limits.ndim else weight_limits,
            "Pass 4 * min(1, 2**b / space_size) for canaries of b bits.",
        )
    return np.broadcast_to(limits, (canaries,)).astype(np.float64)


def _checked_own(own_weights: ArrayLike, canaries: int) -> FloatArray:
    own_K = np.asarray(own_weights, dtype=np.float64)
    if own_K.shape != (canaries,) or not ((own_K > 0.0) & (own_K < np.inf) | np.isnan(own_K)).all():
        rule = f"must be one finite number above 0, or NaN, per cost, ({canaries},)"
        raise InputError("own_weights", rule, f"shape {own_K.shape}", "Leave own_weights out where they are unknown.")
    return own_K.copy()


def _checked_strata(strata: ArrayLike | None, draws: int) -> NDArray[np.int64]:
    """Labels 0..S-1. Each stratum needs two draws to estimate its variance."""
    if strata is None:
        return np.zeros(draws, dtype=np.int64)
    strata_N = _checked_labels("strata", strata, draws)
    counts_S = np.bincount(strata_N)
    if counts_S.size > 1 and counts_S.min() < 2:
        raise InputError("strata", "must hold at least 2 draws each", int(counts_S.min()), "Merge the small ones.")
    return strata_N


def _checked_batches(batches: ArrayLike | None, strata_N: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Labels 0..B-1 of batches, each within one stratum, of which each needs two; None if draws are independent."""
    if batches is None:
        return None
    batches_N = _checked_labels("batches", batches, strata_N.size)
    pairs = np.unique(np.column_stack([batches_N, strata_N]), axis=0)
    if len(pairs) > batches_N.max() + 1:
        raise InputError("batches", "must each lie in one stratum", "one in several", "Give each stratum its own.")
    fewest = int(np.bincount(pairs[:, 1]).min())
    if fewest < 2:
        raise InputError("batches", "must be at least 2 in each stratum", fewest, "Draw more batches.")
    return batches_N


def _checked_labels(name: str, labels: ArrayLike, draws: int) -> NDArray[np.int64]:
    """The labels, one per draw, as numbers from 0."""
    try:
        found = np.asarray(at_most(name, labels, draws) if isinstance(labels, Sequence) else labels)
        _, number_N = np.unique(found, return_inverse=True)
    except (TypeError, ValueError):  # labels without an order, or rows of unequal length
        raise InputError(name, "must be labels of one kind", type(labels).__name__, "Or leave it out.") from None
    if found.shape != (draws,):
        raise InputError(name, f"must be one label per reference, ({draws},)", found.shape, "Or leave it out.")
    return number_N.astype(np.int64)
