"""The map function that puts canaries between the rows of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.checks import whole_number
from hf_exposure.errors import InputError
from hf_exposure.insertion.slots import Integers, draw_slots

__all__ = ["CanaryInserter"]

_FORMAT_VERSION = 1
"""Part of the pickled state, hence of the fingerprint: raise it when the rows that come out change."""


class CanaryInserter:
    """Inserts each canary of a set exactly `repetitions` times at uniformly random places: a map function.

    Use it as `dataset.map(inserter, batched=True, with_indices=True)`; with `dataset.with_format("arrow")` it is fast
    and keeps the schema. `insert_canaries` does both and checks the result. A batch is a `pyarrow.Table` or a mapping
    of columns, and comes back as a table or a dict with all its columns. The original rows keep their order, and
    neither batch size nor number of processes matters.

    The columns beside the text are copied from the original row that the canary stands before (the last row, for one
    at the end), so that types and collators hold; `other_columns` overrides them.

    Its pickled state holds texts and repetitions, not ids or salt, which differ at each draw: the same seeds give the
    same fingerprint.

    Args:
        canaries: the set whose `inserted` go in. Its controls do not.
        num_rows: of the dataset that it is mapped over.
        text_column: name of the column of texts.
        seed: of the places; a whole number of at least 0.
        other_columns: values by column for the canary rows, such as `{"source": "canary"}`.

    Raises:
        InputError: an argument of the wrong type; more insertions than rows; when called, a column that is missing or
            not of strings, batches without indices, or more rows than `num_rows`.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> canaries = draw_canaries(template, repetitions={2: 1}, controls=0, seed=0)
        >>> rows = {"text": ["one", "two", "three"]}
        >>> out = CanaryInserter(canaries, num_rows=3)(rows, [0, 1, 2])["text"]
        >>> len(out), [text for text in out if "PIN" not in text]
        (5, ['one', 'two', 'three'])
    """

    def __init__(
        self,
        canaries: CanarySet,
        num_rows: int,
        text_column: str = "text",
        seed: int = 0,
        other_columns: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(canaries, CanarySet):
            raise InputError(
                "canaries", "must be a CanarySet", type(canaries).__name__, "Make one with draw_canaries."
            )
        if other_columns is not None and text_column in other_columns:
            remedy = "Leave it out: the text is the canary's."
            raise InputError("other_columns", "must not name the text column", text_column, remedy)
        self.texts = tuple(canary.text for canary in canaries.inserted)
        self.repetitions = tuple(canary.repetitions for canary in canaries.inserted)
        self.num_rows = whole_number("num_rows", num_rows, 1)
        self.text_column = text_column
        self.seed = whole_number("seed", seed, 0)
        self.other_columns = dict(sorted((other_columns or {}).items()))
        if self.total > self.num_rows:
            rule = f"must be at least the number of insertions ({self.total})"
            raise InputError("num_rows", rule, self.num_rows, "Use fewer repetitions, or more data.")

    @property
    def total(self) -> int:
        """The number of rows that are inserted."""
        return sum(self.repetitions)

    def __getstate__(self) -> dict[str, Any]:
        names = ("texts", "repetitions", "num_rows", "text_column", "seed", "other_columns")
        return {"format_version": _FORMAT_VERSION} | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "format_version"})

    @cached_property
    def _slots(self) -> tuple[Integers, Integers]:
        return draw_slots(self.num_rows, self.repetitions, self.seed)

    def __call__(self, batch: pa.Table | Mapping[str, Any], indices: Sequence[int]) -> pa.Table | dict[str, Any]:
        local_gaps, texts = self._insertions(indices)
        names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
        check_columns(names, self.text_column, self.other_columns)
        if isinstance(batch, pa.Table):
            check_string_type(self.text_column, batch.schema.field(self.text_column).type)
            return self._insert_into_table(batch, local_gaps, texts) if texts else batch
        columns = {name: batch[name] for name in names}
        return self._insert_into_columns(columns, local_gaps, texts) if texts else columns

    def _insertions(self, indices: Sequence[int]) -> tuple[Integers, list[str]]:
        """The gaps of this batch's insertions, counted from its first row, and their texts."""
        first, after = int(indices[0]), int(indices[-1]) + 1
        if after > self.num_rows:
            rule = f"must be the number of rows of the dataset, which has a row {after - 1}"
            raise InputError("num_rows", rule, self.num_rows, "Write num_rows=len(dataset).")
        if after - first != len(indices):
            rule = "must be the row numbers of a batch, in order"
            remedy = "Call dataset.map(inserter, batched=True, with_indices=True)."
            raise InputError("indices", rule, f"{first} to {after - 1} for {len(indices)} rows", remedy)
        gaps, canaries = self._slots
        low, high = np.searchsorted(gaps, (first, after))
        if after == self.num_rows:
            high = len(gaps)  # the gap behind the last row belongs to the last batch
        return gaps[low:high] - first, [self.texts[canary] for canary in canaries[low:high]]

    def _insert_into_table(self, table: pa.Table, local_gaps: Integers, texts: list[str]) -> pa.Table:
        new_rows = table.take(np.minimum(local_gaps, table.num_rows - 1))
        values = {self.text_column: texts} | {name: [value] * len(texts) for name, value in self.other_columns.items()}
        for name, column in values.items():
            position = table.schema.get_field_index(name)
            field = table.schema.field(position)
            new_rows = new_rows.set_column(position, field, as_array(name, column, field.type))
        cuts = [0, *local_gaps.tolist(), table.num_rows]
        pieces = [table.slice(0, cuts[1])]
        for row, (low, high) in enumerate(zip(cuts[1:], cuts[2:], strict=False)):
            pieces += [new_rows.slice(row, 1), table.slice(low, high - low)]
        return pa.concat_tables(pieces).combine_chunks()  # eight times faster than one `take`

    def _insert_into_columns(self, columns: dict[str, Any], local_gaps: Integers, texts: list[str]) -> dict[str, Any]:
        num_rows = len(columns[self.text_column])
        order = np.insert(np.arange(num_rows), local_gaps, np.minimum(local_gaps, num_rows - 1)).tolist()
        inserted_at = (local_gaps + np.arange(len(texts))).tolist()
        merged = {name: [column[row] for row in order] for name, column in columns.items()}
        for row, text in zip(inserted_at, texts, strict=True):
            merged[self.text_column][row] = text
            for name, value in self.other_columns.items():
                merged[name][row] = value
        return merged


def check_columns(names: Sequence[str], text_column: str, other_columns: Mapping[str, Any]) -> None:
    """Raise an `InputError` unless the text column and those of the overriding values are among `names`."""
    listed = ", ".join(names)
    if text_column not in names:
        raise InputError(
            "text_column", f"must be a column of the dataset ({listed})", text_column, "Name one of them."
        )
    unknown = [name for name in other_columns if name not in names]
    if unknown:
        rule = f"must name columns of the dataset ({listed})"
        raise InputError("other_columns", rule, unknown, "Add the column to the dataset first, or leave it out.")


def check_string_type(text_column: str, kind: pa.DataType) -> None:
    """Raise an `InputError` unless `kind` is a type of strings."""
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        remedy = "Insert canaries into the texts, before they are tokenised."
        raise InputError("text_column", f"must be a column of strings: {text_column}", str(kind), remedy)


def as_array(name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as an Arrow array of the column's own type.

    Raises:
        InputError: they do not fit it.
    """
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, TypeError, OverflowError):
        rule = f"must hold values of the columns' types: {name} is of type {kind}"
        raise InputError("other_columns", rule, values[0], "Give one of that type.") from None
