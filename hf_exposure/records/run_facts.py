"""What identifies a run: when, by which call, of which weights, under which threshold; and how it came out."""

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
    """How a run came out as a test, in one word."""

    PASS = "pass"
    """The canaries were trained on, as far as is known, and their exposure is within the threshold."""
    FAIL = "fail"
    """The exposure is above the threshold, undefined, or was not measured on any inserted canary."""
    INVALID = "invalid"
    """At least one inserted canary was not trained on: the figures say nothing."""
    NO_THRESHOLD = "no threshold"
    """Nobody said how much exposure is too much."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What identifies one measurement, for a report that is filed.

    Attributes:
        name: of the run; "" where it has none.
        measured_at: date and time at the start of the measurement, in UTC (ISO 8601).
        command: what was typed, quoted for a shell; "" for a measurement by a call in Python.
        arguments: of the callback and of the training that it measured; empty for a single measurement.
        weights_sha256: hash of the weights that were measured (`weights_sha256`); None where they were not hashed:
            before the last step of a training, and where processes or devices hold parts of them.
        threshold_bits: how much exposure is too much; None where nobody said.
        threshold_of: what the threshold is for: the mean of the canaries of each repetition count ("each count",
            `--fail-above`), or that of all inserted canaries ("all inserted", `max_exposure`).
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

    A figure that is undefined counts as above the threshold: a gate must not open on what was not measured.

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
    """The mean exposure of the inserted canaries, with the top of its interval for a figure that is a lower bound.

    A lower bound within the limit does not show that the exposure is. NaN where no canary was inserted.
    """
    bits = [one.high_bits if one.is_lower_bound else one.exposure_bits for one in report.inserted]
    return sum(map(float, bits)) / len(bits) if bits else math.nan
