"""One training run that pushes to a Hub on this machine and logs to every installed tracker: the results in each."""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from callback_runs import CANARIES, KEYS, make_trainer
from hub_server import Hub, hub_environment, running_hub
from report_samples import mixed

from hf_exposure import CanarySet, ExposureCallback
from hf_exposure.canaries import CanaryTemplate, Digits, draw_canaries
from hf_exposure.errors import InputError, SecretFoundError
from hf_exposure.hub.card import BEGIN
from hf_exposure.hub.push import write_published
from hf_exposure.hub.trackers import attach_report
from hf_exposure.records import ExposureReport
from hf_exposure.records.run_log import EXPOSURE_LOG

REPO = "me/model"
CURVES = {key.replace("eval_", "eval/", 1) for key in KEYS}
TRACKERS = [name for name in ("tensorboard", "trackio", "wandb", "mlflow") if find_spec(name) is not None]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A training run of 6 steps with a push at each of two saves and two at the end, in its own process.

    The folder holds `run` (the output folder), `canaries.json`, `events`, `trackio`, `wandb` and `mlflow.db`.
    """
    folder = tmp_path_factory.mktemp("trainer")
    with running_hub() as hub:
        environment = {
            **hub_environment(hub, folder / "home"), "TENSORBOARD_LOGGING_DIR": str(folder / "events"),
            "TRACKIO_DIR": str(folder / "trackio"), "WANDB_MODE": "offline", "WANDB_DIR": str(folder),
            "WANDB_SILENT": "true", "WANDB_DATA_DIR": str(folder / "wandb-data"),
            "WANDB_CACHE_DIR": str(folder / "wandb-cache"), "WANDB_CONFIG_DIR": str(folder / "wandb-config"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}", "MLFLOW_EXPERIMENT_NAME": "canaries",
        }  # fmt: skip
        script = Path(__file__).with_name("trainer_worker.py")
        done = subprocess.run(
            [sys.executable, str(script), str(folder), *TRACKERS],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert "was not attached" not in done.stderr, done.stderr
        yield hub, folder


def test_the_card_keeps_the_figures(run: tuple[Hub, Path]) -> None:
    hub, folder = run
    card = hub.files(REPO)["README.md"].decode()
    report = EXPOSURE_LOG.read(folder / "run")[-1]
    assert card.count(BEGIN) == 1
    assert "generated_from_trainer" in card  # the trainer's own card is complete
    (model,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    (result,) = [r for r in model["results"] if r["dataset"]["type"] == "hf_exposure-canaries"]
    values = {m["args"]["repetitions"]: m["value"] for m in result["metrics"] if m["type"] == "exposure"}
    means = {g.repetitions: g.mean_bits for g in report.groups}
    assert values == {count: pytest.approx(mean, abs=0.1) for count, mean in means.items()}
    assert "exposure/exposure_by_repetitions.png" in card


def test_the_weights_and_the_report_come_in_one_commit(run: tuple[Hub, Path]) -> None:
    hub, _ = run
    with_card = next(commit for commit in hub.repos[REPO] if "README.md" in commit.files)
    assert {"model.safetensors", "exposure/report.json", "README.md"} <= set(with_card.files)
    rows = json.loads(with_card.files["exposure/report.json"])["estimates"]
    assert rows and all(row["log_perplexity_bits"] is None for row in rows)


def test_a_push_in_training_takes_the_report_along(run: tuple[Hub, Path]) -> None:
    hub, _ = run
    steps = [
        json.loads(commit.files["exposure/report.json"])["step"]
        for commit in hub.repos[REPO]
        if "exposure/report.json" in commit.files
    ]
    assert steps[0] == 3
    assert steps[-1] == 6


def test_no_secret_and_no_exact_figure_is_pushed(run: tuple[Hub, Path]) -> None:
    """The log of the run contains exact ranks; the trainer uploads its whole output folder except some names."""
    hub, folder = run
    canaries = CanarySet.load(folder / "canaries.json")
    report = EXPOSURE_LOG.read(folder / "run")[-1]
    uploaded = {name: content for commit in hub.repos[REPO] for name, content in commit.files.items()}
    assert not [name for name in uploaded if name.endswith(".jsonl")]
    for name, content in uploaded.items():
        for canary, estimate in zip(canaries, report.estimates, strict=True):
            assert canary.text.encode() not in content, name
            assert canary.id.encode() not in content, name
            assert str(estimate.log_perplexity_bits).encode() not in content, name


def test_a_canary_file_in_the_output_folder_stops_the_push(tmp_path: Path) -> None:
    CANARIES.save(tmp_path / "canaries.json")
    with pytest.raises(SecretFoundError, match=r"^canaries\.json contains the secret of canary"):
        write_published([mixed()], tmp_path, CANARIES)
    assert not (tmp_path / "exposure").exists()
    # The trainer does not upload these.
    (tmp_path / "canaries.json").rename(tmp_path / "_canaries.json")
    (tmp_path / "checkpoint-3").mkdir()
    CANARIES.save(tmp_path / "checkpoint-3" / "canaries.json")
    write_published([mixed()], tmp_path, CANARIES)
    assert (tmp_path / "exposure" / "report.json").is_file()


def test_without_attach_it_is_an_error(tmp_path: Path) -> None:
    canaries = draw_canaries(CanaryTemplate("pin {pin}.", pin=Digits(2)), {1: 1}, seed=0)
    trainer = make_trainer(tmp_path, [ExposureCallback(canaries, push_to_hub=True)])
    with pytest.raises(InputError, match=r"^push_to_hub: needs callback\.attach\(trainer\), since the trainer"):
        trainer.train()


def reports(folder: Path) -> list[ExposureReport]:
    found = EXPOSURE_LOG.read(folder / "run")
    assert [report.step for report in found] == [3, 6]
    return found


def check_artifact(folder: Path, files: dict[str, bytes]) -> None:
    """An artifact contains the published report and no secret."""
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
    assert "## Memorization: exposure of canaries" in text
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
    """The records of an offline run: protobuf messages in LevelDB's log format."""
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
        if kind in (1, 4):  # a whole record, or its last part
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


