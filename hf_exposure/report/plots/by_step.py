"""Exposure during training, alone and beside the losses (the paper's Figure 9)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_exposure.report.plots.style import (
    colour,
    dashes,
    group_name,
    highest,
    mark_chance_and_ceiling,
    marker_style,
    new_figure,
    whole_steps,
)

if TYPE_CHECKING:
    from hf_exposure.report.exposure_report import ExposureReport

__all__ = ["LOSSES", "beside_losses", "by_step", "loss_curve"]

# Keys of the trainer's log, what a reader calls them, and how they are drawn.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "loss": ("training loss", {"color": "#555555", "linestyle": "-", "marker": None}),
    "eval_loss": ("validation loss", {"color": "#000000", "linestyle": "--", "marker": "o"}),
}


# Along one curve.
_MOST_INTERVALS = 50


def by_step(run: Sequence[ExposureReport]) -> Any:
    """One line for each repetition count and the controls: means over canaries, with their intervals."""
    figure, (axes,) = new_figure("Exposure during training, mean of each repetition count")
    _draw_exposure(axes, run)
    axes.set_xlabel(_step_name(run))
    whole_steps(axes)
    figure.legend(title="times inserted", frameon=False, fontsize=9, loc="outside lower center", ncols=5)
    return figure


def beside_losses(run: Sequence[ExposureReport], training_log: Sequence[Mapping[str, Any]]) -> Any:
    """Losses above, exposure below, over the same steps: when does memorising begin, and does a loss show it?"""
    figure, (above, below) = new_figure("Training and validation loss beside exposure", panels=2, heights=(0.6, 0.9))
    for key, (name, look) in LOSSES.items():
        steps, values = loss_curve(training_log, key)
        if steps:
            above.plot(
                steps, values, label=name, markersize=4, linewidth=1.4, markevery=max(1, len(steps) // 12), **look
            )
    above.set_ylabel("loss (nats per token)")
    above.legend(frameon=False, fontsize=9)
    _draw_exposure(below, run)
    below.set_xlabel(_step_name(run))
    whole_steps(below)
    handles, labels = below.get_legend_handles_labels()
    figure.legend(
        handles, labels, title="times inserted", frameon=False, fontsize=9, loc="outside lower center", ncols=5
    )
    return figure


def loss_curve(training_log: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of a key of the trainer's log, where it is a finite number.

    Example:
        >>> loss_curve([{"step": 1, "loss": 2.5}, {"step": 2, "eval_loss": 2.0}, {"step": 2, "loss": 1.5}], "loss")
        ([1, 2], [2.5, 1.5])
    """
    found = {
        entry["step"]: float(entry[key])
        for entry in training_log
        if isinstance(entry.get("step"), int)
        and isinstance(entry.get(key), (int, float))
        and math.isfinite(entry[key])
    }
    steps = sorted(found)
    return steps, [found[step] for step in steps]


def _draw_exposure(axes: Any, run: Sequence[ExposureReport]) -> None:
    runs_groups = [{group.repetitions: group for group in report.groups} for report in run]
    steps = [report.step if report.step is not None else place for place, report in enumerate(run)]
    top = highest(g.mean_bits for groups in runs_groups for g in groups.values())
    mark_chance_and_ceiling(axes, run[-1].log2_space_size, top)
    for place, repetitions in enumerate(sorted(runs_groups[-1])):
        rows = [groups.get(repetitions) for groups in runs_groups]
        means = [row.mean_bits if row else math.nan for row in rows]
        # An interval takes some milliseconds: a run measured at every step has thousands.
        every = max(1, len(rows) // _MOST_INTERVALS)
        limited = [(step, *row.interval_bits) for step, row in list(zip(steps, rows, strict=True))[::-every] if row]
        label = group_name(repetitions)
        if not any(map(math.isfinite, means)):
            label += " (undefined)"
        axes.plot(
            steps, means, markersize=5, markevery=max(1, len(run) // 12), linestyle=dashes(place),
            linewidth=1.6, label=label, **marker_style(place),
        )  # fmt: skip
        if limited:
            axes.fill_between(*zip(*sorted(limited), strict=True), color=colour(place), alpha=0.15, linewidth=0)
        # Too few for an interval: each of them.
        each = [
            (step, e.exposure_bits)
            for step, row in zip(steps, rows, strict=True)
            if row and row.is_small
            for e in row.estimates
        ]
        if each:
            axes.plot(
                *zip(*each, strict=True), linestyle="none", marker=".", markersize=4, alpha=0.5, color=colour(place),
            )  # fmt: skip


def _step_name(run: Sequence[ExposureReport]) -> str:
    return "optimiser step" if run[-1].step is not None else "measurement"
