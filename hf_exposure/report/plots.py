"""The plots of a report, of a run and of several runs, and the files they are written to.

They share one style: color-blind readers can tell the colors apart, and markers and dashes differ in black and white.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_exposure.errors import MissingDependencyError
from hf_exposure.estimators.estimate import CHANCE_BITS
from hf_exposure.files import write_aside
from hf_exposure.records import Validity
from hf_exposure.records.identity import IDENTITY
from hf_exposure.report.forecast import run_of
from hf_exposure.report.verdict import trained_text, validity_line

if TYPE_CHECKING:
    from hf_exposure.estimators import RocCurve, SkewNormalFit
    from hf_exposure.records.exposure_report import ExposureReport
    from hf_exposure.records.groups import RepetitionGroup
    from hf_exposure.records.references import ReferenceCosts
    from hf_exposure.report.comparison import Comparison


# Okabe and Ito's palette, which color-blind readers can tell apart; in black and white, markers and dashes do.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# The numbers of markers and colors are coprime, so that no two of the first 28 groups look the same.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
GRAY = "#555555"
_SIZE_INCHES, _DPI = (6.6, 4.3), 160
# How far the exposure axis extends below 0, so that a mark at 0 is not cut off.
_ROOM = 0.02


def new_figure(title: str, *, panels: int = 1, heights: Sequence[float] = (1.0,)) -> tuple[Any, list[Any]]:
    """A figure and its panels, one below the other with a common x axis."""
    # The object interface: pyplot would keep every figure alive in a long training run.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _SIZE_INCHES
    figure = Figure(figsize=(width, height * sum(heights)), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(panels, 1, sharex=True, height_ratios=list(heights), squeeze=False)[:, 0].tolist()
    # A title from data is text: a lone dollar sign would start mathematics.
    axes[0].set_title(title.replace("$", r"\$"), loc="left", fontsize=11)
    for panel in axes:
        plain_axes(panel)
    return figure, axes


def plain_axes(axes: Any) -> None:
    """Removes the frame lines that are not needed to read values."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def mark_chance_and_ceiling(axes: Any, log2_space_size: float, highest_bits: float) -> None:
    """Sets the y axis to exposure: its scale, and lines for the chance level and for log2|R|."""
    axes.set_ylabel("exposure (bits)")
    lines = (
        (log2_space_size, (6, 3), f"log2|R| = {log2_space_size:.1f}:\nranks first"),
        (CHANCE_BITS, (1, 2), f"chance level:\n{CHANCE_BITS:.2f} bits"),
    )
    for bits, pattern, meaning in lines:
        axes.axhline(bits, color=GRAY, linewidth=1, linestyle=(0, pattern))
        # The label is in the margin; inside the axes it would cover the data of some run.
        axes.annotate(
            meaning, (1.0, bits), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            fontsize=8, color=GRAY, va="center", annotation_clip=False,
        )  # fmt: skip
    # An extrapolated figure may lie above log2|R|, and is drawn there.
    top = 1.05 * max(log2_space_size, CHANCE_BITS, highest_bits)
    axes.set_ylim(-_ROOM * top, top)


CHANCE_SHARES = (0.5, 0.9, 0.99)
"""The shares of canaries that the model never saw within the shaded bands."""


def shade_chance(axes: Any) -> None:
    """Shades the bands of canaries that the model never saw: exposure exceeds x bits with probability 2^-x."""
    for share in CHANCE_SHARES:
        axes.axhspan(0.0, -math.log2(1.0 - share), color=GRAY, alpha=0.11, linewidth=0, zorder=0)


def mark_invalid(figure: Any, line: str) -> None:
    """Writes across the top of a figure why it is invalid."""
    figure.suptitle(line, color="#b3001b", fontsize=11, fontweight="bold", x=0.01, ha="left")