def test_mlflow_has_curves_and_the_report(run: tuple[Hub, Path]) -> None:
    """The store is read with SQL, as another program would read it."""
    if find_spec("mlflow") is None:
        pytest.skip("mlflow is not installed")
    _, folder = run
    with sqlite3.connect(folder / "mlflow.db") as connection:
        ((status, artifacts),) = connection.execute("SELECT status, artifact_uri FROM runs")
        rows = connection.execute("SELECT key, step, value FROM metrics WHERE is_nan = 0").fetchall()
        parameters = connection.execute("SELECT value FROM params").fetchall()
    assert status == "FINISHED"
    measured = {(key, step): value for key, step, value in rows}
    for report in reports(folder):
        for key in KEYS - {"eval_exposure_seconds"}:
            assert measured[key, report.step] == pytest.approx(report.metrics()[key]), key
    place = folder / artifacts.removeprefix("file://") / "exposure-report"
    check_artifact(folder, {path.name: path.read_bytes() for path in place.iterdir()})
    assert not [1 for (value,) in parameters for canary in CANARIES if canary.text in value]


def test_a_tracker_that_fails_causes_a_warning() -> None:
    pytest.importorskip("tensorboard")
    from transformers.integrations import TensorBoardCallback

    class Writer:
        def add_text(self, *arguments: Any) -> None:
            raise OSError("no space left")

    with pytest.warns(UserWarning, match="^the report was not attached to TensorBoard: OSError: no space left$"):
        attach_report([mixed()], [TensorBoardCallback(Writer()), object()], CANARIES)


def test_a_secret_is_not_attached() -> None:
    pytest.importorskip("tensorboard")
    from transformers.integrations import TensorBoardCallback

    written: list[Any] = []

    class Writer:
        def add_text(self, *arguments: Any) -> None:
            written.append(arguments)

    leaking = mixed(notes=(CANARIES.inserted[0].text,))
    with pytest.warns(UserWarning, match="not attached to TensorBoard: SecretFoundError: report.(html|json) contains"):
        attach_report([leaking], [TensorBoardCallback(Writer())], CANARIES)
    assert not written
    attach_report([mixed()], [TensorBoardCallback(Writer())], CANARIES)
    assert len(written) == 1
