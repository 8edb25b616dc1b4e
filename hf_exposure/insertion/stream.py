"""Canaries in a stream: the place of each is fixed within a shard, and shards are what workers and ranks share out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from datasets import IterableDataset, Split

from hf_exposure.errors import InputError
from hf_exposure.insertion.inserter import insert_into_columns
from hf_exposure.insertion.rows import HEAD, CanaryRows
from hf_exposure.insertion.slots import draw_slots

__all__ = ["head_of", "insert_into_stream"]

_BATCH = 100


def insert_into_stream(
    dataset: IterableDataset, rows: CanaryRows, repetitions: tuple[int, ...], seed: int, num_rows: int | None
) -> IterableDataset:
    """The stream with each canary in it exactly `repetitions` times in one pass over all its shards.

    Every shard is given its canaries and their places among its rows here, before any row is read. A shard is read by
    one worker of one rank, from its first row on, so it does not matter how many of them there are, in which order the
    shards come, or where reading stopped and was resumed. Where a shard is shorter than expected, the rest of its
    canaries come after its last row; where it is longer, none come after the expected length.

    Raises:
        InputError: an unknown number of rows, fewer rows than insertions, or a stream that is split by node already.
    """
    if getattr(dataset, "_distributed", None) is not None:
        remedy = "Insert first, then call split_dataset_by_node."
        raise InputError("dataset", "must not be split by node yet", "a node's share of a stream", remedy)
    expected = _known_rows(dataset) if num_rows is None else num_rows
    if expected is None:
        rule = "must be given for a stream that does not know its length: about how many rows one pass has"
        raise InputError("num_rows", rule, None, "Write insert_canaries(..., num_rows=1_000_000).")
    shards, total = dataset.num_shards, sum(repetitions)
    rows_per_shard = -(-expected // shards)
    if total > expected:
        rule = f"must be at least the number of insertions ({total})"
        raise InputError("num_rows", rule, expected, "Use fewer repetitions, or more data.")
    gaps, canaries = draw_slots(rows_per_shard * shards, repetitions, seed)
    cuts = np.searchsorted(gaps, np.arange(1, shards) * rows_per_shard)
    # One list entry a shard: `datasets` shares lists out among workers, and shuffles them between epochs.
    plans = [
        (shard, (own_gaps - shard * rows_per_shard).tolist(), own.tolist())
        for shard, (own_gaps, own) in enumerate(zip(np.split(gaps, cuts), np.split(canaries, cuts), strict=True))
    ]
    head = head_of(dataset)
    donor = {name: values[:1] for name, values in head.items()}
    merged = IterableDataset.from_generator(
        _rows_of_shards,
        features=dataset.features,
        gen_kwargs={
            "plans": plans,
            "dataset": dataset.with_format(None),
            "shards": shards,
            "donor": donor,
            "values": rows.values(list(head), head),
        },
        split=dataset.split or Split.TRAIN,
    )
    form = getattr(dataset, "_formatting", None)
    return merged if form is None else merged.with_format(form.format_type)


def head_of(dataset: IterableDataset) -> dict[str, list[Any]]:
    """The columns of the first rows of a stream.

    Raises:
        InputError: there are none.
    """
    # Never through __iter__, which in a worker would read that worker's share.
    columns = next(iter(dataset.with_format(None).iter(batch_size=HEAD)), None)
    if not columns:
        raise InputError("dataset", "must have rows", 0, "Load the split that you train on.")
    return dict(columns)


def _known_rows(dataset: IterableDataset) -> int | None:
    splits = dataset.info.splits or {}
    known = splits.get(str(dataset.split)) if isinstance(splits, Mapping) else None
    return getattr(known, "num_examples", None) or None


def _rows_of_shards(
    plans: Sequence[tuple[int, list[int], list[int]]],
    dataset: IterableDataset,
    shards: int,
    donor: Mapping[str, list[Any]],
    values: dict[str, list[Any]],
) -> Iterator[dict[str, Any]]:
    """The rows of some shards with their canaries; a function at module level, so that a worker can load it."""
    for shard, gaps, canaries in plans:
        waiting = iter(zip(gaps, canaries, strict=True))
        due = next(waiting, None)
        # The row that a canary at the end copies from; of an empty shard, the stream's first.
        start, last = 0, dict(donor)
        for batch in dataset.shard(shards, shard).iter(batch_size=_BATCH):
            columns = dict(batch)
            length = len(next(iter(columns.values())))
            here = []
            while due is not None and due[0] < start + length:
                here.append((due[0] - start, due[1]))
                due = next(waiting, None)
            last = {name: column[-1:] for name, column in columns.items()}
            yield from _with_canaries(columns, here, values)
            start += length
        if due is not None:
            late = [(1, canary) for _, canary in (due, *waiting)]
            yield from islice(_with_canaries(last, late, values), 1, None)


def _with_canaries(
    columns: dict[str, list[Any]], here: Sequence[tuple[int, int]], values: dict[str, list[Any]]
) -> Iterator[dict[str, Any]]:
    gaps, canaries = np.array(here, dtype=np.int64).reshape(-1, 2).T
    merged = insert_into_columns(columns, gaps, canaries, values)
    for row in zip(*merged.values(), strict=True):
        yield dict(zip(merged, row, strict=True))
