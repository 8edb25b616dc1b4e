"""Shares the work of one scoring among the processes of a job.

Each process scores its part of the rows, in equally many calls of equal shapes, since a sharded model gathers its
weights in every call and deadlocks if any process makes one call fewer. Figures are summed, so that all processes have
the same ones afterwards and continue in the same way.

Everything that may fail on one process alone runs between two barriers. At a barrier every process reports whether it
failed; if any did, all raise. So no process waits for one that has failed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed, nn

from hf_exposure.errors import ExposureError, OutOfStepError
from hf_exposure.runtime.model_state import is_sharded, model_device, tensor_parallel_size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory, as reported by torch on a GPU or on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


T = TypeVar("T")
_FINE, _NO_MEMORY, _FAILED = 0, 1, 2
_MESSAGE_BYTES = 512
SECONDS_FOR_ALL_TO_FAIL = 60.0
"""How long a process that failed in a sharded model waits for the others to fail at the same point."""
_jobs = itertools.count()


class Processes:
    """This process among those that score together.

    Args:
        rank, count: its number and the number of processes.
        device: the device of exchanged tensors: that of the model, as NCCL requires.
        copies: the number of consecutive processes that must get the same inputs (tensor parallelism); they share one
            part of the work, and the first of them reports it.
        sharded: whether the model's own forward pass exchanges tensors. If a process fails alone inside such a pass,
            the others cannot be notified, so the job ends (`OutOfStepError`).

    Attributes:
        shard, num_shards: the number of this process's part of the work, and the number of parts.
    """

    def __init__(
        self,
        rank: int = 0,
        count: int = 1,
        device: torch.device | None = None,
        *,
        copies: int = 1,
        sharded: bool = False,
    ) -> None:
        self.count, self.shard, self.num_shards = count, rank // copies, count // copies
        self._is_first, self._answers = rank == 0, rank % copies == 0
        self._device, self._sharded = device or torch.device("cpu"), sharded
        self._agreed_error: BaseException | None = None
        self._failures = (f"hf_exposure/failures/{next(_jobs)}/{number}" for number in itertools.count())

    @classmethod
    def of_job(cls, model: nn.Module, *, calls_model: bool = True) -> Processes:
        """All processes of the initialized default group that score `model`; only this one if there is no group.

        With `calls_model=False` the barriers are for other work, in which no process can wait inside the model.
        """
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return SINGLE_PROCESS
        return cls(
            distributed.get_rank(),
            distributed.get_world_size(),
            model_device(model),
            copies=tensor_parallel_size(model),
            sharded=calls_model and is_sharded(model),
        )

    def run_then_barrier(self, work: Callable[[], T]) -> T:
        """Returns the result of `work`, which calls the model but no method of this class; raises on all processes if
        it raises on one.

        Out of memory on one counts as out of memory on all, so that all try again with less.
        """
        if self.count == 1:
            return work()
        try:
            result = work()
        except Exception as error:
            self._barrier(error)
            raise AssertionError("a barrier raises if it gets an error") from error
        self._barrier()
        return result

    def all_reduce_sum(self, work: Callable[[], np.ndarray]) -> np.ndarray:
        """The element-wise float64 sum of `work` over all parts, the same on each process. NaN in any part gives
        NaN.
        """
        figures = self.run_then_barrier(work)
        if self.count == 1:
            return figures
        return self._all_reduce(figures if self._answers else np.zeros_like(figures))

    def broadcast(self, figures: np.ndarray) -> np.ndarray:
        """The first process's figures, on every process; NaN where any process has NaN, since a device may fail on
        one of them.
        """
        if self.count == 1:
            return figures
        return self.all_reduce_sum(lambda: figures if self._is_first else np.where(np.isnan(figures), figures, 0.0))

    def broadcast_text(self, make: Callable[[], str]) -> str:
        """The result of `make` on the first process, which alone calls it."""
        if self.count == 1:
            return make()
        text = self.run_then_barrier(lambda: make() if self._is_first else "").encode()
        tensor = torch.zeros(self._barrier(number=len(text)), dtype=torch.uint8, device=self._device)
        if self._is_first:
            tensor = torch.tensor(list(text), dtype=torch.uint8, device=self._device)
        distributed.broadcast(tensor, src=0)
        return bytes(tensor.tolist()).decode()

    def all_gather_texts(self, text: str) -> list[str]:
        """The text of each process, in the order of processes."""
        own = text.encode("utf-8")
        if self.count == 1:
            return [text]
        mine = torch.zeros(self._barrier(number=len(own)), dtype=torch.uint8, device=self._device)
        mine[: len(own)] = torch.tensor(list(own), dtype=torch.uint8, device=self._device)
        all_of_them = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(all_of_them, mine)
        return [bytes(one.tolist()).rstrip(b"\0").decode("utf-8") for one in all_of_them]

    def all_reduce_min(self, number: int) -> int:
        """The smallest of the processes' numbers."""
        return number if self.count == 1 else -self._barrier(number=-number)

    @contextmanager
    def barrier(self) -> Iterator[None]:
        """Either all processes leave this block, or all raise, also for an error between two barriers."""
        try:
            yield
        except Exception as error:
            # The job must end: the other processes wait inside the model, not here.
            if self.count > 1 and error is not self._agreed_error and not isinstance(error, OutOfStepError):
                self._barrier(error)
            raise
        if self.count > 1:
            self._barrier()

    def _barrier(self, error: Exception | None = None, number: int = 0) -> int:
        """The largest of the processes' numbers. Raises if any process failed, with this process's own error if it
        has one.
        """
        if error is not None and self._sharded:
            self._await_failure_of_all(error)
        own = _FINE if error is None else _NO_MEMORY if is_out_of_memory(error) else _FAILED
        tensor = torch.tensor([own, number], dtype=torch.int64, device=self._device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        worst, largest = tensor.tolist()
        if worst == _FINE:
            return int(largest)
        if own != worst or error is None:
            message = self._first_message("")
            kind = torch.OutOfMemoryError if worst == _NO_MEMORY else ExposureError
            self._agreed_error = kind(f"on another process: {message}")
            raise self._agreed_error from error
        self._first_message(f"{type(error).__name__}: {error}")
        self._agreed_error = error
        raise error

    def _first_message(self, own: str) -> str:
        """The message of the first process with the most severe failure, in at most 512 bytes."""
        text = own.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES)
        mine = torch.tensor(list(text), dtype=torch.uint8, device=self._device)
        all_of_them = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(all_of_them, mine)
        said = [bytes(one.tolist()).decode(errors="ignore").strip() for one in all_of_them]
        return next((f"{text} (process {rank})" for rank, text in enumerate(said) if text), "")

    def _await_failure_of_all(self, error: Exception) -> None:
        """Returns if every process fails at this point, as with a model that refuses an argument; otherwise ends the
        job.

        It uses no collective, since the others may be waiting inside the model's own. The job's store always responds.
        """
        store, key = job_store(), next(self._failures)
        deadline = time.monotonic() + SECONDS_FOR_ALL_TO_FAIL
        failed = store.add(key, 1)
        while failed < self.count:
            if time.monotonic() > deadline:
                self._agreed_error = OutOfStepError(
                    f"{type(error).__name__}: {error}. {failed} of {self.count} processes failed inside a sharded "
                    "model and the others wait for them there, so the job must end. A smaller max_batch_tokens needs "
                    "less memory."
                )
                raise self._agreed_error from error
            time.sleep(0.01)
            failed = store.add(key, 0)

    def _all_reduce(self, figures: np.ndarray) -> np.ndarray:
        tensor = torch.as_tensor(figures, dtype=torch.float64, device=self._device).clone()
        distributed.all_reduce(tensor)
        return tensor.cpu().numpy()


def job_store() -> Any:
    """The key-value store of the process group; torch has no public name for it."""
    return distributed.distributed_c10d._get_default_store()


SINGLE_PROCESS = Processes()
