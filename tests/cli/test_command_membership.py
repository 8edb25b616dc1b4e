"""`hf-exposure membership` on files of records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run


@pytest.fixture
def records(tmp_path: Path) -> tuple[Path, Path]:
    members, held_out = tmp_path / "members.jsonl", tmp_path / "held_out.jsonl"
    members.write_text("".join(json.dumps({"body": f"row {number:03}"}) + "\n" for number in range(12)))
    held_out.write_text("".join(json.dumps({"body": f"row {number:03}"}) + "\n" for number in range(500, 520)))
    return members, held_out


def typed(records: tuple[Path, Path], model: Path, *more: object) -> list[object]:
    members, held_out = records
    return [
        "membership",
        "--model",
        model,
        "--members",
        members,
        "--held-out",
        held_out,
        "--text-column",
        "body",
        *more,
    ]


def test_a_report_is_printed_and_written(
    capsys: pytest.CaptureFixture[str], records: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = run(capsys, *typed(records, model_folder, "--out", out, "--base-model", model_folder))
    assert done.status == 0, done
    assert "12 members, 20 held-out records" in done.out and "Written to" in done.out
    values = json.loads((out / "membership.json").read_text())
    # The base model is the model itself.
    assert values["statistics"]["base_calibrated"]["auc"] == 0.5 and values["model"]["name"] == str(model_folder)
    assert not any("row 0" in file.read_text() for file in out.glob("*.[jh]*"))
    one_line(run(capsys, *typed(records, model_folder, "--out", out)), "--out", "--overwrite")


def test_json_limits_and_thresholds(
    capsys: pytest.CaptureFixture[str], records: tuple[Path, Path], model_folder: Path
) -> None:
    done = run(capsys, *typed(records, model_folder, "--json", "--max-records", 5, "--fail-above", 1.0))
    values = json.loads(done.out)
    assert done.status == 0 and values["members"]["records"] == values["held_out"]["records"] == 5
    assert "within the threshold of 1" in done.err
    crossed = run(capsys, *typed(records, model_folder, "--fail-above", 0.0))
    assert crossed.status == 1 and "above the threshold of 0: AUC" in crossed.err


def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], records: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    members, held_out = records
    base = ["membership", "--model", model_folder, "--members", members, "--held-out"]
    one_line(run(capsys, *base, tmp_path / "none.jsonl"), "--held-out", "none.jsonl")
    one_line(run(capsys, *base, held_out), "members", "'text'", "record 0")
    one_line(run(capsys, *typed(records, model_folder, "--base-model", "without_adapter")), "PEFT adapters")
    one_line(run(capsys, *typed(records, model_folder, "--max-records", 0)), "--max-records")
    one_line(run(capsys, *typed(records, model_folder, "--fail-above", "nan")), "--fail-above", "finite", "got nan")
    one_line(run(capsys, *base, members, "--text-column", "body"), "held_out", "members among them are left out")
