"""The critical samples of a training in a terminal and as a page with a plot, from the log of the measure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hf_exposure.errors import InputError
from hf_exposure.files import write_aside
from hf_exposure.records.critical import CriticalRun
from hf_exposure.records.run_log import PlainRecord, RunLog
from hf_exposure.report import plots
from hf_exposure.report.page import render
from hf_exposure.report.save import make_folder
from hf_exposure.report.table import Table

PAGE_FILE, PLOT_FILE = "critical_samples.html", "critical_samples.png"
_MOST_ROWS = 20
_FIGURES = ("ratio", "low", "high")
_SETTINGS = ("radius", "step", "noise", "max_steps", "seed", "rows", "confidence_level", "embedding_scale")
_CAPTIONS = {
    PLOT_FILE: (
        "Critical sample ratio by step",
        "Share of the rows for which a different decision was found within the radius. The band is the exact "
        "interval. A ratio that keeps rising while the training loss falls is a sign that the model fits noise.",
    )
}
LIMITS = (
    "The search can miss a different decision that exists, so each ratio is a lower limit.",
    "Ratios can only be compared at the same radius, and between models only if their inputs have the same scale.",
    "The interval treats the rows as a sample. It does not cover what the search misses.",
)


def read_critical(run: str | Path, name: str = "critical") -> CriticalRun:
    """Reads the measurements of a `CriticalSampleRatio` from a training's output folder.

    Args:
        run: the output folder.
        name: the name of the measure, if it was changed.

    Raises:
        InputError: the folder has no log, or the log has no measurement.
    """
    records = RunLog(name, PlainRecord.from_dict).read(run)
    found = CriticalRun(records, name)
    if all(math.isnan(found.figure(record, "ratio")) for record in records):
        rule = f"must hold _{name}.jsonl with a measurement"
        raise InputError("run", rule, str(run), "Name the output folder of a training with a CriticalSampleRatio.")
    return found


def headline(found: CriticalRun) -> str:
    """The last and the first ratio of a training, in a sentence.

    Example:
        >>> ends = ({"eval_critical_ratio": ratio, "eval_critical_low": ratio, "eval_critical_high": ratio}
        ...         for ratio in (0.25, 0.75))
        >>> headline(CriticalRun([PlainRecord(figures=f, details={"rows": 4, "radius": 0.03}) for f in ends]))
        'Of 4 rows, 75 % are critical at a radius of 0.03 (75 % to 75 %); at the first measurement, 25 % were.'
    """
    measured = [record for record in found.records if not math.isnan(found.figure(record, "ratio"))]
    ratio, low, high = (found.figure(measured[-1], which) for which in _FIGURES)
    details = measured[-1].details
    said = (
        f"Of {details.get('rows', '?')} rows, {_percent(ratio)} are critical at a radius of "
        f"{details.get('radius', '?')} ({_percent(low)} to {_percent(high)})"
    )
    if len(measured) == 1:
        return f"{said}."
    return f"{said}; at the first measurement, {_percent(found.figure(measured[0], 'ratio'))} were."


def critical_table(found: CriticalRun) -> Table:
    """One row for each measurement; if there are many, a row for evenly spaced ones and the last."""
    count = len(found.records)
    chosen = sorted({round(place * (count - 1) / max(1, min(count, _MOST_ROWS) - 1)) for place in range(_MOST_ROWS)})
    rows = []
    for record in (found.records[place] for place in chosen if place < count):
        figures = [found.figure(record, which) for which in _FIGURES]
        rows.append(
            [
                "" if record.step is None else str(record.step),
                "" if record.epoch is None else f"{record.epoch:g}",
                *("undefined" if math.isnan(figure) else f"{figure:.3f}" for figure in figures),
            ]
        )
    heads = ("step", "epoch", "critical", "low", "high")
    return Table(caption="Critical sample ratio", heads=heads, rows=rows, kinds=("",) * len(heads))


def critical_text(found: CriticalRun) -> str:
    """The headline and the table, for a terminal."""
    return f"{headline(found)}\n\n{critical_table(found)}"


def critical_frame(found: CriticalRun) -> Any:
    """The table as a pandas DataFrame."""
    import pandas

    table = critical_table(found)
    return pandas.DataFrame(list(table.rows), columns=list(table.heads))


def critical_summary(found: CriticalRun) -> dict[str, Any]:
    """The measurements as plain values, oldest first, with the settings of the last; None for undefined figures."""
    details = found.records[-1].details
    measurements = [
        {"step": record.step, "epoch": record.epoch}
        | {which: None if math.isnan(found.figure(record, which)) else found.figure(record, which)
           for which in _FIGURES}
        for record in found.records
    ]  # fmt: skip
    settings = {name: details[name] for name in _SETTINGS if details.get(name) is not None}
    return {"name": found.name, "settings": settings, "measurements": measurements}


def save_critical(found: CriticalRun, folder: str | Path) -> list[Path]:
    """Writes `critical_samples.html` and, if matplotlib is installed, its plot."""
    target, pictures, written = make_folder("folder", folder), {}, []
    if plots.matplotlib_is_installed():
        pictures[PLOT_FILE] = plots.as_png(_draw(found))
        written.append(write_aside(target / PLOT_FILE, pictures[PLOT_FILE], private=True))
    details = found.records[-1].details
    page = render(
        "critical.html.j2",
        script="",
        identity="",
        headline=headline(found),
        plots=pictures,
        captions=_CAPTIONS,
        measurements=critical_table(found),
        settings=[(name, details[name]) for name in _SETTINGS if details.get(name) is not None],
        limits=LIMITS,
    )
    return [*written, write_aside(target / PAGE_FILE, page, private=True)]


def _draw(found: CriticalRun) -> Any:
    figure, (axes,) = plots.new_figure("Critical samples while training")
    points = [
        (index if record.step is None else record.step, *(found.figure(record, which) for which in _FIGURES))
        for index, record in enumerate(found.records)
    ]
    steps, ratios, lows, highs = zip(*points, strict=True)
    axes.plot(steps, ratios, color=plots.color(0), marker=plots.MARKERS[0], clip_on=False)
    axes.fill_between(steps, lows, highs, color=plots.color(0), alpha=0.15, linewidth=0)
    axes.set(xlabel="step", ylabel="share of rows that are critical", ylim=(0.0, 1.0))
    plots.whole_steps(axes)
    return figure


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
