"""After `attach`, figures reach the trackers of `report_to`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from callback_runs import KEYS, logged, make_callback, make_trainer
from transformers import TrainerCallback

from hf_exposure import ExposureCallback


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in the event files under a folder, read by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        accumulator = EventAccumulator(str(file))
        accumulator.Reload()
        for tag in accumulator.Tags()["scalars"]:
            found.setdefault(tag, []).extend((event.step, event.value) for event in accumulator.Scalars(tag))
    return found


def tensorboard_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, attach: bool, **arguments: Any
) -> tuple[ExposureCallback, dict[str, list[tuple[int, float]]]]:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder / "events"))
    monkeypatch.chdir(folder)
    callback = make_callback(**arguments)
    more = {"eval_strategy": "epoch"} if arguments["strategy"] == "eval" else {}
    if arguments["strategy"] == "end":
        more = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
        more |= {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    trainer = make_trainer(folder, [callback], max_steps=6, logging_steps=1, report_to="tensorboard", **more)
    if attach:
        callback.attach(trainer)
    trainer.train()
    assert not (folder / "runs").exists()  # no writer was opened behind the trainer's back
    return callback, scalars(folder / "events")


@pytest.mark.parametrize(
    "arguments",
    [{"strategy": "epoch"}, {"strategy": "eval"}, {"strategy": "steps", "steps": 3}, {"strategy": "end"}],
    ids=lambda arguments: arguments["strategy"],
)
def test_figures_reach_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    callback, found = tensorboard_run(tmp_path, monkeypatch, attach=True, **arguments)
    names = {key.replace("eval_", "eval/", 1) for key in KEYS}
    assert names <= set(found)
    for key in KEYS - {"eval_exposure_seconds"}:
        name = key.replace("eval_", "eval/", 1)
        assert found[name] == [(r.step, pytest.approx(r.metrics()[key], rel=1e-6)) for r in callback.reports], key
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]
    # There is one event file: logging after the trackers have closed would open a second one that is never closed.
    assert len(list((tmp_path / "events").rglob("events.out.tfevents.*"))) == 1


def test_an_epoch_measured_late_reaches_tensorboard_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    monkeypatch.chdir(tmp_path)
    saving = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "report_to": "tensorboard"}
    make_trainer(tmp_path / "run", **saving).train()  # without the callback: the first epoch's figures are missing
    callback = make_callback(strategy="epoch")
    trainer = make_trainer(tmp_path / "run", [callback], **saving)
    callback.attach(trainer)
    with pytest.warns(UserWarning, match="has no state of 'exposure'"):  # doses are unknown too
        trainer.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    found = scalars(tmp_path / "events")
    assert [step for step, _ in found["eval/exposure_mean"]] == [3, 6]
    assert not (tmp_path / "runs").exists()


def test_without_attach_they_stay_in_the_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, found = tensorboard_run(tmp_path, monkeypatch, attach=False, strategy="epoch")
    assert callback.reports
    assert not any("exposure" in name for name in found)
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_logs_reach_other_callbacks_once(tmp_path: Path) -> None:
    class Listener(TrainerCallback):
        def __init__(self) -> None:
            self.heard: list[dict[str, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.heard.append(dict(logs))

    listener, callback = Listener(), make_callback(strategy="epoch")
    trainer = make_trainer(tmp_path, [listener], max_steps=6)
    callback.attach(trainer)
    trainer.train()
    heard = [logs for logs in listener.heard if "eval_exposure_mean" in logs]
    assert [{key: logs[key] for key in KEYS} for logs in heard] == [r.metrics() for r in callback.reports]
    assert len(logged(trainer)) == 2
