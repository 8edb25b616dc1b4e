"""`hf-exposure dynamics`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run
from dynamics_samples import write_run

from hf_exposure.records.dynamics import DynamicsRecord
from hf_exposure.report.dynamics import dynamics_of, read_dynamics, summary


def test_the_text_the_page_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run")
    done = run(capsys, "dynamics", tmp_path / "run", "--out", tmp_path / "page")
    assert done.status == 0 and done.err == ""
    assert "8 noisy examples" in done.out and "Candidates for wrong labels" in done.out
    assert "dynamics.html" in done.out and (tmp_path / "page" / "examples.csv").exists()
    as_json = run(capsys, "dynamics", tmp_path / "run", "--json")
    assert json.loads(as_json.out) == summary(read_dynamics(tmp_path / "run"))
    one_line(run(capsys, "dynamics", tmp_path / "run", "--out", tmp_path / "page"), "--out", "--overwrite")
    again = run(capsys, "dynamics", tmp_path / "run", "--out", tmp_path / "page", "--overwrite")
    assert again.status == 0
    one_line(run(capsys, "dynamics", tmp_path / "page"), "run: must be the output folder", "DynamicsMeasure")
    early = run(capsys, "dynamics", tmp_path / "run", "--until", "20", "--json")
    assert json.loads(early.out) == summary(dynamics_of(DynamicsRecord.load(tmp_path / "run").until(20)))
    assert json.loads(early.out)["measurements"] == 3
    one_line(run(capsys, "dynamics", tmp_path / "run", "--until", "-1"), "before the first measurement, of step 0")
    one_line(run(capsys, "dynamics", tmp_path / "run", "--name", "other"), "_other")
