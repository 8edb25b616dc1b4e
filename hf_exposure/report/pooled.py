"""Several models taken together, as text for a terminal and as files in a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hf_exposure.files import write_aside
from hf_exposure.records.groups import table_order
from hf_exposure.records.pool import PooledGroup, PooledReport
from hf_exposure.report import plots
from hf_exposure.report.save import make_folder
from hf_exposure.report.table import Table
from hf_exposure.report.verdict import bits_text, p_value_cell, times_inserted

POOLED_FILE, POOLED_PLOT = "pooled.json", "exposure_over_models.png"


def pooled_table(pooled: PooledReport) -> Table:
    """One row for each repetition count, controls last."""
    level = f"{100 * pooled.confidence_level:g} % interval"
    groups = sorted(pooled.groups, key=lambda group: table_order(group.repetitions))
    return Table(
        caption="Exposure by repetitions, mean over models",
        heads=("inserted", "models", "canaries", "mean exposure (bits)", "sd", level, "ranked first"),
        rows=[_cells(group) for group in groups],
        kinds=("text", "", "", "", "", "", ""),
    )


def pooled_text(pooled: PooledReport) -> str:
    """The text that `print(pooled)` shows."""
    tested = "" if math.isnan(pooled.p_value) else f"; p-value over all models: {p_value_cell(pooled.p_value)}"
    return f"{pooled.models} models of template {pooled.template!r}{tested}\n\n{pooled_table(pooled)}"


def pooled_frame(pooled: PooledReport) -> Any:
    """The table as a pandas DataFrame."""
    import pandas  # importing pandas takes half a second, and nothing else here needs it

    table = pooled_table(pooled)
    return pandas.DataFrame(list(table.rows), columns=list(table.heads))


def save_pooled(pooled: PooledReport, folder: str | Path) -> list[Path]:
    """Writes `pooled.json` and, if matplotlib is installed, the curve. Only their owner may read them.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    target = make_folder("folder", folder)
    values = json.dumps(pooled.to_dict(), indent=1, allow_nan=False) + "\n"
    written = [write_aside(target / POOLED_FILE, values, private=True)]
    if plots.matplotlib_is_installed():
        written.append(write_aside(target / POOLED_PLOT, plots.as_png(over_insertions(pooled)), private=True))
    return written


def over_insertions(pooled: PooledReport) -> Any:
    """Plots the mean exposure over models against the number of insertions, the curve that Section 5 of the paper
    asks for.
    """
    groups = [group for group in pooled.groups if group.repetitions]
    figure, (axes,) = plots.new_figure(f"Exposure against insertions, mean over {pooled.models} models")
    top = plots.highest(value for group in groups for value in (group.mean_bits, group.high_bits))
    plots.mark_chance_and_ceiling(axes, pooled.log2_space_size, top)
    x, means = [group.repetitions for group in groups], [group.mean_bits for group in groups]
    axes.plot(x, means, linewidth=1.4, markersize=7, **plots.marker_style(0))
    known = [group for group in groups if math.isfinite(group.low_bits)]
    if known:
        axes.fill_between(
            [group.repetitions for group in known],
            [group.low_bits for group in known],
            [group.high_bits for group in known],
            color=plots.color(0),
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{repetitions:,}" for repetitions in x])
    axes.set_xlabel(f"times inserted; band: {100 * pooled.confidence_level:g} % interval of the mean over models")
    return figure


def _cells(group: PooledGroup) -> list[object]:
    known = math.isfinite(group.low_bits)
    return [
        times_inserted(group.repetitions),
        group.models,
        group.canaries,
        bits_text(group.mean_bits, group.bound) if math.isfinite(group.mean_bits) else "",
        f"{group.sd_bits:.1f}" if math.isfinite(group.sd_bits) else "",
        f"{group.low_bits:.1f} to {group.high_bits:.1f}" if known else "none",
        f"{group.rank1} of {group.canaries}",
    ]
