"""The state of a measure, in one file per process in the trainer's checkpoint, as the trainer stores random states.

The trainer writes the checkpoint of an epoch's last step before that epoch is measured. So the file says which
measurement is the last one that it includes. A resumed run drops later lines of the log and measures again, so that
log and state agree wherever a run is killed.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_exposure.errors import ExposureError, InputError
from hf_exposure.files import write_aside
from hf_exposure.measures.protocol import Measure
from hf_exposure.runtime.processes import Processes


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """The contents of one process's file.

    Attributes:
        processes: the number of processes of the job that wrote it.
        measured: the step of the last measurement that the state includes; -1 for none.
        state: what `state_dict` returned.
    """

    processes: int
    measured: int
    state: dict[str, Any]


def state_bytes(name: str, values: dict[str, Any]) -> bytes:
    """The state as bytes, saved by torch.

    Raises:
        ExposureError: `torch.load(weights_only=True)` could not read the state; this is found now and not on resume.
    """
    buffer = io.BytesIO()
    try:
        torch.save(values, buffer)
        state_from_bytes(buffer.getvalue())
    except (pickle.PickleError, TypeError, AttributeError) as error:
        rule = "must return plain values and tensors from state_dict; a numpy array becomes one by torch.from_numpy"
        raise ExposureError(f"the measure {name!r} {rule}: {type(error).__name__}: {error}") from error
    return buffer.getvalue()


def state_from_bytes(content: bytes) -> Any:
    """The state that `state_bytes` was given, with tensors on the CPU. No code in the file is run."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def save_state(checkpoint: Path, measure: Measure, rank: int, processes: int, measured: int | None) -> None:
    """Writes this process's file if the measure has a state and the checkpoint is on this machine."""
    state = measure.state_dict()
    if state and checkpoint.is_dir():
        values = {"processes": processes, "measured": -1 if measured is None else measured, "state": state}
        write_aside(_path(checkpoint, measure.name, rank), state_bytes(measure.name, values), private=True)


def load_state(checkpoint: Path, measure: Measure, rank: int, processes: Processes) -> SavedState | None:
    """Reads this process's file; None, on all processes, if the checkpoint has none. Every process must call this.

    Each process reads its own file. The state of a measure that sees no batches is the same on all processes, so a
    process that is new to the job reads the first one's.

    Raises:
        InputError: the file is damaged, or the measure sees batches, which each process counts separately (no
            `state_is_shared`), and the number of processes has changed.
    """
    is_own = hasattr(measure, "on_batch") and not getattr(measure, "state_is_shared", False)
    with processes.barrier():
        own, first = (_path(checkpoint, measure.name, number) for number in (rank, 0))
        place = own if own.exists() or is_own else first
        saved = _read(place) if place.exists() else None
        if saved is not None and saved.processes != processes.count and is_own:
            rule = f"must have {saved.processes} processes, like the job that saved the state of {measure.name!r}"
            remedy = "Resume with as many processes, or without that measure."
            raise InputError("resume_from_checkpoint", rule, processes.count, remedy)
    return saved if processes.all_reduce_min(int(saved is not None)) else None


def _read(path: Path) -> SavedState:
    try:
        return SavedState(**state_from_bytes(path.read_bytes()))
    except (pickle.UnpicklingError, RuntimeError, TypeError, EOFError) as error:
        remedy = "Remove the file: the measure then starts again at this step."
        raise InputError(str(path), "must be complete", type(error).__name__, remedy) from error


def _path(checkpoint: Path, name: str, rank: int) -> Path:
    # The underscore excludes the file when the checkpoint is pushed to the Hub.
    return checkpoint / f"_{name}_state_{rank}.pt"
