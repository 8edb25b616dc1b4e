"""Exposure from a rank: exact if every text of the space has been scored, and otherwise estimated from uniform draws.

The rank of a canary is 1 + the number of other texts that cost no more; its exposure is log2 of the number of texts
minus log2 of the rank. If all texts are scored (`enumeration_exposure`), only the scorer's rounding is uncertain. With
N draws, of which m cost no more (`sampling_exposure`, the paper's "approximation by sampling"), the rank is estimated
as a share and has an interval.

Legend: K canaries, N other texts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.checks import one_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_costs, checked_flags, checked_space_size
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.importance import importance_exposure


def ranks(costs: ArrayLike, competitor_costs: ArrayLike) -> NDArray[np.int64]:
    """The rank of each cost: 1 + the number of competitors that cost no more. Ties count against the canary.

    Args:
        costs: (K,) log-perplexities in bits, lower = likelier.
        competitor_costs: (N,) costs of the other texts of the space, without the canary itself; may be empty.

    Returns:
        (K,) ints from 1 to N + 1, in input order.

    Raises:
        InputError: a cost is NaN or -inf, or an array is not flat.

    Source: Carlini et al., "The Secret Sharer" (USENIX Security 2019), Definition 2, which leaves ties open.

    Example:
        >>> ranks([0.5, 2.0, 9.0], [1.0, 2.0, 2.0, 3.0]).tolist()
        [1, 4, 5]
    """
    costs_K = checked_costs("costs", costs)
    competitors_N = np.sort(checked_costs("competitor_costs", competitor_costs))
    return 1 + np.searchsorted(competitors_N, costs_K, side="right").astype(np.int64)


def exposure_from_rank(rank: int, space_size: int) -> float:
    """`log2 |R'| - log2 rank`, in bits: 0 for the last of the space, `log2 |R'|` for the first.

    Both are Python ints of any size; `10**40` is not converted to a float.

    Args:
        rank: from 1 to `space_size`.
        space_size: number of texts in R', including the canary and excluding the other inserted canaries.

    Raises:
        InputError: the rank is outside 1..space_size, or the size is not an int.

    Source: Carlini et al. 2019, Definition 4.

    Example:
        >>> exposure_from_rank(4, 2**70)
        68.0
    """
    size = checked_space_size(space_size)
    is_number = isinstance(rank, (int, float, np.integer, np.floating)) and not isinstance(rank, bool)
    if not is_number or not 1 <= rank <= size or rank != int(rank):
        raise InputError("rank", f"must lie in 1..{size}", rank, "Count ranks from 1, within the same space.")
    return math.log2(size) - math.log2(int(rank))


def enumeration_exposure(
    costs: ArrayLike,
    competitor_costs: ArrayLike,
    *,
    includes_self: bool | Sequence[bool] | NDArray[np.bool_],
    tolerance_bits: float = 0.0,
) -> list[CostEstimate]:
    """The exact exposure of each cost, given the cost of every text of the space.

    The point estimate is the definition: competitors with a cost `<=` the canary's outrank it. `low_bits` and
    `high_bits` are not a confidence interval, since there is no randomness: they show what a scoring error of up to
    `tolerance_bits` per text, or another rule for ties, could change.

    Args:
        costs: (K,) costs of the canaries, in bits.
        competitor_costs: (N,) costs of the space without the *other inserted* canaries, which do not compete.
        includes_self: whether `competitor_costs` contains the canary's own cost too; one bool, or one per canary.
            Inserted canaries have been removed (False), held-out controls have not (True). If True, the competitor
            with the nearest cost is assumed to be the canary and does not compete with itself.
        tolerance_bits: costs that differ by less than this cannot be distinguished (batched scoring changes them by
            about 1e-5).

    Returns:
        One `CostEstimate` per cost, in input order. `rank_low` is 1 + the number of competitors below `cost -
        tolerance_bits`, `rank_high` is 1 + the number at or below `cost + tolerance_bits`; `low_bits` belongs to
        `rank_high`.

    Raises:
        InputError: a cost is NaN or -inf, the tolerance is negative, or `includes_self` is True and no competitor lies
            within `tolerance_bits` of the canary's cost.

    Example:
        >>> first, last = enumeration_exposure([1.0, 4.0], [2.0, 3.0], includes_self=False)
        >>> first.exposure_bits == np.log2(3), last.exposure_bits, last.rank_high
        (np.True_, 0.0, 3)
    """
    costs_K = checked_costs("costs", costs)
    ordered_N = np.sort(checked_costs("competitor_costs", competitor_costs))
    remedy = "Type 1e-4 for float32 scores."
    tolerance_bits = real_number("tolerance_bits", tolerance_bits, "must be at least 0", remedy, at_least=0.0)
    own_K = checked_flags("includes_self", includes_self, costs_K.size, "Pass True, or one for each cost.")
    nearest_K = _nearest(costs_K, ordered_N, own_K, tolerance_bits)

    def counted(limit_K: FloatArray, side: str) -> NDArray[np.int64]:
        met_K = np.searchsorted(ordered_N, limit_K, side=side)  # type: ignore[call-overload]
        itself = nearest_K < limit_K if side == "left" else nearest_K <= limit_K
        count_K: NDArray[np.int64] = (met_K - (own_K & itself)).astype(np.int64)
        return count_K

    low_K = 1 + counted(costs_K - tolerance_bits, "left")
    rank_K = 1 + counted(costs_K, "right")
    high_K = 1 + counted(costs_K + tolerance_bits, "right")
    sizes_K = ordered_N.size + np.where(own_K, 0, 1)
    return [
        CostEstimate(
            exposure_bits=exposure_from_rank(rank, size),
            low_bits=exposure_from_rank(high, size),
            high_bits=exposure_from_rank(low, size),
            rank_low=low,
            rank_high=high,
            method="enumerate",
            bound="exact",
            note=f"{high - low} texts tie with it and count against it" if high > low else "",
        )
        for low, rank, high, size in zip(
            low_K.tolist(), rank_K.tolist(), high_K.tolist(), sizes_K.tolist(), strict=True
        )
    ]


def _nearest(
    costs_K: FloatArray, ordered_N: FloatArray, own_K: NDArray[np.bool_], tolerance_bits: float
) -> FloatArray:
    """The canary's own cost among `ordered_N` if `own_K`; +inf if it is not among them."""
    nearest_K = np.full(costs_K.shape, np.inf)
    for k in np.flatnonzero(own_K):
        cost = costs_K[k]
        at = int(np.searchsorted(ordered_N, cost, side="right"))
        around = ordered_N[max(at - 1, 0) : at + 1]
        with np.errstate(invalid="ignore"):  # inf - inf, which counts as a tie
            gaps = np.where(around == cost, 0.0, np.abs(around - cost))
        if not around.size or gaps.min() > tolerance_bits:
            raise InputError(
                "includes_self",
                f"the canary's own cost must be among the competitors to within {tolerance_bits} bits",
                f"cost {float(cost)} at position {int(k)}",
                "Pass includes_self=False, or a larger tolerance_bits.",
            )
        nearest_K[k] = around[int(np.argmin(gaps))]
    return nearest_K


