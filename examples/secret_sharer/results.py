"""A result as a JSON file: figures with their seeds, and the machine. Claims about them are in the TOML next to it."""

from __future__ import annotations

import json
import math
import os
import platform
import time
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from examples.secret_sharer import RESULTS
from examples.secret_sharer.claims import check_claim, interval
from examples.secret_sharer.training import Corpus

__all__ = ["Stopwatch", "band", "compact", "interval", "machine", "versions", "write_result"]

_PACKAGES = ("hf-exposure", "torch", "transformers", "numpy", "scipy")


class Destination(Protocol):
    """The options of a script that are used here."""

    @property
    def size(self) -> str: ...
    @property
    def out(self) -> Path: ...


class Stopwatch:
    """Processor and wall-clock seconds since it was created; they differ on a busy machine."""

    def __init__(self) -> None:
        self._clock, self._processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "seconds": round(time.perf_counter() - self._clock, 1),
            "processor_seconds": round(time.process_time() - self._processor, 1),
        }


def band(name: str, x: list[float], numbers_at_x: Iterable[Any]) -> dict[str, Any]:
    """A series of a plot: at each x, the mean of independent numbers (one per seed) and its interval."""
    means, lows, highs = zip(*map(interval, numbers_at_x), strict=True)
    return {"name": name, "x": x, "y": list(means), "low": list(lows), "high": list(highs)}


def write_result(
    options: Destination,
    name: str,
    *,
    corpus: Corpus | None = None,
    settings: dict[str, Any],
    seeds: list[int],
    figures: dict[str, Any],
    table: dict[str, Any],
    plots: list[dict[str, Any]],
    cost: dict[str, float],
    claims: Path = RESULTS,
) -> Path:
    """Writes `{name}.json` into the options' folder.

    Args:
        corpus: only its name and hash are stored, none of its text.
        figures: the measurements, per seed; claims refer to them by path.
        table: {"columns": [...], "rows": [[...], ...]} for the page.
        plots: as `examples.secret_sharer.plots` draws them.
        cost: from `Stopwatch.read()`.
        claims: the folder of `{name}.toml`, whose claims are checked and printed.
    """
    text = {} if corpus is None else {"name": corpus.name, "sha256": corpus.sha256, "characters": corpus.characters}
    record = {
        "result": name,
        "size": options.size,
        "text": text,
        "settings": settings,
        "seeds": seeds,
        "cost": cost,
        "machine": machine(),
        "versions": versions(),
        "table": table,
        "plots": plots,
        "figures": figures,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path, aside = options.out / f"{name}.json", options.out / f".{name}.{os.getpid()}"
    aside.write_text(compact(record) + "\n", encoding="utf-8")
    os.replace(aside, path)
    words = tomllib.loads((claims / f"{name}.toml").read_text(encoding="utf-8"))
    for made in (check_claim(each, figures) for each in words["claims"] if "of" not in each):
        print(f"holds: {made.holds}  {made.words['sentence']}  {made.spread}")
    return path


def compact(record: dict[str, Any]) -> str:
    """JSON with one line for each item of the record and of its lists: compact, and with readable diffs."""
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
    """Replaces NaN, which JSON does not have, by None, and rounds figures to six digits."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def machine() -> dict[str, Any]:
    """The machine and its accelerator."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages used."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
