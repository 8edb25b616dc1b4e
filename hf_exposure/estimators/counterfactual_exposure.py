"""The exposure that inclusion causes: canaries that coins put into some of many trainings and left out of others.

One run with held-out controls tells how far a canary ranks above its template's other texts. That contains what the
canary would rank without ever having been trained on: "123456789" is likely under any model. Over M runs with a coin
for each canary and run, the exposure without it is measured too, and the difference is what inclusion caused.

    caused by canary c      mean exposure over runs with c  -  mean exposure over runs without c
    one run suffices        where the exposures in one run order the canaries as the exposure caused in all others does

Legend: M runs, C canaries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.estimators.counterfactual import (
    CounterfactualMemorization,
    checked_runs,
    counterfactual_memorization,
    memorization_intervals,
)

_FEWEST_CANARIES = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class CounterfactualExposure:
    """Exposure with and without inclusion, in bits.

    Attributes:
        caused: the difference for each canary, with its limits: `caused.memorization_N`, one for each canary.
        with_C, without_C: mean exposure over the runs with the canary, and without it; NaN of no run. Over the draw of
            secrets the second has a mean of 1.44.
    """

    caused: CounterfactualMemorization
    with_C: FloatArray
    without_C: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class OneRunAgreement:
    """How far a single run tells what many tell.

    Attributes:
        correlation_M: Spearman's rank correlation, in run m, of the exposures of the canaries that it had with what
            inclusion caused in all other runs; NaN where the run had fewer than 3 such canaries, or all are alike.
        error_bits_M: root mean square of the difference of the two, over the same canaries.
        mean, low, high: of the correlations that are defined: their mean, and the least and the greatest.
        runs: how many are defined.
    """

    correlation_M: FloatArray
    error_bits_M: FloatArray
    mean: float
    low: float
    high: float
    runs: int


def counterfactual_exposure(
    exposures_MC: ArrayLike, included_MC: ArrayLike, confidence_level: float = 0.95
) -> CounterfactualExposure:
    """How many bits of exposure inclusion causes, for each canary.

    Args:
        exposures_MC: exposure of canary c under the model of run m, measured whether the run had it or not.
        included_MC: whether it had.
        confidence_level: two-sided, for each canary by itself.

    Raises:
        InputError: shapes that do not match, exposures that are not finite, an impossible level.

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
    """When does one run suffice: each run's exposures against what inclusion caused in all other runs.

    Args:
        exposures_MC, included_MC: as for `counterfactual_exposure`.

    Raises:
        InputError: as for `counterfactual_exposure`.

    Example (three canaries that every run with them orders alike):
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
