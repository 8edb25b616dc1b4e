"""Whole datasets: counting each canary in a stored dataset, and inserting canaries into a stream.

The counts are for data without a trainer. What a trainer cuts, filters or masks later cannot be seen here;
`check_delivery` finds it in the trainer's own data. In a stream the position of each canary is fixed within a shard,
and workers and ranks share the shards.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import numpy as np
from datasets import IterableDataset, Split

from hf_exposure.canaries import CanarySet
from hf_exposure.context import CanaryContext
from hf_exposure.data.delivery import check_delivery
from hf_exposure.data.inserter import draw_positions, insert_into_columns
from hf_exposure.data.rows import HEAD, CanaryRows
from hf_exposure.errors import InputError
from hf_exposure.records import Delivery

_BATCH = 1000
_TOKENS = "input_ids"


def dataset_facts(dataset: Any) -> dict[str, Any]:
    """Facts that identify the training data: `rows`, and the `fingerprint` that `datasets` gives them.

    Either is absent if the data do not have it: a stream has no length, and a plain list no fingerprint.

    Example:
        >>> dataset_facts([{"text": "a"}, {"text": "b"}])
        {'rows': 2}
    """
    facts: dict[str, Any] = {}
    # A process's part of a stream has the method, but it raises.
    with suppress(TypeError):
        facts["rows"] = len(dataset)
    if isinstance(fingerprint := getattr(dataset, "_fingerprint", None), str):
        facts["fingerprint"] = fingerprint
    return facts


class CountedRows:
    """A data set or a stream that counts its rows while they are read: a stream has no length.

    Attributes:
        rows: the number of rows read so far.

    Example:
        >>> from datasets import Dataset
        >>> counted = CountedRows(Dataset.from_dict({"text": ["a", "b", "c"]}).to_iterable_dataset())
        >>> [len(batch["text"]) for batch in counted.iter(2)], counted.rows
        ([2, 1], 3)
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset, self.rows = dataset, 0

    def iter(self, batch_size: int) -> Iterator[Mapping[str, Any]]:
        """The batches of the data, as mappings from columns to values."""
        for batch in self._dataset.iter(batch_size):
            self.rows += len(next(iter(batch.values()), ()))
            yield batch


def count_in_texts(rows: Iterable[Mapping[str, Any]], canaries: CanarySet) -> dict[str, int]:
    """How often each canary occurs in the texts of rows, by id, in any columns, chats or lists.

    A row that contains a canary in two columns (a chat, and the text made of it) counts once.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(4)), {2: 1}, controls=0, seed=0)
        >>> text = canaries.inserted[0].text
        >>> list(count_in_texts([{"text": f"My {text}."}, {"chat": [{"role": "user", "content": text}]}], canaries)
        ...     .values())
        [2]
    """
    ids = {canary.text: canary.id for canary in canaries}
    # The longest come first, since one canary may begin with another.
    any_of_them = re.compile("|".join(re.escape(text) for text in sorted(ids, key=len, reverse=True)))
    counts = dict.fromkeys(ids.values(), 0)
    for row in rows:
        most: Counter[str] = Counter()
        for value in row.values():
            most |= Counter(found for text in _texts(value) for found in any_of_them.findall(text))
        for text, times in most.items():
            counts[ids[text]] += times
    return counts


def count_in_tokens(
    batches: Iterable[list[Mapping[str, Any]]],
    canaries: CanarySet,
    tokenizer: Any,
    *,
    context: CanaryContext | None = None,
    source: str | None = None,
) -> dict[str, int]:
    """How often each canary occurs in the token ids of rows, by id; the arguments are those of `check_delivery`.

    Raises:
        InputError: the rows have no token ids.
    """
    counts = {canary.id: 0 for canary in canaries}
    for batch in batches:
        report = check_delivery(batch, canaries, tokenizer, context=context, source=source, max_rows=len(batch))
        if not report.canaries:
            rule = f"must hold token ids that can be read ({report.note})"
            raise InputError("dataset", rule, sorted(batch[0]), "Name the dataset as it was before tokenizing.")
        for one in report.canaries:
            counts[one.canary_id] += one.whole
    return counts


