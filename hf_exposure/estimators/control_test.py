"""Is there any memorization? A rank test of inserted canaries against held-out controls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import mannwhitneyu, rankdata

from hf_exposure.estimators.arrays import FloatArray, checked_confidence, checked_costs

# Up to this many canaries and controls together, all relabelings are counted, which takes under half a second.
COUNTED_UP_TO = 150


@dataclass(frozen=True, kw_only=True)
class ControlTest:
    """Inserted canaries compared with controls.

    Attributes:
        p_value: one-sided: the probability that a random relabeling makes the inserted canaries at least this likely.
        auc: `P(inserted < control) + P(tie) / 2`: 0.5 means no difference, 1 that each inserted canary is likelier
            than each control.
        auc_low, auc_high: its two-sided confidence interval.
        confidence_level: the level of that interval.
        inserted_count, control_count: sizes of the two groups.
        p_value_method: "exact" or "asymptotic".
    """

    p_value: float
    auc: float
    auc_low: float
    auc_high: float
    confidence_level: float
    inserted_count: int
    control_count: int
    p_value_method: str


def control_test(
    inserted_costs: ArrayLike, control_costs: ArrayLike, *, confidence_level: float = 0.95
) -> ControlTest:
    """Are inserted canaries likelier to the model than canaries of the same template that it never saw?

    The one-sided Wilcoxon-Mann-Whitney test. Up to 150 costs in all the p-value is exact, ties included: it counts all
    ways to assign the costs to the two groups, with equal ranks for ties. For more costs, it is the normal
    approximation with corrections for ties and continuity. The smallest possible p-value is 1 over the number of ways,
    so one inserted canary and 32 controls cannot go below 1/33.

    The interval on the AUC inverts the score test with Hanley and McNeil's variance, taken at the tested AUC rather
    than the observed one. It stays within [0, 1]; at complete separation its width is positive and shrinks as counts
    grow.

    Args:
        inserted_costs: (n,) costs in bits, lower = likelier; +inf allowed.
        control_costs: (m,) costs of held-out controls.
        confidence_level: the level of the interval on the AUC.

    Returns:
        `ControlTest`.

    Raises:
        InputError: a group is empty, or a cost is NaN or -inf.

    Source: Mann and Whitney, Ann. Math. Stat. 18 (1947); Hanley and McNeil, Radiology 143 (1982); the interval is
        method 5 of Newcombe, Stat. Med. 25 (2006) 559-573. Its 95 % interval contained the truth in 95.3 to 96.8 % of
        4,000 draws of normal costs, 4 to 40 canaries against 4 to 32 controls, AUC 0.5 to 0.96.

    Example (1 of the 6 ways to assign 4 costs is as extreme):
        >>> result = control_test([1.0, 2.0], [3.0, 4.0])
        >>> round(result.p_value, 6), result.auc, round(result.auc_low, 2), result.auc_high
        (0.166667, 1.0, 0.39, 1.0)
    """
    inserted_n = checked_costs("inserted_costs", inserted_costs, smallest_count=1)
    control_m = checked_costs("control_costs", control_costs, smallest_count=1)
    level = checked_confidence(confidence_level)
    n, m = inserted_n.size, control_m.size
    midranks = rankdata(np.concatenate([inserted_n, control_m]))
    # The rank sum counts, for each inserted canary, the inserted ones before it too: n (n + 1) / 2 in all.
    wins = n * m + n * (n + 1) / 2 - float(midranks[:n].sum())
    auc = wins / (n * m)
    if n + m <= COUNTED_UP_TO:
        p_value, method = _counted_p_value(midranks, n), "exact"
    else:
        p_value, method = (
            float(mannwhitneyu(inserted_n, control_m, alternative="less", method="asymptotic").pvalue),
            "asymptotic",
        )
    low, high = auc_limits(auc, n, m, level)
    return ControlTest(
        p_value=p_value,
        auc=auc,
        auc_low=low,
        auc_high=high,
        confidence_level=level,
        inserted_count=n,
        control_count=m,
        p_value_method=method,
    )


def _counted_p_value(midranks: FloatArray, n: int) -> float:
    """The share of all choices of n of the midranks whose sum is at most that of the first n."""
    doubled = np.rint(2.0 * midranks).astype(np.int64)
    chosen = doubled[:n]
    if 2 * n > doubled.size:
        # The smaller group decides as well: its sum is as small with ranks counted from the other end.
        doubled = 2 * (doubled.size + 1) - doubled
        chosen = doubled[n:]
    ways_S = _ways_by_sum(tuple(np.sort(doubled).tolist()), chosen.size)
    return float(ways_S[: int(chosen.sum()) + 1].sum() / math.comb(doubled.size, chosen.size))


# Without ties, the ranks of a training's measurements are always the same.
@lru_cache(maxsize=8)
def _ways_by_sum(ascending: tuple[int, ...], dealt: int) -> FloatArray:
    """The number of choices of `dealt` of the ranks for each sum from 0 on.

    `ways[j, s]` is the number of choices of j ranks, among those seen so far, that sum to s. At most 150 ranks have
    9e43 choices, which a float64 can hold.
    """
    ways = np.zeros((dealt + 1, sum(ascending[len(ascending) - dealt :]) + 1))
    ways[0, 0] = 1.0
    for seen, rank in enumerate(ascending, start=1):
        # `top` is the largest possible sum so far, and enough ranks must remain to complete each choice.
        top = sum(ascending[max(0, seen - dealt) : seen])
        # In descending order, so that no rank is used twice.
        for j in range(min(seen, dealt), max(0, dealt - len(ascending) + seen - 1), -1):
            ways[j, rank : top + 1] += ways[j - 1, : top + 1 - rank]
    of_all: FloatArray = ways[dealt].copy()  # without the rest, which would be kept as well
    return of_all


def auc_limits(auc: float, n: int, m: int, confidence_level: float) -> tuple[float, float]:
    """Limits of the AUCs that a two-sided score test at this level does not reject."""
    z = float(ndtri(0.5 + 0.5 * confidence_level))
    half = 0.5 * (n + m) - 1.0

    def error(value: float) -> float:
        spread = 1.0 + half * ((1.0 - value) / (2.0 - value) + value / (1.0 + value))
        return z * math.sqrt(max(value * (1.0 - value), 0.0) * spread / (n * m))

    # At complete separation, the observed AUC is a meaningless root too, so search strictly inside the interval.
    inside = 1.0 - 1e-12
    low = 0.0 if auc == 0.0 else brentq(lambda value: auc - value - error(value), 0.0, auc * inside)
    high = 1.0 if auc == 1.0 else brentq(lambda value: value - auc - error(value), 1.0 - (1.0 - auc) * inside, 1.0)
    return float(low), float(high)