Convention = Literal["valid", "tensorflow_privacy"]


def sampling_exposure(
    costs: ArrayLike,
    references: ArrayLike,
    *,
    space_size: int | None = None,
    confidence_level: float = 0.95,
    convention: Convention = "valid",
) -> list[CostEstimate]:
    """Exposure from N uniform draws, m of them at or below the canary's cost: `log2((N + 1)/(m + 1))` bits.

    The canary counts as one of N + 1 draws, which makes the figure valid for a canary that was never inserted:
    `P(exposure >= x) <= 2^-x`. It is `importance_exposure` with equal weights. Ties count against the canary.

    Args:
        costs: (K,) costs of the canaries in bits, lower = likelier.
        references: (N,) costs of independent uniform draws from the space, without the other inserted canaries.
        space_size: |R'|; no figure exceeds `log2 |R'|`. Without it, `high_bits` of a canary below all references is
            inf, since draws alone give no upper limit, and the note says so.
        confidence_level: the level of the Clopper-Pearson interval on the share, which is converted to bits.
        convention: "valid", or "tensorflow_privacy" for `log2 N - log2(m + 1)`, which is what its
            `compute_exposure_interpolation` returns (there in another order, and with arbitrary ties). It is at most
            `log2 N`, and below 0 for a canary that all references outrank. The interval is the same.

    Returns:
        One `CostEstimate` per cost, in input order; with m = 0 the figure is a lower bound (`bound` "lower").

    Raises:
        InputError: a cost is NaN or -inf, there are no references, or the convention is unknown.

    Source: Carlini et al. 2019, Section 4.2 (there m/N); the +1: Phipson and Smyth, "Permutation p-values should never
        be zero", SAGMB 9 (2010).

    Example:
        >>> references = [1, 2, 3, 3, 4, 5, 6, 7]
        >>> [round(e.exposure_bits, 4) for e in sampling_exposure([3.0, 0.0], references)]    # 9/5 and 9/1
        [0.848, 3.1699]
        >>> theirs = sampling_exposure([3.0, 0.0], references, convention="tensorflow_privacy")
        >>> [round(e.exposure_bits, 4) for e in theirs]                                       # 8/5 and 8/1
        [0.6781, 3.0]
    """
    one_of("convention", convention, get_args(Convention), 'Type "valid".')
    estimates = importance_exposure(costs, references, space_size=space_size, confidence_level=confidence_level)
    references_N = checked_costs("references", references)
    points = [estimate.exposure_bits for estimate in estimates]
    if convention == "tensorflow_privacy":
        log2_draws = math.log2(references_N.size)
        points = [log2_draws - math.log2(rank) for rank in ranks(costs, references_N).tolist()]
    return [
        replace(estimate, exposure_bits=bits, method="sample")
        for estimate, bits in zip(estimates, points, strict=True)
    ]
