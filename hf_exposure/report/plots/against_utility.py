"""Exposure against utility over several runs, with the Pareto front: the paper's Figure 5."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hf_exposure.report.plots.style import BESIDE, colour, highest, mark_chance_and_ceiling, marker_style, new_figure

if TYPE_CHECKING:
    from hf_exposure.report.comparison import Comparison

__all__ = ["against_utility"]

_LONGEST_NAME = 22


def against_utility(comparison: Comparison) -> Any:
    """One mark for each run, filled on the front and hollow behind it; a line along the front."""
    runs = comparison.placed
    counts = ", ".join(f"{count}×" for count in comparison.repetition_counts)
    figure, (axes,) = new_figure(f"Exposure against utility, canaries inserted {counts}")
    ceiling = max(run.report.log2_space_size for run in runs)
    mark_chance_and_ceiling(axes, ceiling, highest(run.exposure.high_bits for run in runs))
    front = sorted((run.utility, run.exposure.mean_bits) for run in runs if run.on_front)
    axes.plot(*zip(*front, strict=True), color=BESIDE, linewidth=1.2, linestyle="--", zorder=1, label="Pareto front")
    for place, run in enumerate(runs):
        look = marker_style(place)
        if not run.on_front:
            look["markerfacecolor"] = "white"
        mean, low, high = run.exposure.mean_bits, run.exposure.low_bits, run.exposure.high_bits
        bars = [[max(0.0, mean - low)], [max(0.0, high - mean)]] if math.isfinite(low) else None
        name = run.name if len(run.name) <= _LONGEST_NAME else run.name[: _LONGEST_NAME - 1] + "…"
        is_lower = run.exposure.bound == "lower"
        if is_lower:
            bars = [[0.0], [0.06 * ceiling]]  # an arrow
        axes.errorbar(
            [run.utility], [mean], yerr=bars, lolims=is_lower, linestyle="none", markersize=8, capsize=3, elinewidth=1,
            ecolor=colour(place), label=name.replace("$", r"\$").lstrip("_") or "run", **look,
        )  # fmt: skip
    better = "left" if comparison.lower_is_better else "right"
    axes.set_xlabel(f"{comparison.utility_key} ({better} is better)")
    axes.margins(x=0.12)
    figure.legend(
        frameon=False,
        fontsize=9,
        loc="outside lower center",
        ncols=3,
        title="filled: on the front; hollow: behind it; arrow: lower bound",
    )
    return figure
