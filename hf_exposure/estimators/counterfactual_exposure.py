"""The exposure that inclusion causes, from many trainings that include each canary by a coin flip.

One run with held-out controls shows how far a canary ranks above its template's other texts. Part of that does not
come from training: "123456789" is likely under any model. Over M runs with a coin for each canary and run, the
exposure without the canary is measured too, and the difference is caused by inclusion.

    caused by canary c      mean exposure over runs with c  -  mean exposure over runs without c
    one run suffices        if the exposures in one run order the canaries as the exposure caused in all others does

How well one run can order canaries depends on two variances. An exposure is the sum of a lasting part of the canary, a
part of the run that all its canaries share, and the chance of this canary in this run:

    exposure(run m, canary c)  =  mean + a_c + r_m + e_mc        reliability of one run = var(a) / (var(a) + var(e))

The reliability is the squared correlation of one run's exposures with the lasting part, and k runs together have k R /
(1 + (k - 1) R) (Spearman, Brown).

Legend: M runs, C canaries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hf_exposure.checks import real_number
from hf_exposure.estimators.arrays import FloatArray, checked_confidence
from hf_exposure.estimators.counterfactual import (
    CounterfactualMemorization,
    checked_runs,
    counterfactual_memorization,
    memorization_intervals,
)

_FEWEST_CANARIES = 3
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class CounterfactualExposure:
    """Exposure with and without inclusion, in bits.

    Attributes:
        caused: the difference for each canary (`caused.memorization_N`), with its limits.
        with_C, without_C: mean exposure over the runs with the canary, and without it; NaN if there is no such run.
            The second has a mean of 1.44 over the draw of secrets.
    """

    caused: CounterfactualMemorization
    with_C: FloatArray
    without_C: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class OneRunAgreement:
    """How well a single run agrees with many.

    Attributes:
        correlation_M: Spearman's rank correlation of the exposures in run m, of the canaries that it included, with
            the exposure that inclusion caused in all other runs; NaN if the run had fewer than 3 such canaries, or all
            are equal.
        error_bits_M: root mean square of the difference of the two, over the same canaries.
        mean, low, high: the mean, the smallest and the largest of the defined correlations.
        runs: the number of defined correlations.
    """

    correlation_M: FloatArray
    error_bits_M: FloatArray
    mean: float
    low: float
    high: float
    runs: int


@dataclass(frozen=True, kw_only=True)
class OneRunReliability:
    """The share of the differences between canaries in one run that is lasting.

    Attributes:
        reliability: from 0 to 1; NaN if it is undefined.
        low, high: its confidence limits, for normal exposures.
        between_bits: standard deviation of the lasting part between canaries.
        within_bits: standard deviation of one canary between runs, without the part that all canaries of a run share.
        canaries, runs, exposures: their numbers; exposures are those of canaries in runs that had them.
        confidence_level: as asked.
        reason: why the figures are NaN; "" otherwise.
    """

    reliability: float
    low: float
    high: float
    between_bits: float
    within_bits: float
    canaries: int
    runs: int
    exposures: int
    confidence_level: float
    reason: str = ""


def counterfactual_exposure(
    exposures_MC: ArrayLike, included_MC: ArrayLike, confidence_level: float = 0.95
) -> CounterfactualExposure:
    """The bits of exposure that inclusion causes, for each canary.

    Args:
        exposures_MC: exposure of canary c under the model of run m, measured whether the run had it or not.
        included_MC: whether run m included canary c.
        confidence_level: two-sided, for each canary separately.

    Raises:
        InputError: the shapes do not match, an exposure is not finite, or the level is impossible.

    Source: the definition of Carlini et al. (2019), section 4.1, under the intervention of Zhang et al. (2021),
        definition 3.1.

    Example (by hand: the first canary has 20 and 18 bits with, 1 and 3 without; the second is likely anyway):
        >>> found = counterfactual_exposure([[20, 9], [18, 8], [1, 9], [3, 8]], [[1, 1], [1, 1], [0, 0], [0, 0]])
        >>> found.caused.memorization_N.tolist(), found.without_C.tolist()
        ([17.0, 0.0], [2.0, 8.5])
    """
    exposures_MC, included_MC = checked_runs(exposures_MC, included_MC, argument="exposures_MC")
    sides = []
    for side_MC in (included_MC, ~included_MC):
        count_C = side_MC.sum(0)
        sum_C = np.where(side_MC, exposures_MC, 0.0).sum(0)
        sides.append(np.where(count_C > 0, sum_C / np.maximum(count_C, 1), np.nan))
    caused = memorization_intervals(exposures_MC, included_MC, confidence_level)
    return CounterfactualExposure(caused=caused, with_C=sides[0], without_C=sides[1])


def one_run_agreement(exposures_MC: ArrayLike, included_MC: ArrayLike) -> OneRunAgreement:
    """Whether one run suffices: each run's exposures compared with the exposure that inclusion caused in all other
    runs.

    Args:
        exposures_MC, included_MC: as for `counterfactual_exposure`.

    Raises:
        InputError: as for `counterfactual_exposure`.

    Example (three canaries that every run with them puts in the same order):
        >>> included = [[1, 1, 1], [0, 0, 0]] * 4
        >>> exposures = [[4, 9, 16], [1, 2, 1]] * 4
        >>> found = one_run_agreement(exposures, included)
        >>> found.mean, found.runs
        (1.0, 4)
    """
    exposures_MC, included_MC = checked_runs(exposures_MC, included_MC, argument="exposures_MC")
    correlation_M, error_M = np.full(len(exposures_MC), np.nan), np.full(len(exposures_MC), np.nan)
    for run in range(len(exposures_MC)):
        others_M = np.arange(len(exposures_MC)) != run
        if not others_M.any():
            break
        caused_C = counterfactual_memorization(exposures_MC[others_M], included_MC[others_M])
        used_C = included_MC[run] & ~np.isnan(caused_C)
        one_c, all_c = exposures_MC[run, used_C], caused_C[used_C]
        if one_c.size >= _FEWEST_CANARIES and np.ptp(one_c) and np.ptp(all_c):
            correlation_M[run] = stats.spearmanr(one_c, all_c).statistic
            error_M[run] = math.sqrt(float(((one_c - all_c) ** 2).mean()))
    defined = correlation_M[~np.isnan(correlation_M)]
    mean, low, high = (defined.mean(), defined.min(), defined.max()) if defined.size else (math.nan,) * 3
    return OneRunAgreement(
        correlation_M=correlation_M,
        error_bits_M=error_M,
        mean=float(mean),
        low=float(low),
        high=float(high),
        runs=int(defined.size),
    )


def one_run_reliability(
    exposures_MC: ArrayLike, included_MC: ArrayLike, confidence_level: float = 0.95
) -> OneRunReliability:
    """Whether one run suffices to distinguish canaries: the lasting share of the variance of their exposures.

    Only exposures of canaries in runs that had them are used. Canaries of different repetition counts differ by their
    counts: pass those of one count to learn what one run reveals about a canary beyond its count.

    Args:
        exposures_MC, included_MC: as for `counterfactual_exposure`.
        confidence_level: two-sided. The limits are exact for normal exposures if every run has every canary, and
            approximate otherwise.

    Returns:
        `OneRunReliability`; NaN with the reason if there are too few exposures to estimate the chance of a run, or if
        all exposures within each run are equal, as at a ceiling.

    Raises:
        InputError: as for `counterfactual_exposure`.

    Source: Henderson, Biometrics 9 (1953), method 3, for the variances; Searle, Casella and McCulloch, Variance
        Components (1992), section 3.6, for the limits; Shrout and Fleiss, Psychological Bulletin 86 (1979), ICC(3, 1).

    Example (two canaries in two runs, by hand: they differ by 4 and by 6, so that var(e) = var(4, 6) / 2 = 1; their
    means differ by 5, and half the square of that minus var(e) / 2 is var(a) = 12):
        >>> found = one_run_reliability([[1, 5], [2, 8]], [[1, 1], [1, 1]])
        >>> round(found.within_bits**2, 6), round(found.between_bits**2, 6), round(found.reliability, 4)
        (1.0, 12.0, 0.9231)
    """
    exposures_MC, included_MC = checked_runs(exposures_MC, included_MC, argument="exposures_MC")
    level = checked_confidence(confidence_level)
    run_n, canary_n = np.nonzero(included_MC)
    value_n = exposures_MC[run_n, canary_n]
    runs, canaries = np.unique(run_n).size, np.unique(canary_n).size
    counts: dict[str, Any] = {"canaries": canaries, "runs": runs, "exposures": value_n.size, "confidence_level": level}
    of_run_nM = (run_n[:, None] == np.unique(run_n)).astype(np.float64)
    of_canary_nC = (canary_n[:, None] == np.unique(canary_n)).astype(np.float64)
    both = np.concatenate([of_run_nM, of_canary_nC], axis=1)
    rank = int(np.linalg.matrix_rank(both)) if value_n.size else 0
    free, between_free = value_n.size - rank, rank - runs
    if between_free < 1 or free < 1:
        return _unreliable("too few exposures: two canaries that two runs had, at least", counts)
    residual_n = value_n - both @ np.linalg.lstsq(both, value_n, rcond=None)[0]
    within = float(residual_n @ residual_n) / free
    # The remainder after subtracting each run's mean, and how much of it the canaries explain.
    run_mean_M = (of_run_nM.T @ value_n) / of_run_nM.sum(0)
    centered_n = value_n - of_run_nM @ run_mean_M
    explained = max(float(centered_n @ centered_n - residual_n @ residual_n), 0.0)
    if float(centered_n @ centered_n) <= _ROUNDING * max(float(value_n @ value_n), 1.0):
        return _unreliable("all canaries of a run have the same exposure", counts)
    weight = (value_n.size - runs) / between_free
    between = max((explained / between_free - within) / weight, 0.0)
    if within <= _ROUNDING * explained:
        low = high = 1.0
    else:
        ratio, tail = explained / between_free / within, (1.0 - level) / 2.0
        ends = (stats.f.isf(tail, between_free, free), stats.f.ppf(tail, between_free, free))
        odds = [max(ratio / end - 1.0, 0.0) / weight for end in ends]
        low, high = (float(value / (1.0 + value)) for value in odds)
    return OneRunReliability(
        reliability=between / (between + within),
        low=low,
        high=high,
        between_bits=math.sqrt(between),
        within_bits=math.sqrt(within),
        **counts,
    )


def runs_for_reliability(found: OneRunReliability, target: float = 0.8) -> int | None:
    """The number of runs with a canary whose average reaches a reliability; None if one run reveals nothing about it.

    Args:
        found: the result of `one_run_reliability`.
        target: strictly between 0 and 1. A reliability of 0.8 is a correlation of 0.89 with the lasting part.

    Raises:
        InputError: the target is impossible.

    Source: Spearman and Brown, British Journal of Psychology 3 (1910).

    Example (by hand: 0.95 / 0.05 * (1 / 13) / (12 / 13) = 1.58):
        >>> found = one_run_reliability([[1, 5], [2, 8]], [[1, 1], [1, 1]])
        >>> runs_for_reliability(found), runs_for_reliability(found, 0.95)
        (1, 2)
    """
    goal = real_number("target", target, "must lie strictly between 0 and 1", "Type 0.8.", above=0.0, below=1.0)
    share = found.reliability
    if math.isnan(share) or share <= 0.0:
        return None
    return max(1, math.ceil(goal * (1.0 - share) / (share * (1.0 - goal)) - _ROUNDING))


def _unreliable(reason: str, counts: dict[str, Any]) -> OneRunReliability:
    nan = math.nan
    return OneRunReliability(
        reliability=nan, low=nan, high=nan, between_bits=nan, within_bits=nan, reason=reason, **counts
    )
