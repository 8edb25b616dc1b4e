"""What people look at. matplotlib is an optional part; nothing else here needs it."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_exposure.errors import MissingDependencyError
from hf_exposure.files import write_aside

if TYPE_CHECKING:
    from hf_exposure.report.exposure_report import ExposureReport

__all__ = ["draw_plots", "matplotlib_is_installed"]

# Okabe and Ito's palette: told apart by colour-blind readers; markers and dashes tell them apart in black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":", "-", "--", "-.")
_NULL_MEAN_BITS = 1.4427


def matplotlib_is_installed() -> bool:
    """Whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plots(report: ExposureReport, history: Sequence[ExposureReport], folder: Path) -> list[Path]:
    """Writes the plots of a report into `folder`: `exposure_by_repetitions.png`, and with a history of at least two
    reports `exposure_by_step.png`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if not matplotlib_is_installed():
        raise MissingDependencyError('plots need matplotlib: pip install "hf-exposure[plots]"')
    written = [_save(_by_repetitions(report), folder / "exposure_by_repetitions.png")]
    if len(history) > 1:
        written.append(_save(_by_step(history), folder / "exposure_by_step.png"))
    return written


def _new_axes(title: str, report: ExposureReport) -> tuple[Any, Any]:
    # The object interface: pyplot would keep every figure alive in a long training run.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel("exposure (bits)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    ceiling = report.log2_space_size
    axes.axhline(ceiling, color="#555555", linewidth=1, linestyle=(0, (6, 3)))
    axes.annotate(
        f"log2|R| = {ceiling:.1f}: the likeliest of all", (0.005, ceiling), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", fontsize=8, color="#555555",
    )  # fmt: skip
    axes.axhline(_NULL_MEAN_BITS, color="#555555", linewidth=1, linestyle=(0, (1, 2)))
    axes.annotate(
        "1.44: mean of a canary never seen", (0.995, _NULL_MEAN_BITS), xycoords=("axes fraction", "data"),
        xytext=(0, 3), textcoords="offset points", fontsize=8, color="#555555", ha="right",
    )  # fmt: skip
    axes.set_ylim(0, ceiling * 1.08)
    return figure, axes


def _label(repetitions: int) -> str:
    return "held-out controls" if repetitions == 0 else f"inserted {repetitions}×"


def _by_repetitions(report: ExposureReport) -> Any:
    figure, axes = _new_axes("Exposure against repetitions, one mark per canary", report)
    groups = report.groups
    for place, group in enumerate(groups):
        style = place % len(_COLOURS)
        bits = [e.exposure_bits for e in report.estimates if e.repetitions == group.repetitions]
        # Spread sideways so that equal figures stay visible.
        spread = [place + 0.28 * ((i % 9) / 8 - 0.5) for i in range(len(bits))]
        axes.plot(
            spread, bits, linestyle="none", marker=_MARKERS[style], markersize=4.5, alpha=0.75, color=_COLOURS[style]
        )
        if group.low_bits == group.low_bits:
            axes.errorbar(
                place + 0.3, group.mean_bits,
                yerr=[[max(0.0, group.mean_bits - group.low_bits)], [max(0.0, group.high_bits - group.mean_bits)]],
                fmt="_", markersize=12, color="black", capsize=4, linewidth=1.2,
            )  # fmt: skip
    axes.set_xticks(range(len(groups)), [f"{_label(g.repetitions)}\n(n = {g.canaries})" for g in groups])
    axes.set_xlim(-0.5, len(groups) - 0.35)
    axes.set_xlabel("bars: mean and its 95 % interval" if report.settings["confidence_level"] == 0.95 else "")
    return figure


def _by_step(history: Sequence[ExposureReport]) -> Any:
    figure, axes = _new_axes("Exposure during training, mean of each repetition count", history[-1])
    for place, repetitions in enumerate(group.repetitions for group in history[-1].groups):
        groups = [next(g for g in report.groups if g.repetitions == repetitions) for report in history]
        style = place % len(_COLOURS)
        steps = [report.step if report.step is not None else i for i, report in enumerate(history)]
        axes.plot(
            steps, [g.mean_bits for g in groups], color=_COLOURS[style], marker=_MARKERS[style], markersize=5,
            linestyle=_DASHES[style], linewidth=1.6, label=_label(repetitions),
        )  # fmt: skip
        axes.fill_between(
            steps, [g.low_bits for g in groups], [g.high_bits for g in groups], color=_COLOURS[style], alpha=0.15
        )
    axes.set_xlabel("optimiser step")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0.0, 0.93))
    return figure


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_aside(path, buffer.getvalue())
