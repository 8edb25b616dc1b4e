"""Groups of canaries: one for each repetition count, and one for the held-out controls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hf_exposure.estimators import (
    RankEpsilon,
    RocCurve,
    TruePositiveRate,
    clopper_pearson_low,
    control_test,
    mean_interval,
    roc_curve,
    tpr_at_fpr,
)
from hf_exposure.estimators.estimate import Bound, weakest_bound
from hf_exposure.records.estimates import ExposureEstimate

# With fewer canaries, a valid interval for the mean covers nearly all of [0, log2 |R|].
FEWEST_FOR_AN_INTERVAL = 8
# False-positive rates at which true-positive rates are given: 32 controls suffice for the first, 100 for the second.
FALSE_POSITIVE_RATES = (0.1, 0.01)


@dataclass(frozen=True, kw_only=True)
class RepetitionGroup:
    """The canaries inserted equally often; the controls have 0 repetitions.

    Attributes:
        repetitions: how often each was inserted.
        estimates: the estimates of its canaries, in the report's order.
        log2_space_size: the largest possible exposure.
        confidence_level: the level of `low_bits`, `high_bits` and `rank1_share_low`.
        p_value: one-sided rank test of their log-perplexities against those of the held-out controls (of their
            exposures, if the report has no log-perplexities); NaN for the controls themselves and without controls. It
            is for this group alone; tables and headlines show `corrected_p_value`.
        tested_groups: the number of groups that are tested against the controls.
        costs, control_costs: the values compared: log-perplexities, or negative exposures if the report has no
            log-perplexities.
        rank_epsilon: the bound on epsilon of differential privacy from the ranks of its canaries; None for the
            controls, and if `ExposureReport.why_no_rank_epsilon` gives a reason.
    """

    repetitions: int
    estimates: tuple[ExposureEstimate, ...]
    log2_space_size: float
    confidence_level: float
    p_value: float
    tested_groups: int
    costs: tuple[float, ...] = ()
    control_costs: tuple[float, ...] = ()
    rank_epsilon: RankEpsilon | None = None

    @property
    def canaries(self) -> int:
        """The number of canaries."""
        return len(self.estimates)

    @property
    def mean_bits(self) -> float:
        """The mean of their exposures; NaN if any is undefined. If some are lower bounds, so is the mean."""
        return float(np.mean([estimate.exposure_bits for estimate in self.estimates]))

    @property
    def median_bits(self) -> float:
        """The median of their exposures; NaN if any is undefined."""
        return float(np.median([estimate.exposure_bits for estimate in self.estimates]))

    @property
    def low_bits(self) -> float:
        """Low end of the interval of the mean; see `interval_bits`."""
        return self.interval_bits[0]

    @property
    def high_bits(self) -> float:
        """High end of the interval of the mean; see `interval_bits`."""
        return self.interval_bits[1]

    @cached_property
    def interval_bits(self) -> tuple[float, float]:
        """Confidence interval of the mean exposure of canaries drawn at random and inserted that often.

        It is Gaffke's (`hf_exposure.estimators.intervals`), which is valid for skewed and censored values, applied to
        the ends of each canary's interval. NaN with fewer than 8 canaries, which should be read one by one, and if any
        is undefined or extrapolated.
        """
        known = [estimate.known_bits(self.log2_space_size) for estimate in self.estimates]
        if self.is_small or self.bound in ("extrapolated", "undefined") or self.log2_space_size == 0:
            return math.nan, math.nan
        low_ends, high_ends = zip(*known, strict=True)
        return mean_interval(low_ends, high_ends, self.log2_space_size, self.confidence_level)

    @property
    def is_small(self) -> bool:
        """Whether it is too small for an interval of its mean; then every canary's exposure is shown."""
        return self.canaries < FEWEST_FOR_AN_INTERVAL

    @property
    def bound(self) -> Bound:
        """The kind of the mean: that of its weakest member."""
        return weakest_bound(estimate.bound for estimate in self.estimates)

    @property
    def rank1(self) -> int:
        """The number of canaries that are certainly the likeliest text of their template."""
        return sum(estimate.rank_high == 1 for estimate in self.estimates)

    @property
    def rank1_share_low(self) -> float:
        """One-sided lower confidence limit on the share of canaries inserted that often that rank first."""
        return clopper_pearson_low(self.rank1, self.canaries, self.confidence_level)

    @property
    def lower_bounds(self) -> int:
        """The number of figures that are only lower bounds."""
        return sum(estimate.bound == "lower" for estimate in self.estimates)

    @property
    def corrected_p_value(self) -> float:
        """`p_value` times the number of groups tested, at most 1 (Bonferroni); NaN if there is none."""
        return min(1.0, self.tested_groups * self.p_value) if math.isfinite(self.p_value) else math.nan

    @property
    def _has_rates(self) -> bool:
        compared = [*self.costs, *self.control_costs]
        return bool(self.costs and self.control_costs) and not np.isnan(compared).any()

    @cached_property
    def tpr(self) -> Mapping[float, TruePositiveRate]:
        """The share of its canaries beyond the controls' threshold, by false-positive rate (10 % and 1 %).

        Empty for the controls themselves, without controls, and if a log-perplexity is undefined.
        """
        if not self._has_rates:
            return {}
        scores, of_controls = -np.array(self.costs), -np.array(self.control_costs)
        return {fpr: tpr_at_fpr(scores, of_controls, fpr, self.confidence_level) for fpr in FALSE_POSITIVE_RATES}

    @cached_property
    def roc(self) -> RocCurve | None:
        """True- against false-positive rates of its canaries and the controls; None if `tpr` is empty."""
        if not self._has_rates:
            return None
        return roc_curve(-np.array(self.costs), -np.array(self.control_costs), self.confidence_level)

    @property
    def effective_dose(self) -> float:
        """How often the model was trained on them, on average; NaN if unknown for any."""
        return float(np.mean([estimate.effective_dose for estimate in self.estimates]))


