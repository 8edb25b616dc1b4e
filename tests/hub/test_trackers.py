"""What the trackers hold after a training, read back from their own files."""

from __future__ import annotations

import json
import sqlite3
import struct
from pathlib import Path
from typing import Any

import pytest
from callback_runs import CANARIES, KEYS
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
        # The artifact's manifest, whose files are stored by their digest.
        ((kind, manifest),) = connection.execute(
            "SELECT type, manifest FROM artifacts JOIN artifact_versions ON artifacts.id = artifact_id"
        )
    assert kind == "exposure-report"
    blobs = {path.name: path for path in (folder / "trackio" / "artifacts").rglob("*") if path.is_file()}
    check_artifact(folder, {e["path"]: blobs[e["digest"]].read_bytes() for e in json.loads(manifest)})


def wandb_records(file: Path) -> list[Any]:
    """The records of an offline run: LevelDB's log format, protobuf inside."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, records, parts = file.read_bytes(), 7, [], b""
    while place + 7 <= len(content):
        left_in_block = 32768 - place % 32768
        if left_in_block < 7:
            place += left_in_block
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def test_wandb_has_curves_and_the_artifact_offline(run: tuple[Hub, Path]) -> None:
    pytest.importorskip("wandb")
    _, folder = run
    (file,) = (folder / "wandb").rglob("*.wandb")
    records = wandb_records(file)
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    measured = [row for row in rows if "eval/exposure_mean" in row]
    assert [row["train/global_step"] for row in measured] == [3, 6]
    assert all(set(row) >= CURVES for row in measured)
    (artifact,) = [record.artifact for record in records if record.WhichOneof("record_type") == "artifact"]
    assert artifact.type == "exposure-report"
    assert artifact.name.startswith("exposure-report-")
    check_artifact(folder, {entry.path: Path(entry.local_path).read_bytes() for entry in artifact.manifest.contents})


def test_a_tracker_that_fails_is_warned_of() -> None:
    pytest.importorskip("tensorboard")
    from hub_samples import mixed
    from transformers.integrations import TensorBoardCallback

    class Writer:
        def add_text(self, *arguments: Any) -> None:
            raise OSError("no space left")

    with pytest.warns(UserWarning, match="^the report was not attached to TensorBoard: OSError: no space left$"):
        attach_report([mixed()], [TensorBoardCallback(Writer()), object()], CANARIES)


def test_a_secret_is_not_attached() -> None:
    pytest.importorskip("tensorboard")
    from hub_samples import mixed
    from transformers.integrations import TensorBoardCallback

    written: list[Any] = []

    class Writer:
        def add_text(self, *arguments: Any) -> None:
            written.append(arguments)

    leaking = mixed(notes=(CANARIES.inserted[0].text,))
    with pytest.warns(UserWarning, match="not attached to TensorBoard: SecretFoundError: report.(html|json) holds"):
        attach_report([leaking], [TensorBoardCallback(Writer())], CANARIES)
    assert not written
    attach_report([mixed()], [TensorBoardCallback(Writer())], CANARIES)
    assert len(written) == 1
