"""Draws the plots specified in a result's JSON: lines, points or bars, without computing anything.

    {"title": ..., "x": label, "y": label, "series": [...], "log_x": False, "log_y": False,
     "y_is_share": False, "lines": [{"y" or "x": value, "label": ...}]}

A series is {"name": ..., "x": [...], "y": [...]}, with `kind` "line" (the default), "points" or "bars", and with
`low` and `high` next to `y` for an interval. `y_is_share` cuts intervals to what a share can be, 0 to 1: a t-interval
of a few shares can be wider. Instead of series there may be pictures, each a list of rows of
hexadecimal digits, drawn side by side from blue (1) over white (8) to red (f).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_exposure.report.plots import GRAY, color, dashes, marker_style, new_figure

__all__ = ["draw_plot"]

_MARKED = 40
_MOST_INSIDE = 5  # entries of a legend that fit among the points


def draw_plot(spec: dict[str, Any], path: Path) -> None:
    """Writes the plot as a PNG."""
    if "pictures" in spec:
        _draw_pictures(spec, path)
        return
    figure, (axes,) = new_figure(spec["title"])
    for place, series in enumerate(spec["series"]):
        _draw_series(axes, series, place, (0, 1) if spec.get("y_is_share") else (-np.inf, np.inf))
    for line in spec.get("lines", []):
        draw, look = (axes.axhline, ":") if "y" in line else (axes.axvline, "--")
        draw(line.get("y", line.get("x")), color=GRAY, linewidth=1, linestyle=look, label=line["label"])
    axes.set_xlabel(spec["x"])
    axes.set_ylabel(spec["y"])
    if spec.get("log_x"):
        axes.set_xscale("log", base=spec["log_x"])
        axes.set_xticks(spec["series"][0]["x"], labels=[f"{x:,}" for x in spec["series"][0]["x"]])
    if spec.get("log_y"):
        axes.set_yscale("log", base=spec["log_y"])
    entries = len(spec["series"]) + len(spec.get("lines", []))
    if entries > _MOST_INSIDE:
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    elif entries > 1:
        axes.legend(fontsize=8, frameon=False)
    _save(figure, path)


def _draw_pictures(spec: dict[str, Any], path: Path) -> None:
    figure, (axes,) = new_figure(spec["title"])
    pictures = [[[int(digit, 16) for digit in row] for row in picture] for picture in spec["pictures"]]
    gap = [8]
    rows = [[value for picture in pictures for value in (*picture[at], *gap)] for at in range(len(pictures[0]))]
    axes.imshow(rows, cmap="coolwarm", vmin=1, vmax=15, interpolation="nearest")
    axes.set_axis_off()
    width, _ = figure.get_size_inches()
    figure.set_size_inches(width, 0.5 + width * len(rows) / len(rows[0]))
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the writer's version in it, equal plots are equal files.
    figure.savefig(path, metadata={"Software": None})


def _draw_series(axes: Any, series: dict[str, Any], place: int, possible: tuple[float, float]) -> None:
    x, y, kind = series["x"], series["y"], series.get("kind", "line")
    if kind == "bars":
        axes.bar(x, y, width=series["width"], color=color(place), alpha=0.5, label=series["name"])
        return
    style = marker_style(place)
    if kind == "points":
        axes.plot(x, y, linestyle="none", markersize=4, alpha=0.8, label=series["name"], **style)
    else:
        style = style if len(x) <= _MARKED else {"color": color(place)}
        axes.plot(x, y, linestyle=dashes(place), markersize=4, label=series["name"], **style)
    if "low" in series:
        known = [at for at, low in enumerate(series["low"]) if low is not None]
        low, high = (np.clip([series[end][at] for at in known], *possible) for end in ("low", "high"))
        axes.fill_between([x[at] for at in known], low, high, color=color(place), alpha=0.15, linewidth=0)
