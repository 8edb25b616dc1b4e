"""Training dynamics without an extra pass, recorded from training's own forward passes.

The probe defines which examples are recorded. They are recognized in the training batches by their content, since most
loops lose their indices. For each example, the last forward pass before a measurement counts. Figures are those of
training: with dropout, and with the weights before the step of the batch. Examples that were in no batch are missing.

Source of the idea: Pleiss et al. 2020 and Toneva et al. 2019 record what training computes anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.measures.dynamics import DynamicsMeasure
from hf_exposure.measures.protocol import SeenBatch, TrainingStart
from hf_exposure.records.dynamics import FIGURES
from hf_exposure.runtime.example_keys import content_key
from hf_exposure.runtime.processes import Processes
from hf_exposure.runtime.tap import HostCopies
from hf_exposure.runtime.trained_rows import sequence_tensors, trained_rows
from hf_exposure.signals.example_signals import Alignment, logits_of, signals_in_place

_LOSS = FIGURES.index("loss_bits")
_SIGNALS = "hf_exposure_signals"
_UNREAD = frozenset({"labels", "label", "attention_mask", "token_type_ids", "position_ids", _SIGNALS})
_PENDING = 64  # number of batches between two checks for finished copies


class BatchDynamicsMeasure(DynamicsMeasure):
    """Like `DynamicsMeasure`, but from training's own forward passes, so that it needs no extra pass.

    It supports classifiers, and causal language models, whose rows may be packed. An example that is transformed
    differently each time (augmentation) is not recognized. Validation rows need an extra pass.

    Args:
        probe, noisy, validation, **options: as for `DynamicsMeasure`, without class probabilities.

    Raises:
        InputError: as for `DynamicsMeasure`; or, when prepared, the model is of another kind; or, in training, the
            model's inputs have no labels, as with a Trainer's `label_smoothing_factor`.

    Example:
        >>> from hf_exposure import MeasureCallback
        >>> rows = [{"pixels": [0.0, 1.0], "label": 1}, {"pixels": [1.0, 0.0], "label": 0}]
        >>> callback = MeasureCallback(BatchDynamicsMeasure(rows))
    """

    state_is_shared = True

    def __init__(self, probe: Any, noisy: Any = None, **options: Any) -> None:
        super().__init__(probe, noisy, class_probabilities=False, **options)

    def prepare(self, start: TrainingStart) -> None:
        """Like `DynamicsMeasure.prepare`, for classifiers and causal language models only."""
        super().prepare(start)
        assert self._probe is not None
        if self._probe.alignment is Alignment.SAME:
            rule = "must be of a classifier or a causal language model, to be recorded from training batches"
            raise InputError("probe", rule, type(start.model).__name__, "Use DynamicsMeasure.")
        self._processes = start.processes
        self._columns: dict[int, list[NDArray[np.int64]]] = {}
        for batch in self._probe.batches:
            inputs = {name: value.numpy() for name, value in {**batch.inputs, "labels": batch.labels}.items()}
            if self._probe.alignment is Alignment.ROW:
                keys = dict(zip(batch.places[:, 0].tolist(), batch.columns.tolist(), strict=True))
                for row, key in enumerate(_row_keys(inputs)):
                    if row in keys:
                        self._columns.setdefault(key, []).append(np.array([keys[row]]))
            else:
                place = {tuple(at): column for at, column in zip(batch.places.tolist(), batch.columns, strict=True)}
                width = batch.labels.shape[1]
                for key, scored in _documents(inputs):
                    columns = [place[divmod(int(token), width)] for token in scored]
                    self._columns.setdefault(key, []).append(np.array(columns, dtype=np.int64))
        self._copies, self._steps = HostCopies(), deque[int]()
        self._step_N = np.full(len(self._probe), -1, dtype=np.int64)
        self._figures_NF = np.full((len(self._probe), len(FIGURES)), np.nan)

    def on_output(self, batch: SeenBatch, output: Any) -> None:
        """Computes the figures of one training batch on the device; copies of them are read later."""
        assert self._probe is not None
        labels = batch.inputs.get("labels")
        if not isinstance(labels, torch.Tensor):
            remedy = "Leave label_smoothing_factor and compute_loss_func out, or use DynamicsMeasure."
            raise InputError("labels", "must be among the inputs of the model", sorted(batch.inputs), remedy)
        with torch.no_grad():
            signals = signals_in_place(logits_of(output).detach(), labels, self._probe.alignment)
        if self._probe.alignment is Alignment.ROW:
            kept = {name: value for name, value in batch.inputs.items() if isinstance(value, torch.Tensor)}
        else:
            kept = sequence_tensors(batch.inputs)
        self._copies.put({**kept, _SIGNALS: signals})
        self._steps.append(batch.step)
        if len(self._steps) >= _PENDING:
            self._take(wait=False)

    def state_dict(self) -> dict[str, Any]:
        """The state of `DynamicsMeasure`, and the figures that any process has recorded since the last measurement."""
        self._share()
        pending = {"steps": torch.from_numpy(self._step_N), "figures": torch.from_numpy(self._figures_NF)}
        return {**super().state_dict(), **{name: value.clone() for name, value in pending.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores both."""
        super().load_state_dict(state)
        self._step_N = state["steps"].numpy().copy()
        self._figures_NF = state["figures"].numpy().copy()

    def _read(self, model: nn.Module, processes: Processes) -> tuple[NDArray[np.float64], None]:
        self._share()
        found = self._figures_NF
        self._step_N = np.full(len(found), -1, dtype=np.int64)
        self._figures_NF = np.full_like(found, np.nan)
        return found, None

    def _take(self, *, wait: bool) -> None:
        """Reads the copies that have arrived."""
        assert self._probe is not None
        for arrays in self._copies.take(wait=wait):
            step, signals = self._steps.popleft(), np.asarray(arrays[_SIGNALS], dtype=np.float64)
            if self._probe.alignment is Alignment.ROW:
                for key, own in zip(_row_keys(arrays), signals, strict=True):
                    self._look(key, own[None], step)
            else:
                flat = signals.reshape(-1, len(FIGURES))
                for key, scored in _documents(arrays):
                    self._look(key, flat[scored], step)

    def _look(self, key: int, own_nF: NDArray[np.float64], step: int) -> None:
        for columns in self._columns.get(key, ()):
            if len(columns) == len(own_nF):
                last = self._step_N[columns]
                # For several figures in one step, as for equal rows, keep those with the largest loss, whatever the
                # order.
                is_later = (step > last) | (step == last) & ~(own_nF[:, _LOSS] <= self._figures_NF[columns, _LOSS])
                self._step_N[columns[is_later]] = step
                self._figures_NF[columns[is_later]] = own_nF[is_later]

    def _share(self) -> None:
        """Shares the last figures of any process with all of them."""
        self._take(wait=True)
        processes = self._processes
        if processes.num_shards == 1:
            return
        own = np.concatenate([self._step_N[:, None], np.nan_to_num(self._figures_NF)], axis=1)
        of_all = np.zeros((processes.num_shards, *own.shape))
        of_all[processes.shard] = own
        of_all = processes.all_reduce_sum(lambda: of_all)
        for step_N, figures_NF in ((one[:, 0].astype(np.int64), one[:, 1:]) for one in of_all):
            loss_N, known_N = figures_NF[:, _LOSS], self._figures_NF[:, _LOSS]
            is_later = (step_N > self._step_N) | (step_N == self._step_N) & (step_N >= 0) & (loss_N > known_N)
            self._step_N[is_later], self._figures_NF[is_later] = step_N[is_later], figures_NF[is_later]


