"""`hf-exposure insert` for data other than a column of texts: chats, pairs, sources, token ids, streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run
from datasets import Dataset, load_dataset, load_from_disk
from transformers import ByT5Tokenizer

from hf_exposure import CanarySet

COUNT = 20
QUESTION = [{"role": "user", "content": "My number?"}]
ANSWER = {"role": "assistant", "content": "No idea."}


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def saved(folder: Path, **columns: list[object]) -> Path:
    Dataset.from_dict(columns).save_to_disk(folder / "data")
    return folder / "data"


def inserted(
    capsys: pytest.CaptureFixture[str], source: Path, canary_file: Path, *typed: object
) -> list[dict[str, object]]:
    """The canary rows in the command's output: the rows that the original does not have."""
    out = source.parent / "new"
    done = run(capsys, "insert", "--dataset", source, "--canaries", canary_file, "--out", out, *typed)
    assert done.status == 0, done.err
    before, after = load_from_disk(source), load_from_disk(out)
    assert after.features == before.features
    old = [json.dumps(row) for row in before]
    return [row for row in after if json.dumps(row) not in old]


def texts_of(canary_file: Path) -> list[str]:
    return sorted(canary.text for canary in CanarySet.load(canary_file).inserted for _ in range(canary.repetitions))


def test_chats(tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, messages=[[*QUESTION, ANSWER]] * COUNT)
    rows = inserted(capsys, source, canary_file, "--messages", json.dumps(QUESTION))
    assert [row["messages"][:-1] for row in rows] == [QUESTION] * 10
    assert {row["messages"][-1]["role"] for row in rows} == {"assistant"}
    assert sorted(row["messages"][-1]["content"] for row in rows) == texts_of(canary_file)


def test_the_turns_may_be_in_a_file(tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "turns.json").write_text(json.dumps(QUESTION))
    source = saved(tmp_path, prompt=[QUESTION] * COUNT, completion=[[ANSWER]] * COUNT)
    rows = inserted(capsys, source, canary_file, "--messages", tmp_path / "turns.json")
    assert [row["prompt"] for row in rows] == [QUESTION] * 10
    assert sorted(row["completion"][0]["content"] for row in rows) == texts_of(canary_file)


def test_prompt_and_completion(tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, prompt=["Q: "] * COUNT, completion=["A."] * COUNT)
    rows = inserted(capsys, source, canary_file, "--prompt", "Q: my number? A: ")
    assert {row["prompt"] for row in rows} == {"Q: my number? A: "}
    assert sorted(row["completion"] for row in rows) == texts_of(canary_file)


def test_source_and_target(tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, english=["one"] * COUNT, french=["un"] * COUNT)
    typed = ("--text-column", "french", "--source", "numero {number}", "--source-column", "english")
    rows = inserted(capsys, source, canary_file, *typed)
    assert sorted(row["french"] for row in rows) == texts_of(canary_file)
    assert all(row["english"].removeprefix("numero ") in row["french"] for row in rows)


