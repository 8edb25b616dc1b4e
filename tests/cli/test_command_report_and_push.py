"""`hf-exposure report` and `hf-exposure push`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_runs import one_line, run

from hf_exposure import ExposureReport
from hf_exposure.cli.measure import _gate
from hf_exposure.records import Delivery, ExposureEstimate


def make(folder: Path, bits: float, loss: float | None = None) -> Path:
    rows = tuple(
        ExposureEstimate(
            canary_id=str(i), repetitions=count, log_perplexity_bits=60.0 - mean - i / 10, exposure_bits=mean + i / 10,
            low_bits=mean, high_bits=mean + 1, method="sample",
        )
        for count, mean in ((8, bits), (0, 1.0))
        for i in range(4)
    )  # fmt: skip
    report = ExposureReport(
        estimates=rows, template="pin {pin}", spaces={"pin": "digits"}, space_size=10**9, manifest_hash="a",
        settings={"confidence_level": 0.95}, step=3,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report.to_dict()))
    if loss is not None:
        state = {"log_history": [{"step": 3, "eval_loss": loss}, {"step": 3, "loss": loss}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def test_one_run_is_laid_out_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "run", 12.0)
    done = run(capsys, "report", folder, "--out", tmp_path / "page", plots=True)
    assert done.status == 0, done.err
    assert (tmp_path / "page" / "exposure_by_repetitions.png").stat().st_size > 10_000
    assert "8 times          4             12.1" in done.out
    assert {"report.html", "report.json"} <= {path.name for path in (tmp_path / "page").iterdir()}
    values = json.loads(run(capsys, "report", folder, "--out", tmp_path / "page", "--overwrite", "--json").out)
    assert values["metrics"]["eval_exposure_x8_mean"] == pytest.approx(12.15)


def test_several_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / "plain", 12.0, 2.0), make(tmp_path / "private", 4.0, 2.01)]
    done = run(capsys, "report", *runs, "--out", tmp_path / "page")
    assert done.out.startswith(
        "private memorizes less than plain: 8.0 bits less exposure [6.0, 10.0] at eval_loss 2.01"
    )
    assert {"report.html", "comparison.json"} <= {path.name for path in (tmp_path / "page").iterdir()}
    tight = run(capsys, "report", *runs, "--out", tmp_path / "other", "--tolerance", 0, "--json")
    assert json.loads(tight.out)["findings"] == [
        "No run is shown to memorize less than another at equal or better eval_loss."
    ]


def damaged(name: str, folder: Path) -> Path:
    make(folder, 5.0)
    values = json.loads((folder / "report.json").read_text())
    text = {
        "newer": json.dumps({**values, "schema_version": 9}),
        "cut": json.dumps(values)[:500],
        "type": json.dumps({**values, "space_size": "many"}),
    }[name]
    (folder / "report.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("newer", "schema_version: must be at most 1 for this version of hf_exposure, got 9. Upgrade: pip install"),
        ("cut", "path: must be complete JSON; this file is damaged or cut off"),
        ("type", "report.space_size: must be of type integer, got 'many'"),
    ],
)
@pytest.mark.parametrize("command", ["report", "push"])
def test_damaged_reports(
    command: str, name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--out", tmp_path / "page") if command == "report" else ("--repo-id", "me/model")
    one_line(run(capsys, command, damaged(name, tmp_path / "run"), *more), message)
    assert not (tmp_path / "page").exists()


def test_other_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "run", 5.0)
    one_line(
        run(capsys, "report", tmp_path / "no", "--out", tmp_path / "page"), "run: must be a folder or report that"
    )
    one_line(run(capsys, "report", folder, "--out", folder), "--out: must not exist yet")
    one_line(run(capsys, "report", folder, folder, "--out", tmp_path / "page"), "runs: must all be different")
    one_line(run(capsys, "report", folder), "Missing option '--out'")
    one_line(run(capsys, "report", "--out", tmp_path / "page"), "Missing argument")
    file = tmp_path / "file"
    file.write_text("")
    one_line(run(capsys, "report", folder, "--out", file / "x"), "--out: must be a folder that can be made (")


def test_push_uploads_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Any, ...]] = []

    def push_to_hub(report: ExposureReport, repo_id: str, **options: Any) -> str:
        calls.append((report.metrics()["eval_exposure_x8_mean"], repo_id, options))
        return "https://hub/me/model"

    monkeypatch.setattr("hf_exposure.hub.push.push_to_hub", push_to_hub)
    folder = make(tmp_path / "run", 12.0)
    done = run(capsys, "push", folder, "--repo-id", "me/model")
    assert (done.status, done.out) == (0, "Published: https://hub/me/model\n")
    done = run(capsys, "push", folder / "report.json", "--repo-id", "me/model", "--create-pr", "--json")
    assert json.loads(done.out) == {"url": "https://hub/me/model"}
    usual = {"create_pr": False, "folder": folder, "private": None, "revision": None, "canaries": None}
    assert calls == [
        (pytest.approx(12.15), "me/model", usual),
        (pytest.approx(12.15), "me/model", {**usual, "create_pr": True}),
    ]


def test_push_of_an_invalid_run_ends_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_exposure.hub.push.push_to_hub", lambda *_, **__: "https://hub/me/model")
    folder = make(tmp_path / "run", 12.0)
    found = ExposureReport.load(folder)
    replace(found, delivery=Delivery(inserted=8, found=0, trained=0)).save(folder)
    done = run(capsys, "push", folder, "--repo-id", "me/model")
    assert (done.status, done.out) == (1, "Published: https://hub/me/model\n")
    assert "INVALID: 0 of 8 inserted canaries" in done.err


def test_a_threshold_without_inserted_canaries_is_crossed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ExposureReport.load(make(tmp_path / "run", 12.0))
    with pytest.raises(typer.Exit) as ended:
        _gate(replace(found, estimates=found.controls).with_run(threshold_bits=4.0))
    assert ended.value.exit_code == 1
    assert "no canary was inserted, so the threshold cannot be tested" in capsys.readouterr().err
