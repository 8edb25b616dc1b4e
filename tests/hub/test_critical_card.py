"""Critical samples in model cards: next to exposure, replaced by a second push, written by a trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from critical_samples_of_runs import FAILED, critical_run
from report_samples import mixed
from toy_measures import Toy, classify
from transformers import PreTrainedConfig

from hf_exposure import CriticalSampleRatio, MeasureCallback
from hf_exposure.errors import InputError
from hf_exposure.hub import published, push_card
from hf_exposure.hub.card import BEGIN, END, card_with, updated_card
from hf_exposure.hub.critical_card import critical_part

MARKS = ("<!-- hf_exposure critical: begin -->", "<!-- hf_exposure critical: end -->")


def with_critical(content: str | None, *ratios: float, name: str = "critical") -> str:
    run = critical_run(*ratios, name=name)
    return card_with(content, lambda tag: critical_part(run, tag), name="model")


def results(card: str) -> list[dict[str, Any]]:
    (model,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    return model["results"]


def test_the_last_ratio_and_its_settings_are_in_the_metadata() -> None:
    (result,) = results(with_critical("---\npipeline_tag: image-classification\n---\n# T\n", 0.3, 0.9123456))
    assert result["task"]["type"] == "image-classification" and result["dataset"]["type"] == "hf_exposure-critical"
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("critical_sample_ratio", 0.9123)
    assert metric["args"] == {
        "low": 0.8123, "high": 1.0123, "rows": 200, "radius": 0.03, "step": 0.25, "noise": 0.2, "max_steps": 100,
        "confidence_level": 0.95, "training_step": 10,
    }  # fmt: skip


def test_the_section_shows_the_measurements_and_names_no_row() -> None:
    card = with_critical(None, 0.3, FAILED, 0.9)
    assert card.index(MARKS[0]) < card.index("## Critical samples") < card.index(MARKS[1])
    assert "Of 200 rows, 90 % are critical at a radius of 0.03" in card
    assert "| 0 | 0 | 0.300 | 0.200 | 0.400 |\n| 10 | 1 | undefined |" in card and "radius 0.03, step 0.25" in card
    assert "187" not in card and "77" not in card and "lower limit" in card


def test_a_last_measurement_that_failed_gives_no_result() -> None:
    assert results(with_critical(None, 0.3, FAILED)) == []


def test_each_measure_has_its_own_part_and_replaces_only_that() -> None:
    exposure = updated_card(None, published(mixed()), name="model")
    both = with_critical(with_critical(exposure, 0.3), 0.4, name="critical_train")
    again = with_critical(both, 0.9)
    assert again.count(BEGIN) == again.count(END) == again.count(MARKS[0]) == again.count(MARKS[1]) == 1
    assert "30 % are critical" not in again and "90 % are critical" in again and "40 % are critical" in again
    kinds = [result["dataset"]["type"] for result in results(again)]
    assert sorted(kinds) == ["hf_exposure-canaries", "hf_exposure-critical", "hf_exposure-critical_train"]
    assert updated_card(again, published(mixed()), name="model").count("critical: begin") == 1


def test_what_has_no_part_is_not_pushed() -> None:
    with pytest.raises(InputError, match="^run: must be a record that supports model cards"):
        push_card(mixed(), "me/model")  # exposure has its own push function, which omits exact figures
    with pytest.raises(InputError, match="^repo_id: "):
        critical_run(0.5).push_to_hub(5)  # type: ignore[arg-type]


def test_cards_that_a_trainer_writes(tmp_path: Path) -> None:
    rows = torch.as_tensor(np.random.default_rng(0).normal(size=(11, 4)), dtype=torch.float32)
    measures = [CriticalSampleRatio({"pixels": rows}, 0.4, max_steps=5), Toy()]
    callback = MeasureCallback(measures, strategy="epoch", push_to_hub=True)
    trainer = classify(tmp_path, [callback])
    trainer.model.config = PreTrainedConfig()  # the trainer's card asks for its name
    with pytest.raises(InputError, match=r"^push_to_hub: needs callback\.attach\(trainer\), since the trainer"):
        trainer.train()
    callback.attach(trainer).attach(trainer)
    trainer.create_model_card()
    assert MARKS[0] not in (tmp_path / "README.md").read_text()  # nothing is measured yet
    trainer.train()
    trainer.create_model_card()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    ratio = callback.records["critical"][-1].figures["eval_critical_ratio"]
    assert card.count(MARKS[0]) == 1 and "generated_from_trainer" in card
    (result,) = [one for one in results(card) if one["dataset"]["type"].startswith("hf_exposure")]
    assert result["metrics"][0]["value"] == round(ratio, 4) and result["metrics"][0]["args"]["training_step"] == 6
    assert json.dumps(results(card)).count("toy") == 0