def delivery_in(
    datasets: Iterable[Any],
    canaries: CanarySet,
    tokenizer: Any,
    *,
    context: CanaryContext | None = None,
    source: str | None = None,
) -> Delivery:
    """Counts the canaries of a set in all given datasets or streams together; all of their rows are read.

    Args:
        datasets: datasets of texts, or of token ids (a column "input_ids").
        tokenizer: the tokenizer that made the ids; not used for texts.
        context, source: as given to `insert_canaries`; not used for texts.

    Raises:
        InputError: token ids cannot be read.
    """
    counts = Counter({canary.id: 0 for canary in canaries})
    for dataset in datasets:
        batches = _batches(dataset)
        head = next(batches, [])
        batches = chain([head], batches)
        if head and _TOKENS in head[0]:
            counts.update(count_in_tokens(batches, canaries, tokenizer, context=context, source=source))
        else:
            counts.update(count_in_texts(chain.from_iterable(batches), canaries))
    found = [canary for canary in canaries.inserted if counts[canary.id]]
    return Delivery(
        inserted=len(canaries.inserted),
        found=len(found),
        trained=len(found),
        reduced=sum(counts[canary.id] < canary.repetitions for canary in found),
        controls_found=sum(counts[canary.id] > 0 for canary in canaries.controls),
    )


def _batches(dataset: Any) -> Iterator[list[Mapping[str, Any]]]:
    for batch in dataset.iter(_BATCH):
        yield [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
        for item in value:
            yield from _texts(item)


_STREAM_BATCH = 100


def insert_into_stream(
    dataset: IterableDataset, head: Mapping[str, list[Any]], rows: CanaryRows, seed: int, num_rows: int | None
) -> IterableDataset:
    """The stream with each canary in it exactly `rows.repetitions` times in one pass over all its shards.

    The canaries of every shard and their positions among its rows are fixed here, before any row is read. One worker
    of one rank reads a shard, from its first row on, so the number of workers, the order of the shards, and stopping
    and resuming do not matter. If a shard is shorter than expected, the rest of its canaries come after its last row;
    if it is longer, none come after the expected length.

    Args:
        head: the columns of the stream's first rows (`head_of`).
        num_rows: the approximate number of rows of one pass; by default from the stream's own information.

    Raises:
        InputError: the number of rows is unknown or smaller than that of insertions, or the stream is already split by
            node.
    """
    if getattr(dataset, "_distributed", None) is not None:
        remedy = "Insert first, then call split_dataset_by_node."
        raise InputError("dataset", "must not be split by node yet", "a node's share of a stream", remedy)
    expected = _known_rows(dataset) if num_rows is None else num_rows
    if expected is None:
        rule = "must be given for a stream that does not know its length: the approximate number of rows of one pass"
        raise InputError("num_rows", rule, None, "Write insert_canaries(..., num_rows=1_000_000).")
    rows.check_room(expected)
    shards = dataset.num_shards
    rows_per_shard = -(-expected // shards)
    gaps, canaries = draw_positions(rows_per_shard * shards, rows.repetitions, seed)
    cuts = np.searchsorted(gaps, np.arange(1, shards) * rows_per_shard)
    # There is one list entry for each shard: `datasets` distributes lists among workers, and shuffles them between
    # epochs.
    plans = [
        (shard, (own_gaps - shard * rows_per_shard).tolist(), own.tolist())
        for shard, (own_gaps, own) in enumerate(zip(np.split(gaps, cuts), np.split(canaries, cuts), strict=True))
    ]
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
    # Do not use __iter__, which in a worker would read that worker's share.
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
    """Yields the rows of shards with their canaries; it is a function at module level, so that a worker can load
    it.
    """
    for shard, gaps, canaries in plans:
        waiting = iter(zip(gaps, canaries, strict=True))
        due = next(waiting, None)
        # The row from which a canary at the end copies; for an empty shard, the stream's first row.
        start, last = 0, dict(donor)
        for batch in dataset.shard(shards, shard).iter(batch_size=_STREAM_BATCH):
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
