"""Two checkpoints of one run: did the canaries' exposure change between them, and with what certainty?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_exposure.checks import instance_of, one_of, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators import difference_interval, paired_p_value
from hf_exposure.estimators.paired_test import Alternative
from hf_exposure.fields import plain
from hf_exposure.records.exposure_report import ExposureReport

_REMEDY = "Pass two of callback.reports, or two measurements of one canary set."


@dataclass(frozen=True, kw_only=True)
class ExposureChange:
    """How the exposure of the same canaries changed between two measurements of one run.

    Attributes:
        earlier_step, later_step: steps of the training; None if a report does not record its step.
        repetitions: the repetition count compared; None for all inserted canaries.
        canaries: the number of canaries compared.
        mean_bits: mean of later minus earlier exposures; NaN if any is undefined.
        low_bits, high_bits: limits on the mean, from the interval of each exposure (`difference_interval`, paired);
            infinite for fewer than 5 canaries, and where exposures are extrapolated.
        p_value: of the sign-flip test on the estimates (`paired_p_value`).
        alternative: the alternative hypothesis of the test.
    """

    earlier_step: int | None
    later_step: int | None
    repetitions: int | None
    canaries: int
    mean_bits: float
    low_bits: float
    high_bits: float
    p_value: float
    alternative: Alternative

    def __str__(self) -> str:
        """The change in one sentence."""
        steps = f"from step {self.earlier_step} to step {self.later_step}"
        limits = f" [{self.low_bits:.1f}, {self.high_bits:.1f}]" if math.isfinite(self.low_bits) else ""
        who = f"{self.canaries} canar{'y' if self.canaries == 1 else 'ies'}"
        times = "" if self.repetitions is None else f" inserted {self.repetitions}×"
        return f"{who}{times}: {self.mean_bits:+.1f} bits{limits} {steps}, p = {self.p_value:.2g} ({self.alternative})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for figures that are not finite."""
        values: dict[str, Any] = plain(vars(self))
        return values


def exposure_change(
    earlier: ExposureReport,
    later: ExposureReport,
    *,
    repetitions: int | None = None,
    alternative: Alternative = "two-sided",
) -> ExposureChange:
    """Compares two measurements of one run, canary by canary.

    The p-value concerns the canaries of this run. It needs several of them: with N canaries it is at least 2^-N (twice
    that, two-sided). It is too small if the checkpoints were chosen after looking at the curve (its peak, say).

    Args:
        earlier, later: reports of the same canaries, such as two of `callback.reports`.
        repetitions: only the canaries inserted that often.
        alternative: "less" asks whether exposure fell, "greater" whether it rose.

    Raises:
        InputError: the reports have different canaries or templates, or no canary has that repetition count.

    Source: Carlini et al. 2019, Section 7.2 (epoch 10 against epoch 40).

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> def measured(step, *bits):
        ...     estimates = tuple(ExposureEstimate(canary_id=str(n), repetitions=1, log_perplexity_bits=20.0,
        ...         exposure_bits=b, low_bits=b, high_bits=b, method="enumerate") for n, b in enumerate(bits))
        ...     return ExposureReport(estimates=estimates, template="pin {pin}", spaces={"pin": "digits:4"},
        ...         space_size=10**4, manifest_hash="a", settings={"confidence_level": 0.95}, step=step)
        >>> print(exposure_change(measured(10, 9, 8, 7, 9), measured(40, 7, 7, 6, 5), alternative="less"))
        4 canaries: -2.0 bits from step 10 to step 40, p = 0.062 (less)
    """
    for name, report in (("earlier", earlier), ("later", later)):
        instance_of(name, report, ExposureReport, _REMEDY)
    if repetitions is not None:
        repetitions = whole_number("repetitions", repetitions, 1)
    one_of("alternative", alternative, ["two-sided", "greater", "less"], "Use 'less' for a fall.")
    if earlier.manifest_hash != later.manifest_hash or earlier.template != later.template:
        raise InputError("later", "must be measured on the canaries of the earlier report", "others", _REMEDY)
    wanted = [e for e in earlier.inserted if repetitions is None or e.repetitions == repetitions]
    found = {e.canary_id: e for e in later.inserted}
    if not wanted or any(e.canary_id not in found for e in wanted):
        received = "no canary" if not wanted else "other canaries"
        raise InputError("repetitions", "must be a count that both reports have", received, _REMEDY)
    pairs = [(e, found[e.canary_id]) for e in wanted]
    before = [one.exposure_bits for one, _ in pairs]
    after = [other.exposure_bits for _, other in pairs]
    low, high = difference_interval(
        [_ends(later, [other for _, other in pairs])],
        [_ends(earlier, [one for one, _ in pairs])],
        paired=True,
        confidence_level=float(later.settings["confidence_level"]),
    )
    return ExposureChange(
        earlier_step=earlier.step,
        later_step=later.step,
        repetitions=repetitions,
        canaries=len(pairs),
        mean_bits=float(np.mean(after) - np.mean(before)),
        low_bits=low,
        high_bits=high,
        p_value=paired_p_value(before, after, alternative=alternative),
        alternative=alternative,
    )


def report_at(history: Sequence[ExposureReport], step: int) -> ExposureReport:
    """The measurement of a run at a step.

    Raises:
        InputError: nothing was measured at that step; the message names the measured steps.
    """
    for report in history:
        if report.step == step:
            return report
    steps = [report.step for report in history]
    raise InputError("between", "must be steps at which the run was measured", step, f"Choose two of {steps}.")


def _ends(report: ExposureReport, estimates: Sequence[Any]) -> tuple[list[float], list[float]]:
    known = [estimate.known_bits(report.log2_space_size) for estimate in estimates]
    return [low for low, _ in known], [high for _, high in known]
