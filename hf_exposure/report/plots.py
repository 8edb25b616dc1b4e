"""What people look at. matplotlib is an optional part; nothing else here needs it."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_exposure.errors import MissingDependencyError
from hf_exposure.files import write_aside

if TYPE_CHECKING:
    from hf_exposure.report.exposure_report import ExposureReport
    from hf_exposure.report.groups import RepetitionGroup

__all__ = ["draw_plots", "matplotlib_is_installed"]

# Okabe and Ito's palette: told apart by colour-blind readers; markers and dashes tell them apart in black and white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lengths without a common divisor with that of the colours: no two of the first 28 groups look the same.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_DASHES = ("-", "--", "-.", ":")
_NULL_MEAN_BITS = 1.4427


def matplotlib_is_installed() -> bool:
    """Whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plots(report: ExposureReport, history: Sequence[ExposureReport], folder: Path) -> list[Path]:
    """Writes the plots of a report into `folder`: `exposure_by_repetitions.png`, and with a history of at least two
    reports of different steps, this one counted, `exposure_by_step.png`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    if not matplotlib_is_installed():
        raise MissingDependencyError('plots need matplotlib: pip install "hf-exposure[plots]"')
    written = [_save(_by_repetitions(report), folder / "exposure_by_repetitions.png")]
    run = [*history, *([report] if all(earlier.step != report.step for earlier in history) else [])]
    if len(run) > 1:
        written.append(_save(_by_step(run), folder / "exposure_by_step.png"))
    return written


def _new_axes(title: str, log2_space_size: float, highest_bits: float) -> tuple[Any, Any]:
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
    lines = (
        (log2_space_size, (6, 3), f"log2|R| = {log2_space_size:.1f}\nlikeliest of all"),
        (_NULL_MEAN_BITS, (1, 2), "1.44: mean of\none never seen"),
    )
    for bits, dashes, meaning in lines:
        axes.axhline(bits, color="#555555", linewidth=1, linestyle=(0, dashes))
        # In the margin: anywhere inside, some run's data would lie under it.
        axes.annotate(
            meaning, (1.0, bits), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            fontsize=8, color="#555555", va="center", annotation_clip=False,
        )  # fmt: skip
    # An extrapolated figure may lie above log2|R|, and is shown there.
    axes.set_ylim(0, 1.05 * max(log2_space_size, _NULL_MEAN_BITS, highest_bits))
    return figure, axes


def _style(place: int) -> dict[str, Any]:
    return {"color": _COLOURS[place % len(_COLOURS)], "marker": _MARKERS[place % len(_MARKERS)], "clip_on": False}


def _highest(values: Iterable[float]) -> float:
    return max((value for value in values if math.isfinite(value)), default=0.0)


def _by_repetitions(report: ExposureReport) -> Any:
    groups = report.groups
    highest = _highest([e.exposure_bits for e in report.estimates] + [group.high_bits for group in groups])
    figure, axes = _new_axes("Exposure against repetitions, one mark per canary", report.log2_space_size, highest)
    for place, group in enumerate(groups):
        bits = [e.exposure_bits for e in report.estimates if e.repetitions == group.repetitions]
        # Spread sideways so that equal figures stay visible.
        spread = [place - 0.08 + 0.36 * ((i % 9) / 8 - 0.5) for i in range(len(bits))]
        axes.plot(spread, bits, linestyle="none", markersize=4.5, alpha=0.75, **_style(place))
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
    axes.set_xlabel(f"times inserted{dose}; bars: mean and its {level:g} % interval")
    return figure


def _tick(group: RepetitionGroup, report: ExposureReport) -> str:
    undefined = sum(not math.isfinite(e.exposure_bits) for e in report.estimates if e.repetitions == group.repetitions)
    name = f"{group.repetitions}×" if group.repetitions else "controls"
    dose = f"\ndose\n{group.effective_dose:.3g}" if math.isfinite(group.effective_dose) else ""
    return f"{name}{dose}\nn = {group.canaries}" + (f"\n{undefined} undefined" if undefined else "")


def _by_step(run: Sequence[ExposureReport]) -> Any:
    runs_groups = [{group.repetitions: group for group in report.groups} for report in run]
    steps = [report.step if report.step is not None else place for place, report in enumerate(run)]
    highest = _highest(g.mean_bits for groups in runs_groups for g in groups.values())
    title = "Exposure during training, mean of each repetition count"
    figure, axes = _new_axes(title, run[-1].log2_space_size, highest)
    for place, repetitions in enumerate(sorted(runs_groups[-1])):
        rows = [groups.get(repetitions) for groups in runs_groups]
        names = ("mean_bits", "low_bits", "high_bits")
        means, lows, highs = ([getattr(row, name) if row else math.nan for row in rows] for name in names)
        label = f"{repetitions}×" if repetitions else "controls"
        if not any(map(math.isfinite, means)):
            label += " (undefined)"
        axes.plot(
            steps, means, markersize=5, markevery=max(1, len(run) // 12), linestyle=_DASHES[place % len(_DASHES)],
            linewidth=1.6, label=label, **_style(place),
        )  # fmt: skip
        axes.fill_between(steps, lows, highs, color=_COLOURS[place % len(_COLOURS)], alpha=0.15, linewidth=0)
    axes.set_xlabel("optimiser step" if run[-1].step is not None else "measurement")
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(title="times inserted", frameon=False, fontsize=9, loc="outside lower center", ncols=5)
    return figure


def _save(figure: Any, path: Path) -> Path:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return write_aside(path, buffer.getvalue())
