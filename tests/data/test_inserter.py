"""The map function alone: batches in, batches out."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from hf_exposure import CanaryInserter, CanaryTemplate, Digits, draw_canaries
from hf_exposure.errors import InputError

TEMPLATE = CanaryTemplate("My PIN is {pin}", pin=Digits(6))
CANARIES = draw_canaries(TEMPLATE, repetitions={1: 3, 5: 2}, controls=4, seed=0)
ROWS = [f"row {row}" for row in range(57)]


def merged_rows(batch_size: int, seed: int, as_table: bool) -> list[str]:
    inserter, out = CanaryInserter(CANARIES, len(ROWS), seed=seed), []
    for start in range(0, len(ROWS), batch_size):
        columns = {"text": ROWS[start : start + batch_size]}
        indices = list(range(start, min(start + batch_size, len(ROWS))))
        result = inserter(pa.table(columns) if as_table else columns, indices)
        assert isinstance(result, pa.Table if as_table else dict)
        out += result["text"].to_pylist() if as_table else result["text"]
    return out


@pytest.mark.parametrize("seed", range(6))
def test_rows_in_order_and_each_canary_as_often_as_it_says(seed: int) -> None:
    out = merged_rows(57, seed, as_table=True)
    assert [text for text in out if text.startswith("row")] == ROWS
    assert len(out) == 57 + 13
    for canary in CANARIES.inserted:
        assert out.count(canary.text) == canary.repetitions
    for canary in CANARIES.controls:
        assert canary.text not in out


@pytest.mark.parametrize("batch_size", [1, 2, 10, 56, 57, 1000])
@pytest.mark.parametrize("as_table", [True, False])
def test_the_batch_size_and_kind_do_not_matter(batch_size: int, as_table: bool) -> None:
    for seed in range(4):
        assert merged_rows(batch_size, seed, as_table) == merged_rows(57, seed, as_table=True)


def test_places_follow_the_seed() -> None:
    assert merged_rows(10, 0, True) == merged_rows(10, 0, True) != merged_rows(10, 1, True)


@pytest.mark.parametrize("as_table", [True, False])
def test_other_columns_are_those_of_the_row_behind(as_table: bool) -> None:
    columns = {"label": list(range(57)), "text": ROWS, "source": ["data"] * 57}
    inserter = CanaryInserter(CANARIES, 57, other_columns={"source": "canary"})
    result = inserter(pa.table(columns) if as_table else columns, range(57))
    merged = result.to_pydict() if as_table else result
    assert list(merged) == ["label", "text", "source"]
    following = 56
    for label, text, source in reversed(list(zip(*merged.values(), strict=True))):
        if text.startswith("row"):
            assert (text, source) == (f"row {label}", "data")
            following = label
        else:
            assert (label, source) == (following, "canary")


def test_types_are_kept() -> None:
    schema = pa.schema(
        [
            pa.field("text", pa.large_string(), metadata={"key": "value"}),
            pa.field("tags", pa.list_(pa.struct([("name", pa.string()), ("place", pa.int32())]))),
            pa.field("vector", pa.list_(pa.float32(), 2)),
            pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
        ],
        metadata={"huggingface": "{}"},
    )
    rows = [{"text": t, "tags": [{"name": t, "place": 1}] * 2, "vector": [1, 2], "kind": "k"} for t in ROWS]
    table = pa.Table.from_pylist(rows, schema=schema)
    result = CanaryInserter(CANARIES, 57)(table, range(57))
    assert result.schema.equals(schema, check_metadata=True) and result.num_rows == 70
    assert result["vector"].to_pylist() == [[1, 2]] * 70
    assert CanaryInserter(CANARIES, 10**6)(table, range(57)) is table, "a batch without insertions is not copied"


def test_tensors_and_arrays_in_columns() -> None:
    columns = {"text": ROWS, "vector": np.arange(114).reshape(57, 2)}
    result = CanaryInserter(CANARIES, 57)(columns, range(57))
    kept = [vector.tolist() for vector, text in zip(result["vector"], result["text"], strict=True) if "row" in text]
    assert kept == columns["vector"].tolist() and len(result["vector"]) == 70


def test_the_pickled_state_is_plain_and_does_not_follow_ids_or_use() -> None:
    again = draw_canaries(TEMPLATE, repetitions={1: 3, 5: 2}, controls=4, seed=0)
    fresh, used = CanaryInserter(again, 57, seed=3), CanaryInserter(CANARIES, 57, seed=3)
    used({"text": ROWS}, range(57))
    assert pickle.dumps(fresh) == pickle.dumps(used)
    copy = pickle.loads(pickle.dumps(used))
    assert copy({"text": ROWS}, range(57)) == used({"text": ROWS}, range(57))
    for secret_free in (CANARIES.salt, *[canary.id for canary in CANARIES]):
        assert secret_free.encode() not in pickle.dumps(used)
    assert pickle.dumps(CanaryInserter(CANARIES, 57, seed=4)) != pickle.dumps(used)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"canaries": ["text"]}, "canaries: must be a CanarySet, got 'list'. Make one with draw_canaries."),
        ({"num_rows": 12}, "num_rows: must be at least the number of insertions (13), got 12. Use fewer repetitions"),
        ({"num_rows": 0}, "num_rows: must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed: must be a whole number of at least 0, got -1"),
        ({"other_columns": {"text": "x"}}, "other_columns: must not name the text column, got 'text'"),
    ],
)
def test_errors_of_the_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        CanaryInserter(**({"canaries": CANARIES, "num_rows": 57} | arguments))  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("batch", "indices", "message"),
    [
        (
            {"text": ROWS},
            range(1, 58),
            "num_rows: must be the number of rows of the dataset, which has a row 57",
        ),
        ({"text": ROWS[:2]}, [3, 9], "indices: must be the row numbers of a batch, in order, got '3 to 9 for 2 rows'"),
        ({"body": ROWS, "id": ROWS}, range(57), "text_column: must be a column of the dataset (body, id), got 'text'"),
        (
            pa.table({"text": [1]}),
            [0],
            "text_column: must be a column of strings: text, got 'int64'. Insert",
        ),
    ],
)
def test_errors_of_a_batch(batch: object, indices: list[int], message: str) -> None:
    with pytest.raises(InputError) as caught:
        CanaryInserter(CANARIES, 57)(batch, indices)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_errors_of_other_columns() -> None:
    table = pa.table({"text": ROWS, "label": list(range(57))})
    with pytest.raises(InputError, match=r"other_columns: must name columns .*\(text, label\), got \['x'\]"):
        CanaryInserter(CANARIES, 57, other_columns={"x": 1})(table, range(57))
    with pytest.raises(
        InputError, match="other_columns: must hold values of .*: label is of type int64, got 'a text of 3 characters'"
    ):
        CanaryInserter(CANARIES, 57, other_columns={"label": "one"})(table, range(57))
