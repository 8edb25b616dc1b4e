"""What a training run prints about its measurements: a baseline before the first step, and one line for each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_runs import make_callback, make_trainer

from hf_exposure.records.run_log import EXPOSURE_LOG
from hf_exposure.runtime.weights_hash import weights_sha256


def test_the_baseline_is_of_the_untrained_model_and_changes_no_training(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain", [], dropout=0.3, max_steps=3)
    untrained = weights_sha256(plain.model)
    plain.train()
    callback = make_callback(strategy="steps", steps=3, baseline=True)
    trainer = make_trainer(tmp_path / "with", [callback], dropout=0.3, max_steps=3)
    assert weights_sha256(trainer.model) == untrained
    hashes: list[Any] = []
    measure = callback.measures[0].measure
    callback.measures[0].measure = lambda model: hashes.append(weights_sha256(model)) or measure(model)  # type: ignore[method-assign]
    trainer.train()
    assert [report.step for report in callback.reports] == [0, 3]
    assert [report.step for report in EXPOSURE_LOG.read(tmp_path / "with")] == [0, 3]
    assert hashes == [untrained, weights_sha256(plain.model)]
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), trainer.model.parameters(), strict=True))
    first, last = callback.reports
    assert first.doses is not None
    assert {one.whole for one in first.doses.counted} == {0}
    # The report of the last step names the weights; reading them at every step would cost too much.
    assert first.run is not None
    assert last.run is not None
    assert (first.run.weights_sha256, last.run.weights_sha256) == (None, weights_sha256(trainer.model))
    assert last.run.arguments["baseline"] is True
    assert last.run.name == "with"
    assert last.dataset["rows"] == 12


def test_without_it_nothing_is_measured_before_a_step(tmp_path: Path) -> None:
    callback = make_callback(strategy="steps", steps=3)
    make_trainer(tmp_path, [callback], max_steps=3).train()
    assert [report.step for report in callback.reports] == [3]


@pytest.mark.parametrize("shown", [True, False])
def test_each_measurement_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, shown: bool
) -> None:
    callback = make_callback(strategy="steps", steps=1)
    trainer = make_trainer(tmp_path, [callback], max_steps=2, disable_tqdm=not shown)
    with caplog.at_level(logging.INFO, "hf_exposure.callback"):
        trainer.train()
    logged = [record.getMessage() for record in caplog.records if record.name == "hf_exposure.callback"]
    printed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    lines = printed if shown else logged
    assert (logged if shown else printed) == []
    report = callback.report
    assert report is not None
    by_count = {group.repetitions: group.mean_bits for group in report.groups}
    assert len(lines) == 2
    assert lines[1].startswith(f"step 2: exposure 1x {by_count[1]:.1f}, 4x {by_count[4]:.1f} of 6.6 bits; ")
