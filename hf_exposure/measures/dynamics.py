"""Training dynamics: how a training learns each example of a probe set, recorded at each measurement.

Each measurement is one extra pass over the probe, shared by the processes. The whole record, N examples by T
measurements, is on disk (`records/dynamics.py`). Only a few means are logged, which require no state but which
examples were right at the last measurement.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.checks import flag
from hf_exposure.data.noise import NoiseInjector
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import checked_flags
from hf_exposure.measures.protocol import TrainingStart
from hf_exposure.records.dynamics import CLASS_PROBABILITY, FIGURES, DynamicsRecord, DynamicsStore
from hf_exposure.records.run_log import PlainRecord
from hf_exposure.runtime.job import check_alike
from hf_exposure.runtime.processes import Processes
from hf_exposure.signals.probe import Collator, Probe

_CORRECT, _MARGIN, _LOSS = FIGURES.index("correct"), FIGURES.index("margin"), FIGURES.index("loss_bits")
_LARGER = ("accuracy", "margin_mean", "unforgettable_fraction", "clean_accuracy", "validation_accuracy")


class DynamicsMeasure:
    """Records the loss, probability of the label, correctness and margin of each example at each measurement.

    Pass it to `MeasureCallback`. The output folder then has `_dynamics.jsonl` (what was logged) and `_dynamics` (the
    record), which `hf-exposure dynamics RUN` and `DynamicsRecord.load(RUN)` read. A resumed run continues both.

    The logged keys, each as `eval_dynamics_...`, are `loss_mean` (bits), `accuracy` (for a language model the share of
    tokens that are the likeliest: exact memorization), `margin_mean`, `forgetting_mean` (forgetting events of an
    example so far), `unforgettable_fraction`, `never_learned_fraction`, `seconds`; with noise `clean_accuracy` and
    `noisy_accuracy`, the share of noisy labels that are fit; with validation rows, `validation_accuracy` and
    `validation_loss_mean`.

    Args:
        probe: the rows to evaluate, usually of the training data: mappings of the model's inputs with "labels" or
            "label", such as the rows of a tokenized data set; or, for a language model, texts or rows with
            `text_column`, of which each token is an example. They are kept in memory.
        noisy: (rows,) which rows of the probe have a wrong label or a noise input; or the `NoiseInjector` that made
            them, if the probe is the whole data set.
        validation: rows that are not trained on; only their mean loss and accuracy are logged.
        data_collator: makes a batch from rows; by default they are stacked, or padded on the right.
        batch_size: the number of rows per call.
        shift_labels: whether a token's logits are at the token before it. True by default for all models but
            encoder-decoders, masked models and classifiers of tokens.
        text_column: the column of texts.
        class_probabilities: whether to record the probabilities of all classes, which cleanlab needs, for
            classifiers with up to 1,000 classes.
        name: prefix of keys and files; for a second probe in one training.

    Raises:
        InputError: there are no rows, or the number of flags differs; or, when prepared, the model cannot process the
            rows.

    Example:
        >>> from torch import nn
        >>> class Net(nn.Linear):
        ...     def forward(self, pixels):
        ...         return {"logits": super().forward(pixels)}
        >>> from hf_exposure import MeasureCallback
        >>> rows = [{"pixels": [0.0, 1.0], "label": 1}, {"pixels": [1.0, 0.0], "label": 0}]
        >>> callback = MeasureCallback(DynamicsMeasure(rows, noisy=[False, True]))
        >>> callback.records                # trainer = Trainer(..., callbacks=[callback]); callback.attach(trainer)
        {'dynamics': []}
    """

    needs_tokenizer = False

    def __init__(
        self,
        probe: Iterable[Any],
        noisy: Any = None,
        *,
        validation: Iterable[Any] | None = None,
        data_collator: Collator | None = None,
        batch_size: int = 64,
        shift_labels: bool | None = None,
        text_column: str = "text",
        class_probabilities: bool = True,
        name: str = "dynamics",
    ) -> None:
        self.name = name
        self._rows, self._validation_rows = probe, validation
        self._noise = noisy.to_dict() if isinstance(noisy, NoiseInjector) else None
        self._noisy = noisy.changed if isinstance(noisy, NoiseInjector) else noisy
        self._collator, self._class_probabilities = data_collator, flag("class_probabilities", class_probabilities)
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "shift_labels": shift_labels,
            "text_column": text_column,
        }
        self.larger_is_better = frozenset(f"eval_{name}_{key}" for key in self._keys() if key in _LARGER)
        self._probe: Probe | None = None
        self._validation: Probe | None = None
        self._noisy_N: NDArray[np.bool_] | None = None

    def prepare(self, start: TrainingStart) -> None:
        """Collates the rows, and clears the state of an earlier training.

        Raises:
            InputError: the model cannot process the rows, or another process has different rows.
        """
        self._probe = self._made("probe", self._rows, start)
        self._validation = None
        if self._validation_rows is not None:
            self._validation = self._made("validation", self._validation_rows, start)
        self._noisy_N = None
        if self._noisy is not None:
            flags = checked_flags("noisy", self._noisy, self._probe.rows, "Pass noise.changed of the probe's rows.")
            self._noisy_N = flags[self._probe.example_N]
        same = "Load the same rows, in the same order, on every process."
        both = {"probe": self._probe.digest()}
        if self._validation is not None:
            both["validation"] = self._validation.digest()
        check_alike(start.processes, both, {"": same})
        self._store = DynamicsStore(start.output_dir / f"_{self.name}")
        self._writes = start.is_first_process
        self._measured = 0
        self._right_N = np.zeros(len(self._probe), dtype=bool)
        self._learned_N = np.zeros(len(self._probe), dtype=bool)
        self._forgotten_N = np.zeros(len(self._probe), dtype=np.int64)

    def metric_names(self) -> list[str]:
        """The keys."""
        return [f"eval_{self.name}_{key}" for key in self._keys()]

    def measure(self, model: nn.Module) -> PlainRecord:
        """Appends one row to the record, and returns its means. Every process must make this call."""
        started = time.perf_counter()
        assert self._probe is not None, "prepare comes first"
        processes = Processes.of_job(model)
        found, classes = self._read(model, processes)
        validation = None if self._validation is None else self._validation.read(model, processes)[0]
        seen_N = ~np.isnan(found[:, _CORRECT])
        correct_N = np.where(seen_N, found[:, _CORRECT] == 1.0, self._right_N)
        forgotten_N = self._forgotten_N + (self._right_N & ~correct_N)
        learned_N = self._learned_N | correct_N
        if self._writes:
            self._write(found, classes)
        number, self._measured = self._measured, self._measured + 1
        self._right_N, self._learned_N, self._forgotten_N = correct_N, learned_N, forgotten_N
        figures = {
            "loss_mean": _mean(found[:, _LOSS]),
            "accuracy": _mean(found[:, _CORRECT]),
            "margin_mean": _mean(found[:, _MARGIN]),
            "forgetting_mean": forgotten_N.mean(),
            "unforgettable_fraction": (learned_N & (forgotten_N == 0)).mean(),
            "never_learned_fraction": (~learned_N).mean(),
        }
        if self._noisy_N is not None:
            for key, chosen in (("clean_accuracy", ~self._noisy_N), ("noisy_accuracy", self._noisy_N)):
                figures[key] = _mean(found[chosen, _CORRECT])
        if validation is not None:
            figures["validation_accuracy"] = validation[:, _CORRECT].mean()
            figures["validation_loss_mean"] = validation[:, _LOSS].mean()
        figures["seconds"] = time.perf_counter() - started
        keyed = {f"eval_{self.name}_{key}": float(figures[key]) for key in self._keys()}
        return PlainRecord(figures=keyed, details={"measurement": number, "columns": len(found)})

    def run_of(self, records: Sequence[PlainRecord]) -> DynamicsRecord:
        """The record on disk, with all measurements of a training, which can be printed, saved and published."""
        return DynamicsRecord.load(self._store.folder.parent, self.name)

    def state_dict(self) -> dict[str, Any]:
        """The state from which forgetting events are counted, and the number of measurements in the record."""
        return {
            "measured": self._measured,
            "right": torch.from_numpy(self._right_N.copy()),
            "learned": torch.from_numpy(self._learned_N.copy()),
            "forgotten": torch.from_numpy(self._forgotten_N.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a saved checkpoint: later measurements are removed from the record.

        Raises:
            InputError: the probe has another number of examples than the one that was recorded.
        """
        right_N = state["right"].numpy().astype(bool)
        if right_N.shape != self._right_N.shape:
            rule = f"must have {len(right_N)} columns, like the one that the run began with"
            raise InputError("probe", rule, len(self._right_N), "Pass the same rows.")
        self._measured = int(state["measured"])
        self._right_N = right_N
        self._learned_N = state["learned"].numpy().astype(bool)
        self._forgotten_N = state["forgotten"].numpy().astype(np.int64)
        if self._writes:
            self._store.cut(self._measured)

    def _read(self, model: nn.Module, processes: Processes) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """(N, F) figures and, if they are recorded, (N, C) probabilities of all classes."""
        assert self._probe is not None
        return self._probe.read(model, processes, class_probabilities=self._class_probabilities)

    def _made(self, argument: str, rows: Iterable[Any], start: TrainingStart) -> Probe:
        return Probe.of(argument, rows, start.model, start.tokenizer, collator=self._collator, **self._options)

    def _write(self, found: NDArray[np.float64], classes: NDArray[np.float64] | None) -> None:
        import pyarrow as pa

        assert self._probe is not None
        if self._measured == 0 or not self._store.measurements():
            columns: dict[str, Any] = {
                "example": self._probe.example_N,
                "position": self._probe.position_N,
                "label": self._probe.label_N,
            }
            if self._noisy_N is not None:
                columns["noisy"] = self._noisy_N
            settings = {**self._options, "unit": self._probe.alignment.value, "noise": self._noise}
            self._store.write_examples(columns, settings)
        own: dict[str, Any] = {name: found[:, place].astype(np.float32) for place, name in enumerate(FIGURES)}
        own["correct"] = pa.array(found[:, _CORRECT] == 1.0, mask=np.isnan(found[:, _CORRECT]))
        if classes is not None:
            flat = pa.array(classes.astype(np.float32).ravel())
            own[CLASS_PROBABILITY] = pa.FixedSizeListArray.from_arrays(flat, classes.shape[1])
        self._store.append(self._measured, own)

    def _keys(self) -> list[str]:
        keys = ["loss_mean", "accuracy", "margin_mean", "forgetting_mean", "unforgettable_fraction"]
        keys.append("never_learned_fraction")
        if self._noisy is not None:
            keys += ["clean_accuracy", "noisy_accuracy"]
        if self._validation_rows is not None:
            keys += ["validation_accuracy", "validation_loss_mean"]
        return [*keys, "seconds"]


def _mean(values_N: NDArray[np.float64]) -> float:
    known = values_N[~np.isnan(values_N)]
    return float(known.mean()) if known.size else np.nan
