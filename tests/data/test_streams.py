"""Streams: every canary occurs as often as requested, however the stream is split between readers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from datasets import (
    Dataset,
    IterableDataset,
    IterableDatasetDict,
    Split,
    SplitDict,
    SplitInfo,
    disable_progress_bars,
)
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from hf_exposure import CanaryTemplate, Digits, draw_canaries, insert_canaries, remove_canaries
from hf_exposure.errors import InputError

disable_progress_bars()
CANARIES = draw_canaries(CanaryTemplate("My PIN is {pin}", pin=Digits(6)), {1: 3, 5: 2, 40: 1}, controls=4, seed=0)
WANTED = Counter({canary.text: canary.repetitions for canary in CANARIES.inserted})
ROWS = [f"row {row}" for row in range(120)]


def stream(shards: int = 4, **columns: list[Any]) -> IterableDataset:
    return Dataset.from_dict({"text": ROWS, **columns}).to_iterable_dataset(num_shards=shards)


def inserted(shards: int = 4, **arguments: Any) -> IterableDataset:
    return insert_canaries(stream(shards), CANARIES, num_rows=120, **arguments)


def texts(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [row["text"] for row in rows]


def assert_all_there(found: Iterable[str]) -> None:
    assert Counter(found) == WANTED + Counter(ROWS)


@pytest.mark.parametrize("shards", [1, 3, 4, 50])
def test_one_pass_holds_every_canary_as_often_as_asked(shards: int) -> None:
    out = inserted(shards)
    assert out.num_shards == shards
    found = texts(out)
    assert_all_there(found)
    assert [text for text in found if text.startswith("row")] == ROWS
    assert texts(out) == found and texts(inserted(shards, seed=1)) != found


def test_shards_of_one_size_give_what_a_dataset_gives() -> None:
    whole = insert_canaries(Dataset.from_dict({"text": ROWS}), CANARIES, seed=3)["text"][:]
    assert texts(inserted(seed=3)) == whole


def test_rows_that_repeat_do_not_repeat_canaries() -> None:
    same = Dataset.from_dict({"text": ["the same"] * 120}).to_iterable_dataset(num_shards=4)
    assert Counter(texts(insert_canaries(same, CANARIES, num_rows=120))) == WANTED + Counter({"the same": 120})


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with fewer CPUs
@pytest.mark.parametrize("workers", [2, 3, 6])
def test_workers_share_the_canaries(workers: int) -> None:
    loader = DataLoader(inserted(), batch_size=None, num_workers=workers)
    assert_all_there(texts(loader))


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_the_canaries(world_size: int, workers: int) -> None:
    found: list[str] = []
    for rank in range(world_size):
        share = split_dataset_by_node(inserted(), rank=rank, world_size=world_size)
        found += texts(DataLoader(share, batch_size=None, num_workers=workers))
    assert_all_there(found)


def test_shuffling_after_insertion_and_epochs() -> None:
    out = inserted().shuffle(seed=0, buffer_size=20)
    passes = []
    for epoch in range(2):
        out.set_epoch(epoch)
        passes.append(texts(out))
        assert_all_there(passes[-1])
    assert passes[0] != passes[1]
    assert_all_there(texts(DataLoader(out, batch_size=None, num_workers=2)))


@pytest.mark.parametrize("stop", [1, 37, 60, 130])
def test_a_pass_that_is_resumed_is_the_same_pass(stop: int) -> None:
    whole = texts(inserted())
    first = inserted()
    head = texts(itertools.islice(first, stop))
    again = inserted()
    again.load_state_dict(first.state_dict())
    assert head + texts(again) == whole


@pytest.mark.parametrize("num_rows", [53, 1000])
def test_a_wrong_number_of_rows_moves_places_but_loses_nothing(num_rows: int) -> None:
    assert_all_there(texts(insert_canaries(stream(), CANARIES, num_rows=num_rows)))


def some_shards(sizes: list[int]) -> Iterator[dict[str, Any]]:
    for size in sizes:
        yield from ({"text": f"{size} {row}", "n": row} for row in range(size))


def test_uneven_and_empty_shards() -> None:
    uneven = IterableDataset.from_generator(some_shards, gen_kwargs={"sizes": [100, 0, 3, 0]})
    found = list(insert_canaries(uneven, CANARIES, num_rows=103))
    assert Counter(t for t in texts(found) if "PIN" in t) == WANTED
    assert len(found) == WANTED.total() + 103 and all(isinstance(row["n"], int) for row in found)


def test_places_are_uniform_over_the_stream() -> None:
    once = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(4)), {1: 60}, controls=0, seed=0)
    found = [texts(insert_canaries(stream(3), once, seed=seed, num_rows=120)) for seed in range(4)]
    places = [place for one in found for place, text in enumerate(one) if text.startswith("pin")]
    counts, _ = np.histogram(places, bins=4, range=(0, 180))
    # Each of the four quarters expects 60 of the 240 places, with a standard deviation of at most 6.7.
    assert counts.sum() == 240 and counts.min() > 35 and counts.max() < 85


def test_columns_features_and_format_are_kept() -> None:
    labeled = stream(label=[row % 7 for row in range(120)]).with_format("torch")
    out = insert_canaries(labeled, CANARIES, num_rows=120)
    assert out.features == labeled.features
    assert type(next(iter(out))["label"]) is type(next(iter(labeled))["label"])
    plain = list(insert_canaries(stream(label=list(range(120))), CANARIES, num_rows=120, other_columns={"label": -1}))
    assert {row["label"] for row in plain if "PIN" in row["text"]} == {-1}
    pairs = [row["label"] for row in insert_canaries(stream(label=list(range(120))), CANARIES, num_rows=120)]
    assert sorted(pairs) == pairs  # a canary has the label of the row after it, or of the last row


def test_removing_is_the_inverse_and_dictionaries_work() -> None:
    assert texts(remove_canaries(inserted(), CANARIES)) == ROWS
    splits = IterableDatasetDict({"train": stream(), "test": stream()})
    out = insert_canaries(splits, CANARIES, num_rows=120)
    assert_all_there(texts(out["train"]))
    assert texts(out["test"]) == ROWS and texts(remove_canaries(out, CANARIES)["train"]) == ROWS


def test_the_length_may_be_known_to_the_stream() -> None:
    known = stream()
    known._info.splits = SplitDict({"train": SplitInfo("train", num_examples=120)})
    known._split = Split.TRAIN
    assert texts(insert_canaries(known, CANARIES)) == texts(inserted())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: insert_canaries(stream(), CANARIES), "num_rows: must be given for a stream that does not know"),
        (lambda: inserted(text_column="body"), "text_column: must be a column of the dataset (text), got 'body'"),
        (
            lambda: insert_canaries(stream(), CANARIES, num_rows=52),
            "num_rows: must be at least the number of insertions (53), got 52. Use fewer repetitions",
        ),
        (lambda: insert_canaries(stream(), CANARIES, num_rows=0), "num_rows: must be a whole number of at least 1"),
        (
            lambda: insert_canaries(split_dataset_by_node(stream(), 0, 2), CANARIES, num_rows=120),
            "dataset: must not be split by node yet",
        ),
        (
            lambda: insert_canaries(IterableDataset.from_generator(some_shards, gen_kwargs={"sizes": [0]}), CANARIES),
            "dataset: must have rows, got 0",
        ),
    ],
    ids=["length", "column", "rows", "zero", "node", "empty"],
)
def test_bad_input_is_refused_before_any_training(make: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