def whole_steps(axes: Any) -> None:
    """Puts ticks at whole steps on the x axis."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def color(place: int) -> str:
    """The color of the group at that index."""
    return COLORS[place % len(COLORS)]


def dashes(place: int) -> str:
    """The line style of the group at that index."""
    return DASHES[place % len(DASHES)]


def marker_style(place: int) -> dict[str, Any]:
    """The color and marker of the group at that index."""
    return {"color": color(place), "marker": MARKERS[place % len(MARKERS)], "clip_on": False}


def group_name(repetitions: int) -> str:
    """The readable name of the canaries with that repetition count."""
    return f"{repetitions}×" if repetitions else "controls"


def highest(values: Iterable[float]) -> float:
    """The largest finite value; 0 if there is none."""
    return max((value for value in values if math.isfinite(value)), default=0.0)


def as_png(figure: Any, marks: Mapping[str, str] | None = None) -> bytes:
    """The figure as PNG bytes; `marks` are keywords and texts stored in its metadata."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=dict(marks or {}))
    return buffer.getvalue()


def as_vectors(figure: Any, kind: str, identity: str = "") -> bytes:
    """The figure as "svg" or "pdf", with the measurement id in its metadata; equal figures give equal bytes."""
    import matplotlib

    if kind == "svg":
        metadata = {"Date": None, **({"Identifier": identity} if identity else {})}
    else:
        metadata = {"CreationDate": None, **({"Keywords": f"{IDENTITY} {identity}"} if identity else {})}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hf-exposure", "svg.fonttype": "none", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


# Exposure against utility over several runs, with the Pareto front: the paper's Figure 5.

_LONGEST_NAME = 22


def against_utility(comparison: Comparison) -> Any:
    """One mark for each run, filled on the front and hollow behind it; a line along the front."""
    runs = comparison.placed
    counts = ", ".join(f"{count}×" for count in comparison.repetition_counts)
    figure, (axes,) = new_figure(f"Exposure against utility, canaries inserted {counts}")
    ceiling = max(run.report.log2_space_size for run in runs)
    mark_chance_and_ceiling(axes, ceiling, highest(run.exposure.high_bits for run in runs))
    front = sorted((run.utility, run.exposure.mean_bits) for run in runs if run.on_front)
    axes.plot(*zip(*front, strict=True), color=GRAY, linewidth=1.2, linestyle="--", zorder=1, label="Pareto front")
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
            ecolor=color(place), label=name.replace("$", r"\$").lstrip("_") or "run", **look,
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


# Exposure against repetitions, one mark per canary: the paper's Figures 1, 4 and 7.

# Columns with more marks than this are drawn fainter, since the marks overlap.
_CROWDED = 50


def by_repetitions(report: ExposureReport) -> Any:
    """A column of marks for each repetition count, controls first, each with its mean and interval."""
    groups = report.groups
    top = highest([e.exposure_bits for e in report.estimates] + [group.high_bits for group in groups])
    figure, (axes,) = new_figure("Exposure against repetitions, one mark per canary")
    mark_chance_and_ceiling(axes, report.log2_space_size, top)
    shade_chance(axes)
    for place, group in enumerate(groups):
        members = [e for e in report.estimates if e.repetitions == group.repetitions]
        bits = [e.exposure_bits for e in members]
        # Spread the marks sideways so that equal figures stay visible.
        spread = [place - 0.08 + 0.36 * ((i % 9) / 8 - 0.5) for i in range(len(bits))]
        faint = 0.75 if len(bits) <= _CROWDED else max(0.05, 0.75 * _CROWDED / len(bits))
        ends = [
            (x, e.low_bits, e.high_bits)
            for x, e in zip(spread, members, strict=True)
            if math.isfinite(e.low_bits) and math.isfinite(e.high_bits) and e.high_bits > e.low_bits
        ]
        if ends:
            axes.vlines(*zip(*ends, strict=True), color=color(place), linewidth=1, alpha=0.6 * faint)
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
    dose = "; trained: times trained on so far" if known else ""
    axes.set_xlabel(
        f"times inserted{dose}; black: mean of 8 or more\nwith its {level:g} % interval; shaded: chance", fontsize=9
    )
    return figure


def _tick(group: RepetitionGroup, report: ExposureReport) -> str:
    undefined = sum(not math.isfinite(e.exposure_bits) for e in report.estimates if e.repetitions == group.repetitions)
    dose = f"\ntrained\n{times}" if (times := trained_text(group)) else ""
    name = f"{group_name(group.repetitions)}{dose}"
    return f"{name}\nn = {group.canaries}" + (f"\n{undefined} undefined" if undefined else "")


