"""Exposure against repetitions, one mark per canary: the paper's Figures 1, 4 and 7."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from hf_exposure.report.plots.style import group_name, highest, mark_chance_and_ceiling, marker_style, new_figure

if TYPE_CHECKING:
    from hf_exposure.report.exposure_report import ExposureReport
    from hf_exposure.report.groups import RepetitionGroup

__all__ = ["by_repetitions"]

# More marks than this in a column melt together: they are made fainter.
_CROWDED = 50


def by_repetitions(report: ExposureReport) -> Any:
    """A column of marks for each repetition count, controls first, each with its mean and interval."""
    groups = report.groups
    top = highest([e.exposure_bits for e in report.estimates] + [group.high_bits for group in groups])
    figure, (axes,) = new_figure("Exposure against repetitions, one mark per canary")
    mark_chance_and_ceiling(axes, report.log2_space_size, top)
    for place, group in enumerate(groups):
        bits = [e.exposure_bits for e in report.estimates if e.repetitions == group.repetitions]
        # Spread sideways so that equal figures stay visible.
        spread = [place - 0.08 + 0.36 * ((i % 9) / 8 - 0.5) for i in range(len(bits))]
        faint = 0.75 if len(bits) <= _CROWDED else max(0.05, 0.75 * _CROWDED / len(bits))
        axes.plot(spread, bits, linestyle="none", markersize=5, alpha=faint, markeredgewidth=0, **marker_style(place))
        if math.isfinite(group.low_bits) and math.isfinite(group.high_bits):
            axes.errorbar(
                place + 0.26, group.mean_bits,
                yerr=[[max(0.0, group.mean_bits - group.low_bits)], [max(0.0, group.high_bits - group.mean_bits)]],
                fmt="_", markersize=8, color="black", capsize=3, linewidth=1.2,
            )  # fmt: skip
    axes.set_xticks(range(len(groups)), [_tick(group, report) for group in groups])
    axes.tick_params(axis="x", labelsize=9 if len(groups) <= 9 else 6)
    axes.set_xlim(-0.5, max(len(groups), 1) - 0.5)
    level = 100 * report.settings["confidence_level"]
    known = any(math.isfinite(group.effective_dose) for group in groups)
    dose = "; dose: times trained on so far" if known else ""
    axes.set_xlabel(f"times inserted{dose}; bars: mean of 8 or more, with its {level:g} % interval")
    return figure


def _tick(group: RepetitionGroup, report: ExposureReport) -> str:
    undefined = sum(not math.isfinite(e.exposure_bits) for e in report.estimates if e.repetitions == group.repetitions)
    dose = f"\ndose\n{group.effective_dose:.3g}" if math.isfinite(group.effective_dose) else ""
    name = f"{group_name(group.repetitions)}{dose}"
    return f"{name}\nn = {group.canaries}" + (f"\n{undefined} undefined" if undefined else "")
