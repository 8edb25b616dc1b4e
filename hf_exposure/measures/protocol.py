"""What a measure is: the object that `MeasureCallback` prepares, calls at its steps, saves and restores.

A measure knows a model and no Trainer, so the same object serves a training loop of one's own. When it is measured,
what is logged and where, resume, failures and the other processes of a job are the callback's affair.
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
    """What is there when a training starts or resumes.

    Attributes:
        model: that is trained, without the wrappers of data parallelism and compilation.
        tokenizer: None where the training has none, as that of a classifier of images.
        train_dataloader: to look at, not to iterate: its workers and its random state belong to the training. None in
            a loop of one's own that passes none.
        processes: those that measure together. Every call of their methods is a barrier: all must make it.
        output_dir: of the training.
        step: optimizer steps done; 0 unless the training resumes.
        begins_again: the trainer ran out of memory in a later step than its first, and now trains the same weights
            from the beginning, with smaller batches (`auto_find_batch_size`).
        is_first_process: whether this process prints and warns.
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
        inputs: the arguments of the model's forward pass by name, as the training loop passes them. Tensors are the
            loop's own, on the model's device: read them, never write to them, and keep copies of what you need.
        step: optimizer steps done before this batch. With gradient accumulation several batches share one step.
    """

    inputs: Mapping[str, Any]
    step: int


class Measure(Protocol):
    """What a measure has. Any class with these members is one; there is nothing to inherit from.

    Five further members are optional:

    - `on_batch(batch: SeenBatch) -> None`, called with every batch that this process trains on, before its forward
      pass. It is called often, so it must not wait for the device: no `.item()`, no copy to the CPU, no exchange with
      other processes.
    - `on_output(batch: SeenBatch, output: Any) -> None`, called with the same batch and what the model returned for
      it, after its forward pass, under the same conditions. Detach what is kept.
    - `state_is_shared = True`, where `state_dict` returns the same on every process although each sees its own batches
      (it sums them first): a job of another number of processes can then resume it.
    - `record_from_dict(values) -> Record`, which restores a record from what its `to_dict` wrote to the log when a run
      resumes. Without it, records are written as `PlainRecord.of(record)`, and come back as that.
    - `run_of(records) -> Presented`, which makes one record of all measurements of a training. If a "card" presenter
      is registered for its kind, `MeasureCallback(..., push_to_hub=True)` publishes it.

    Attributes:
        name: a Python identifier. Keys begin with `eval_{name}_` and the log is `_{name}.jsonl`, so a training has one
            measure of each name.
        larger_is_better: the keys of which a larger figure is better, for `metric_for_best_model`; of all others a
            smaller one is.
        needs_tokenizer: whether a training without a tokenizer is refused.
    """

    @property
    def name(self) -> str: ...

    @property
    def larger_is_better(self) -> frozenset[str]: ...

    @property
    def needs_tokenizer(self) -> bool: ...

    def prepare(self, start: TrainingStart) -> None:
        """A training starts: check what can be checked, and forget everything of a training before it."""
        ...

    def metric_names(self) -> list[str]:
        """The keys of every record's `metrics()`, known once prepared."""
        ...

    def measure(self, model: nn.Module) -> Record:
        """The figures of the model as it is now.

        They are equal on all processes. Training flags, random states, gradients and weights are left as found. The
        callback fills in the record's `step` and `epoch`, in a copy.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had not been stopped: plain values and tensors.

        A measure that remembers nothing returns {} always; any other one never does.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back, after `prepare`, what `state_dict` returned on this process; tensors come on the CPU."""
        ...
