"""Measures of a few lines, and a classifier without a tokenizer, for the tests of `MeasureCallback`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_exposure.measures import PlainRecord, SeenBatch, TrainingStart
from hf_exposure.runtime.processes import SINGLE_PROCESS


class Toy:
    """The common base of all toys: no tokenizer, no state."""

    name = "toy"
    larger_is_better = frozenset({"eval_toy_score"})
    needs_tokenizer = False

    def prepare(self, start: TrainingStart) -> None:
        self.start = start

    def metric_names(self) -> list[str]:
        return ["eval_toy_norm", "eval_toy_score"]

    def measure(self, model: nn.Module) -> PlainRecord:
        """A norm that grows in training, and its negative."""
        norm = float(torch.cat([weight.detach().flatten() for weight in model.parameters()]).norm())
        return PlainRecord(figures={"eval_toy_norm": norm, "eval_toy_score": -norm})

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Tally(Toy):
    """Counts measurements, and the rows and the sum of the inputs of every batch that any process trained on."""

    name = "tally"
    larger_is_better = frozenset()

    def prepare(self, start: TrainingStart) -> None:
        self.start = start
        self.taken, self.rows, self.steps = 0, 0, [0]
        self.total = torch.zeros((), dtype=torch.float64)

    def metric_names(self) -> list[str]:
        return ["eval_tally_taken", "eval_tally_rows", "eval_tally_total", "eval_tally_last_step"]

    def on_batch(self, batch: SeenBatch) -> None:
        (values,) = (value for name, value in batch.inputs.items() if name in ("input_ids", "pixels"))
        self.rows += len(values)
        self.total += values.double().sum()
        self.steps.append(batch.step)

    def measure(self, model: nn.Module) -> PlainRecord:
        self.taken += 1
        rows, total = self.start.processes.all_reduce_sum(lambda: np.array([self.rows, float(self.total)]))
        values = [self.taken, rows, total, self.steps[-1]]
        figures = dict(zip(self.metric_names(), values, strict=True))
        return PlainRecord(figures=figures, details={"steps": sorted(set(self.steps))})

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "rows": self.rows, "total": self.total, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.rows, self.total, self.steps = (state[k] for k in ("taken", "rows", "total", "steps"))


class FailsAt(Toy):
    """Fails in one measurement, and in no other."""

    name = "fails"

    def __init__(self, number: int, error: Exception) -> None:
        self.number, self.error = number, error

    def prepare(self, start: Any) -> None:
        self.taken = 0

    def metric_names(self) -> list[str]:
        return ["eval_fails_norm", "eval_fails_taken"]

    def measure(self, model: Any) -> PlainRecord:
        self.taken += 1
        if self.taken == self.number:
            raise self.error
        return PlainRecord(figures={"eval_fails_norm": 1.0, "eval_fails_taken": self.taken})


class Killed(Exception):
    """Stands for a SIGKILL: the code that would follow does not run."""


class KillAt(TrainerCallback):
    """Simulates a kill of the process at one event of one step."""

    def __init__(self, event: str, step: int, key: str = "") -> None:
        self.step, self.key = step, key
        setattr(self, event, self._maybe)

    def _maybe(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step and (not self.key or self.key in (logs or {})):
            raise Killed


class Classifier(nn.Module):
    """Two classes of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 2))

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.layers(pixels)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def pictures(count: int = 12) -> list[dict[str, torch.Tensor]]:
    """Rows that are all different."""
    return [
        {"pixels": torch.tensor([row, 1.0, 0.5 * row, -1.0]) / 10, "labels": torch.tensor(row % 2)}
        for row in range(count)
    ]


def classify(folder: Path, callbacks: list[TrainerCallback], **arguments: Any) -> Trainer:
    """A trainer of pictures with three steps per epoch and no tokenizer."""
    settings = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True,
        "learning_rate": 0.1, "save_strategy": "no", "logging_steps": 1000, "disable_tqdm": True, "seed": 0,
        "max_steps": 6, "dataloader_pin_memory": False, "remove_unused_columns": False,
    }  # fmt: skip
    arguments = {**settings, **arguments}
    model = arguments.pop("model", None) or Classifier()
    return Trainer(
        model=model, args=TrainingArguments(**arguments), train_dataset=pictures(), eval_dataset=pictures(4),
        callbacks=callbacks,
    )  # fmt: skip


def start_of(model: nn.Module, **changes: Any) -> TrainingStart:
    values = {
        "model": model,
        "tokenizer": None,
        "train_dataloader": None,
        "processes": SINGLE_PROCESS,
        "output_dir": Path(),
    }
    return TrainingStart(**{**values, **changes})
