"""Inserting canaries into a dataset, and taking them out again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from hf_exposure.canaries import CanarySet
from hf_exposure.errors import ExposureError, InputError
from hf_exposure.insertion.inserter import CanaryInserter, as_array, check_columns, check_string_type

__all__ = ["insert_canaries", "remove_canaries"]

D = TypeVar("D", Dataset, DatasetDict)


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
) -> D:
    """The dataset with each inserted canary in it exactly `repetitions` times, at uniformly random places.

    The original rows are all there, in order. Schema and format are kept, and `datasets` caches the result: the same
    texts, seed and data are not processed again. See `CanaryInserter` for the other columns of a canary's row.

    Args:
        dataset: texts that are not tokenised yet.
        canaries: what to insert; its controls stay out.
        text_column: where the text goes.
        seed: of the places.
        splits: of a `DatasetDict`: each of them gets every canary; the others are returned as they are.
        other_columns: values by column for the canary rows, such as `{"source": "canary"}`.
        num_proc, batch_size: as in `Dataset.map`; the result does not depend on them.

    Raises:
        InputError: a streaming or unknown dataset, a split or column that is not there, a column that is not of
            strings, values that do not fit their column, no rows, or fewer rows than insertions.

    Example:
        >>> from datasets import Dataset
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries, insert_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> canaries = draw_canaries(template, repetitions={2: 1}, controls=0, seed=0)
        >>> len(insert_canaries(Dataset.from_dict({"text": ["one", "two", "three"]}), canaries))
        5
    """
    _refuse_other_types(dataset)
    arguments = (canaries, text_column, seed, other_columns, num_proc, batch_size)
    if isinstance(dataset, Dataset):
        return _insert(dataset, *arguments)
    chosen = [splits] if isinstance(splits, str) else list(splits)
    missing = [split for split in chosen if split not in dataset]
    if missing or not chosen:
        rule = f"must name splits of the dataset ({', '.join(dataset)})"
        raise InputError("splits", rule, missing or chosen, f'Write splits=("{next(iter(dataset), "train")}",).')
    return DatasetDict(
        {name: _insert(split, *arguments) if name in chosen else split for name, split in dataset.items()}
    )


def remove_canaries(dataset: D, canaries: CanarySet, text_column: str = "text") -> D:
    """The dataset without the rows whose text is an inserted canary's, whole: the inverse of `insert_canaries`.

    An original row with the very text of a canary goes too. Of a `DatasetDict`, every split that has the column.

    Raises:
        InputError: a streaming or unknown dataset, or a column that is not there or not of strings.

    Example:
        >>> from datasets import Dataset
        >>> from hf_exposure import CanarySet, CanaryTemplate, Digits, remove_canaries
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> known = CanarySet.from_secrets(template, ["My PIN is 0042"])
        >>> remove_canaries(Dataset.from_dict({"text": ["one", "My PIN is 0042"]}), known)["text"][:]
        ['one']
    """
    _refuse_other_types(dataset)
    _refuse_other_canaries(canaries)
    if isinstance(dataset, Dataset):
        return _remove(dataset, canaries, text_column)
    if not any(text_column in split.column_names for split in dataset.values()):
        names = sorted({name for split in dataset.values() for name in split.column_names})
        check_columns(names, text_column, {})
    return DatasetDict(
        {
            name: _remove(split, canaries, text_column) if text_column in split.column_names else split
            for name, split in dataset.items()
        }
    )


def _refuse_other_types(dataset: object) -> None:
    if isinstance(dataset, (Dataset, DatasetDict)):
        return
    if isinstance(dataset, (IterableDataset, IterableDatasetDict)):
        rule = "must be a Dataset or DatasetDict; streaming datasets are not supported yet"
        raise InputError("dataset", rule, type(dataset).__name__, "Load it without streaming=True.")
    rule = "must be a Dataset or DatasetDict"
    raise InputError("dataset", rule, type(dataset).__name__, 'Write Dataset.from_dict({"text": texts}).')


def _refuse_other_canaries(canaries: object) -> None:
    if not isinstance(canaries, CanarySet):
        raise InputError("canaries", "must be a CanarySet", type(canaries).__name__, "Make one with draw_canaries.")


def _insert(
    dataset: Dataset,
    canaries: CanarySet,
    text_column: str,
    seed: int,
    other_columns: Mapping[str, Any] | None,
    num_proc: int | None,
    batch_size: int,
) -> Dataset:
    _refuse_other_canaries(canaries)
    if len(dataset) == 0:
        raise InputError("dataset", "must have rows", 0, "Load the split that you train on.")
    check_columns(dataset.column_names, text_column, other_columns or {})
    schema = dataset.features.arrow_schema
    check_string_type(text_column, schema.field(text_column).type)
    for name, value in (other_columns or {}).items():
        as_array(name, [value], schema.field(name).type)
    if canaries.total_insertions > len(dataset):
        rule = f"must have at least as many rows as there are insertions ({canaries.total_insertions})"
        raise InputError("dataset", rule, len(dataset), "Use fewer repetitions, or more data.")
    inserter = CanaryInserter(canaries, len(dataset), text_column, seed, other_columns)
    merged = dataset.with_format("arrow").map(
        inserter,
        batched=True,
        with_indices=True,
        batch_size=batch_size,
        num_proc=num_proc,
        features=dataset.features,
        desc="Inserting canaries",
    )
    if len(merged) != len(dataset) + inserter.total:
        raise ExposureError(
            f"datasets returned {len(merged)} rows instead of {len(dataset)} + {inserter.total}: "
            "its cache is damaged; call dataset.cleanup_cache_files() and insert again."
        )
    return _with_format_of(merged, dataset)


def _remove(dataset: Dataset, canaries: CanarySet, text_column: str) -> Dataset:
    check_columns(dataset.column_names, text_column, {})
    check_string_type(text_column, dataset.features.arrow_schema.field(text_column).type)
    texts = [canary.text for canary in canaries.inserted]
    kept = dataset.with_format("arrow").filter(_IsNotOneOf(texts), batched=True, input_columns=[text_column])
    return _with_format_of(kept, dataset)


def _with_format_of(dataset: Dataset, original: Dataset) -> Dataset:
    form = original.format
    return dataset.with_format(
        form["type"],
        columns=None if form["columns"] == original.column_names else form["columns"],
        output_all_columns=form["output_all_columns"],
        **form["format_kwargs"],
    )


class _IsNotOneOf:
    """A filter on a batch of Arrow strings; a class at module level, so that its fingerprint is its texts."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def __call__(self, column: pa.ChunkedArray) -> list[bool]:
        texts = set(self.texts)
        return [text not in texts for text in column.to_pylist()]
