"""The outcome of a run in one line: the word of the badge, and the reason for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_exposure.records import Outcome, Validity
from hf_exposure.records.run_facts import highest_mean_bits
from hf_exposure.report.verdict import times_inserted, validity_line

if TYPE_CHECKING:
    from hf_exposure.records.exposure_report import ExposureReport

# White text on each has a contrast of more than 4.5 to 1.
OUTCOME_COLORS = {
    Outcome.PASS: "#1a7337",
    Outcome.FAIL: "#b3001b",
    Outcome.INVALID: "#b3001b",
    Outcome.NO_THRESHOLD: "#5a5a5a",
}


def outcome_text(report: ExposureReport) -> str:
    """The reason for the badge: the threshold, the figure compared with it, and whether the data were checked.

    Example:
        >>> from hf_exposure.records import ExposureEstimate, ExposureReport, RunFacts
        >>> row = ExposureEstimate(canary_id="8f02", repetitions=4, log_perplexity_bits=33.1, exposure_bits=11.2,
        ...     low_bits=11.2, high_bits=11.2, method="enumerate")
        >>> print(outcome_text(ExposureReport(estimates=(row,), template="pin {pin}", spaces={}, space_size=10**6,
        ...     manifest_hash="", settings={"confidence_level": 0.95}, run=RunFacts(threshold_bits=4.0))))
        Highest mean exposure of a repetition count: 11.2 bits (inserted 4 times); the threshold is 4 bits. The...
    """
    outcome = report.outcome
    if outcome is Outcome.INVALID:
        return validity_line(report).removeprefix("INVALID: ").capitalize()
    if outcome is Outcome.NO_THRESHOLD:
        return "No threshold was set, so the run neither passes nor fails."
    assert report.run is not None
    groups = [group for group in report.groups if group.repetitions]
    if not groups:
        return "No canary was inserted, so the threshold cannot be tested."
    limit = f"the threshold is {report.run.threshold_bits:g} bits."
    if report.run.threshold_of == "all inserted":
        said = f"Mean exposure of all inserted canaries: {_bits(highest_mean_bits(report))}; {limit}"
    else:
        top = max(groups, key=lambda group: (group.mean_bits != group.mean_bits, group.mean_bits))
        where = f"inserted {times_inserted(top.repetitions)}"
        said = f"Highest mean exposure of a repetition count: {_bits(top.mean_bits)} ({where}); {limit}"
    if report.validity is Validity.UNCHECKED:
        said += " The training data were not checked for the canaries."
    return said


def _bits(value: float) -> str:
    return f"{value:.1f} bits" if value == value else "undefined"
