"""Reads the results of a training or a measurement from a folder: its report, earlier ones, and the trainer's log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_exposure.errors import InputError
from hf_exposure.files import read_json
from hf_exposure.limits import LARGEST_FIGURE
from hf_exposure.records.exposure_report import REPORT_FILE, ExposureReport
from hf_exposure.records.run_log import EXPOSURE_LOG

_STATE, _RESULTS = "trainer_state.json", "all_results.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: a measurement, with its training's history if there is one.

    Attributes:
        name: the name of its folder.
        report: the last measurement.
        history: all measurements of the training, oldest first; empty without an `_exposure.jsonl`.
        training_log: the trainer's `log_history`; empty if no checkpoint has one.
        results: the metrics that `trainer.save_metrics` wrote last.
    """

    name: str
    report: ExposureReport
    history: tuple[ExposureReport, ...] = ()
    training_log: tuple[Mapping[str, Any], ...] = ()
    results: Mapping[str, Any] | None = None

    def utility(self, key: str) -> float:
        """A figure of the trainer at the report's own step, else its last value; NaN if there is none."""
        entries = [entry for entry in self.training_log if _is_finite(entry.get(key))]
        at_step = [entry for entry in entries if entry.get("step") == self.report.step]
        for source in (at_step[-1:], [self.results or {}], entries[-1:]):
            if source and _is_finite(source[0].get(key)):
                return float(source[0][key])
        return math.nan


def load_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Loads several runs under distinct names: that of the folder, or the path if two folders share a name."""
    names = [Path(path).resolve().name for path in paths]
    chosen = [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise InputError("runs", "must all be different", [str(path) for path in paths], "Name each run once.")
    return [load_run(path, name) for path, name in zip(paths, chosen, strict=True)]


def load_run(path: str | Path, name: str | None = None) -> Run:
    """Loads a run from a folder that `report.save` wrote, from a training's output folder, or from a report file.

    The trainer's log comes from the folder's own `trainer_state.json`, from that of its last checkpoint, or from
    next to the model that was measured.

    Raises:
        InputError: there is no such folder, it has no measurement, or its files cannot be read.
    """
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    if not place.exists():
        raise InputError("run", "must be a folder or report that exists", str(path), "Name what --out was given.")
    history = EXPOSURE_LOG.read(folder) if place.is_dir() else []
    if place.is_file() or (place / REPORT_FILE).exists():
        report = ExposureReport.load(place)
    elif history:
        report = history[-1]
    else:
        rule = f"must hold {REPORT_FILE} or {EXPOSURE_LOG.file_name}"
        raise InputError("run", rule, str(path), "Name a folder that measure or ExposureCallback wrote.")
    model = str(report.model.get("name") or "")
    folders = [folder, *([Path(model), Path(model).parent] if model and Path(model).is_dir() else [])]
    return Run(
        name=name or place.resolve().name,
        report=report,
        history=tuple(history),
        training_log=tuple(_training_log(folders)),
        results=next((_read_json(f / _RESULTS) for f in folders if (f / _RESULTS).exists()), None),
    )


def _training_log(folders: Sequence[Path]) -> list[Mapping[str, Any]]:
    for folder in folders:
        checkpoints = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
        checkpoints.sort(key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True)
        for place in (folder, *checkpoints):
            if (place / _STATE).exists():
                entries = _read_json(place / _STATE).get("log_history", [])
                return [_figures(entry) for entry in entries] if isinstance(entries, list) else []
    return []


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = read_json(path, constants=True)
    except (OSError, ValueError) as error:
        raise InputError("run", "must have complete JSON files", str(path), "Restore or remove that file.") from error
    return values if isinstance(values, Mapping) else {}


def _figures(entry: Any) -> dict[str, Any]:
    """The numbers in an entry of the log, its step included; everything else is ignored."""
    return {key: value for key, value in entry.items() if _is_finite(value)} if isinstance(entry, Mapping) else {}


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_FIGURE
