"""What a `Trainer` pushes holds the published report, in its card and beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from callback_runs import CANARIES, make_trainer
from hub_samples import mixed
from hub_server import Hub

from hf_exposure import CanarySet, ExposureCallback
from hf_exposure.canaries import CanaryTemplate, Digits, draw_canaries
from hf_exposure.errors import InputError, SecretFoundError
from hf_exposure.hub.card import BEGIN
from hf_exposure.hub.trainer_push import write_published
from hf_exposure.report.run_log import FILE_NAME, read_reports

REPO = "me/model"


def test_the_card_keeps_the_figures(run: tuple[Hub, Path]) -> None:
    hub, folder = run
    card = hub.files(REPO)["README.md"].decode()
    report = read_reports(folder / "run" / FILE_NAME)[-1]
    assert card.count(BEGIN) == 1
    assert "generated_from_trainer" in card  # the trainer's own card is all there
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
    """The log of the run holds exact ranks; the trainer uploads its whole output folder but for some names."""
    hub, folder = run
    canaries = CanarySet.load(folder / "canaries.json")
    report = read_reports(folder / "run" / FILE_NAME)[-1]
    uploaded = {name: content for commit in hub.repos[REPO] for name, content in commit.files.items()}
    assert not [name for name in uploaded if name.endswith(".jsonl")]
    for name, content in uploaded.items():
        for canary, estimate in zip(canaries, report.estimates, strict=True):
            assert canary.text.encode() not in content, name
            assert canary.id.encode() not in content, name
            assert str(estimate.log_perplexity_bits).encode() not in content, name


def test_a_canary_file_in_the_output_folder_stops_the_push(tmp_path: Path) -> None:
    CANARIES.save(tmp_path / "canaries.json")
    with pytest.raises(SecretFoundError, match=r"^canaries\.json holds the secret of canary"):
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
    with pytest.raises(InputError, match=r"^push_to_hub: needs callback\.attach\(trainer\), since a card"):
        trainer.train()
