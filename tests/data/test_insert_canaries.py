"""Datasets in, datasets out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from datasets import (
    Array2D,
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    disable_caching,
    disable_progress_bars,
    enable_caching,
    load_from_disk,
)

from hf_exposure import CanaryInserter, CanaryTemplate, Digits, draw_canaries, insert_canaries, remove_canaries
from hf_exposure.data.inserter import RowInserter
from hf_exposure.errors import ExposureError, InputError

disable_progress_bars()
TEMPLATE = CanaryTemplate("My PIN is {pin}", pin=Digits(6))
ROWS = [f"row {row}" for row in range(100)]


def drawn() -> object:
    return draw_canaries(TEMPLATE, repetitions={1: 3, 5: 2}, controls=4, seed=0)


CANARIES = drawn()


def plain(**columns: list[object]) -> Dataset:
    return Dataset.from_dict({"text": ROWS, **columns})


def test_counts_and_order() -> None:
    out = insert_canaries(plain(), CANARIES)["text"][:]
    assert [text for text in out if text.startswith("row")] == ROWS and len(out) == 113
    assert all(out.count(canary.text) == canary.repetitions for canary in CANARIES)


def test_processes_and_batch_sizes_do_not_matter() -> None:
    expected = insert_canaries(plain(), CANARIES, seed=4).to_dict()
    assert insert_canaries(plain(), CANARIES, seed=4, batch_size=7).to_dict() == expected
    assert insert_canaries(plain(), CANARIES, seed=4, num_proc=2, batch_size=11).to_dict() == expected
    as_map = plain().map(CanaryInserter(CANARIES, 100, seed=4), batched=True, with_indices=True, batch_size=9)
    assert as_map.to_dict() == expected


def test_a_selection_of_rows_counts_as_it_stands() -> None:
    selected = plain().shuffle(seed=0).select(range(50))
    out = insert_canaries(selected, CANARIES)["text"][:]
    assert [text for text in out if text.startswith("row")] == selected["text"][:] and len(out) == 63


def test_the_schema_is_kept() -> None:
    features = Features(
        {
            "text": Value("large_string"),
            "label": ClassLabel(names=["no", "yes"]),
            "grid": Array2D((2, 2), "float32"),
            "messages": [{"role": Value("string"), "content": Value("string")}],
        }
    )
    row = {"label": 1, "grid": [[1.0, 2.0], [3.0, 4.0]], "messages": [{"role": "user", "content": "hi"}]}
    dataset = Dataset.from_list([{"text": text, **row} for text in ROWS], features=features)
    out = insert_canaries(dataset, CANARIES, other_columns={"label": 0}, batch_size=8)
    assert out.features == features and len(out) == 113
    assert all({**one, "text": "", "label": 1} == {**row, "text": ""} for one in out)
    assert [one["label"] for one in out].count(0) == 13
    assert {one["label"] for one in out if "PIN" in one["text"]} == {0}


def upper(batch: dict[str, list[str]]) -> dict[str, list[str]]:
    return {"text": [text.upper() for text in batch["text"]]}


@pytest.mark.parametrize(
    "form",
    [
        {"type": None},
        {"type": "numpy", "columns": ["label"], "output_all_columns": True},
        {"type": "numpy", "dtype": "int32"},
        {"type": "arrow"},
        {"type": "custom", "transform": upper},
    ],
    ids=["none", "numpy", "int32", "arrow", "custom"],
)
def test_the_format_is_kept(form: dict[str, object]) -> None:
    dataset = plain(label=list(range(100))).with_format(**form)
    out = insert_canaries(dataset, CANARIES)
    assert out.format == dataset.format and len(out) == 113
    assert type(out[0]) is type(dataset[0]) and len(out[:5]) == len(dataset[:5])
    assert remove_canaries(out, CANARIES).format == dataset.format


def test_only_the_named_splits_of_a_dict() -> None:
    splits = DatasetDict({"train": plain(), "test": plain(), "extra": Dataset.from_dict({"other": [1]})})
    out = insert_canaries(splits, CANARIES)
    assert {name: len(split) for name, split in out.items()} == {"train": 113, "test": 100, "extra": 1}
    assert len(insert_canaries(splits, CANARIES, splits=["test"])["test"]) == 113
    assert len(insert_canaries(splits, CANARIES, splits="test")["train"]) == 100
    back = remove_canaries(out, CANARIES)
    assert {name: split.to_dict() for name, split in back.items()} == {n: s.to_dict() for n, s in splits.items()}


def test_removing_is_the_inverse() -> None:
    dataset = plain(label=list(range(100)))
    assert remove_canaries(insert_canaries(dataset, CANARIES), CANARIES).to_dict() == dataset.to_dict()
    assert remove_canaries(dataset, CANARIES).to_dict() == dataset.to_dict()


@pytest.mark.parametrize("num_proc", [None, 2])
def test_files_cached_next_to_the_data_are_for_their_owner_only(tmp_path: Path, num_proc: int | None) -> None:
    plain().save_to_disk(tmp_path / "data")
    saved = load_from_disk(tmp_path / "data")
    before = set((tmp_path / "data").iterdir())
    umask = os.umask(0o022)
    try:
        insert_canaries(saved, CANARIES, num_proc=num_proc)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(umask)
    new = set((tmp_path / "data").iterdir()) - before
    assert new and {path.stat().st_mode & 0o777 for path in new} == {0o600}
    texts = [canary.text.encode() for canary in CANARIES.inserted]
    assert all(any(text in path.read_bytes() for path in new) for text in texts)


def test_without_caching_nothing_is_left_next_to_the_data(tmp_path: Path) -> None:
    plain().save_to_disk(tmp_path / "data")
    before = set((tmp_path / "data").iterdir())
    disable_caching()
    try:
        merged = insert_canaries(load_from_disk(tmp_path / "data"), CANARIES)
    finally:
        enable_caching()
    assert len(merged) == 113 and set((tmp_path / "data").iterdir()) == before


def test_a_second_run_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain().save_to_disk(tmp_path / "data")
    first = insert_canaries(load_from_disk(tmp_path / "data"), CANARIES, other_columns=None)
    stamp = Path(first.cache_files[0]["filename"]).stat().st_mtime_ns

    def fail(*_: object) -> None:
        raise AssertionError("processed again")

    monkeypatch.setattr(RowInserter, "__call__", fail)
    again = drawn()
    assert [canary.id for canary in again] != [canary.id for canary in CANARIES]
    second = insert_canaries(load_from_disk(tmp_path / "data"), again)
    assert second.cache_files == first.cache_files and second._fingerprint == first._fingerprint
    assert Path(second.cache_files[0]["filename"]).stat().st_mtime_ns == stamp
    with pytest.raises(AssertionError, match="processed again"):
        insert_canaries(load_from_disk(tmp_path / "data"), CANARIES, seed=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: insert_canaries(Dataset.from_dict({"text": []}), CANARIES), "dataset: must have rows, got 0"),
        (
            lambda: insert_canaries(plain(), CANARIES, "body"),
            "text_column: must be a column of the dataset (text), got 'body'. Name one of them.",
        ),
        (
            lambda: insert_canaries(Dataset.from_dict({"input_ids": [[1, 2]]}), CANARIES, "input_ids"),
            "Insert canaries into the texts, before they are tokenized.",
        ),
        (
            lambda: insert_canaries(plain().select(range(12)), CANARIES),
            "dataset: must have at least as many rows as there are insertions (13), got 12. Use fewer repetitions",
        ),
        (
            lambda: insert_canaries(plain(), CANARIES, other_columns={"source": 1}),
            "other_columns: must name columns of the dataset (text), got ['source']",
        ),
        (
            lambda: insert_canaries(plain(label=[1] * 100), CANARIES, other_columns={"label": "x"}),
            "other_columns: must hold values of the columns' types: label is of type int64, got 'a text of 1 char",
        ),
        (
            lambda: insert_canaries(DatasetDict({"test": plain()}), CANARIES),
            "splits: must name splits of the dataset (test), got ['train']. Write splits=(\"test\",).",
        ),
        (lambda: insert_canaries(DatasetDict({"train": plain()}), CANARIES, splits=()), "splits: must name splits"),
        (
            lambda: insert_canaries(IterableDataset.from_generator(lambda: iter([{"text": "a"}])), CANARIES),
            "num_rows: must be given for a stream that does not know its length: the approximate number of rows",
        ),
        (
            lambda: insert_canaries(ROWS, CANARIES),
            "or a streaming one, got 'list'. Write",
        ),
        (lambda: insert_canaries(plain(), [1]), "canaries: must be a CanarySet, got 'list'"),
        (lambda: remove_canaries(plain(), [1]), "canaries: must be a CanarySet, got 'list'"),
        (
            lambda: remove_canaries(plain(), CANARIES, "body"),
            "text_column: must be a column of the dataset (text), got",
        ),
        (
            lambda: remove_canaries(DatasetDict({"a": plain()}), CANARIES, "body"),
            "text_column: must be a column of the dataset (text), got 'body'",
        ),
        (
            lambda: remove_canaries(ROWS, CANARIES),
            "dataset: must be a Dataset or DatasetDict, or a streaming",
        ),
    ],
)
def test_errors_name_argument_rule_and_value(make: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make()  # type: ignore[operator]
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_number_of_rows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowInserter, "__call__", lambda self, batch, indices: batch)
    with pytest.raises(ExposureError, match=r"datasets returned 100 rows instead of 100 \+ 13: its cache is damaged"):
        insert_canaries(plain(), CANARIES)
