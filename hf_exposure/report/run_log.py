"""The measurements of a training run, one JSON line each, beside its checkpoints.

The trainer's own `log_history` lives in checkpoints; a run that is killed loses what came after the last one. This file
is written after every measurement, and cut back to the checkpoint's step on resume, so that none is lost or doubled.
"""

from __future__ import annotations

import json
from pathlib import Path

from hf_exposure.errors import InputError
from hf_exposure.files import write_aside
from hf_exposure.report.exposure_report import ExposureReport

__all__ = ["FILE_NAME", "append_report", "read_reports", "start_log"]

FILE_NAME = "exposure.jsonl"


def start_log(folder: str | Path, step: int, *, write: bool = True) -> list[ExposureReport]:
    """Opens the log of a run that starts or resumes at `step`: later lines are dropped, earlier ones returned.

    With `write=False` (a process that is not the first) the file is only read.
    """
    path = Path(folder) / FILE_NAME
    kept = [report for report in read_reports(path) if report.step is not None and report.step <= step] if step else []
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aside(path, "".join(_line(report) for report in kept))
    return kept


def append_report(folder: str | Path, report: ExposureReport) -> None:
    """Adds one measurement."""
    path = Path(folder) / FILE_NAME
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_aside(path, before + _line(report))


def read_reports(path: str | Path) -> list[ExposureReport]:
    """Every measurement in a log, oldest first; none where there is no file.

    Raises:
        InputError: a line that is no report.
    """
    path = Path(path)
    if not path.exists():
        return []
    reports = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                str(path), f"line {number} must be whole JSON ({error.msg})", line, "Remove that line."
            ) from error
        reports.append(ExposureReport.from_dict(values))
    return reports


def _line(report: ExposureReport) -> str:
    return json.dumps(report.to_dict()) + "\n"
