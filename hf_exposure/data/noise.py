"""Noise in a data set: random labels (randY) and random inputs (randX), for rows that are chosen before any is read.

Fitting noise is memorization, since there is nothing else to learn from it. So noise is to a classifier what canaries
are to a language model, and the rows with noise must be known exactly. Everything random depends only on the seed and
a row's number, not on batches, processes and caches of `datasets`.

A new label is the old one plus a uniform offset, modulo the number of classes. It is uniform whatever the old label
was, and the rows that keep their label (offset 0) are known without reading any.

Source: Arpit et al., "A Closer Look at Memorization in Deep Networks", ICML 2017, section 2 (randX, randY) and
    section 3.2 (one class for each example); Zhang et al., ICLR 2017, for shuffled inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hf_exposure.checks import check_tokenizer, flag, one_of, real_number, whole_number
from hf_exposure.errors import InputError, RowInputError
from hf_exposure.limits import LARGEST_COUNT, LARGEST_SEED

InputNoise = Literal["gaussian", "random_tokens", "shuffled_tokens"]
Flags = npt.NDArray[np.bool_]

_LABELS, _INPUTS = 0, 1  # indices of two independent streams of random numbers
_FORMAT_VERSION = 1
"""A part of the pickled state, and hence of the fingerprint. Increase it when the resulting rows change."""
_NO_LOSS = -100
_BYTE_MODES = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3, "HSV": 3, "LAB": 3}
_WORD = re.compile(r"\S+")


class NoiseInjector:
    """A map function that replaces the labels or the inputs of some rows with noise.

    Use it as `dataset.map(noise, with_indices=True)`, with `batched=True` and `num_proc` as you like. Exactly
    `round(share * num_rows)` rows are corrupted. In a stream, each worker counts its own rows: map it in one process,
    or name an `index_column`, which makes `with_indices` unnecessary.

    Args:
        num_rows: the number of rows of the data set.
        labels: share of the rows whose label is drawn uniformly from all classes, so that one in `num_labels` of them
            keeps its label.
        inputs: share of the rows whose input is replaced; they are drawn independently of those with new labels.
        label_column, num_labels: the column of labels, and their number; labels are from 0 to `num_labels - 1`.
        input_column, input_noise: the column of inputs, and the kind of noise. "gaussian": independent draws with
            `mean` and `std`, for numbers, arrays and images; whole numbers are rounded. "random_tokens": the same
            number of tokens, drawn uniformly from the tokenizer's vocabulary. "shuffled_tokens": the row's own tokens,
            or the words of a text, in random order. Both keep special tokens and padding.
        mean, std: mean and standard deviation of the data, as `input_moments` computes them; numbers, or arrays that
            fit each input.
        input_range: the range to which Gaussian noise is clipped, such as (0, 255) for lists of pixels. Images and
            arrays of unsigned integers are clipped to the range of their type.
        tokenizer: the tokenizer for "random_tokens", and for "shuffled_tokens" of token ids if special tokens should
            stay.
        one_class_per_example: whether the label of each row becomes its number, so that there are `num_rows` classes.
            A column of `ClassLabel` must be cast to integers before.
        index_column: the column with the number of each row.
        seed: of all random choices.

    Attributes:
        corrupted: (num_rows,) bool, the rows whose label or input is replaced.
        corrupted_labels, corrupted_inputs: the same, separately.
        changed: (num_rows,) bool, the rows that differ from the original: all corrupted ones, except those whose new
            label is the old one. With one class for each example it equals `corrupted_inputs`, since no label is
            wrong.

    Raises:
        InputError: an argument is out of range or missing; when called, a row number is beyond `num_rows`, a column is
            missing, a label is outside the classes, inputs are of another kind, or shuffling cannot change the tokens.

    Example:
        >>> noise = NoiseInjector(num_rows=10, labels=0.4, num_labels=3)
        >>> rows = noise({"label": [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]}, list(range(10)))
        >>> int(noise.corrupted.sum()), [int(new != old % 3) for old, new in enumerate(rows["label"])] == [
        ...     int(changed) for changed in noise.changed]
        (4, True)
    """

    def __init__(
        self,
        num_rows: int,
        labels: float = 0.0,
        label_column: str = "label",
        num_labels: int | None = None,
        seed: int = 0,
        *,
        inputs: float = 0.0,
        input_column: str | None = None,
        input_noise: InputNoise = "gaussian",
        mean: Any = None,
        std: Any = None,
        input_range: tuple[float, float] | None = None,
        tokenizer: Any = None,
        one_class_per_example: bool = False,
        index_column: str | None = None,
    ) -> None:
        self.num_rows = whole_number("num_rows", num_rows, 1, LARGEST_COUNT, "Write num_rows=len(dataset).")
        self.labels, self.inputs = _share("labels", labels), _share("inputs", inputs)
        self.label_column, self.input_column, self.index_column = label_column, input_column, index_column
        self.one_class_per_example = flag("one_class_per_example", one_class_per_example)
        self.seed = whole_number("seed", seed, 0, LARGEST_SEED)
        self.num_labels = self._checked_classes(num_labels)
        self.input_noise = one_of("input_noise", input_noise, get_args(InputNoise), "Use 'gaussian'.")
        self.mean, self.std, self.input_range, self.tokenizer = mean, std, input_range, tokenizer
        if self.inputs:
            self._check_inputs()

    def __getstate__(self) -> dict[str, Any]:
        # Drawn values are left out, since they would change the fingerprint after the first use.
        kept = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        kept.pop("corrupted_labels", None), kept.pop("corrupted_inputs", None)
        return {"format_version": _FORMAT_VERSION, **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "format_version"})

    @cached_property
    def corrupted_labels(self) -> Flags:
        """(num_rows,) whether each label is replaced."""
        return self._chosen(_LABELS, self.labels)

    @cached_property
    def corrupted_inputs(self) -> Flags:
        """(num_rows,) whether each input is replaced."""
        return self._chosen(_INPUTS, self.inputs)

    @property
    def corrupted(self) -> Flags:
        """(num_rows,) whether each row is replaced, in label or input."""
        return self.corrupted_labels | self.corrupted_inputs

    @property
    def changed(self) -> Flags:
        """(num_rows,) whether each row differs from the original."""
        if self.one_class_per_example:
            return self.corrupted_inputs.copy()
        moved: Flags = self._offsets != 0
        return moved | self.corrupted_inputs

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a record: the arguments, with the seed, and the numbers of affected rows."""
        return {
            "num_rows": self.num_rows,
            "labels": self.labels,
            "inputs": self.inputs,
            "num_labels": self.num_labels,
            "input_noise": self.input_noise if self.inputs else None,
            "one_class_per_example": self.one_class_per_example,
            "seed": self.seed,
            "corrupted": int(self.corrupted.sum()),
            "changed": int(self.changed.sum()),
        }

    def __call__(
        self, rows: pa.Table | Mapping[str, Any], indices: Sequence[int] | int | None = None
    ) -> pa.Table | dict[str, Any]:
        if isinstance(rows, pa.Table):
            columns = self._replaced(rows.to_pydict(), self._numbers(rows.to_pydict(), indices))
            for name, values in columns.items():
                place = rows.schema.get_field_index(name)
                rows = rows.set_column(
                    place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type)
                )
            return rows
        numbers = self._numbers(rows, indices)
        if np.ndim(numbers):
            return {**rows, **self._replaced(rows, numbers)}
        one = self._replaced({name: [rows[name]] for name in rows}, np.array([numbers]))
        return {**rows, **{name: values[0] for name, values in one.items()}}

    def _checked_classes(self, num_labels: int | None) -> int | None:
        if self.one_class_per_example:
            if self.labels or num_labels is not None:
                rule = "must be left out with one_class_per_example, where each row is its own class"
                raise InputError("labels", rule, (self.labels, num_labels), "Leave labels and num_labels out.")
            return self.num_rows
        if num_labels is None and not self.labels:
            return None
        return whole_number("num_labels", num_labels, 2, remedy="Pass the number of classes.")

    def _check_inputs(self) -> None:
        if not isinstance(self.input_column, str):
            raise InputError("input_column", "must name the inputs", self.input_column, "Write input_column='image'.")
        if self.input_noise == "gaussian":
            for name, value in (("mean", self.mean), ("std", self.std)):
                if value is None or not np.isfinite(np.asarray(value, dtype=np.float64)).all():
                    remedy = "Pass what input_moments(dataset, column) returns."
                    raise InputError(name, "must be that of the data, for Gaussian noise", value, remedy)
            if (np.asarray(self.std) < 0).any():
                raise InputError("std", "must be at least 0", "less", "Pass a standard deviation.")
            if self.input_range is not None and not (
                np.shape(self.input_range) == (2,) and self.input_range[0] < self.input_range[1]
            ):
                rule = "must be the least and the largest number"
                raise InputError("input_range", rule, self.input_range, "Write input_range=(0, 255).")
        elif self.input_noise == "random_tokens" or self.tokenizer is not None:
            check_tokenizer(self.tokenizer)

    def _chosen(self, stream: int, share: float) -> Flags:
        chosen = np.zeros(self.num_rows, dtype=np.bool_)
        generator = np.random.default_rng([self.seed, stream])
        chosen[generator.permutation(self.num_rows)[: round(share * self.num_rows)]] = True
        return chosen

    @cached_property
    def _offsets(self) -> npt.NDArray[np.int64]:
        """The offset added to each label, modulo the classes; 0 if the row is not corrupted."""
        generator = np.random.default_rng([self.seed, _LABELS, 1])
        drawn = generator.integers(self.num_labels or 1, size=self.num_rows)
        return np.where(self.corrupted_labels, drawn, 0)

    def _numbers(self, rows: Mapping[str, Any], indices: Any) -> npt.NDArray[np.int64]:
        if self.index_column is not None:
            indices = _column(rows, self.index_column, "index_column")
        elif indices is None:
            remedy = "Call dataset.map(noise, with_indices=True)."
            raise InputError("indices", "must number the rows", None, remedy)
        elif (worker := torch.utils.data.get_worker_info()) is not None and worker.num_workers > 1:
            rule = "must be numbers in the whole data set, but each worker counts the rows of its own part of a stream"
            remedy = "Use one worker, or number the rows and name the column with index_column."
            raise InputError("indices", rule, f"{worker.num_workers} workers", remedy)
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < self.num_rows):
            rule = f"must be the number of rows of the data set, which has a row {int(numbers.max())}"
            raise InputError("num_rows", rule, self.num_rows, "Write num_rows=len(dataset).")
        return numbers

    def _replaced(self, rows: Mapping[str, Any], numbers: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The columns that change, for the rows with these numbers."""
        found: dict[str, Any] = {}
        if self.one_class_per_example:
            _column(rows, self.label_column, "label_column")
            found[self.label_column] = numbers.tolist()
        elif self.labels:
            found[self.label_column] = self._labels(_column(rows, self.label_column, "label_column"), numbers)
        if self.inputs:
            assert self.input_column is not None
            found |= self._inputs(rows, self.input_column, numbers)
        return found

    def _labels(self, labels: Any, numbers: npt.NDArray[np.int64]) -> list[int]:
        assert self.num_labels is not None
        old = np.asarray(labels)
        if old.ndim != 1 or (old.size and old.dtype.kind not in "iu"):
            remedy = "Number the classes: dataset.class_encode_column(name)."
            raise InputError(self.label_column, "must hold one whole number for each row", f"{old.dtype}", remedy)
        wrong = np.flatnonzero((old < 0) | (old >= self.num_labels))
        if wrong.size:
            rule = f"must hold labels from 0 to {self.num_labels - 1}"
            remedy = "Remove rows without a label, or correct num_labels."
            number = int(numbers[wrong[0]])
            raise RowInputError(self.label_column, rule, number, remedy, f"{int(old[wrong[0]])} in row {number}")
        moved: list[int] = ((old + self._offsets[numbers]) % self.num_labels).tolist()
        return moved

    def _inputs(self, rows: Mapping[str, Any], column: str, numbers: npt.NDArray[np.int64]) -> dict[str, Any]:
        values = list(_column(rows, column, "input_column"))
        labels = list(rows["labels"]) if column == "input_ids" and "labels" in rows else None
        masks = list(rows["attention_mask"]) if column == "input_ids" and "attention_mask" in rows else None
        for place in np.flatnonzero(self.corrupted_inputs[numbers]).tolist():
            number = int(numbers[place])
            generator = np.random.default_rng([self.seed, _INPUTS, 1, number])
            old = values[place]
            if self.input_noise == "gaussian":
                values[place] = self._gaussian(old, generator, number)
            elif isinstance(old, str):
                values[place] = self._text(old, generator, number)
            else:
                new = self._ids(old, None if masks is None else masks[place], generator, number)
                values[place] = new
                if labels is not None and np.shape(labels[place]) == np.shape(new):
                    # For a language model, the input is also what it learns to predict.
                    own = np.asarray(labels[place])
                    labels[place] = np.where(own == _NO_LOSS, _NO_LOSS, np.asarray(new)).tolist()
        return {column: values} if labels is None else {column: values, "labels": labels}

    def _gaussian(self, old: Any, generator: np.random.Generator, number: int) -> Any:
        is_image = hasattr(old, "getbands")
        if is_image and old.mode not in _BYTE_MODES:
            remedy = "Convert the images to 'L' or 'RGB'."
            raise RowInputError(self.input_column or "", "must hold images of bytes", number, remedy, repr(old.mode))
        array = np.asarray(old)
        if array.dtype.kind not in "iuf":
            rule, shown = "must hold numbers or images", f"{array.dtype} in row {number}"
            raise RowInputError(self.input_column or "", rule, number, "Name another input_column.", shown)
        drawn = np.asarray(self.mean) + np.asarray(self.std) * generator.standard_normal(array.shape)
        if drawn.shape != array.shape:
            rule = f"must fit the inputs, which have the shape {array.shape} in row {number}"
            raise InputError("mean", rule, drawn.shape, "Pass numbers, or arrays that broadcast to it.")
        drawn = drawn if array.dtype.kind == "f" else np.rint(drawn)
        if self.input_range is not None:
            drawn = np.clip(drawn, *self.input_range)
        if array.dtype.kind == "u":
            drawn = np.clip(drawn, 0, np.iinfo(array.dtype).max)
        drawn = drawn.astype(array.dtype)
        if is_image:
            from PIL import Image

            return Image.fromarray(drawn, old.mode) if old.mode not in ("L", "RGB") else Image.fromarray(drawn)
        return drawn if hasattr(old, "shape") else drawn.tolist()

    def _text(self, old: str, generator: np.random.Generator, number: int) -> str:
        if self.input_noise == "random_tokens":
            ids = self.tokenizer(old, add_special_tokens=False)["input_ids"]
            # A text that is unchanged, or that decodes to nothing, is drawn again.
            for _ in range(100):
                new = str(self.tokenizer.decode(self._drawn(len(ids), generator)))
                if new != old and new:
                    return new
            self._cannot_change(number)
        words = _WORD.findall(old)
        order = iter(self._shuffled(words, generator, number))
        return _WORD.sub(lambda _: next(order), old)

    def _ids(self, old: Any, mask: Any, generator: np.random.Generator, number: int) -> Any:
        ids = np.asarray(old)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            rule, shown = "must hold texts or token ids", f"{ids.dtype} in row {number}"
            raise RowInputError(self.input_column or "", rule, number, "Name another input_column.", shown)
        special = [] if self.tokenizer is None else list(self.tokenizer.all_special_ids)
        free = ~np.isin(ids, special) if mask is None else ~np.isin(ids, special) & (np.asarray(mask) != 0)
        own = ids[free].tolist()
        if self.input_noise == "shuffled_tokens":
            new = self._shuffled(own, generator, number)
        else:
            new = own
            for _ in range(100):
                new = self._drawn(len(own), generator)
                if new != own:
                    break
            else:
                self._cannot_change(number)
        ids = ids.copy()
        ids[free] = new
        return ids if hasattr(old, "shape") else ids.tolist()

    @cached_property
    def _vocabulary(self) -> npt.NDArray[np.int64]:
        """The token ids that a text may contain."""
        return np.setdiff1d(np.fromiter(self.tokenizer.get_vocab().values(), np.int64), self.tokenizer.all_special_ids)

    def _drawn(self, count: int, generator: np.random.Generator) -> list[int]:
        drawn: list[int] = generator.choice(self._vocabulary, size=count).tolist()
        return drawn

    def _shuffled(self, items: list[Any], generator: np.random.Generator, number: int) -> list[Any]:
        """The items in a random order that differs from the present one."""
        if len(set(items)) < 2:
            self._cannot_change(number)
        while (shuffled := [items[place] for place in generator.permutation(len(items))]) == items:
            pass
        return shuffled

    def _cannot_change(self, number: int) -> None:
        rule = "must hold rows that noise can change: with two different tokens or more"
        remedy = "Remove such rows before (dataset.filter), and count num_rows after."
        raise RowInputError(self.input_column or "", rule, number, remedy, f"fewer in row {number}")


def input_moments(rows: Iterable[Mapping[str, Any]], column: str) -> tuple[float, float]:
    """Mean and standard deviation of all numbers in a column, such as all pixels of all images.

    Args:
        rows: an iterable of rows, such as a data set; it is read once.
        column: a column of numbers, arrays or images.

    Raises:
        InputError: there is no such column, or it has no numbers or values that are not numbers.

    Example:
        >>> input_moments([{"x": [1.0, 3.0]}, {"x": [5.0, 7.0]}], "x")
        (4.0, 2.23606797749979)
    """
    count, mean, squares = 0, 0.0, 0.0
    for row in rows:
        values = np.asarray(_column(row, column, "column"))
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            raise InputError("column", "must hold finite numbers or images", values.dtype, "Name another column.")
        if not values.size:
            continue
        # Chan, Golub and LeVeque: the moments of two parts, joined without cancellation.
        own, total = float(values.mean()), count + values.size
        squares += float(((values - own) ** 2).sum()) + (own - mean) ** 2 * count * values.size / total
        mean += (own - mean) * values.size / total
        count = total
    if not count:
        raise InputError("rows", "must hold a number", 0, "Pass the data set.")
    return mean, float(np.sqrt(squares / count))


def _share(argument: str, value: Any) -> float:
    return real_number(argument, value, "must be a share from 0 to 1", "Write 0.4.", at_least=0.0, at_most=1.0)


def _column(rows: Mapping[str, Any], name: str, argument: str) -> Any:
    if name not in rows:
        raise InputError(argument, f"must be one of {', '.join(rows)}", name, "Name a column of the data set.")
    return rows[name]
