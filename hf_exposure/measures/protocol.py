"""The protocol of measures: objects that `MeasureCallback` prepares, calls at its steps, saves and restores.

A measure uses a model and no Trainer, so the same object works in a custom training loop. The callback decides when to
measure and what is logged where, and handles resuming, failures and the other processes of a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from hf_exposure.records.run_log import Record
from hf_exposure.runtime.processes import Processes


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingStart:
    """The state when a training starts or resumes.

    Attributes:
        model: the trained model, without the wrappers of data parallelism and compilation.
        tokenizer: the tokenizer; None if the training has none, as for a classifier of images.
        train_dataloader: the data loader, to inspect but not to iterate: its workers and its random state belong to
            the training. None in a custom loop that passes none.
        processes: the processes that measure together. Every call of their methods is a barrier: all must make it.
        output_dir: the output folder of the training.
        step: the number of finished optimizer steps; 0 unless the training resumes.
        begins_again: whether the trainer ran out of memory after its first step, and now trains the same weights from
            the beginning, with smaller batches (`auto_find_batch_size`). is_first_process: whether this process prints
            and warns.
    """

    model: nn.Module
    tokenizer: Any
    train_dataloader: Any
    processes: Processes
    output_dir: Path
    step: int = 0
    begins_again: bool = False
    is_first_process: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class SeenBatch:
    """One batch that this process is about to train on.

    Attributes:
        inputs: the arguments of the model's forward pass by name, as the training loop passes them. The tensors belong
            to the loop and are on the model's device: read them, never write to them, and copy what you need to keep.
        step: the number of optimizer steps before this batch. With gradient accumulation, several batches share one
            step.
    """

    inputs: Mapping[str, Any]
    step: int


class Measure(Protocol):
    """The members of a measure. Any class with these members is a measure; no base class is needed.

    Five further members are optional:

    - `on_batch(batch: SeenBatch) -> None`, called with every batch that this process trains on, before its forward
      pass. It is called often, so it must not wait for the device: no `.item()`, no copy to the CPU, no communication
          with other processes.
    - `on_output(batch: SeenBatch, output: Any) -> None`, called with the same batch and the model's output for it,
      after its forward pass, under the same conditions. Detach the tensors that you keep.
    - `state_is_shared = True`, if `state_dict` returns the same on every process although each sees its own batches
      (it sums them first). A job with another number of processes can then resume it.
    - `record_from_dict(values) -> Record`, which restores a record from what its `to_dict` wrote to the log when a run
      resumes. Without it, records are written as `PlainRecord.of(record)`, and restored as that.
    - `run_of(records) -> Presented`, which combines all measurements of a training in one record. If a "card"
      presenter is registered for its kind, `MeasureCallback(..., push_to_hub=True)` publishes it.

    Attributes:
        name: a Python identifier. Keys begin with `eval_{name}_` and the log is `_{name}.jsonl`, so all measures of a
            training need different names.
        larger_is_better: the keys for which larger figures are better, for `metric_for_best_model`; for all others,
            smaller ones are.
        needs_tokenizer: whether a training without a tokenizer is refused.
    """

    @property
    def name(self) -> str: ...

    @property
    def larger_is_better(self) -> frozenset[str]: ...

    @property
    def needs_tokenizer(self) -> bool: ...

    def prepare(self, start: TrainingStart) -> None:
        """Called when a training starts: checks everything that can be checked, and clears the state of an earlier
        training.
        """
        ...

    def metric_names(self) -> list[str]:
        """The keys of every record's `metrics()`, known once prepared."""
        ...

    def measure(self, model: nn.Module) -> Record:
        """Returns the figures of the model in its present state.

        They are equal on all processes. Training flags, random states, gradients and weights are left unchanged. The
        callback fills in the record's `step` and `epoch`, in a copy.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs to continue as if it had not been stopped: plain values and tensors.

        A measure without a state always returns {}; any other measure never does.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores, after `prepare`, the state that `state_dict` returned on this process; tensors are on the CPU."""
        ...
