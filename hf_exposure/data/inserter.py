"""The map function that inserts canaries between the rows of a dataset.

The canary rows take uniform positions in the merged sequence, which are decided before any row is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import whole_number
from hf_exposure.context import CanaryContext
from hf_exposure.data.rows import HEAD, LENGTH_COLUMN, TOKEN_COLUMN, CanaryRows, Placement, as_array, check_kind
from hf_exposure.errors import InputError
from hf_exposure.limits import LARGEST_SEED

Integers = npt.NDArray[np.int64]


def draw_positions(num_rows: int, repetitions: tuple[int, ...], seed: int) -> tuple[Integers, Integers]:
    """For each insertion, in the order of the merged rows: its gap, and its canary.

    Gap `g` is before original row `g`; gap `num_rows` is after the last. Every arrangement of the insertions among the
    rows is equally likely: a uniform subset of the merged positions, with the canaries shuffled over it.

    Args:
        num_rows: the number of rows of the original sequence.
        repetitions: the repetitions of each canary.
        seed: the seed of NumPy's PCG64. This is not the stream from which secrets are drawn, so one seed may be used
            for both.

    Returns:
        (gaps, canaries), both of length `sum(repetitions)`. Gaps ascend and may repeat.

    Example:
        >>> gaps, canaries = draw_positions(100, (2, 3), seed=0)
        >>> bool((gaps[1:] >= gaps[:-1]).all()), sorted(canaries.tolist())
        (True, [0, 0, 1, 1, 1])
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    total = sum(repetitions)
    positions = np.sort(generator.choice(num_rows + total, size=total, replace=False, shuffle=False))
    # Position p of insertion j has j insertions before it, hence p - j original rows.
    gaps = (positions - np.arange(total)).astype(np.int64)
    canaries = generator.permutation(np.repeat(np.arange(len(repetitions)), repetitions)).astype(np.int64)
    return gaps, canaries


_FORMAT_VERSION = 3
"""A part of the pickled state, and hence of the fingerprint. Increase it when the resulting rows change."""


class RowInserter:
    """A map function that inserts prepared rows, each with its own number of repetitions.

    Args:
        rows: the values of the canaries' rows.
        num_rows: of the dataset that it is mapped over.
        seed: of the places.

    Raises:
        InputError: there are more insertions than rows; when called, as for `CanaryInserter`.
    """

    def __init__(self, rows: CanaryRows, num_rows: int, seed: int) -> None:
        self.rows = rows
        self.num_rows = whole_number("num_rows", num_rows, 1)
        self.seed = whole_number("seed", seed, 0, LARGEST_SEED)
        rows.check_room(self.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        names = ("rows", "num_rows", "seed")
        return {"format_version": _FORMAT_VERSION} | {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "format_version"})

    @cached_property
    def _positions(self) -> tuple[Integers, Integers]:
        return draw_positions(self.num_rows, self.rows.repetitions, self.seed)

    def __call__(self, batch: pa.Table | Mapping[str, Any], indices: Sequence[int]) -> pa.Table | dict[str, Any]:
        local_gaps, canaries = self._insertions(indices)
        if isinstance(batch, pa.Table):
            values = self._values_for(batch)
            return _insert_into_table(batch, local_gaps, canaries, values) if len(canaries) else batch
        columns = {name: batch[name] for name in batch}
        return insert_into_columns(columns, local_gaps, canaries, self._values_for(columns))

    def _values_for(self, batch: pa.Table | Mapping[str, Any]) -> dict[str, list[Any]]:
        """The canaries' values for these columns, which are looked up and checked once for all batches."""
        schema = batch.schema if isinstance(batch, pa.Table) else None
        names = tuple(batch) if schema is None else tuple(schema.names)
        known: dict[Any, dict[str, list[Any]]] = self.__dict__.setdefault("_known_values", {})
        if (names, schema) not in known:
            if schema is not None:
                self.rows.check_types(schema)
            counted = [name for name in (TOKEN_COLUMN, LENGTH_COLUMN) if name in names]
            head = batch.select(counted).slice(0, HEAD).to_pydict() if isinstance(batch, pa.Table) else batch
            values = self.rows.values(names, head)
            for name in values if schema is None else ():
                check_kind(name, values[name][0], batch[name])
            known[names, schema] = values
        return known[names, schema]

    def _insertions(self, indices: Sequence[int]) -> tuple[Integers, Integers]:
        """The gaps of this batch's insertions, counted from its first row, and their canaries."""
        first, after = int(indices[0]), int(indices[-1]) + 1
        if after > self.num_rows:
            rule = f"must be the number of rows of the dataset, which has a row {after - 1}"
            raise InputError("num_rows", rule, self.num_rows, "Write num_rows=len(dataset).")
        if after - first != len(indices):
            rule = "must be the row numbers of a batch, in order"
            remedy = "Call dataset.map(inserter, batched=True, with_indices=True)."
            raise InputError("indices", rule, f"{first} to {after - 1} for {len(indices)} rows", remedy)
        gaps, canaries = self._positions
        low, high = np.searchsorted(gaps, (first, after))
        if after == self.num_rows:
            high = len(gaps)  # the gap after the last row belongs to the last batch
        return gaps[low:high] - first, canaries[low:high]


