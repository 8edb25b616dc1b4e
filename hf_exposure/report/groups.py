"""Canaries taken together: one row per repetition count, and one for the held-out controls."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hf_exposure.estimators import control_test
from hf_exposure.records import ExposureEstimate

__all__ = ["RepetitionGroup", "group_by_repetitions"]


@dataclass(frozen=True, kw_only=True)
class RepetitionGroup:
    """The canaries inserted equally often; the controls have 0 repetitions.

    Attributes:
        repetitions: how often each was inserted.
        canaries: how many there are.
        mean_bits, median_bits: of their exposures; NaN where one of them is undefined.
        low_bits, high_bits: Student-t confidence interval of the mean over canaries drawn at random, within
            [0, log2 |R|]; for a single canary, that canary's own interval.
        rank1: how many are certainly the likeliest text of their template.
        lower_bounds: how many of the figures are lower bounds only.
        p_value: one-sided rank test of their log-perplexities against those of the held-out controls (of their
            exposures, where no log-perplexity is given at all); NaN for the controls themselves and without any. With
            many groups, multiply the smallest by their number.
        effective_dose: the mean of theirs; NaN where one is not known.
    """

    repetitions: int
    canaries: int
    mean_bits: float
    median_bits: float
    low_bits: float
    high_bits: float
    rank1: int
    lower_bounds: int
    p_value: float
    effective_dose: float = math.nan


def group_by_repetitions(
    estimates: Iterable[ExposureEstimate], log2_space_size: float, confidence_level: float
) -> tuple[RepetitionGroup, ...]:
    """Groups ascending by repetitions, controls first."""
    members: dict[int, list[ExposureEstimate]] = {}
    for estimate in estimates:
        members.setdefault(estimate.repetitions, []).append(estimate)
    # A published report withholds all log-perplexities: exposures order texts alike.
    withheld = all(math.isnan(estimate.log_perplexity_bits) for group in members.values() for estimate in group)

    def costs(repetitions: int) -> list[float]:
        group = members.get(repetitions, [])
        return [-e.exposure_bits if withheld else e.log_perplexity_bits for e in group]

    return tuple(
        _group(r, members[r], _p_value(costs(r), costs(0)) if r else math.nan, log2_space_size, confidence_level)
        for r in sorted(members)
    )


def _group(
    repetitions: int,
    estimates: list[ExposureEstimate],
    p_value: float,
    log2_space_size: float,
    confidence_level: float,
) -> RepetitionGroup:
    bits = np.array([estimate.exposure_bits for estimate in estimates])
    dose = float(np.mean([estimate.effective_dose for estimate in estimates]))
    low, high = _interval_of_mean(estimates, bits, log2_space_size, confidence_level)
    return RepetitionGroup(
        repetitions=repetitions,
        canaries=len(estimates),
        mean_bits=float(bits.mean()),
        median_bits=float(np.median(bits)),
        low_bits=low,
        high_bits=high,
        rank1=sum(estimate.rank_high == 1 for estimate in estimates),
        lower_bounds=sum(estimate.is_lower_bound for estimate in estimates),
        p_value=p_value,
        # The one NaN that equals itself among the fields of a record.
        effective_dose=math.nan if math.isnan(dose) else dose,
    )


def _p_value(costs: list[float], control_costs: list[float]) -> float:
    # NaN where a measurement failed or nothing was held out: there is nothing to test.
    if not control_costs or np.isnan([*costs, *control_costs]).any():
        return math.nan
    return control_test(costs, control_costs).p_value


def _interval_of_mean(
    estimates: list[ExposureEstimate], bits: np.ndarray, log2_space_size: float, confidence_level: float
) -> tuple[float, float]:
    if len(bits) == 1:
        return estimates[0].low_bits, estimates[0].high_bits
    if np.isnan(bits).any():
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + confidence_level) / 2, len(bits) - 1) * bits.std(ddof=1) / math.sqrt(len(bits)))
    mean = float(bits.mean())
    return max(0.0, mean - half), min(max(log2_space_size, mean), mean + half)
