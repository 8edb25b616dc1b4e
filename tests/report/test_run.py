"""Reading the folders written by training runs and measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from report_samples import mixed

from hf_exposure.errors import InputError
from hf_exposure.records.run_log import EXPOSURE_LOG
from hf_exposure.report.run import load_run, load_runs


def write_state(folder: Path, *entries: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": list(entries)}))


def test_a_training_folder_needs_no_report_file(tmp_path: Path) -> None:
    for step in (10, 20):
        EXPOSURE_LOG.append(tmp_path, mixed(step=step))
    write_state(tmp_path / "checkpoint-9", {"step": 9, "eval_loss": 9.0})
    write_state(
        tmp_path / "checkpoint-20",
        {"step": 10, "eval_loss": 3.0},
        {"step": 20, "eval_loss": 2.0},
        {"step": 30, "eval_loss": 1.0},
    )
    run = load_run(tmp_path)
    assert (run.name, run.report.step, [report.step for report in run.history]) == (tmp_path.name, 20, [10, 20])
    assert run.utility("eval_loss") == 2.0  # the result at the report's own step, not the last one
    assert math.isnan(run.utility("eval_accuracy"))


def test_a_measured_folder_finds_the_log_next_to_its_model(tmp_path: Path) -> None:
    write_state(tmp_path / "model" / "checkpoint-5", {"step": 5, "eval_loss": 1.5})
    (tmp_path / "model" / "all_results.json").write_text('{"eval_loss": 1.25}')
    model = {"name": str(tmp_path / "model" / "checkpoint-5")}
    mixed(model=model).save(tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert [entry["step"] for entry in run.training_log] == [5]
    assert run.utility("eval_loss") == 1.25
    assert load_run(tmp_path / "run" / "report.json").report.model == model


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    for name in ("a/run", "b/run", "c"):
        mixed().save(tmp_path / name)
    names = [run.name for run in load_runs([tmp_path / "a/run", tmp_path / "b/run", tmp_path / "c"])]
    assert names == [str(tmp_path / "a/run"), str(tmp_path / "b/run"), "c"]
    with pytest.raises(InputError, match=r"^runs: must all be different"):
        load_runs([tmp_path / "c", tmp_path / "a" / ".." / "c"])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^run: must be a folder or report that exists"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^run: must hold report\.json or _exposure\.jsonl"):
        load_run(tmp_path)
    mixed().save(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(InputError, match=r"^run: must have complete JSON files, got '.*trainer_state\.json'"):
        load_run(tmp_path)
