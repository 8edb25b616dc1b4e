"""`report.html` of several runs: side by side, and which one memorises less at equal utility."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_exposure.files import write_aside
from hf_exposure.records.exposure_report import make_folder
from hf_exposure.report.comparison import ComparedRun, Comparison
from hf_exposure.report.page import LIMITS, definitions, escaped, figures, how_to_read, paragraph, shell, table
from hf_exposure.report.plots import draw_comparison, matplotlib_is_installed
from hf_exposure.report.verdict import bits_text, group_cells, group_heads, headline, p_value_text, times_inserted

_CAPTIONS = {
    "exposure_against_utility.png": (
        "Exposure against utility, one mark for each run, with the Pareto front",
        "On the front no other run has both less exposure and better utility.",
    )
}


def comparison_page(comparison: Comparison, plots: Mapping[str, bytes]) -> str:
    """The page as HTML: it needs no network and loads nothing, and runs no script."""
    counts = ", ".join(map(str, comparison.repetition_counts)) or "none"
    body = [
        "<main>",
        "<h1>Comparison of runs</h1>",
        paragraph(comparison.findings[0], kind="verdict"),
        *map(paragraph, comparison.findings[1:]),
        *map(paragraph, comparison.notes),
        "<h2>Side by side</h2>",
        paragraph(
            f"Exposure: mean over the canaries at the repetition counts that all runs have ({counts}), each count "
            f"weighing the same. {comparison.utility_key}: {'less' if comparison.lower_is_better else 'more'} is "
            f"better; figures within {100 * comparison.tolerance:g} % count as equal. Each finding holds by itself at "
            f"{100 * comparison.confidence_level:g} % confidence: few ways to relabel the canaries of two runs "
            "give such a difference, whatever the exposures are within the canaries' own intervals."
        ),
        _run_table(comparison),
        figures(plots, _CAPTIONS),
        "<h2>By repetitions</h2>",
        _group_table(comparison),
        "<h2>Each run</h2>",
        definitions((run.name, headline(run.report)) for run in comparison.runs),
        "<h2>Limits</h2>",
        "<ul>" + "".join(f"<li>{escaped(limit)}</li>" for limit in LIMITS) + "</ul>",
        "</main>",
    ]
    return shell("Comparison of runs", "\n".join(body))


def comparison_values(comparison: Comparison) -> dict[str, Any]:
    """Plain values of a comparison, for JSON; None for what is not finite."""
    return {
        "format": "hf-exposure comparison",
        "schema_version": 1,
        "utility_key": comparison.utility_key,
        "lower_is_better": comparison.lower_is_better,
        "tolerance": comparison.tolerance,
        "confidence_level": comparison.confidence_level,
        "comparable": [list(names) for names in comparison.comparable],
        "repetition_counts": list(comparison.repetition_counts),
        "findings": list(comparison.findings),
        "notes": list(comparison.notes),
        "runs": [_run_values(run) for run in comparison.runs],
    }


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Writes `report.html`, `comparison.json` and, where matplotlib is installed, the plot.

    Raises:
        InputError: a folder that cannot be made or written to.
    """
    target = make_folder("folder", folder)
    plots = draw_comparison(comparison, target) if matplotlib_is_installed() else []
    page = comparison_page(comparison, {path.name: path.read_bytes() for path in plots})
    values = json.dumps(comparison_values(comparison), indent=1, allow_nan=False) + "\n"
    return [
        write_aside(target / "report.html", page, private=True),
        write_aside(target / "comparison.json", values, private=True),
        *plots,
    ]  # fmt: skip


def _run_values(run: ComparedRun) -> dict[str, Any]:
    figures = {
        "exposure_bits": run.exposure.mean_bits,
        "low_bits": run.exposure.low_bits,
        "high_bits": run.exposure.high_bits,
        "utility": run.utility,
        **run.report.metrics(),
    }
    plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    about = {"name": run.name, "model": run.report.model.get("name", "")}
    return {**about, "on_front": run.on_front, "bound": run.exposure.bound, **plain}


def _run_table(comparison: Comparison) -> str:
    key = comparison.utility_key
    heads = ("run", "model", key, "exposure (bits)", "interval", "controls", "p-value (corrected)", "front")
    rows = []
    for run in comparison.runs:
        name, *figures = run_cells(run)
        rows.append([name, run.report.model.get("name") or run.report.model.get("class", ""), *figures])
    return table("Runs side by side", heads, rows, kinds=("text", "text", "", "", "", "", "", ""))


def run_cells(run: ComparedRun) -> list[str]:
    """A run as a table shows it: name, utility, exposure, interval, controls, p-value, whether it is on the front."""
    exposure = run.exposure
    return [
        run.name,
        _figure(run.utility, ".4g"),
        bits_text(exposure.mean_bits, exposure.bound) if math.isfinite(exposure.mean_bits) else "",
        f"{exposure.low_bits:.1f} to {exposure.high_bits:.1f}" if math.isfinite(exposure.low_bits) else "none",
        _figure(run.report.metrics().get("eval_exposure_controls_mean", math.nan), ".1f"),
        _p_value(run.report.memorisation_p_value),
        "yes" if run.on_front else "",
    ]


def _group_table(comparison: Comparison) -> str:
    levels = {group.confidence_level for run in comparison.runs for group in run.report.groups}
    level = max(levels, default=comparison.confidence_level)
    heads = ("inserted", "run", *group_heads(level))
    counts = sorted({group.repetitions for run in comparison.runs for group in run.report.groups})
    rows = [
        [times_inserted(count), run.name, *group_cells(group)]
        for count in counts
        for run in comparison.runs
        for group in run.report.groups
        if group.repetitions == count
    ]
    by_count = table("Exposure by repetitions and run", heads, rows, kinds=("text", "text", "", "", "", ""))
    return by_count + paragraph(how_to_read(level), kind="faint")


def _figure(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else ""


def _p_value(value: float) -> str:
    return p_value_text(value).removeprefix("= ") if math.isfinite(value) else ""
