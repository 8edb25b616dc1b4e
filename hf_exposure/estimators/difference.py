"""How much larger one set of partly known values is than another: limits from relabeling, which are exact for any
sizes.

If two trainings have the same effect on canaries, the labels that say which training a figure came from are
exchangeable. A difference is significant if few relabelings make it as large. This assumes no distribution of
exposures, which are skewed, censored, near chance for some canaries and at the top for others.

Two ways to relabel:

- the same values measured twice (the same canaries under two models): each pair may be swapped, so that the limits are
  quantiles of the means of subsets of the differences (Hartigan, "Using subsample values as typical values", JASA 64,
  1969);
- two samples: any of the values may have come from either side (Fisher and Pitman's permutation test, inverted).

Each value is only known to lie in an interval. A lower limit uses the low ends of the larger side and the high ends of
the smaller side. Of all values within the intervals, these make every relabeling most extreme, so the test is exact
for the worst of them.

Legend: n, m values of the two sides in one stratum, R relabelings, S strata.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.checks import flag, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.limits import LARGEST_SEED

# Up to this many relabelings, all are examined; otherwise this many random ones, including the observed one.
_RELABELINGS = 5000
# Number of random relabelings in memory at a time.
_ROWS = 500

Ends = tuple[ArrayLike, ArrayLike]
"""Low and high ends of the intervals of the values in one stratum."""


def difference_interval(
    more: Sequence[Ends],
    less: Sequence[Ends],
    *,
    paired: bool,
    confidence_level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Limits on how much larger the values of `more` are than those of `less`, with equal weights for strata.

    Args:
        more, less: one pair (low ends, high ends) for each of S strata, in the same order. Ends are finite.
        paired: whether value i of a stratum is the same individual on both sides.
        confidence_level: of the two-sided interval. A low limit above 0 is a one-sided test at half of the remaining
            error.
        seed: the seed of the random relabelings, if there are too many to examine all.

    Returns:
        `low`, `high`; -inf and inf if there are too few values for limits at this level, such as 5 pairs or two
        samples of 3.

    Raises:
        InputError: there are no strata, or they do not match.

    Example (by hand: there are 70 ways to assign eight values, of which only 1 may be as extreme; the least extreme of
    the others swaps 5 and 4):
        >>> difference_interval([([5, 6, 7, 8],) * 2], [([1, 2, 3, 4],) * 2], paired=False)
        (1.0, 7.0)
        >>> difference_interval([([5, 6, 7, 8],) * 2], [([1, 2, 3, 4],) * 2], paired=True)
        (-inf, inf)
    """
    tail = (1.0 - checked_confidence(confidence_level)) / 2.0
    flag("paired", paired)
    whole_number("seed", seed, 0, LARGEST_SEED)
    ours, theirs = _checked("more", more), _checked("less", less)
    sizes = [[low.size for low, _ in side] for side in (ours, theirs)]
    if not ours or len(ours) != len(theirs) or (paired and sizes[0] != sizes[1]):
        rule = "must have the same strata, and the same values in them if they are paired"
        raise InputError("more, less", rule, sizes, "Pass both sides of every stratum.")
    limit = _paired_limit if paired else _two_sample_limit
    low = limit([low for low, _ in ours], [high for _, high in theirs], tail, seed)
    high = -limit([low for low, _ in theirs], [high for _, high in ours], tail, seed)
    return low, high


def _checked(argument: str, side: Sequence[Ends]) -> list[tuple[FloatArray, FloatArray]]:
    if isinstance(side, (str, bytes)) or not isinstance(side, Sequence):
        raise InputError(argument, "must be a list of strata", type(side).__name__, "Write [(low_ends, high_ends)].")
    strata = list(side)
    if not all(isinstance(ends, (Sequence, np.ndarray)) and len(ends) == 2 for ends in strata):
        rule = "must be a list of pairs, the low ends and the high ends of each stratum"
        raise InputError(argument, rule, type(side).__name__, "Write [(low_ends, high_ends)] for one stratum.")
    checked = [(number_array(argument, low), number_array(argument, high)) for low, high in strata]
    for low, high in checked:
        if (
            low.ndim != 1
            or low.shape != high.shape
            or not low.size
            or not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all()
        ):
            rule = "must be two flat lists of equal length for each stratum, low ends first, all finite"
            raise InputError("more, less", rule, (low, high), "Leave empty strata out.")
    return checked


