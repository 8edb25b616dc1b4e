"""The measurements of a training run, one JSON line each, beside its checkpoints.

The trainer's own `log_history` lives in checkpoints; a run that is killed loses what came after the last one. This
file is written after every measurement, and cut back to the checkpoint's step on resume, so that none is lost or
doubled.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hf_exposure.errors import InputError
from hf_exposure.files import make_private_folder, parse_json, write_aside
from hf_exposure.limits import LARGEST_JSON_BYTES
from hf_exposure.report.exposure_report import ExposureReport

if TYPE_CHECKING:
    from hf_exposure.scoring.processes import Processes

__all__ = ["FILE_NAME", "append_report", "read_reports", "start_log"]

# The underscore keeps it at home: `Trainer.push_to_hub` uploads all of the output folder but what begins with one, and
# these figures are exact.
FILE_NAME = "_exposure.jsonl"


def start_log(folder: str | Path, step: int, processes: Processes | None = None) -> list[ExposureReport]:
    """Opens the log of a run that starts or resumes at `step`: later lines are dropped, earlier ones returned.

    The first of `processes` alone reads and writes; the others, perhaps on machines without that folder, are told.
    """
    path = Path(folder) / FILE_NAME

    def cut_back() -> str:
        whole = read_reports(path) if step else []
        kept = "".join(_line(report) for report in whole if report.step is not None and report.step <= step)
        make_private_folder(path.parent)
        write_aside(path, kept, private=True)
        return kept

    # Reading a run needs no torch, so that a report of it is quick: whoever has processes has loaded it.
    kept = cut_back() if processes is None else processes.text_from_first(cut_back)
    return [ExposureReport.from_dict(json.loads(line)) for line in kept.splitlines()]


def append_report(folder: str | Path, report: ExposureReport) -> None:
    """Adds one measurement.

    At the end of the file: writing all of it anew each time would take hours over a long run's measurements. A line
    cut short, by a full disk or a kill, has no line end; it is taken back, or passed over by whoever reads the file.
    """
    line = _line(report).encode("utf-8")
    # Unbuffered: a buffer would be written once more on closing, after the cut.
    with open(Path(folder) / FILE_NAME, "ab", buffering=0, opener=_private) as file:
        os.chmod(file.fileno(), 0o600)  # a log that was made otherwise
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(Path(folder) / FILE_NAME))
        except BaseException:
            file.truncate(before)
            raise


def read_reports(path: str | Path) -> list[ExposureReport]:
    """Every measurement in a log, oldest first; none where there is no file. A last line without end is passed over.

    Raises:
        InputError: another line that is no report.
    """
    path = Path(path)
    if not path.exists():
        return []
    reports = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            values = parse_json(line)
        except ValueError as error:
            shown = line.decode("utf-8", errors="replace")
            raise InputError(str(path), f"line {number} must be whole JSON", shown, "Remove that line.") from error
        reports.append(ExposureReport.from_dict(values))
    return reports


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """One by one, however long the file is. A line beyond the limit comes in parts, which are no JSON."""
    with path.open("rb") as file:
        while (line := file.readline(LARGEST_JSON_BYTES)).endswith(b"\n") or len(line) == LARGEST_JSON_BYTES:
            yield line.removesuffix(b"\n")


def _line(report: ExposureReport) -> str:
    return json.dumps(report.to_dict()) + "\n"
