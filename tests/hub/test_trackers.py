"""What the trackers hold after a training, read back from their own files."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from callback_runs import KEYS
from hub_server import Hub

from hf_exposure import CanarySet
from hf_exposure.hub.trackers import attach_report
from hf_exposure.report import ExposureReport
from hf_exposure.report.run_log import FILE_NAME, read_reports

CURVES = {key.replace("eval_", "eval/", 1) for key in KEYS}


def reports(folder: Path) -> list[ExposureReport]:
    found = read_reports(folder / "run" / FILE_NAME)
    assert [report.step for report in found] == [3, 6]
    return found


def check_artifact(folder: Path, files: dict[str, bytes]) -> None:
    """An artifact holds the published report, and no secret."""
    assert "report.json" in files
    restored = ExposureReport.from_dict(json.loads(files["report.json"]))
    assert restored.step == 6
    assert all(row.canary_id.startswith(("x1-", "x4-", "control-")) for row in restored.estimates)
    for canary in CanarySet.load(folder / "canaries.json"):
        assert not [name for name, content in files.items() if canary.text.encode() in content]


def test_tensorboard_has_the_report_as_text(run: tuple[Hub, Path]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    _, folder = run
    (file,) = (folder / "events").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    (event,) = events.Tensors("exposure/report/text_summary")
    text = tensor_util.make_ndarray(event.tensor_proto)[0].decode()
    assert event.step == 6
    assert "## Memorisation: exposure of canaries" in text
    assert "| times inserted |" in text
    assert set(events.Tags()["scalars"]) >= CURVES


def test_trackio_has_curves_and_the_artifact(run: tuple[Hub, Path]) -> None:
    pytest.importorskip("trackio")
    _, folder = run
    (database,) = (folder / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("SELECT metrics FROM metrics ORDER BY id")]
    measured = [row for row in rows if "eval/exposure_mean" in row]
    assert [row["train/global_step"] for row in measured] == [3, 6]
    for row, report in zip(measured, reports(folder), strict=True):
        assert set(row) >= CURVES
        assert row["eval/exposure_x4_mean"] == pytest.approx(report.metrics()["eval_exposure_x4_mean"])
    content = artifact_files(folder / "trackio", database)
    check_artifact(folder, content)


def artifact_files(root: Path, database: Path) -> dict[str, bytes]:
    raise NotImplementedError


def test_wandb_has_curves_and_the_artifact_offline(run: tuple[Hub, Path]) -> None:
    pytest.importorskip("wandb")
    _, folder = run


class Broken:
    """A tracker that fails."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no disk")
