"""`hf-exposure critical`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run
from critical_samples_of_runs import FAILED, write_run

from hf_exposure.hub import push


def test_the_text_the_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", 0.25, FAILED, 0.75)
    done = run(capsys, "critical", tmp_path / "run", "--out", tmp_path / "page")
    assert done.status == 0 and done.err == ""
    assert "Of 200 rows, 75 % are critical at a radius of 0.03 (65 % to 85 %)" in done.out
    assert "critical_samples.html" in done.out and (tmp_path / "page" / "critical_samples.html").exists()
    values = json.loads(run(capsys, "critical", tmp_path / "run", "--json").out)
    assert [one["ratio"] for one in values["measurements"]] == [0.25, None, 0.75]
    assert values["measurements"][2] == {"step": 20, "epoch": 2.0, "ratio": 0.75, "low": 0.65, "high": 0.85}
    assert values["settings"]["radius"] == 0.03 and "url" not in values
    one_line(run(capsys, "critical", tmp_path / "run", "--out", tmp_path / "page"), "--out", "--overwrite")
    assert run(capsys, "critical", tmp_path / "run", "--out", tmp_path / "page", "--overwrite").status == 0
    one_line(run(capsys, "critical", tmp_path / "page"), "run: must hold _critical.jsonl", "CriticalSampleRatio")
    one_line(run(capsys, "critical", tmp_path / "run", "--name", "other"), "_other.jsonl")


def test_push(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_run(tmp_path / "run", 0.5, name="critical_train")
    asked = []
    monkeypatch.setattr(push, "push_card", lambda found, repo_id: asked.append((found, repo_id)) or "https://hub/me/m")
    arguments = ("critical", tmp_path / "run", "--name", "critical_train", "--push", "me/m")
    assert "Published: https://hub/me/m" in run(capsys, *arguments).out
    assert json.loads(run(capsys, *arguments, "--json").out)["url"] == "https://hub/me/m"
    assert asked == [(written, "me/m")] * 2
