"""A fixed set of rows on which a model is evaluated repeatedly: collated once, and shared by all processes.

The batches do not depend on the number of processes, so the results do not either, bit for bit. Process i of n
evaluates batches i, i + n, ...; all make equally many calls, since a sharded model gathers its weights in each call.

Shapes: N labels, F signals per label, C classes, B rows per batch.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.checks import check_tokenizer, whole_number
from hf_exposure.errors import InputError, NonFiniteScoreError, RowInputError
from hf_exposure.runtime.model_state import (
    compute_dtype,
    evaluating,
    model_device,
    random_states_kept,
    unwrap_model,
)
from hf_exposure.runtime.processes import Processes, is_out_of_memory
from hf_exposure.signals.example_signals import (
    FIGURES,
    NO_LABEL,
    Alignment,
    alignment_of,
    example_signals,
    logits_of,
    scored_places,
)

Rows = Sequence[Any]
Collator = Callable[[list[Any]], Mapping[str, Any]]
_LABELS, _LABEL, _IDS, _MASK = "labels", "label", "input_ids", "attention_mask"
_MOST_CLASSES = 1000


@dataclass(frozen=True, eq=False)
class _Batch:
    """Collated inputs on the CPU, with labels, and the positions of its labels among all N."""

    inputs: Mapping[str, torch.Tensor]
    labels: torch.Tensor
    places: torch.Tensor
    columns: NDArray[np.int64]


@dataclass(eq=False)
class Probe:
    """Rows with labels, ready to be passed to the model.

    Attributes:
        alignment: where the logits of a label are found.
        example_N, position_N: the row of each label, and its position in the row; -1 for labels of whole rows.
        label_N: the class; -1 for tokens, since they are text.
        rows: number of rows given.
        rows_at_once: rows per call; halved if the device runs out of memory.
        passes_labels: whether the labels are passed to the model, as some classifiers require. They are not passed to
            language models, whose loss would double the memory, except for encoder-decoder models, which derive inputs
            from the labels.
    """

    alignment: Alignment
    example_N: NDArray[np.int64]
    position_N: NDArray[np.int64]
    label_N: NDArray[np.int64]
    batches: list[_Batch]
    rows: int
    rows_at_once: int
    passes_labels: bool

    @classmethod
    def of(
        cls,
        argument: str,
        rows: Iterable[Any],
        model: nn.Module,
        tokenizer: Any,
        *,
        collator: Collator | None = None,
        batch_size: int = 64,
        shift_labels: bool | None = None,
        text_column: str = "text",
    ) -> Probe:
        """Collates rows for a model.

        Args:
            argument: name of the rows in error messages.
            rows: mappings of the model's inputs with "labels" or "label", such as the rows of a data set; or texts.
            model: its forward signature determines which columns are passed.
            tokenizer: for texts and for padding; None for other models.
            collator: makes a batch from rows, such as the trainer's data collator. By default, arrays of equal shape
                are stacked, and others are padded on the right.
            batch_size: rows per call.
            shift_labels: as for `alignment_of`.
            text_column: the column of texts, used if rows have no inputs.

        Raises:
            InputError: there are no rows, rows of another kind, or no scored labels, or the labels are not classes.
        """
        batch_size = whole_number("batch_size", batch_size, 1)
        listed = list(rows) if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, Mapping)) else []
        if not listed:
            raise InputError(argument, "must be rows in a list or data set", type(rows).__name__, "Pass some rows.")
        model = unwrap_model(model)
        features = [_feature(argument, n, row, model, tokenizer, text_column) for n, row in enumerate(listed)]
        order = sorted(range(len(features)), key=lambda n: _length(features[n]))
        make = collator or partial(_padded, argument, _pad_token(tokenizer))
        batches: list[_Batch] = []
        examples: list[NDArray[np.int64]] = []
        positions: list[NDArray[np.int64]] = []
        labels: list[NDArray[np.int64]] = []
        alignment: Alignment | None = None
        known = _forward_names(model)
        with random_states_kept():
            for first in range(0, len(order), batch_size):
                numbers = order[first : first + batch_size]
                made = dict(make([features[n] for n in numbers]))
                own = _labels_of(argument, made)
                if len(own) != len(numbers):
                    rule = "must keep one row for each of its rows"
                    raise InputError("data_collator", rule, (len(numbers), len(own)), "Use another one.")
                alignment = alignment_of(model, own, shift_labels)
                places = scored_places(own, alignment)
                start = sum(len(one) for one in examples)
                examples.append(np.array(numbers)[places[:, 0].numpy()])
                positions.append(places[:, 1].numpy())
                is_row = alignment is Alignment.ROW
                labels.append(own[places[:, 0]].numpy() if is_row else np.full(len(places), -1))
                inputs = {
                    name: value
                    for name, value in made.items()
                    if isinstance(value, torch.Tensor) and (known is None or name in known)
                }
                columns = np.arange(start, start + len(places))
                batches.append(_Batch(inputs, own, places, columns))
        assert alignment is not None
        probe = cls(
            alignment,
            np.concatenate(examples).astype(np.int64),
            np.concatenate(positions).astype(np.int64),
            np.concatenate(labels).astype(np.int64),
            batches,
            len(listed),
            batch_size,
            _takes_labels(model, alignment),
        )
        if not len(probe):
            raise InputError(argument, "must have a label that is scored", "none but -100", "Pass labeled rows.")
        return probe._in_order()

    def __len__(self) -> int:
        return len(self.example_N)

    def digest(self) -> str:
        """Returns a digest of all inputs and labels: equal probes have equal digests."""
        found = hashlib.sha256()
        for batch in self.batches:
            for name, value in sorted({**batch.inputs, _LABELS: batch.labels}.items()):
                found.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def read(
        self, model: nn.Module, processes: Processes, *, class_probabilities: bool = False
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Returns (N, F) signals of each label under the model's current weights, equal on all processes.

        Args:
            model: left unchanged.
            processes: the processes that share the batches; all must make this call.
            class_probabilities: whether to also return, as the second element, the (N, C) probabilities of all
                classes; None if there are more than 1,000.

        Raises:
            NonFiniteScoreError: the model returned NaN.
            InputError: a label is outside the model's classes.
        """
        model = unwrap_model(model)
        with evaluating(model):
            while True:
                try:
                    found = self._pass(model, processes, class_probabilities)
                    break
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error) or self.rows_at_once == 1:
                        raise
                    self.rows_at_once //= 2
        figures = processes.all_reduce_sum(lambda: found)
        if np.isnan(figures).any():
            first = int(np.flatnonzero(np.isnan(figures).any(axis=1))[0])
            raise NonFiniteScoreError(where=f"for row {int(self.example_N[first])} of the probe")
        return figures[:, : len(FIGURES)], figures[:, len(FIGURES) :] if figures.shape[1] > len(FIGURES) else None

    def _pass(self, model: nn.Module, processes: Processes, class_probabilities: bool) -> NDArray[np.float64]:
        figures: NDArray[np.float64] | None = None
        rounds = -(-len(self.batches) // processes.num_shards)
        for number in range(rounds):
            own = number * processes.num_shards + processes.shard
            batch = self.batches[min(own, len(self.batches) - 1)]
            # The first batch is a full one, so all processes make as many calls as it needs.
            for first in range(0, len(self.batches[0].labels), self.rows_at_once):
                at = min(first, len(batch.labels) - 1)
                rows = slice(at, at + self.rows_at_once)
                read = partial(self._call, model, batch, rows, class_probabilities)
                columns, part = processes.run_then_barrier(read)
                if figures is None:
                    figures = np.zeros((len(self), part.shape[1]))
                if own < len(self.batches) and first == at:
                    figures[columns] = part
        assert figures is not None
        return figures

    def _call(
        self, model: nn.Module, batch: _Batch, rows: slice, class_probabilities: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        device, dtype, size = model_device(model), compute_dtype(model), len(batch.labels)
        inputs: dict[str, torch.Tensor] = {}
        for name, value in batch.inputs.items():
            part = value[rows] if value.ndim and len(value) == size else value
            inputs[name] = part.to(device, dtype if part.is_floating_point() else part.dtype)
        inputs.pop(_LABELS, None)
        if self.passes_labels:
            inputs[_LABELS] = batch.labels[rows].to(device)
        logits = logits_of(model(**inputs))
        chosen = (batch.places[:, 0] >= rows.start) & (batch.places[:, 0] < rows.stop)
        places = batch.places[chosen].clone()
        places[:, 0] -= rows.start
        labels = batch.labels[rows].to(logits.device)
        _check_shape(logits, labels, self.alignment)
        places = places.to(logits.device)
        found: NDArray[np.float64]
        found = example_signals(logits, labels, places, self.alignment).double().cpu().numpy()
        if class_probabilities and self.alignment is Alignment.ROW and logits.shape[-1] <= _MOST_CLASSES:
            found = np.hstack([found, logits[places[:, 0]].float().softmax(-1).double().cpu().numpy()])
        return batch.columns[chosen.numpy()], found

    def _in_order(self) -> Probe:
        """Sorts the columns by the order in which the rows were given."""
        order = np.lexsort((self.position_N, self.example_N))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.example_N, self.position_N, self.label_N = (
            values[order] for values in (self.example_N, self.position_N, self.label_N)
        )
        self.batches = [_Batch(one.inputs, one.labels, one.places, place[one.columns]) for one in self.batches]
        return self


def _feature(argument: str, number: int, row: Any, model: nn.Module, tokenizer: Any, text_column: str) -> Any:
    """Returns a row as a collator accepts it; a text becomes its tokens, each of which is a label."""
    text = row.get(text_column) if isinstance(row, Mapping) and _IDS not in row else row
    if isinstance(text, str) and not (isinstance(row, Mapping) and (_LABELS in row or _LABEL in row)):
        check_tokenizer(tokenizer)
        longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        limits = {"truncation": True, "max_length": longest} if isinstance(longest, int) else {}
        ids = list(tokenizer(text, **limits)[_IDS])
        return {_IDS: ids, _MASK: [1] * len(ids), _LABELS: list(ids)}
    if not isinstance(row, Mapping):
        rule, remedy = "must be rows or texts", "Pass rows of a data set with the model's inputs."
        raise RowInputError(argument, rule, number, remedy, f"{type(row).__name__} at row {number}")
    kept = dict(row)
    if _LABELS not in kept and _LABEL not in kept and _IDS in kept:
        mask = kept.get(_MASK, [1] * len(kept[_IDS]))
        kept[_LABELS] = [int(t) if m else NO_LABEL for t, m in zip(kept[_IDS], mask, strict=True)]
    return kept


def _forward_names(model: nn.Module) -> set[str] | None:
    """Returns the arguments of the forward pass; None if it accepts any."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    parameters = inspect.signature(inner.forward).parameters.values()
    named = {one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
    return named or None


def _takes_labels(model: nn.Module, alignment: Alignment) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    parameter = inspect.signature(inner.forward).parameters.get(_LABELS)
    is_encoder_decoder = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
    if parameter is None:
        return is_encoder_decoder
    return is_encoder_decoder or alignment is Alignment.ROW or parameter.default is parameter.empty


def _length(feature: Mapping[str, Any]) -> int:
    ids = feature.get(_IDS)
    return 0 if ids is None else len(ids)


def _pad_token(tokenizer: Any) -> int:
    found = getattr(tokenizer, "pad_token_id", None)
    return found if isinstance(found, int) else 0


def _padded(argument: str, pad_token: int, features: list[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Returns tensors of all numeric columns; rows of unequal length are padded on the right."""
    fills = {_IDS: pad_token, _LABELS: NO_LABEL}
    made = {}
    for name in features[0]:
        arrays = []
        for feature in features:
            value = feature.get(name)
            array = None if value is None or isinstance(value, (str, bytes, Mapping)) else _array(value)
            if array is None:
                break
            arrays.append(array)
        if len(arrays) < len(features):
            continue  # such as a column of texts, which no model accepts
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            if any(array.ndim != 1 for array in arrays):
                rule, remedy = f"must have {name!r} of one shape", "Pass the trainer's data_collator."
                raise InputError(argument, rule, sorted(shapes)[:3], remedy)
            longest = max(map(len, arrays))
            fill = fills.get(name, 0)
            arrays = [np.pad(array, (0, longest - len(array)), constant_values=fill) for array in arrays]
        made[_LABELS if name == _LABEL else name] = torch.as_tensor(np.stack(arrays))
    lengths = [_length(feature) for feature in features]
    if _IDS in made and _MASK not in made and len(set(lengths)) > 1:
        made[_MASK] = torch.as_tensor([[int(t < length) for t in range(max(lengths))] for length in lengths])
    return made


def _array(value: Any) -> NDArray[Any] | None:
    try:
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    except ValueError:  # lists of unequal length
        return None
    if array.dtype.kind == "f" and not isinstance(value, (torch.Tensor, np.ndarray)):
        array = array.astype(np.float32)
    return array if array.dtype.kind in "biuf" else None


def _labels_of(argument: str, made: Mapping[str, Any]) -> torch.Tensor:
    labels = made.get(_LABELS, made.get(_LABEL))
    if not isinstance(labels, torch.Tensor):
        remedy = f"Name the column {_LABELS!r} or {_LABEL!r}, or pass the trainer's data_collator."
        raise InputError(argument, "must have labels", sorted(made), remedy)
    return labels


def _check_shape(logits: torch.Tensor, labels: torch.Tensor, alignment: Alignment) -> None:
    wanted = labels.shape if alignment is not Alignment.ROW else labels.shape[:1]
    if logits.shape[:-1] != wanted:
        rule = "must return logits for each label"
        shapes = f"logits of shape {tuple(logits.shape)} for labels of shape {tuple(labels.shape)}"
        raise InputError("model", rule, shapes, "Check the labels, and shift_labels.")
