"""`hf-exposure cost`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run

SPACE = ("--template", "pin {pin}.", "--space", "pin=digits:3")


def test_the_table_and_json(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("cost", "--model", model_folder, *SPACE, "--references", 64, "--repetitions", "1:2", "--controls", 2)
    done = run(capsys, *arguments, "--tokens-per-second", 50)
    assert done.status == 0 and done.err == ""
    assert "4 canaries among 1,000 candidate secrets by Auto(references=64" in done.out
    for row in ("check of the scoring mode", "all weighted draws", "search to the end", "total"):
        assert row in done.out
    values = json.loads(run(capsys, *arguments, "--json").out)
    assert values["model"] == str(model_folder)
    assert values["scoring_mode"] == "packed"
    assert f"{values['full']['tokens']:,}" in done.out and f"{values['full']['passes']:,}" in done.out
    assert values["full"]["seconds"] is None  # no rate
    assert values["parameters"] == 384 * 16 + 64 * 16 + (12 * 16 * 16 + 13 * 16) + 2 * 16  # tables, a layer, a norm


def test_no_weights_are_needed(model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes((model_folder / "config.json").read_bytes())
    sample = (*SPACE, "--method", "sample", "--references", 20, "--json")
    plan = ("cost", "--model", tmp_path / "config.json", *sample)
    done = run(capsys, *plan, "--tokenizer", model_folder)
    assert done.status == 0, done.err
    whole = json.loads(run(capsys, "cost", "--model", model_folder, *sample).out)
    assert json.loads(done.out)["full"]["tokens"] == whole["full"]["tokens"]
    one_line(run(capsys, *plan), "--tokenizer: must be given together with a file")


def test_a_canary_file_and_bad_input(
    model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cost = ("cost", "--model", model_folder)
    few = ("--method", "sample", "--references", 20)
    done = run(capsys, *cost, "--canaries", canary_file, *few, "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["method"] == "Sample(references=20)"
    one_line(run(capsys, *cost, "--canaries", canary_file, *SPACE), "--template: does not go with --canaries")
    one_line(run(capsys, *cost), "--template: must be given, or --canaries")
    one_line(run(capsys, *cost, *SPACE, "--method", "guess"), "method: must be one of auto")
    one_line(run(capsys, *cost, *SPACE, "--tokens-per-second", 0), "tokens_per_second: must be above 0")
    one_line(run(capsys, "cost", "--model", "./nowhere", *SPACE), "--model: must be a folder that exists")
    one_line(run(capsys, *cost, *SPACE, "--scoring-mode", "alone"), "alone")
