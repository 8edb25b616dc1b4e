"""One look for all plots: told apart by colour-blind readers, and by anyone in black and white."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "BESIDE",
    "NULL_MEAN_BITS",
    "as_png",
    "colour",
    "dashes",
    "group_name",
    "highest",
    "mark_chance_and_ceiling",
    "mark_invalid",
    "marker_style",
    "new_figure",
    "plain_axes",
    "whole_steps",
]

# Okabe and Ito's palette: told apart by colour-blind readers; markers and dashes tell them apart in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lengths without a common divisor with that of the colours: no two of the first 28 groups look the same.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
BESIDE = "#555555"
NULL_MEAN_BITS = 1.4427
_SIZE_INCHES, _DPI = (7.2, 4.4), 150
# Of the exposure axis, below 0: a mark at 0 is then whole.
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
    """Only what is needed to read values off."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)


def mark_chance_and_ceiling(axes: Any, log2_space_size: float, highest_bits: float) -> None:
    """Makes `axes` one of exposure: its scale, and lines for the mean of a canary never seen and for log2|R|."""
    axes.set_ylabel("exposure (bits)")
    lines = (
        (log2_space_size, (6, 3), f"log2|R| = {log2_space_size:.1f}\nlikeliest of all"),
        (NULL_MEAN_BITS, (1, 2), "1.44: mean of\none never seen"),
    )
    for bits, pattern, meaning in lines:
        axes.axhline(bits, color=BESIDE, linewidth=1, linestyle=(0, pattern))
        # In the margin: anywhere inside, some run's data would lie under it.
        axes.annotate(
            meaning, (1.0, bits), xycoords=("axes fraction", "data"), xytext=(5, 0), textcoords="offset points",
            fontsize=8, color=BESIDE, va="center", annotation_clip=False,
        )  # fmt: skip
    # An extrapolated figure may lie above log2|R|, and is shown there.
    top = 1.05 * max(log2_space_size, NULL_MEAN_BITS, highest_bits)
    axes.set_ylim(-_ROOM * top, top)


def mark_invalid(figure: Any, line: str) -> None:
    """Writes across the top of a figure why nothing can be read off it."""
    figure.suptitle(line, color="#b3001b", fontsize=11, fontweight="bold", x=0.01, ha="left")


def whole_steps(axes: Any) -> None:
    """Whole steps on the x axis."""
    axes.xaxis.get_major_locator().set_params(integer=True)


def colour(place: int) -> str:
    """The colour of the group in that place."""
    return COLOURS[place % len(COLOURS)]


def dashes(place: int) -> str:
    """The line style of the group in that place."""
    return DASHES[place % len(DASHES)]


def marker_style(place: int) -> dict[str, Any]:
    """Colour and marker of the group in that place."""
    return {"color": colour(place), "marker": MARKERS[place % len(MARKERS)], "clip_on": False}


def group_name(repetitions: int) -> str:
    """What a reader calls the canaries inserted that often."""
    return f"{repetitions}×" if repetitions else "controls"


def highest(values: Iterable[float]) -> float:
    """The largest finite value; 0 where there is none."""
    return max((value for value in values if math.isfinite(value)), default=0.0)


def as_png(figure: Any, marks: Mapping[str, str] | None = None) -> bytes:
    """The picture; `marks` are keywords and texts stored in it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata=dict(marks or {}))
    return buffer.getvalue()
