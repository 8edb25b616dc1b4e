"""Training dynamics in model cards, pushed by a record, a trainer or the command; also in logs and TensorBoard."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from critical_samples_of_runs import critical_run
from dynamics_samples import write_run
from hub_server import hub_environment, running_hub
from report_samples import mixed
from toy_measures import classify, pictures
from transformers import PreTrainedConfig

from hf_exposure import DynamicsMeasure, DynamicsRecord, MeasureCallback
from hf_exposure.hub import published
from hf_exposure.hub.card import card_with, updated_card
from hf_exposure.hub.critical_card import critical_part
from hf_exposure.hub.dynamics_card import dynamics_part

MARKS = ("<!-- hf_exposure dynamics: begin -->", "<!-- hf_exposure dynamics: end -->")


def with_dynamics(content: str | None, record: DynamicsRecord) -> str:
    return card_with(content, lambda tag: dynamics_part(record, tag), name="model")


def results(card: str) -> list[dict[str, Any]]:
    (model,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    return model["results"]


def metrics(card: str) -> dict[str, float]:
    found = [one for one in results(card) if one["dataset"]["type"] == "hf_exposure-dynamics"]
    return {metric["type"]: metric["value"] for one in found for metric in one["metrics"]}


def test_means_are_in_the_metadata_and_single_examples_are_not(tmp_path: Path) -> None:
    card = with_dynamics("---\npipeline_tag: image-classification\n---\n# T\n", write_run(tmp_path))
    # By hand for the run of dynamics_samples: 32 clean rows are always right, 8 noisy ones are forgotten twice.
    assert metrics(card) == {
        "dynamics_last_accuracy": 0.8, "dynamics_last_clean_accuracy": 1.0, "dynamics_last_noisy_accuracy": 0.0,
        "dynamics_best_validation_accuracy": 0.9, "dynamics_last_validation_accuracy": 0.6,
        "dynamics_forgetting_events_mean": 0.4, "dynamics_forgetting_events_clean": 0.0,
        "dynamics_forgetting_events_noisy": 2.0, "dynamics_unforgettable_fraction": 0.8,
        "dynamics_never_learned_fraction": 0.0, "dynamics_noise_found_by_margin": 1.0,
    }  # fmt: skip
    (result,) = results(card)
    assert result["task"]["type"] == "image-classification"
    arguments = {"unit": "examples", "columns": 40, "measurements": 6, "training_step": 50, "noisy": 8}
    assert all(metric["args"] == arguments for metric in result["metrics"])
    assert card.index(MARKS[0]) < card.index("## Training dynamics") < card.index(MARKS[1])
    assert "| 50 | 5 |" in card and "| Share never learned | 0 |" in card
    assert "seed" not in card and "area under margin" not in card  # the table of candidates names rows


def test_a_language_model_has_no_noise_figures_without_noise(tmp_path: Path) -> None:
    card = with_dynamics(None, write_run(tmp_path, tokens=True, noise=False))
    assert not any("noisy" in key or "clean" in key for key in metrics(card)) and metrics(card)
    assert "single tokens" in card


def test_a_second_push_replaces_the_first_and_no_other_part(tmp_path: Path) -> None:
    record = write_run(tmp_path)
    card = updated_card(None, published(mixed()), name="model")
    card = card_with(card, lambda tag: critical_part(critical_run(0.4), tag), name="model")
    again = with_dynamics(with_dynamics(card, record.until(20)), record)
    assert again.count(MARKS[0]) == again.count(MARKS[1]) == 1
    assert metrics(again) == metrics(with_dynamics(None, record))
    kinds = {one["dataset"]["type"] for one in results(again)}
    assert kinds == {"hf_exposure-canaries", "hf_exposure-critical", "hf_exposure-dynamics"}


def test_a_record_shows_and_saves_itself(tmp_path: Path) -> None:
    record = write_run(tmp_path / "run")
    assert "Of 8 noisy examples, 0% are memorized" in str(record) and "DynamicsRecord(6 meas" in repr(record)
    frame = record.to_pandas()
    assert len(frame) == 40 and frame["forgetting_events"].sum() == 16
    assert {path.name for path in record.save(tmp_path / "page")} >= {"dynamics.html", "cleanlab_labels.npy"}


def test_a_trainer_writes_them_into_card_history_and_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    noisy = [n % 3 == 0 for n in range(11)]
    measure = DynamicsMeasure(pictures(11), noisy, validation=pictures(5))
    callback = MeasureCallback(measure, push_to_hub=True)
    trainer = classify(tmp_path / "run", [callback], report_to="tensorboard")
    trainer.model.config = PreTrainedConfig()  # the trainer's card asks for its name
    callback.attach(trainer)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_dynamics_accuracy" in entry]
    records = callback.records["dynamics"]
    assert [entry["step"] for entry in logged] == [record.step for record in records] and len(records) > 1
    for entry, record in zip(logged, records, strict=True):
        assert {key: entry[key] for key in measure.metric_names()} == record.metrics()
    (file,) = (tmp_path / "events").rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(file))
    accumulator.Reload()
    for key in measure.metric_names():
        curve = [event.value for event in accumulator.Scalars(key.replace("eval_", "eval/", 1))]
        assert curve == pytest.approx([record.metrics()[key] for record in records]), key
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    last = records[-1].metrics()
    assert metrics(card)["dynamics_last_noisy_accuracy"] == round(last["eval_dynamics_noisy_accuracy"], 4)
    assert metrics(card)["dynamics_last_validation_accuracy"] == round(last["eval_dynamics_validation_accuracy"], 4)
    assert card.count(MARKS[0]) == 1 and "generated_from_trainer" in card


def test_the_command_pushes_to_a_hub(tmp_path: Path) -> None:
    record = write_run(tmp_path / "run")
    foreign = b"---\nlicense: mit\npipeline_tag: image-classification\n---\n# Theirs\n\nTheir words.\n"
    with running_hub() as hub:
        hub.add("me/model", {"README.md": foreign})

        def push(*options: str) -> subprocess.CompletedProcess[str]:
            command = ["dynamics", str(tmp_path / "run"), "--push", "me/model", *options]
            return subprocess.run(
                [sys.executable, "-c", "from hf_exposure.cli import main; main()", *command],
                env=hub_environment(hub, tmp_path / "home"),
                capture_output=True,
                text=True,
                timeout=120,
            )

        done = push()
        assert done.returncode == 0, done.stderr
        assert f"{hub.endpoint}/me/model/commit/{hub.repos['me/model'][-1].oid}" in done.stdout
        early = push("--until", "20", "--json")
        assert json.loads(early.stdout)["measurements"] == 3
        files = hub.files("me/model")
    card = files["README.md"].decode()
    assert set(files) == {".gitattributes", "README.md"} and len(hub.repos["me/model"]) == 3
    # The second push replaced the first and kept the rest of the card.
    assert card.count(MARKS[0]) == card.count(MARKS[1]) == 1 and "Their words." in card and "license: mit" in card
    assert metrics(card) == metrics(with_dynamics(None, record.until(20)))
    # By hand: after 20 steps the noisy margins are -1.5, -4.5 and 0.5.
    assert metrics(card)["dynamics_last_noisy_accuracy"] == 1.0
    assert "area under margin" not in card  # the table of candidates names rows
