"""The rows that a trainer will see, as arrays of token ids, and the tokens that count in its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from datasets import Dataset

from hf_exposure.errors import InputError
from hf_exposure.runtime.trained_rows import NO_LOSS

# A row limit, not a time limit, so that all processes of a job stop at the same row and agree.
_MOST_ROWS = 20_000
_BATCH = 1000
_PACKED = "seq_lengths"

Integers = npt.NDArray[np.integer]


class NotReadable(Exception):
    """The dataset cannot be searched; the message says why."""


@dataclass(frozen=True)
class TokenRows:
    """Rows of token ids, one after the other.

    Attributes:
        values, offsets: as `PatternSearch.find` takes them.
        inner_ends: returns where the documents packed into a row end.
        dataset_rows: returns the row numbers in the dataset for a row of this part: none or several if rows were
            selected.
    """

    values: Integers
    offsets: npt.NDArray[np.int64]
    inner_ends: Callable[[int], Sequence[int]]
    dataset_rows: Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class ReadRows:
    """The rows that were read from a dataset.

    Attributes:
        parts: the rows, in parts.
        rows: the number of rows.
        row: returns the row with a number.
        complete: whether these are all rows of the dataset.
        note: why they are not; "" otherwise.
    """

    parts: Iterator[TokenRows]
    rows: int
    row: Callable[[int], Mapping[str, Any]]
    complete: bool = True
    note: str = ""


@dataclass(frozen=True)
class TrainedTokens:
    """A collated row: its tokens, whether each has a label, or one share that holds for all of them."""

    values: Integers
    offsets: npt.NDArray[np.int64]
    trained: npt.NDArray[np.bool_]
    fixed_share: float | None = None


def read_rows(dataset: Any, column: str, collator: Any, max_rows: int | None) -> ReadRows:
    """Reads the token ids of a dataset, directly from Arrow if possible, and otherwise row by row, up to 20,000.

    Raises:
        NotReadable: a stream is given without `max_rows`, or the rows have no token ids.
    """
    whole = max_rows is None
    if (
        isinstance(dataset, Dataset)
        and column in dataset.column_names
        and dataset.format["type"] != "custom"
        and whole
    ):
        return ReadRows(_arrow_parts(dataset, column), len(dataset), dataset.__getitem__)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        if whole:
            raise NotReadable(
                "a stream cannot be read in advance; check_delivery(..., max_rows=N) reads its first rows"
            )
        rows = list(islice(iter(dataset), max_rows))
        note = f"only the first {len(rows)} rows were read"
        return ReadRows(iter([_part(rows, column, collator, 0)]), len(rows), rows.__getitem__, False, note)
    return _read_one_by_one(dataset, column, collator, max_rows)


def trained_flags(row: Mapping[str, Any], collator: Any, column: str) -> TrainedTokens | None:
    """The tokens and labels that the collator makes from one row; None if it makes no labels."""
    if (probability := masking_probability(collator)) is not None:
        nothing = np.zeros(0, dtype=np.int64)
        return TrainedTokens(nothing, np.zeros(1, np.int64), nothing.astype(bool), probability)
    batch = _called(collator, [dict(row)]) if collator is not None else {name: [row[name]] for name in row}
    if "labels" not in batch:
        # Without a collator the ids are the labels, or the dataset is not ready for training yet.
        if collator is not None:
            return None
        batch = {**batch, "labels": batch[column]}
    labels = [np.asarray(ids).ravel() for ids in batch["labels"]]
    ids = labels if column == "labels" else [np.asarray(ids).ravel() for ids in batch[column]]
    offsets = np.cumsum([0, *(len(one) for one in ids)], dtype=np.int64)
    flat, flags = np.concatenate(ids), np.concatenate(labels) != NO_LOSS
    return TrainedTokens(flat, offsets, flags) if len(flat) == len(flags) else None


def masking_probability(collator: Any) -> float | None:
    """The probability with which a randomly masking collator makes a token count; None for any other collator."""
    inner = getattr(collator, "data_collator", collator)  # a Trainer wraps it to drop columns
    return float(inner.mlm_probability) if getattr(inner, "mlm", False) else None


def _called(collator: Any, rows: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The batch that the collator makes from rows; a custom collator may fail in any way."""
    try:
        batch: Mapping[str, Any] = collator(rows)
        return batch
    except Exception as error:
        rule = f"must collate the rows of the dataset, but it raised {type(error).__name__}"
        remedy = "Pass trainer.data_collator."
        raise InputError("collator", rule, type(collator).__name__, remedy) from None


def _arrow_parts(dataset: Dataset, column: str) -> Iterator[TokenRows]:
    """Yields the chunks of the table on disk; shuffled or selected rows are found through the indices."""
    table = dataset.data
    indices = getattr(dataset, "_indices", None)
    chosen = None if indices is None else indices.column(0).to_numpy()
    order = None if chosen is None else np.argsort(chosen, kind="stable")
    start = 0
    for chunk in table.column(column).chunks:
        lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
        values = chunk.flatten().to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

        def inner_ends(row: int, first: int = start) -> Sequence[int]:
            if _PACKED not in table.column_names:
                return ()
            ends: list[int] = np.cumsum(table.column(_PACKED)[first + row].as_py() or [0]).tolist()
            return ends

        def dataset_rows(row: int, first: int = start) -> Sequence[int]:
            if chosen is None or order is None:
                return (first + row,)
            low = np.searchsorted(chosen, first + row, side="left", sorter=order)
            high = np.searchsorted(chosen, first + row, side="right", sorter=order)
            return [int(place) for place in order[low:high]]

        yield TokenRows(values, offsets, inner_ends, dataset_rows)
        start += len(chunk)


def _read_one_by_one(dataset: Any, column: str, collator: Any, max_rows: int | None) -> ReadRows:
    total = len(dataset)
    wanted = min(total, _MOST_ROWS if max_rows is None else max_rows)
    parts = []
    for start in range(0, wanted, _BATCH):
        rows = [dataset[row] for row in range(start, min(start + _BATCH, wanted))]
        parts.append(_part(rows, column, collator, start))
    complete = wanted == total
    note = "" if complete else f"only the first {wanted} of {total} rows were read"
    return ReadRows(iter(parts), wanted, dataset.__getitem__, complete, note)


def _part(rows: Sequence[Any], column: str, collator: Any, start: int) -> TokenRows:
    if rows and not isinstance(rows[0], Mapping):
        raise NotReadable(f"its rows are of type {type(rows[0]).__name__}, not dictionaries")
    if rows and column not in rows[0]:
        rows = [_collated(row, column, collator) for row in rows]
    ids = [np.asarray(row[column]).ravel() for row in rows]
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    ends = [np.cumsum(np.asarray(row.get(_PACKED, ()))).tolist() for row in rows]
    flat = np.concatenate(ids) if ids else np.zeros(0, dtype=np.int64)
    return TokenRows(flat.astype(np.int64), offsets, lambda row: ends[row], lambda row: (start + row,))


def _collated(row: Mapping[str, Any], column: str, collator: Any) -> Mapping[str, Any]:
    if collator is None:
        raise NotReadable(f"it has no column {column!r}: pass the trainer's collator, or the prepared dataset")
    try:
        return {column: np.asarray(collator([dict(row)])[column])[0]}
    except Exception as error:  # a collator may raise any exception on an unexpected row
        raise NotReadable(f"its collator fails on a single row ({type(error).__name__}: {error})") from error
