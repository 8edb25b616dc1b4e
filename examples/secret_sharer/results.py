"""A result as a JSON file: figures with their seeds, the machine, and the claims that the figures must bear.

A claim is a sentence and a rule on stored numbers, so that anyone can check it without running anything:

    {"sentence": "...", "rule": "mean_above", "numbers": "runs.*.difference", "than": 0, ...}

`numbers` is a path into `figures`; `*` goes through all items of a list or object. The rules:

- mean_above, mean_below: the 95 % t-interval of the mean lies above, below `than`;
- mean_holds: the 95 % t-interval of the mean holds `than`;
- all_at_least, all_at_most: every number is at least, at most `than`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from examples.secret_sharer.options import Options
from examples.secret_sharer.training import Corpus

__all__ = ["Stopwatch", "band", "claim", "interval", "numbers_at", "write_result"]

_PACKAGES = ("hf-exposure", "torch", "transformers", "numpy", "scipy")


class Stopwatch:
    """Seconds of processor time and of the clock since it was made: on a busy machine they differ."""

    def __init__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": round(time.perf_counter() - self._clock, 1),
            "processor_seconds": round(time.process_time() - self._processor, 1),
        }


def numbers_at(figures: Any, path: str) -> list[float]:
    """All numbers at `path`, in order.

    Example:
        >>> numbers_at({"runs": [{"bits": 1.0}, {"bits": 2.0}]}, "runs.*.bits")
        [1.0, 2.0]
    """
    found = [figures]
    for part in path.split("."):
        if part == "*":
            found = [item for value in found for item in (value.values() if isinstance(value, dict) else value)]
        else:
            found = [value[int(part)] if isinstance(value, list) else value[part] for value in found]
    return [float(value) for value in found]


def interval(numbers: Any) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % t-interval of the mean of independent numbers; NaN where there are too few."""
    values_N = np.asarray(numbers, dtype=np.float64)
    if not values_N.size:
        return math.nan, math.nan, math.nan
    mean = float(values_N.mean())
    if len(values_N) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values_N) - 1) * values_N.std(ddof=1) / math.sqrt(len(values_N)))
    return mean, mean - half, mean + half


def band(name: str, x: list[float], numbers_at_x: Iterable[Any]) -> dict[str, Any]:
    """A series of a plot: at each x the mean of independent numbers (one a seed) and its interval."""
    means, lows, highs = zip(*map(interval, numbers_at_x), strict=True)
    return {"name": name, "x": x, "y": list(means), "low": list(lows), "high": list(highs)}


def claim(figures: dict[str, Any], sentence: str, rule: str, numbers: str, than: float) -> dict[str, Any]:
    """The claim with what it comes to on `figures`: mean and interval, or least and greatest, and whether it holds.

    A claim on no number, or on one that is NaN, does not hold.
    """
    values = numbers_at(figures, numbers)
    mean, low, high = interval(values)
    least, greatest = (min(values), max(values)) if values and not np.isnan(values).any() else (math.nan, math.nan)
    holds = {
        "mean_above": low > than,
        "mean_below": high < than,
        "mean_holds": low <= than <= high,
        "all_at_least": least >= than,
        "all_at_most": greatest <= than,
    }[rule]
    spread = [mean, low, high] if rule.startswith("mean") else [mean, least, greatest]
    return {
        "sentence": sentence,
        "rule": rule,
        "numbers": numbers,
        "than": than,
        "count": len(values),
        "mean_low_high": [float(f"{value:.5g}") for value in spread],
        "holds": bool(holds),
    }


def write_result(
    options: Options,
    name: str,
    *,
    corpus: Corpus | None,
    settings: dict[str, Any],
    seeds: list[int],
    figures: dict[str, Any],
    claims: list[dict[str, Any]],
    table: dict[str, Any],
    plots: list[dict[str, Any]],
    cost: dict[str, float],
) -> Path:
    """Writes `{name}.json` into the options' folder.

    Args:
        corpus: whose name and hash are kept, and none of its text.
        figures: what was measured, per seed; `claims` point into it.
        table: {"columns": [...], "rows": [[...], ...]} for the page.
        plots: as `examples.secret_sharer.plots` draws them.
        cost: of `Stopwatch.read()`.
    """
    text = {} if corpus is None else {"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.characters}
    record = {
        "result": name,
        "size": options.size,
        "text": text,
        "settings": settings,
        "seeds": seeds,
        "cost": cost,
        "machine": _machine(),
        "versions": _versions(),
        "claims": claims,
        "table": table,
        "plots": plots,
        "figures": figures,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path, aside = options.out / f"{name}.json", options.out / f".{name}.{os.getpid()}"
    aside.write_text(_compact(record) + "\n", encoding="utf-8")
    os.replace(aside, path)
    for made in claims:
        print(f"{'holds' if made['holds'] else 'FAILS'}  {made['sentence']}  {made['mean_low_high']}")
    return path


def _compact(record: dict[str, Any]) -> str:
    """One line for each item of the record and of its lists: short to store, and a change is seen in a diff."""
    lines = []
    for key, value in record.items():
        value = _finite(value)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            items = ",\n  ".join(json.dumps(item) for item in value)
            lines.append(f" {json.dumps(key)}: [\n  {items}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _finite(value: Any) -> Any:
    """JSON knows no NaN: None stands for it. Figures are kept to six digits."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _machine() -> dict[str, Any]:
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