def table_order(repetitions: int) -> tuple[bool, int]:
    """The key that sorts repetition counts as tables show them: ascending, and held-out controls last.

    Example:
        >>> sorted([8, 0, 1], key=table_order)
        [1, 8, 0]
    """
    return repetitions == 0, repetitions


def in_table_order(groups: Iterable[RepetitionGroup]) -> list[RepetitionGroup]:
    """The groups in the order of tables."""
    return sorted(groups, key=lambda group: table_order(group.repetitions))


def group_by_repetitions(
    estimates: Iterable[ExposureEstimate],
    log2_space_size: float,
    confidence_level: float,
    rank_epsilons: Mapping[int, RankEpsilon] | None = None,
) -> tuple[RepetitionGroup, ...]:
    """The groups, ascending by repetitions, with controls first; `rank_epsilons` are by repetitions, if there are
    any.
    """
    members: dict[int, list[ExposureEstimate]] = {}
    for estimate in estimates:
        members.setdefault(estimate.repetitions, []).append(estimate)
    # A published report withholds all log-perplexities; exposures give the same order.
    withheld = all(math.isnan(estimate.log_perplexity_bits) for group in members.values() for estimate in group)

    def costs(repetitions: int) -> list[float]:
        group = members.get(repetitions, [])
        return [-e.exposure_bits if withheld else e.log_perplexity_bits for e in group]

    return tuple(
        RepetitionGroup(
            repetitions=r,
            estimates=tuple(members[r]),
            log2_space_size=log2_space_size,
            confidence_level=confidence_level,
            p_value=_p_value(costs(r), costs(0)) if r else math.nan,
            tested_groups=sum(count > 0 for count in members),
            costs=tuple(costs(r)) if r else (),
            control_costs=tuple(costs(0)) if r else (),
            rank_epsilon=(rank_epsilons or {}).get(r),
        )
        for r in sorted(members)
    )


def _p_value(costs: list[float], control_costs: list[float]) -> float:
    # NaN if a measurement failed or nothing was held out, since there is nothing to test.
    if not control_costs or np.isnan([*costs, *control_costs]).any():
        return math.nan
    return control_test(costs, control_costs).p_value
