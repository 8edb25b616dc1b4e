"""Inserting canaries into a dataset, and removing them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict, is_caching_enabled

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.checks import list_of_texts, whole_number
from hf_exposure.context import CanaryContext
from hf_exposure.data.datasets import head_of, insert_into_stream
from hf_exposure.data.inserter import RowInserter
from hf_exposure.data.rows import HEAD, TOKEN_COLUMN, CanaryRows, NoTextColumnError, Placement, check_string_type
from hf_exposure.errors import ExposureError, InputError
from hf_exposure.files import owner_only, temporary_folder
from hf_exposure.limits import LARGEST_SEED

D = TypeVar("D", Dataset, DatasetDict, IterableDataset, IterableDatasetDict)


def insert_canaries(
    dataset: D,
    canaries: CanarySet,
    text_column: str = "text",
    seed: int = 0,
    *,
    splits: Sequence[str] = ("train",),
    other_columns: Mapping[str, Any] | None = None,
    num_proc: int | None = None,
    batch_size: int = 1000,
    num_rows: int | None = None,
    tokenizer: Any = None,
    context: CanaryContext | None = None,
    source: str | None = None,
    source_column: str = "source",
) -> D:
    """Inserts each canary of a set into a dataset exactly `repetitions` times, at uniformly random positions.

    All original rows are kept, in order. Schema and format are kept, and `datasets` caches the result, so that the
    same texts, seed and data are not processed again. `CanaryInserter` describes the columns that a canary does not
    fill.

    The cache of a dataset on disk is a file next to it, and **contains the canaries**. Only its owner may read this
    one; caches of later steps (`map`) have the permissions that `datasets` gives them. Call
    `datasets.disable_caching()` before inserting to avoid all of them; `hf-exposure insert` writes nothing but its
    output.

    The contents of a canary's row depend on the dataset's columns: its text in `text_column`; with a chat as
    `context`, the turns in "messages", or in "prompt" and "completion"; a text in "completion" after the context's
    prompt; and with `tokenizer`, the columns of a tokenized dataset. If all tokenized rows of a dataset have one
    length (`group_texts`), canary rows are padded to it, with labels that do not train on padding. Inserting before
    grouping is better: a block then contains text around the canary, like the other blocks.

    A stream gets each canary exactly `repetitions` times in one complete pass, however workers and ranks share it; in
    a part of a pass, proportionally fewer. Call `.shuffle()` after inserting: a shuffle buffer before it is filled in
    the same order in every epoch.

    Args:
        dataset: a `Dataset`, `DatasetDict`, `IterableDataset` or `IterableDatasetDict`.
        canaries: the set to insert; its controls are not inserted.
        text_column: the column that receives the text.
        seed: the seed of the positions.
        splits: the splits of a dictionary of datasets that each get every canary; the others are returned unchanged.
        other_columns: values by column for the canary rows, such as `{"source": "canary"}`.
        num_proc, batch_size: as in `Dataset.map`, not for streams; the result does not depend on them.
        num_rows: the approximate number of rows of a stream; by default from its own information.
        tokenizer: the tokenizer that made the `input_ids`, for a dataset that is already tokenized.
        context: the context before each canary in its row; give the same one to `measure_exposure`.
        source: the input of an encoder-decoder model, as for `measure_exposure`; `text_column` is then the target.
        source_column: the column that receives the source.

    Raises:
        InputError: the dataset has an unknown type, a split or column is missing, a column has the wrong type, values
            do not fit their column, a tokenized dataset has further values for each token, there are no rows or fewer
            than insertions, the length of a stream is unknown, or a canary is longer than the rows of a dataset of one
            length.

    Example:
        >>> from datasets import Dataset
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries, insert_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> canaries = draw_canaries(template, repetitions={2: 1}, controls=0, seed=0)
        >>> len(insert_canaries(Dataset.from_dict({"text": ["one", "two", "three"]}), canaries))
        5
    """
    _refuse_other_types(dataset)
    seed = whole_number("seed", seed, 0, LARGEST_SEED)
    whole_number("batch_size", batch_size, 1)
    if num_proc is not None:
        whole_number("num_proc", num_proc, 1)
    placement = without_secrets(
        canaries,
        lambda: Placement(
            text_column=text_column,
            context=context,
            source=source,
            source_column=source_column,
            tokenizer=tokenizer,
            other_columns=other_columns,
        ),
    )

    def insert(part: Any) -> Any:
        if isinstance(part, IterableDataset):
            return _insert_into_stream(part, canaries, placement, seed, num_rows)
        return _insert(part, canaries, placement, seed, num_proc, batch_size)

    if isinstance(dataset, (Dataset, IterableDataset)):
        return without_secrets(canaries, lambda: insert(dataset))
    remedy = f'Write splits=("{next(iter(dataset), "train")}",).'
    chosen = [splits] if isinstance(splits, str) else list_of_texts("splits", splits, remedy)
    missing = [split for split in chosen if split not in dataset]
    if missing or not chosen:
        rule = f"must name splits of the dataset ({', '.join(dataset)})"
        raise InputError("splits", rule, missing or chosen, remedy)
    parts = dataset.items()
    return without_secrets(
        canaries, lambda: type(dataset)({name: insert(part) if name in chosen else part for name, part in parts})
    )


def remove_canaries(
    dataset: D,
    canaries: CanarySet,
    text_column: str = "text",
    *,
    tokenizer: Any = None,
    context: CanaryContext | None = None,
    source: str | None = None,
) -> D:
    """Removes the rows that consist of an inserted canary: the inverse of `insert_canaries`.

    An original row with exactly the text of a canary is removed too. In a dictionary of splits, every split with the
    column is changed.

    Args:
        tokenizer, context, source: as given to `insert_canaries`.

    Raises:
        InputError: the dataset has an unknown type, or a column is missing or has another type.

    Example:
        >>> from datasets import Dataset
        >>> from hf_exposure import CanarySet, CanaryTemplate, Digits, remove_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> known = CanarySet.from_secrets(template, ["My PIN is 0042"])
        >>> remove_canaries(Dataset.from_dict({"text": ["one", "My PIN is 0042"]}), known)["text"][:]
        ['one']
    """
    _refuse_other_types(dataset)

    def remove() -> D:
        placement = Placement(text_column=text_column, context=context, source=source, tokenizer=tokenizer)
        return _remove_everywhere(dataset, canaries, placement)

    return without_secrets(canaries, remove)


def _remove_everywhere(dataset: Any, canaries: CanarySet, placement: Placement) -> Any:
    if isinstance(dataset, (Dataset, IterableDataset)):
        return _remove(dataset, canaries, placement)
    kept, refusal = {}, None
    for name, part in dataset.items():
        try:
            kept[name] = _remove(part, canaries, placement)
        except NoTextColumnError as error:
            kept[name], refusal = part, error
    if refusal is not None and all(kept[name] is part for name, part in dataset.items()):
        raise refusal
    return type(dataset)(kept)


def _refuse_other_types(dataset: object) -> None:
    if not isinstance(dataset, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)):
        rule = "must be a Dataset or DatasetDict, or a streaming one"
        raise InputError("dataset", rule, type(dataset).__name__, 'Write Dataset.from_dict({"text": texts}).')


def _insert(
    dataset: Dataset,
    canaries: CanarySet,
    placement: Placement,
    seed: int,
    num_proc: int | None,
    batch_size: int,
) -> Dataset:
    rows = _rows_for(dataset, canaries, placement)
    if len(dataset) == 0:
        raise InputError("dataset", "must have rows", 0, "Load the split that you train on.")
    rows.check_types(dataset.features.arrow_schema)
    head = dict.fromkeys(dataset.column_names, ())
    rows.check_head(dataset.with_format("arrow")[:HEAD].to_pydict() if rows.tokens else head)
    rows.check_room(len(dataset), "dataset")
    with owner_only():
        merged = dataset.with_format("arrow").map(
            RowInserter(rows, len(dataset), seed),
            batched=True,
            with_indices=True,
            batch_size=batch_size,
            num_proc=num_proc,
            features=dataset.features,
            cache_file_name=_cache_file(dataset),
            desc="Inserting canaries",
        )
    if len(merged) != len(dataset) + rows.insertions:
        raise ExposureError(
            f"datasets returned {len(merged)} rows instead of {len(dataset)} + {rows.insertions}: "
            "its cache is damaged; call dataset.cleanup_cache_files() and insert again."
        )
    return _with_format_of(merged, dataset)


def _cache_file(dataset: Dataset) -> str | None:
    """The file for the result if nothing may be cached: `datasets` has a temporary folder too, but nothing removes it
    after a kill. None means memory or the dataset's cache.
    """
    if is_caching_enabled() or not dataset.cache_files:
        return None
    return str(temporary_folder("canaries") / "inserted.arrow")


def _insert_into_stream(
    dataset: IterableDataset,
    canaries: CanarySet,
    placement: Placement,
    seed: int,
    num_rows: int | None,
) -> IterableDataset:
    head = head_of(dataset)
    rows = _rows_for(head, canaries, placement)
    rows.check_head(head)
    if dataset.features is not None:
        rows.check_types(dataset.features.arrow_schema)
    if num_rows is not None:
        num_rows = whole_number("num_rows", num_rows, 1)
    return insert_into_stream(dataset, head, rows, seed, num_rows)


def _rows_for(data: Dataset | Mapping[str, list[Any]], canaries: CanarySet, placement: Placement) -> CanaryRows:
    """The canaries' rows for a dataset, or for a stream with `data` as its first rows. If all rows of a tokenized one
    have one length, the canaries' rows have it too.
    """
    row_length = None
    if placement.tokenizer is not None:
        row_length = _length_of_all_rows(data) if isinstance(data, Dataset) else _length_of_head(data)
    return CanaryRows.of(canaries, placement, row_length)


def _length_of_all_rows(dataset: Dataset) -> int | None:
    """The number of tokens of every row, if all have the same; None otherwise."""
    if TOKEN_COLUMN not in dataset.column_names or len(dataset) < 2:
        return None
    seen: set[int] = set()
    for chunk in dataset.data.column(TOKEN_COLUMN).chunks:
        bounds = pc.min_max(pc.list_value_length(chunk))
        seen |= {bounds["min"].as_py(), bounds["max"].as_py()} - {None}
        if len(seen) > 1:
            return None
    return seen.pop() if seen else None


def _length_of_head(head: Mapping[str, list[Any]]) -> int | None:
    """The same for a stream, judged by its first rows."""
    lengths = [len(ids) for ids in head.get(TOKEN_COLUMN, ())]
    return lengths[0] if len(lengths) > 1 and len(set(lengths)) == 1 else None


def _remove(
    dataset: Dataset | IterableDataset, canaries: CanarySet, placement: Placement
) -> Dataset | IterableDataset:
    head: Dataset | Mapping[str, list[Any]] = dataset if isinstance(dataset, Dataset) else {}
    if isinstance(dataset, IterableDataset) and (placement.tokenizer is not None or not dataset.column_names):
        head = head_of(dataset)
    names = dataset.column_names or list(head)
    rows = _rows_for(head, canaries, placement)
    key, values = rows.keys(names)
    if dataset.features is not None and isinstance(values[0], str):
        check_string_type(key, dataset.features.arrow_schema.field(key).type)
    kept_out = _IsNotOneOf([_comparable(value) for value in values])
    if isinstance(dataset, IterableDataset):
        return dataset.filter(kept_out, batched=True, input_columns=[key])
    kept = dataset.with_format("arrow").filter(kept_out, batched=True, input_columns=[key])
    return _with_format_of(kept, dataset)


def _with_format_of(dataset: Dataset, original: Dataset) -> Dataset:
    form = original.format
    return dataset.with_format(
        form["type"],
        columns=None if form["columns"] == original.column_names else form["columns"],
        output_all_columns=form["output_all_columns"],
        **form["format_kwargs"],
    )


def _comparable(value: Any) -> Any:
    """Texts, chats and token ids in a hashable form; a key without a value counts as absent."""
    if isinstance(value, Mapping):
        return tuple((name, _comparable(item)) for name, item in sorted(value.items()) if item is not None)
    return tuple(map(_comparable, value)) if isinstance(value, (list, tuple)) else value


class _IsNotOneOf:
    """A filter on a batch of one column; it is a class at module level, so that its fingerprint depends on its
    values.
    """

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __call__(self, column: pa.ChunkedArray | list[Any]) -> list[bool]:
        values = set(self.values)
        rows = column.to_pylist() if isinstance(column, pa.ChunkedArray) else column
        return [_comparable(row) not in values for row in rows]
