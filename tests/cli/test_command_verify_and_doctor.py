"""`hf-exposure verify`, `env` and `doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run
from report_samples import mixed

from hf_exposure.records import Delivery
from hf_exposure.records.sums import verify_files


def test_verify_prints_the_outcome_and_the_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = mixed(delivery=Delivery(inserted=4, found=4, trained=4))
    measured.with_run(threshold_bits=4.0, measured_at="2026-01-02T03:04:05+00:00").save(tmp_path)
    found = verify_files(tmp_path)
    done = run(capsys, "verify", tmp_path, "--hash", found.upper())
    assert done.status == 0
    assert done.out.startswith("FAIL  ")
    assert f"content hash {found}" in done.out
    assert "2026-01-02T03:04:05" in done.out
    values = json.loads(run(capsys, "verify", tmp_path, "--json").out)
    assert values == {"content_hash": found, "outcome": "fail", "measured_at": "2026-01-02T03:04:05+00:00"}
    one_line(run(capsys, "verify", tmp_path, "--hash", "0" * 64), "--hash")


def test_verify_refuses_what_was_changed_and_tells_an_invalid_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed(delivery=Delivery(inserted=4, found=4, trained=3)).save(tmp_path / "run")
    done = run(capsys, "verify", tmp_path / "run")
    assert (done.status, done.out.split()[0]) == (1, "INVALID")
    page = tmp_path / "run" / "report.html"
    page.write_text(page.read_text().replace("INVALID", "PASS"))
    one_line(run(capsys, "verify", tmp_path / "run"), "report.html was changed")
    one_line(run(capsys, "verify", tmp_path), "SHA256SUMS")
    one_line(run(capsys, "verify", tmp_path / "nowhere"), "must be a folder or report that exists")


def test_env_names_versions_and_nothing_about_the_machines_owner(capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads(run(capsys, "env", "--json").out)
    assert values["torch"].startswith("2.")
    shown = run(capsys, "env").out
    assert all(value in shown for value in values.values())
    assert str(Path.home()) not in shown or str(Path.home()) == "/"


def test_doctor_finds_a_healthy_installation_and_a_broken_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(capsys, "doctor")
    assert done.status == 0, done.out
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["ok", name] for name in ("import", "draw", "insert", "measure", "search", "report")
    ]

    import hf_exposure

    right = hf_exposure.log_perplexity
    monkeypatch.setattr(hf_exposure, "log_perplexity", lambda *given, **named: -right(*given, **named))
    done = run(capsys, "doctor")
    assert done.status == 3
    assert done.out.splitlines()[-1].startswith("FAIL  measure")