# Exposure during training, alone and below the losses (the paper's Figure 9).

# Keys of the trainer's log, their readable names, and their styles.
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "loss": ("training loss", {"color": "#555555", "linestyle": "-", "marker": None}),
    "eval_loss": ("validation loss", {"color": "#000000", "linestyle": "--", "marker": "o"}),
}


# Most intervals drawn along one curve.
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
    """Losses above and exposure below, over the same steps, to show when memorization begins and whether a loss
    reveals it.
    """
    figure, (above, below) = new_figure("Training and validation loss, and exposure", panels=2, heights=(0.6, 0.9))
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
    """Steps and values of a key of the trainer's log; values that are not finite are left out.

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
        # An interval takes some milliseconds to compute, and a run that is measured at every step would have
        # thousands.
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
            axes.fill_between(*zip(*sorted(limited), strict=True), color=color(place), alpha=0.15, linewidth=0)
        # There are too few for an interval: draw each canary.
        each = [
            (step, e.exposure_bits)
            for step, row in zip(steps, rows, strict=True)
            if row and row.is_small
            for e in row.estimates
        ]
        if each:
            axes.plot(
                *zip(*each, strict=True), linestyle="none", marker=".", markersize=4, alpha=0.5, color=color(place),
            )  # fmt: skip


def _step_name(run: Sequence[ExposureReport]) -> str:
    return "optimizer step" if run[-1].step is not None else "measurement"


# The log-perplexities of texts of the template and of the canaries: the paper's Figure 3.

# Rows of canaries below the histogram: with more counts than this, the middle ones are left out.
_MOST_ROWS = 8


def of_references(report: ExposureReport) -> Any:
    """The histogram of reference costs, with the skew-normal law where it was used; below it, a row for each count."""
    references = report.references
    assert references is not None
    groups = report.groups
    shown = groups if len(groups) <= _MOST_ROWS else (*groups[:1], *groups[1 - _MOST_ROWS :])
    what = "texts, all of the template" if references.whole_space else "uniformly drawn texts"
    title = f"Log-perplexity of {references.count:,} {what}, and of canaries"
    figure, (above, below) = new_figure(title, panels=2, heights=(0.7, 0.14 + 0.07 * len(shown)))
    counts, edges = _readable(references)
    above.stairs(counts, edges, fill=True, color="#bbbbbb", label="references")
    law = references.law
    # A fit on which no figure rests proves nothing, and a bad one misleads.
    if law is not None and any(estimate.method == "skew_normal" for estimate in report.estimates):
        costs = np.linspace(edges[0] - 0.1 * (edges[-1] - edges[0]), edges[-1], 400)
        width = edges[1] - edges[0]
        expected = references.count * width * skew_normal_density(costs, law)
        above.plot(costs, expected, color="black", linewidth=1.4, label="fitted skew-normal")
    above.set_ylabel("references per bin")
    above.legend(frameon=False, fontsize=9)
    for place, group in enumerate(shown):
        marks = [e.log_perplexity_bits for e in report.estimates if e.repetitions == group.repetitions]
        style = marker_style(groups.index(group))
        below.plot(
            marks, [place] * len(marks), linestyle="none", markersize=5.5, alpha=0.7, markeredgewidth=0, **style
        )
    below.set_yticks(range(len(shown)), [group_name(group.repetitions) for group in shown], fontsize=9)
    below.set_ylim(-0.6, len(shown) - 0.4)
    below.set_ylabel("inserted")
    below.set_xlabel("log-perplexity (bits; more likely texts are on the left)")
    return figure


def _readable(references: ReferenceCosts) -> tuple[Any, Any]:
    """Counts and edges of the bins, merged in pairs until there are few enough to show the shape and not the noise."""
    counts, edges = np.array(references.counts), references.edges_bits
    while len(counts) % 2 == 0 and len(counts) > max(16, 2 * math.sqrt(references.count)):
        counts, edges = counts.reshape(-1, 2).sum(axis=1), edges[::2]
    return counts, edges


def skew_normal_density(costs: Any, law: SkewNormalFit) -> Any:
    """`2 phi(z) Phi(shape z) / scale` with `z = (cost - loc) / scale`: per bit."""
    from scipy.special import ndtr

    z = (np.asarray(costs) - law.loc) / law.scale
    return 2.0 / law.scale * np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi) * ndtr(law.shape * z)


# True- against false-positive rates: Figure 1 of Carlini et al. 2022, with the smallest rates in view.


def of_rates(curves: Mapping[str, RocCurve], title: str = "Members recognized at each rate of false alarms") -> Any:
    """Draws each curve on a logarithmic axis of false-positive rates, with its AUC and the line of chance.

    The axis begins at the smallest rate that can be observed, that of one control. The true-positive rate at no false
    alarm is drawn there.
    """
    figure, (axes,) = new_figure(title)
    smallest = 1.0 / max(curve.controls for curve in curves.values())
    chance = np.geomspace(smallest, 1.0, 200) if smallest < 1.0 else np.array([0.5, 1.0])
    axes.plot(chance, chance, color=GRAY, linewidth=1, linestyle=(0, (1, 2)), label="chance")
    for place, (name, curve) in enumerate(curves.items()):
        # A rate is constant from its point to the next, since nothing was observed between them.
        axes.plot(
            np.maximum(curve.fpr_V, chance[0]), curve.tpr_V, drawstyle="steps-post", linestyle=dashes(place),
            linewidth=1.6, color=color(place), clip_on=False,
            label=f"{name}: AUC {curve.auc:.2f} [{curve.auc_low:.2f}, {curve.auc_high:.2f}]".replace("$", r"\$"),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(chance[0], 1.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("false-positive rate (share of controls)")
    axes.set_ylabel("true-positive rate")
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    return figure


def matplotlib_is_installed() -> bool:
    """Whether plots can be drawn."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_plots(
    report: ExposureReport,
    history: Sequence[ExposureReport],
    folder: Path,
    training_log: Sequence[Mapping[str, Any]] = (),
    identity: str = "",
    formats: Sequence[str] = (),
) -> list[Path]:
    """Writes the plots of a report into `folder`, as PNG and in further formats ("svg", "pdf").

    `exposure_by_repetitions.png` is always written; `roc.png` if there are controls to compare with; `references.png`
    if the report contains the costs of its references; `exposure_by_step.png` if the history has at least two reports
    of different steps, including this one; and `exposure_and_loss.png` if there is also a trainer's log of losses.
    Each carries the report's measurement id, if it has one.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    _need_matplotlib()
    figures = {"exposure_by_repetitions.png": by_repetitions(report)}
    curves = {group_name(group.repetitions): group.roc for group in report.groups if group.roc is not None}
    if curves:
        figures["roc.png"] = of_rates(curves, "Canaries recognized at each rate of false alarms on controls")
    if report.references is not None:
        figures["references.png"] = of_references(report)
    run = run_of(report, history)
    if len(run) > 1:
        figures["exposure_by_step.png"] = by_step(run)
        if any(loss_curve(training_log, key)[0] for key in LOSSES):
            figures["exposure_and_loss.png"] = beside_losses(run, training_log)
    if report.validity is Validity.INVALID:
        # The plot may be copied without its page.
        for figure in figures.values():
            mark_invalid(figure, validity_line(report))
    return _write(figures, folder, identity, formats)


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Writes `exposure_against_utility.png` into `folder` if at least two runs have both figures.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    _need_matplotlib()
    if len(comparison.placed) < 2:
        return []
    return _write({"exposure_against_utility.png": against_utility(comparison)}, folder)


def _need_matplotlib() -> None:
    if not matplotlib_is_installed():
        raise MissingDependencyError('plots need matplotlib: pip install "hf-exposure[plots]"')


def _write(figures: Mapping[str, Any], folder: Path, identity: str = "", formats: Sequence[str] = ()) -> list[Path]:
    marks = {IDENTITY: identity} if identity else {}
    written = [write_aside(folder / name, as_png(figure, marks), private=True) for name, figure in figures.items()]
    for kind in formats:
        for name, figure in figures.items():
            path = (folder / name).with_suffix(f".{kind}")
            written.append(write_aside(path, as_vectors(figure, kind, identity), private=True))
    return written
