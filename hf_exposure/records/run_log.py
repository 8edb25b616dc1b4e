"""The log of a measure: one JSON line for each measurement of a training run, next to its checkpoints.

The trainer's own `log_history` is saved in checkpoints only, so a killed run loses all entries after the last
checkpoint. This file grows with every measurement. On resume it is cut back to the checkpoint's step, so that no
measurement is lost or duplicated.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from hf_exposure.errors import InputError
from hf_exposure.fields import plain
from hf_exposure.files import make_private_folder, parse_json, write_aside
from hf_exposure.limits import LARGEST_JSON_BYTES
from hf_exposure.records.exposure_report import ExposureReport


class Record(Protocol):
    """One measurement, which is logged, stored and shown.

    Attributes:
        step, epoch: step and epoch of the training run, if there was one.
    """

    @property
    def step(self) -> int | None: ...

    @property
    def epoch(self) -> float | None: ...

    def metrics(self) -> dict[str, float]:
        """The figures to log, by their full keys (`eval_{name}_...`); NaN for undefined figures."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, including `step` and `epoch`."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlainRecord:
    """A record for measures without their own record class: figures to log, and further values to store.

    Attributes:
        figures: numbers by their full keys.
        details: any other plain values (rows, counts); they are stored in the log and not sent to trackers.
        step, epoch: step and epoch of the training run; `MeasureCallback` sets them.

    Example:
        >>> PlainRecord(figures={"eval_norm_mean": 2.5}, step=3).to_dict()
        {'figures': {'eval_norm_mean': 2.5}, 'details': {}, 'step': 3, 'epoch': None}
    """

    figures: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    epoch: float | None = None

    def metrics(self) -> dict[str, float]:
        """The figures as floats."""
        return {key: float(value) for key, value in self.figures.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None for figures that are not finite."""
        values = {"figures": self.metrics(), "details": self.details, "step": self.step, "epoch": self.epoch}
        return dict(plain(values))

    @classmethod
    def of(cls, record: Record) -> PlainRecord:
        """Any record's figures, with all values of its `to_dict` as details."""
        if isinstance(record, PlainRecord):
            return record
        details = {name: value for name, value in record.to_dict().items() if name not in ("step", "epoch")}
        return cls(figures=record.metrics(), details=details, step=record.step, epoch=record.epoch)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PlainRecord:
        """The record from the values of `to_dict`.

        Raises:
            InputError: a field is missing or of the wrong type.
        """
        figures, details = (
            values.get(name) if isinstance(values, Mapping) else None for name in ("figures", "details")
        )
        if not isinstance(figures, Mapping) or not isinstance(details, Mapping):
            rule = "must hold figures and details, as PlainRecord.to_dict writes them"
            raise InputError("record", rule, sorted(values)[:8], "Restore that line, or remove it.")
        restored = {key: math.nan if value is None else float(value) for key, value in figures.items()}
        return cls(figures=restored, details=details, step=values.get("step"), epoch=values.get("epoch"))


R = TypeVar("R", bound=Record)
_READ = TypeVar("_READ")


class RunLog(Generic[R]):
    """The log `_{name}.jsonl` in the output folder of a training.

    Args:
        name: the name of the measure.
        from_dict: makes a record from the values of its `to_dict`.

    Attributes:
        file_name: the name, which begins with an underscore since `Trainer.push_to_hub` uploads all other files of the
            output folder, and these figures are exact.

    Example:
        >>> from tempfile import mkdtemp
        >>> log, folder = RunLog("norm", PlainRecord.from_dict), mkdtemp()
        >>> log.start(folder, step=0)
        []
        >>> log.append(folder, PlainRecord(figures={"eval_norm_mean": 2.5}, step=3))
        >>> [record.step for record in log.start(folder, step=3)], log.start(folder, step=2)
        ([3], [])
    """

    def __init__(self, name: str, from_dict: Callable[[Mapping[str, Any]], R]) -> None:
        self.file_name, self._from_dict = f"_{name}.jsonl", from_dict

    def start(self, folder: str | Path, step: int, processes: _Processes | None = None) -> list[R]:
        """Opens the log of a run that starts or resumes at `step`: later lines are dropped, earlier ones returned.

        Args:
            folder: the output folder; it is created if missing.
            step: the step of the checkpoint; 0 begins a new log.
            processes: the processes of the job. Only the first of them reads and writes, and informs the others, which
                may run on machines without that folder.
        """
        path = Path(folder) / self.file_name

        def cut_back() -> str:
            whole = self.read(folder) if step else []
            kept = "".join(_line(record) for record in whole if record.step is not None and record.step <= step)
            make_private_folder(path.parent)
            write_aside(path, kept, private=True)
            return kept

        kept = cut_back() if processes is None else processes.broadcast_text(cut_back)
        return [self._from_dict(json.loads(line)) for line in kept.splitlines()]

    def append(self, folder: str | Path, record: R) -> None:
        """Adds one measurement.

        It is appended to the file, since rewriting the whole file each time would take hours in a long run. A line cut
        short by a full disk or a kill has no line end; it is removed, or ignored when the file is read.
        """
        path, line = Path(folder) / self.file_name, _line(record).encode("utf-8")
        # Unbuffered, since a buffer would be written again on closing, after the cut.
        with open(path, "ab", buffering=0, opener=_private) as file:
            os.chmod(file.fileno(), 0o600)  # for a log that was created in another way
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            except BaseException:
                file.truncate(before)
                raise

    def read(self, folder: str | Path) -> list[R]:
        """Every measurement, oldest first; empty if there is no file. An incomplete last line is ignored.

        Raises:
            InputError: any other line is no record.
        """
        path = Path(folder) / self.file_name
        if not path.exists():
            return []
        records = []
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                values = parse_json(line)
            except ValueError as error:
                shown = line.decode("utf-8", errors="replace")
                raise InputError(
                    str(path), f"line {number} must be complete JSON", shown, "Remove that line."
                ) from error
            records.append(self._from_dict(values))
        return records


class _Processes(Protocol):
    """The methods that a log needs of a job's processes. Reading a log needs no torch, so their class is not
    imported.
    """

    def broadcast_text(self, make: Callable[[], str]) -> str: ...


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines one by one, however long the file is. A line beyond the limit is split into parts, which are
    not valid JSON.
    """
    with path.open("rb") as file:
        while (line := file.readline(LARGEST_JSON_BYTES)).endswith(b"\n") or len(line) == LARGEST_JSON_BYTES:
            yield line.removesuffix(b"\n")


def _line(record: Record) -> str:
    return json.dumps(plain(record.to_dict()), allow_nan=False) + "\n"


EXPOSURE_LOG = RunLog("exposure", ExposureReport.from_dict)
"""`_exposure.jsonl`, as `ExposureCallback` writes it."""
