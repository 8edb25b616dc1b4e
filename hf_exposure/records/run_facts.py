"""The facts that identify a run (time, call, weights and threshold), and its outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from hf_exposure.fields import Real, Values
from hf_exposure.records.validity import Validity

if TYPE_CHECKING:
    from hf_exposure.records.exposure_report import ExposureReport


class Outcome(StrEnum):
    """The outcome of a run as a test, in one word."""

    PASS = "pass"
    """The canaries were trained on, as far as known, and their exposure is within the threshold."""
    FAIL = "fail"
    """The exposure is above the threshold, undefined, or was not measured on any inserted canary."""
    INVALID = "invalid"
    """At least one inserted canary was not trained on: the figures say nothing."""
    NO_THRESHOLD = "no threshold"
    """No threshold was set."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The facts that identify one measurement, for a report that is filed.

    Attributes:
        name: the name of the run; "" if it has none.
        measured_at: date and time at the start of the measurement, in UTC (ISO 8601).
        command: the command that was typed, quoted for a shell; "" for a measurement by a call in Python.
        arguments: arguments of the callback and of the training that it measured; empty for a single measurement.
        weights_sha256: hash of the measured weights (`weights_sha256`); None if they were not hashed: before the last
            step of a training, and if the weights are spread over processes or devices.
        threshold_bits: the largest acceptable exposure; None if no threshold was set.
        threshold_of: the figure that the threshold applies to: the mean of the canaries of each repetition count
            ("each count", `--fail-above`), or that of all inserted canaries ("all inserted", `max_exposure`).
    """

    name: str = ""
    measured_at: str = ""
    command: str = ""
    arguments: Values = field(default_factory=dict)
    weights_sha256: str | None = None
    threshold_bits: Real | None = None
    threshold_of: Literal["each count", "all inserted"] = "each count"


def outcome_of(report: ExposureReport) -> Outcome:
    """The outcome of a report under the threshold in its facts.

    An undefined figure counts as above the threshold, since nothing was measured that could pass.

    Example:
        >>> from hf_exposure.records import ExposureEstimate, ExposureReport
        >>> row = ExposureEstimate(canary_id="8f02", repetitions=4, log_perplexity_bits=33.1, exposure_bits=11.2,
        ...     low_bits=11.2, high_bits=11.2, method="enumerate")
        >>> def report(bits):
        ...     return ExposureReport(estimates=(row,), template="pin {pin}", spaces={}, space_size=10**6,
        ...         manifest_hash="", settings={"confidence_level": 0.95}, run=RunFacts(threshold_bits=bits))
        >>> [report(bits).outcome.value for bits in (None, 4.0, 12.0)]
        ['no threshold', 'fail', 'pass']
    """
    if report.validity is Validity.INVALID:
        return Outcome.INVALID
    if report.run is None or report.run.threshold_bits is None:
        return Outcome.NO_THRESHOLD
    if report.run.threshold_of == "all inserted":
        means = [highest_mean_bits(report)]
    else:
        means = [group.mean_bits for group in report.groups if group.repetitions] or [math.nan]
    return Outcome.PASS if all(mean <= report.run.threshold_bits for mean in means) else Outcome.FAIL


def highest_mean_bits(report: ExposureReport) -> float:
    """The mean exposure of the inserted canaries, with the upper end of the interval for lower bounds.

    A lower bound within the limit does not show that the exposure is within it. NaN if no canary was inserted.
    """
    bits = [one.high_bits if one.is_lower_bound else one.exposure_bits for one in report.inserted]
    return sum(map(float, bits)) / len(bits) if bits else math.nan
