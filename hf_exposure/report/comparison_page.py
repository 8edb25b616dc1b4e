"""`report.html` of several runs: side by side, and which one memorizes less at equal utility."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_exposure.fields import plain
from hf_exposure.files import write_aside
from hf_exposure.report import plots
from hf_exposure.report.comparison import ComparedRun, Comparison
from hf_exposure.report.page import LIMITS, how_to_read, render
from hf_exposure.report.save import make_folder
from hf_exposure.report.table import Table
from hf_exposure.report.verdict import bits_text, group_cells, group_heads, headline, p_value_cell, times_inserted

_CAPTIONS = {
    "exposure_against_utility.png": (
        "Exposure against utility, one mark for each run, with the Pareto front",
        "For a run on the front, no other run has both less exposure and better utility.",
    )
}


def comparison_page(comparison: Comparison, pictures: Mapping[str, bytes]) -> str:
    """The page as HTML. It loads nothing from the network and runs no script."""
    levels = {group.confidence_level for run in comparison.runs for group in run.report.groups}
    level = max(levels, default=comparison.confidence_level)
    return render(
        "comparison.html.j2",
        script="",
        identity="",
        comparison=comparison,
        correlation=correlation_text(comparison),
        runs=_with_models(comparison),
        plots=pictures,
        captions=_CAPTIONS,
        groups=_group_table(comparison, level),
        how_to_read=how_to_read(level),
        headlines=[(run.name, headline(run.report)) for run in comparison.runs],
        limits=LIMITS,
    )


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """Plain values of a comparison, for JSON; None for figures that are not finite."""
    return {
        "format": "hf-exposure comparison",
        "schema_version": 1,
        "utility_key": comparison.utility_key,
        "lower_is_better": comparison.lower_is_better,
        "tolerance": comparison.tolerance,
        "confidence_level": comparison.confidence_level,
        "comparable": [list(names) for names in comparison.comparable],
        "repetition_counts": list(comparison.repetition_counts),
        "correlation": plain(vars(comparison.correlation)),
        "findings": list(comparison.findings),
        "notes": list(comparison.notes),
        "runs": [_run_values(run) for run in comparison.runs],
    }


def correlation_text(comparison: Comparison) -> str:
    """Pearson's r of utility and exposure in a sentence; "" if it is undefined."""
    found = comparison.correlation
    if not math.isfinite(found.r):
        return ""
    level = f"{100 * comparison.confidence_level:g} % interval {found.low:.2f} to {found.high:.2f}"
    interval = f" ({level})" if math.isfinite(found.low) else ""
    return f"Pearson's r of {comparison.utility_key} and exposure over {found.pairs} runs: {found.r:.2f}{interval}."


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Writes `report.html`, `comparison.json` and, if matplotlib is installed, the plot.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    target = make_folder("folder", folder)
    drawn = plots.draw_comparison(comparison, target) if plots.matplotlib_is_installed() else []
    page = comparison_page(comparison, {path.name: path.read_bytes() for path in drawn})
    values = json.dumps(comparison_values(comparison), indent=1, allow_nan=False) + "\n"
    return [
        write_aside(target / "report.html", page, private=True),
        write_aside(target / "comparison.json", values, private=True),
        *drawn,
    ]  # fmt: skip


def _run_values(run: ComparedRun) -> dict[str, Any]:
    figures = {
        "exposure_bits": run.exposure.mean_bits,
        "low_bits": run.exposure.low_bits,
        "high_bits": run.exposure.high_bits,
        "utility": run.utility,
        **run.report.metrics(),
    }
    about = {"name": run.name, "model": run.report.model.get("name", "")}
    return {**about, "on_front": run.on_front, "bound": run.exposure.bound, **plain(figures)}


def comparison_table(comparison: Comparison) -> Table:
    """One row for each run."""
    heads = ("run", comparison.utility_key, "exposure (bits)", "interval", "controls", "p-value (corrected)", "front")
    rows = [_run_cells(run) for run in comparison.runs]
    return Table(caption="Runs side by side", heads=heads, rows=rows, kinds=("text", "", "", "", "", "", ""))


def _with_models(comparison: Comparison) -> Table:
    """The same table with each run's model, for which a terminal is too narrow."""
    table = comparison_table(comparison)
    models = [run.report.model.get("name") or run.report.model.get("class", "") for run in comparison.runs]

    def widened(row: Sequence[Any], cell: object) -> list[Any]:
        return [row[0], cell, *row[1:]]

    return replace(
        table,
        heads=widened(table.heads, "model"),
        rows=list(map(widened, table.rows, models)),
        kinds=widened(table.kinds, "text"),
    )


def _run_cells(run: ComparedRun) -> list[str]:
    """A run as a table shows it: name, utility, exposure, interval, controls, p-value, whether it is on the front."""
    exposure = run.exposure
    return [
        run.name,
        _figure(run.utility, ".4g"),
        bits_text(exposure.mean_bits, exposure.bound) if math.isfinite(exposure.mean_bits) else "",
        f"{exposure.low_bits:.1f} to {exposure.high_bits:.1f}" if math.isfinite(exposure.low_bits) else "none",
        _figure(run.report.metrics().get("eval_exposure_controls_mean", math.nan), ".1f"),
        p_value_cell(run.report.memorization_p_value),
        "yes" if run.on_front else "",
    ]


def _group_table(comparison: Comparison, confidence_level: float) -> Table:
    counts = sorted({group.repetitions for run in comparison.runs for group in run.report.groups})
    rows = [
        [times_inserted(count), run.name, *group_cells(group)]
        for count in counts
        for run in comparison.runs
        for group in run.report.groups
        if group.repetitions == count
    ]
    heads = ("inserted", "run", *group_heads(confidence_level))
    kinds = ("text", "text", "", "", "", "")
    return Table(caption="Exposure by repetitions and run", heads=heads, rows=rows, kinds=kinds)


def _figure(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else ""
