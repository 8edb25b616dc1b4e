"""Forecasts of the exposure at the end of an unfinished training, as a table and in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.forecast import ExposureForecast, forecast_exposure
from hf_exposure.records import Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import RepetitionGroup, in_table_order
from hf_exposure.report.table import Table
from hf_exposure.report.verdict import mean_text, times_inserted

# Kinds of figures that can be compared from one step to the next.
_KNOWN = ("exact", "interval")

HOW_A_FORECAST_IS_READ = (
    "The forecast is fitted on many small trainings and was tested on others, where nine in ten of its intervals "
    "contained the exposure at the end. All it knows of this model and its data are the measurements so far."
)


def forecast_exposures(
    reports: Sequence[ExposureReport], *, total_steps: float | None = None, total_epochs: float | None = None
) -> dict[int, ExposureForecast]:
    """Forecasts the mean exposure at the end of a training from its measurements so far, by repetition count.

    Args:
        reports: measurements of one training, oldest first, as in `callback.reports`. A measurement before the first
            step is ignored.
        total_steps, total_epochs: the length of the whole training; by default that of the reports' `run.arguments`.

    Returns:
        {repetitions: `ExposureForecast`}. Where no forecast is possible, `forecast.silence` says why. Empty if the
        training is over, if its length or the last step is unknown, and for an invalid run.

    Raises:
        InputError: `reports` is not a list of reports, both lengths are given, or a length is not positive.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> def report(step, bits):
        ...     row = ExposureEstimate(canary_id="a", repetitions=8, log_perplexity_bits=20.0, exposure_bits=bits,
        ...         low_bits=bits, high_bits=bits, method="enumerate", bound="exact")
        ...     return ExposureReport(estimates=(row,), template="pin {pin}", spaces={}, space_size=10**9,
        ...         manifest_hash="", settings={"confidence_level": 0.95}, step=step)
        >>> run = [report(100, 4.0), report(200, 9.0), report(300, 12.0)]
        >>> [found] = forecast_exposures(run, total_steps=400).values()
        >>> found.low_bits < found.expected_bits < found.high_bits
        True
    """
    if not isinstance(reports, Sequence) or not all(isinstance(report, ExposureReport) for report in reports):
        raise InputError("reports", "must be a list of reports", type(reports).__name__, "Pass callback.reports.")
    if total_steps is not None and total_epochs is not None:
        raise InputError("total_epochs", "goes without total_steps", total_epochs, "Pass one of them.")
    for name, value in (("total_steps", total_steps), ("total_epochs", total_epochs)):
        if value is not None:
            real_number(name, value, "must be above 0", "Leave it out for what the reports say.", above=0.0)
    if not reports or reports[-1].validity is Validity.INVALID:
        return {}
    done = [_share_done(report, total_steps, total_epochs) for report in reports]
    if not 0 < done[-1] < 1:
        return {}
    kept: list[int] = []
    for place in reversed(range(len(done))):
        # A resumed run may contain a step twice: the later measurement counts.
        if 0 < done[place] < (done[kept[-1]] if kept else 1):
            kept.append(place)
    kept.reverse()
    groups = [{group.repetitions: group for group in reports[place].groups} for place in kept]
    fractions = [done[place] for place in kept]
    top = reports[-1].log2_space_size
    return {
        repetitions: forecast_exposure(
            fractions, [_known_bits(of_step.get(repetitions)) for of_step in groups], top, group.canaries
        )
        for repetitions, group in groups[-1].items()
        if repetitions and top > 0
    }


def run_of(report: ExposureReport, history: Sequence[ExposureReport]) -> list[ExposureReport]:
    """The measurements of a training up to and including a report, whether or not its history already contains it."""
    return [*history, *([report] if all(earlier.step != report.step for earlier in history) else [])]


def forecast_table(forecasts: Mapping[int, ExposureForecast], report: ExposureReport) -> Table | None:
    """The forecasts next to the present exposures, or why there is none; None if nothing is forecast at all."""
    if not forecasts:
        return None
    level = max((one.confidence_level for one in forecasts.values() if not one.silence), default=math.nan)
    interval = f"{100 * level:g} % interval" if math.isfinite(level) else "interval"
    rows = []
    for group in in_table_order(report.groups):
        if (found := forecasts.get(group.repetitions)) is not None:
            told = ["", f"none: {found.silence}"] if found.silence else _told(found)
            rows.append([times_inserted(group.repetitions), mean_text(group), *told])
    heads = ["inserted", "exposure now (bits)", "expected at the end", interval]
    return Table(caption="Exposure expected at the end", heads=heads, rows=rows, kinds=["text", "", "", ""])


def forecast_words(forecasts: Mapping[int, ExposureForecast]) -> str:
    """`8x 5.1 (3.8 to 7.0)`, for each repetition count that has a forecast; "" if none has.

    Example:
        >>> told = ExposureForecast(expected_bits=5.12, low_bits=3.8, high_bits=7.0, confidence_level=0.9)
        >>> forecast_words({1: ExposureForecast(silence="no rise"), 8: told})
        '8x 5.1 (3.8 to 7.0)'
    """
    told = {count: found for count, found in forecasts.items() if not found.silence}
    return ", ".join(
        f"{count}x {found.expected_bits:.1f} ({found.low_bits:.1f} to {found.high_bits:.1f})"
        for count, found in sorted(told.items())
    )


def _told(found: ExposureForecast) -> list[str]:
    return [f"{found.expected_bits:.1f}", f"{found.low_bits:.1f} to {found.high_bits:.1f}"]


def _share_done(report: ExposureReport, total_steps: float | None, total_epochs: float | None) -> float:
    """The share of the training that was done at a measurement; NaN if unknown."""
    known: Mapping[str, Any] = report.run.arguments if report.run is not None else {}
    if total_steps is None and total_epochs is None:
        # As in the trainer, a given number of steps takes precedence over the epochs.
        max_steps = known.get("max_steps")
        total_steps = max_steps if isinstance(max_steps, (int, float)) and max_steps > 0 else None
        total_epochs = known.get("num_train_epochs") if total_steps is None else None
    done, total = (report.step, total_steps) if total_steps is not None else (report.epoch, total_epochs)
    return math.nan if done is None or not total else float(done) / float(total)


def _known_bits(group: RepetitionGroup | None) -> float:
    return group.mean_bits if group is not None and group.bound in _KNOWN else math.nan