def _documents(batch: Mapping[str, NDArray[Any]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yields the key of each document of a batch, and the indices of its scored tokens among all of the batch."""
    rows = trained_rows(batch)
    for start, end in zip(rows.offsets[:-1].tolist(), rows.offsets[1:].tolist(), strict=True):
        present = rows.present_T[start:end] & (rows.values_T[start:end] >= 0)
        scored = np.flatnonzero(rows.trained_T[start:end]) + start
        if present.any() and len(scored):
            yield content_key(rows.values_T[start:end][present]), scored


def _row_keys(batch: Mapping[str, NDArray[Any]]) -> list[int]:
    """A key of each row's content: its token ids without padding, or all of the model's inputs."""
    if "input_ids" in batch:
        ids = batch["input_ids"]
        mask = batch.get("attention_mask", np.ones_like(ids)) != 0
        return [content_key(row[kept]) for row, kept in zip(ids, mask, strict=True)]
    names = sorted(name for name, value in batch.items() if name not in _UNREAD and value.ndim)
    count = len(batch["labels"])
    keys = []
    for row in range(count):
        found = blake2b(digest_size=8)
        for name in names:
            value = batch[name]
            if len(value) == count:
                found.update(np.asarray(value[row], dtype="<f8" if value.dtype.kind == "f" else "<i8").tobytes())
        keys.append(int.from_bytes(found.digest(), "little"))
    return keys