def test_token_ids(tmp_path: Path, canary_file: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = ByT5Tokenizer()
    source = saved(tmp_path, input_ids=[tokenizer(f"row {i}")["input_ids"] for i in range(COUNT)])
    rows = inserted(capsys, source, canary_file, "--tokenizer", model_folder)
    assert sorted(tokenizer.decode(row["input_ids"], skip_special_tokens=True) for row in rows) == texts_of(
        canary_file
    )


def test_other_columns_take_the_type_of_their_column(
    tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = saved(tmp_path, text=["row"] * COUNT, label=[5] * COUNT, tag=["old"] * COUNT)
    rows = inserted(capsys, source, canary_file, "--other-column", "label=7", "--other-column", "tag=7")
    assert {(row["label"], row["tag"]) for row in rows} == {(7, "7")}


def lines(folder: Path, files: int = 1) -> Path:
    (folder / "lines").mkdir()
    for number in range(files):
        rows = [json.dumps({"text": f"row {i}"}) for i in range(number, COUNT, files)]
        (folder / "lines" / f"train-{number}.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "lines"


@pytest.mark.parametrize("files", [1, 3])
def test_a_stream_becomes_shards(
    files: int, tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = lines(tmp_path, files), tmp_path / "new"
    typed = ("insert", "--dataset", source, "--canaries", canary_file, "--out", out, "--stream")
    one_line(run(capsys, *typed), "--num-rows: must be given for a stream", "Type --num-rows 1000000")
    assert not out.exists()
    done = run(capsys, *typed, "--num-rows", COUNT, "--json")
    assert done.status == 0, done.err
    values = json.loads(done.out)
    assert (values["rows"], values["rows_before"]) == ({"train": 30}, {"train": 20})
    assert len(list((out / "data").glob("train-*.parquet"))) == files
    stream = load_dataset(str(out), split="train", streaming=True)
    assert stream.num_shards == files
    rows = [row["text"] for row in stream]
    assert sorted(row for row in rows if not row.startswith("row")) == texts_of(canary_file)
    assert sorted(row for row in rows if row.startswith("row")) == sorted(f"row {i}" for i in range(COUNT))


def test_a_long_shard_becomes_several_files(
    tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_exposure.loading._BATCH", 4)
    monkeypatch.setattr("hf_exposure.loading._MOST_BYTES", 100)
    source, out = lines(tmp_path), tmp_path / "new"
    typed = ("--canaries", canary_file, "--out", out, "--stream", "--num-rows", COUNT)
    assert run(capsys, "insert", "--dataset", source, *typed).status == 0
    assert len(list((out / "data").glob("train-*.parquet"))) > 2
    rows = load_dataset(str(out), split="train")["text"][:]
    assert [row for row in rows if row.startswith("row")] == [f"row {i}" for i in range(COUNT)]
    assert sorted(row for row in rows if not row.startswith("row")) == texts_of(canary_file)


@pytest.mark.parametrize(
    ("typed", "parts"),
    [
        (("--num-rows", 20), ("--num-rows: goes with --stream",)),
        (("--stream", "--num-proc", 2), ("--num-proc: does not go with --stream",)),
        (("--prompt", "a", "--messages", "[]"), ("--messages: does not go with --prompt",)),
        (("--messages", "{"), ("--messages: must be JSON, or a file of it", "Type --messages '[{")),
        (("--messages", "none.json"), ("--messages: must be JSON, or a file that can be read (No such file",)),
        (("--messages", "3"), ("--messages: must be a list of messages",)),
        (("--messages", '[{"role": "user"}]'), ("--messages: must have messages with a role and a text",)),
        (("--messages", json.dumps(QUESTION)), ("--prompt or --messages: with messages goes with columns",)),
        (("--source", "s"), ("--source-column: must be a column of the dataset (text)",)),
        (("--other-column", "label"), ("--other-column: must read NAME=VALUE",)),
        (("--other-column", "label=3"), ("--other-column: must name columns of the dataset (text)",)),
        (("--tokenizer", "./nowhere"), ("--tokenizer: must be a folder that exists",)),
    ],
    ids=["rows", "processes", "both", "json", "file", "list", "role", "chat", "source", "form", "column", "tokenizer"],
)
def test_bad_input(
    typed: tuple[object, ...],
    parts: tuple[str, ...],
    tmp_path: Path,
    canary_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = lines(tmp_path)
    done = run(capsys, "insert", "--dataset", source, "--canaries", canary_file, "--out", tmp_path / "new", *typed)
    one_line(done, *parts)
    assert not (tmp_path / "new").exists()


def test_a_saved_folder_is_no_stream(tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path, text=["row"] * COUNT)
    done = run(capsys, "insert", "--dataset", source, "--canaries", canary_file, "--out", tmp_path / "new", "--stream")
    one_line(done, "--stream: does not go with a folder written by save_to_disk", "Leave --stream out.")