def _limit(thresholds_R: FloatArray, tail: float) -> float:
    """The smallest difference that is not rejected.

    `thresholds_R`: the difference from which on each relabeling is at least as extreme as the observed labels, and
    -inf for the observed labels themselves. A difference is rejected if at most a share `tail` of the relabelings is
    as extreme.
    """
    allowed = math.floor(tail * thresholds_R.size + 1e-9)
    return float(np.partition(thresholds_R, allowed)[allowed])


def _paired_limit(more_Sn: list[FloatArray], less_Sn: list[FloatArray], tail: float, seed: int) -> float:
    weights = np.concatenate([np.full(one.size, 1.0 / (len(more_Sn) * one.size)) for one in more_Sn])
    differences = np.concatenate(more_Sn) - np.concatenate(less_Sn)
    pairs = differences.size
    thresholds = []
    if 2**pairs <= _RELABELINGS:
        swaps: Iterator[NDArray[np.bool_]] = iter([np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1 > 0])
    else:
        generator = np.random.default_rng(seed)
        drawn = (generator.random((_ROWS, pairs)) < 0.5 for _ in range(_RELABELINGS // _ROWS))
        swaps = itertools.chain([np.zeros((1, pairs), dtype=bool)], drawn)
    for swapped in swaps:
        # Swapping some pairs subtracts twice their sum, which is as extreme unless their mean is above 0.
        weight = swapped @ weights
        with np.errstate(invalid="ignore"):
            thresholds.append(np.where(weight > 0.0, swapped @ (weights * differences) / weight, -np.inf))
    return _limit(np.concatenate(thresholds), tail)


def _two_sample_limit(more_Sn: list[FloatArray], less_Sm: list[FloatArray], tail: float, seed: int) -> float:
    sizes = [(a.size, b.size) for a, b in zip(more_Sn, less_Sm, strict=True)]
    # Sorted, so that random relabelings do not depend on the order of a file.
    values = [np.concatenate([np.sort(a), np.sort(b)]) for a, b in zip(more_Sn, less_Sm, strict=True)]
    observed = sum(float(a.mean() - b.mean()) for a, b in zip(more_Sn, less_Sm, strict=True))
    thresholds = []
    for dealt in _deals(sizes, seed):
        # The difference of means of a relabeling, and the share of the observed labels that it keeps.
        difference, kept = np.zeros(len(dealt[0])), np.zeros(len(dealt[0]))
        for (n, m), mine, its_values in zip(sizes, dealt, values, strict=True):
            coefficients = np.where(mine, 1.0 / n, -1.0 / m)
            difference += coefficients @ its_values
            kept += coefficients[:, :n].sum(axis=1)
        moved = len(sizes) - kept
        with np.errstate(divide="ignore", invalid="ignore"):
            thresholds.append(np.where(moved > 1e-9, (observed - difference) / moved, -np.inf))
    return _limit(np.concatenate(thresholds), tail)


def _deals(sizes: list[tuple[int, int]], seed: int) -> Iterator[list[NDArray[np.bool_]]]:
    """Yields blocks of relabelings: for each stratum, an (R, n + m) array of which values are assigned to the first
    side.
    """
    if math.prod(math.comb(n + m, n) for n, m in sizes) <= _RELABELINGS:
        each = [list(itertools.combinations(range(n + m), n)) for n, m in sizes]
        ways = list(itertools.product(*(range(len(one)) for one in each)))
        tables = []
        for (n, m), chosen in zip(sizes, each, strict=True):
            table = np.zeros((len(chosen), n + m), dtype=bool)
            table[np.arange(len(chosen))[:, None], np.array(chosen)] = True
            tables.append(table)
        yield [table[list(places)] for table, places in zip(tables, zip(*ways, strict=True), strict=True)]
        return
    yield [np.arange(n + m)[None, :] < n for n, m in sizes]
    generator = np.random.default_rng(seed)
    for _ in range(_RELABELINGS // _ROWS):
        yield [generator.random((_ROWS, n + m)).argsort(axis=1) < n for n, m in sizes]
