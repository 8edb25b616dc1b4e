"""`hf-exposure insert`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_runs import one_line, run
from datasets import Dataset, DatasetDict, load_from_disk

from hf_exposure import CanarySet

ROWS = [f"row {i}" for i in range(20)]


@pytest.fixture(autouse=True)
def quiet_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def make(kind: str, folder: Path) -> Path:
    rows = Dataset.from_dict({"text": ROWS})
    if kind == "saved":
        rows.save_to_disk(folder / "data")
        return folder / "data"
    if kind == "splits":
        DatasetDict(train=rows, test=rows).save_to_disk(folder / "data")
        return folder / "data"
    (folder / "data").mkdir()
    path = folder / "data" / f"train.{kind.removesuffix('/')}"
    writers = {"csv": rows.to_csv, "jsonl": rows.to_json, "parquet": rows.to_parquet}
    if path.suffix == ".txt":
        path.write_text("\n".join(ROWS) + "\n")
    else:
        writers[path.suffix[1:]](path)
    return path.parent if kind.endswith("/") else path


@pytest.mark.parametrize("kind", ["saved", "splits", "csv", "jsonl", "parquet", "txt", "csv/", "txt/"])
def test_every_canary_is_there_as_often_as_it_should_be(
    kind: str, tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make(kind, tmp_path)
    beside = sorted(path.name for path in source.parent.rglob("*"))
    done = run(capsys, "insert", "--dataset", source, "--canaries", canary_file, "--out", tmp_path / "new")
    assert done.status == 0, done.err
    assert "10 canary rows inserted" in done.out
    written = load_from_disk(tmp_path / "new")
    rows = (written["train"] if isinstance(written, DatasetDict) else written)["text"][:]
    canaries = CanarySet.load(canary_file)
    assert len(rows) == 30
    assert [row for row in rows if row.startswith("row")] == ROWS
    assert [rows.count(canary.text) for canary in canaries] == [1, 1, 4, 4, 0, 0, 0]
    if kind == "splits":
        assert written["test"]["text"][:] == ROWS
    # No secret is left next to the original, and none is on the screen.
    (tmp_path / "new").rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert sorted(path.name for path in source.parent.rglob("*")) == beside
    assert not any(canary.text in done.out + done.err for canary in canaries)


def test_json_and_the_record_hold_no_secret(
    tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make("csv", tmp_path)
    done = run(
        capsys, "insert", "--dataset", source, "--canaries", canary_file, "--out", tmp_path / "new", "--json",
        "--seed", 7,
    )  # fmt: skip
    values = json.loads(done.out)
    record = json.loads((tmp_path / "new" / "exposure_insertion.json").read_text())
    assert values["rows"] == record["rows"] == {"train": 30}
    assert (record["seed"], record["name"]) == (7, str(source))
    canaries = CanarySet.load(canary_file)
    assert record["manifest_hash"] == canaries.manifest_hash
    for canary in canaries:
        assert canary.text not in json.dumps(record)


def test_what_is_there_is_kept_until_the_new_one_is_whole(
    tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make("csv", tmp_path)
    out = tmp_path / "out"
    typed = ("insert", "--dataset", source, "--canaries", canary_file, "--out", out)
    assert run(capsys, *typed).status == 0
    one_line(run(capsys, *typed), "--out: must not exist yet")
    (out / "mark").write_text("old")
    before = sorted(tmp_path.iterdir())

    def interrupted(self: Dataset, folder: Path) -> None:
        (Path(folder) / "half").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DatasetDict, "save_to_disk", interrupted)
        done = run(capsys, *typed, "--overwrite")
    assert done.status == 130
    assert f"  hf-exposure insert --dataset {source} --canaries {canary_file} --out {out} --overwrite" in done.err
    assert sorted(tmp_path.iterdir()) == before
    assert (out / "mark").read_text() == "old"
    assert run(capsys, *typed, "--overwrite").status == 0
    assert not (out / "mark").exists()
    assert sorted(tmp_path.iterdir()) == before


def test_a_hint_is_quoted_for_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["hf_exposure.cli.insert"], "load_canaries", stop)
    done = run(capsys, "insert", "--dataset", "a b; rm -rf", "--canaries", "c'", "--out", tmp_path / "new")
    assert """--dataset 'a b; rm -rf' --canaries 'c'"'"''""" in done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--dataset": "no/such/file.csv"}, "--dataset: must be a file or folder that exists"),
        ({"--dataset": "{tmp}/readme.md"}, "--dataset: must end in .csv, .tsv"),
        ({"--dataset": "{tmp}/empty"}, "--dataset: must be a folder with a data set"),
        ({"--canaries": "nowhere.json"}, "--canaries: must be a canary file that can be read (No such file"),
        ({"--canaries": "{tmp}/readme.md"}, "--canaries: must be complete JSON; this file is damaged or cut off"),
        ({"--text-column": "body"}, "--text-column: must be a column"),
        ({"--split": "test"}, "--split: must name splits of the dataset (train)"),
        ({"--out": "{tmp}/readme.md/x"}, "--out: must be a folder that can be made ("),
        ({"--out": "{tmp}/full"}, "--out: must not exist yet"),
    ],
    ids=["missing", "suffix", "folder", "canaries", "damaged", "column", "split", "unwritable", "there"],
)
def test_bad_input(
    change: dict[str, str], message: str, tmp_path: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "readme.md").write_text("text")
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    typed = {"--dataset": str(make("csv", tmp_path)), "--canaries": str(canary_file), "--out": str(tmp_path / "new")}
    typed |= {key: value.replace("{tmp}", str(tmp_path)) for key, value in change.items()}
    before = sorted(tmp_path.iterdir())
    one_line(run(capsys, "insert", *(part for pair in typed.items() for part in pair)), message)
    assert sorted(tmp_path.iterdir()) == before
