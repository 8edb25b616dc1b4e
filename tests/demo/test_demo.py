"""The demo, end to end at its smallest, as a user runs it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_exposure import CanarySet
from hf_exposure.cli import app, main, parse_repetitions
from hf_exposure.demo import DemoSettings, run_demo
from hf_exposure.demo.inputs import load_rows
from hf_exposure.errors import InputError

SMALL = ["demo", "--epochs", "2", "--controls", "2", "--digits", "3", "--top-k", "4", "--batch-size", "8"]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("All work and no play makes a dull day. " * 200, encoding="utf-8")
    return path


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_the_demo_leaves_what_it_says(tmp_path: Path, text_file: Path, tokenizer: str) -> None:
    out = tmp_path / "out"
    arguments = [*SMALL, "--text-file", str(text_file), "--text-bytes", "4000", "--repetitions", "1:1,4:2"]
    result = CliRunner().invoke(app, [*arguments, "--tokenizer", tokenizer, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "shards" not in result.output, "a bar of the library, which the demo does not explain"
    assert "epoch 2 of 2" in result.output and "inserted 4 times" in result.output
    assert "The 4 likeliest secrets (certified" in result.output
    report = json.loads((out / "report.json").read_text())
    assert [estimate["repetitions"] for estimate in report["estimates"]] == [1, 4, 4, 0, 0]
    assert len(report["history"]) == 2
    assert (out / "exposure_by_step.png").stat().st_size > 10_000
    assert stat.S_IMODE((out / "canaries.json").stat().st_mode) == 0o600
    canaries = CanarySet.load(out / "canaries.json")
    # The likeliest text in the first line is one of the template, and every inserted canary shown has a mark.
    shown = [line for line in result.output.splitlines() if " bits  The random number is " in line]
    assert len(shown) == 4
    inserted = {canary.text for canary in canaries.inserted}
    for line in shown:
        text = line.split("bits  ")[1].split("  <-")[0].strip()
        assert canaries.template.contains(text)
        assert ("<- inserted" in line) == (text in inserted)


def test_a_model_that_memorized_nothing_is_said_to_have_memorized_nothing(
    tmp_path: Path, text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = DemoSettings(
        out=tmp_path, text_file=text_file, text_bytes=6000, epochs=1, repetitions={1: 4}, controls=8,
        learning_rate=1e-9, model="small-llama", digits=3,
    )  # fmt: skip
    report = run_demo(settings)
    assert report.memorization_p_value > 0.01
    assert "No memorization detected" in capsys.readouterr().out


def test_rows_come_from_a_local_dataset(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["abcdefghij"] * 30}).save_to_disk(tmp_path / "data")
    rows = load_rows(None, str(tmp_path / "data"), 100, 40)
    assert "".join(rows["text"]) == ("abcdefghij\n" * 10)[:100]


def test_the_default_text_is_the_language_reference() -> None:
    rows = load_rows(None, None, 10_000, 200)
    assert len(rows) == 50 and "statement" in rows[0]["text"]


@pytest.mark.parametrize("value", ["", "4", "1:x", "1:2,1:3", "1:-2"])
def test_repetitions_of_another_form_are_refused(value: str) -> None:
    with pytest.raises(InputError, match="--repetitions: must read REPETITIONS:CANARIES"):
        parse_repetitions(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs: must be at least 1, got 0."),
        (["--text-file", "nowhere.txt"], "--text-file: must be a file that exists"),
        (["--text-file", "a", "--dataset", "b"], "--text-file: cannot be combined with --dataset"),
        (["--repetitions", "64"], "--repetitions: must read REPETITIONS:CANARIES"),
        (["--seed", "-1"], "--seed: must be from 0 to 2^32 - 1, got -1."),
        (["--learning-rate", "nan"], "--learning-rate: must be above 0, got nan."),
        (["--tokenizer", "./no-such-folder"], "--tokenizer: must be a folder that exists"),
        (["--model", "./no-such-folder", "--tokenizer", "bytes"], "--model: must be a folder that exists"),
    ],
)
def test_bad_input_ends_with_status_2_and_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["hf-exposure", "demo", "--out", str(out), *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()