class CanaryInserter(RowInserter):
    """A map function that inserts each canary of a set exactly `repetitions` times at uniformly random positions.

    Use it as `dataset.map(inserter, batched=True, with_indices=True)`; with `dataset.with_format("arrow")` it is fast
    and keeps the schema. `insert_canaries` does both and checks the result. A batch is a `pyarrow.Table` or a mapping
    of columns; the result is a table or a dict with all its columns. The original rows keep their order, and the
    result does not depend on the batch size or the number of processes.

    The columns that a canary does not fill are copied from the original row after it (from the last row, at the end),
    so that types are right and collators work; `other_columns` overrides them.

    Its pickled state contains texts and repetitions, but not ids or salt, which differ at each draw, so that the same
    seeds give the same fingerprint.

    Args:
        canaries: the set whose inserted canaries are inserted; its controls are not.
        num_rows: of the dataset that it is mapped over.
        text_column: name of the column of texts.
        seed: of the places; a whole number of at least 0.
        other_columns: values by column for the canary rows, such as `{"source": "canary"}`.
        tokenizer, context, source, source_column: as for `insert_canaries`.
        row_length: where all rows of a tokenized dataset have one length, such as the blocks of `group_texts`.

    Raises:
        InputError: an argument has the wrong type, or there are more insertions than rows; when called, a column is
            missing or not of strings, batches have no indices, or there are more rows than `num_rows`.

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
        *,
        tokenizer: Any = None,
        context: CanaryContext | None = None,
        source: str | None = None,
        source_column: str = "source",
        row_length: int | None = None,
    ) -> None:
        placement = Placement(
            text_column=text_column,
            context=context,
            source=source,
            source_column=source_column,
            tokenizer=tokenizer,
            other_columns=other_columns,
        )
        super().__init__(CanaryRows.of(canaries, placement, row_length), num_rows, seed)


def _insert_into_table(
    table: pa.Table, local_gaps: Integers, canaries: Integers, values: dict[str, list[Any]]
) -> pa.Table:
    new_rows = table.take(np.minimum(local_gaps, table.num_rows - 1))
    for name, own in values.items():
        position = table.schema.get_field_index(name)
        field = table.schema.field(position)
        column = as_array(name, [own[canary] for canary in canaries], field.type)
        new_rows = new_rows.set_column(position, field, column)
    cuts = [0, *local_gaps.tolist(), table.num_rows]
    pieces = [table.slice(0, cuts[1])]
    for row, (low, high) in enumerate(zip(cuts[1:], cuts[2:], strict=False)):
        pieces += [new_rows.slice(row, 1), table.slice(low, high - low)]
    return pa.concat_tables(pieces).combine_chunks()  # eight times faster than one `take`


def insert_into_columns(
    columns: dict[str, Any], local_gaps: Integers, canaries: Integers, values: dict[str, list[Any]]
) -> dict[str, Any]:
    """The columns of a batch with a canary's row at each gap; values that it does not fill are copied from its
    neighbor.
    """
    if not len(canaries):
        return columns
    num_rows = len(columns[next(iter(values))])
    order = np.insert(np.arange(num_rows), local_gaps, np.minimum(local_gaps, num_rows - 1)).tolist()
    inserted_at = (local_gaps + np.arange(len(canaries))).tolist()
    merged = {name: [column[row] for row in order] for name, column in columns.items()}
    for name, own in values.items():
        for row, canary in zip(inserted_at, canaries, strict=True):
            merged[name][row] = own[canary]
    return merged
