"""The best model within a limit on exposure, with a real Trainer, where the loss falls while exposure rises."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import callback_runs
import pytest
from callback_runs import TOKENIZER
from report_samples import estimate, report
from transformers import EarlyStoppingCallback

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries
from hf_exposure.callback.exposure_callback import OVER_LIMIT, UNDEFINED, exposure_limited_loss
from hf_exposure.errors import InputError
from hf_exposure.records.run_facts import highest_mean_bits

KEY = "eval_exposure_limited_loss"
EVERY_STEP = {
    "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 8,
    "load_best_model_at_end": True, "metric_for_best_model": KEY,
}  # fmt: skip
CANARIES = draw_canaries(CanaryTemplate("pin {pin}.", pin=Digits(3)), {6: 1}, controls=2, seed=2)
TASK = "words a."


def rows(text: str, count: int) -> list[dict[str, list[int]]]:
    ids = TOKENIZER(text).input_ids
    return [{"input_ids": ids, "labels": ids}] * count


def make_callback(**arguments: Any) -> ExposureCallback:
    return ExposureCallback(CANARIES, **arguments)


def make_trainer(folder: Path, callbacks: list[Any], **arguments: Any) -> Any:
    """Half of each batch is the evaluated task and half is one canary: both are learned, step by step."""
    settings = {
        "per_device_train_batch_size": 12, "lr_scheduler_type": "constant", "learning_rate": 1e-3,
        "eval_dataset": rows(TASK, 4),
    }  # fmt: skip
    trainer = callback_runs.make_trainer(folder, callbacks, **{**settings, **arguments})
    trainer.train_dataset = rows(TASK, 6) + rows(CANARIES.inserted[0].text, 6)
    return trainer


def curve(trainer: Any, key: str) -> dict[int, float]:
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], dict[int, float]]:
    """Loss and mean exposure at each step of the training run that the tests below repeat."""
    trainer = make_trainer(
        tmp_path_factory.mktemp("unlimited"), [make_callback(strategy="eval")], eval_strategy="steps", eval_steps=1,
        max_steps=8,
    )  # fmt: skip
    trainer.train()
    losses, bits = curve(trainer, "eval_loss"), curve(trainer, "eval_exposure_mean")
    assert list(losses.values()) == sorted(losses.values(), reverse=True)
    assert list(bits.values()) == sorted(bits.values()) and bits[8] > bits[1] + 1
    return losses, bits


@pytest.mark.parametrize("strategy", [{"strategy": "eval"}, {"strategy": "epoch"}, {"strategy": "steps", "steps": 3}])
@pytest.mark.parametrize("attach", [True, False])
def test_the_best_model_is_the_one_of_lowest_loss_within_the_limit(
    strategy: dict[str, Any], attach: bool, tmp_path: Path, unlimited: Any
) -> None:
    losses, bits = unlimited
    limit = (bits[3] + bits[4]) / 2
    callback = make_callback(max_exposure=limit, **strategy)
    trainer = make_trainer(tmp_path, [callback], **EVERY_STEP)
    if attach:
        callback.attach(trainer)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*keeps the checkpoint that memorized least.*")
        trainer.train()
    # Exposure alone would choose the least trained model, and the loss alone the last one.
    assert bits[1] < bits[3] < limit < bits[4]
    assert trainer.args.greater_is_better is False
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (3, pytest.approx(losses[3]))
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    values = {step: curve(trainer, KEY)[step] for step in range(1, 9)}
    for step, value in values.items():
        expected = losses[step] if bits[step] <= limit else OVER_LIMIT * (1 + bits[step])
        assert value == pytest.approx(expected), step
    # The loaded model is evaluated again: its exposure is not that of the last step.
    again = trainer.evaluate()
    assert again["eval_loss"] == again[KEY] == pytest.approx(losses[3], abs=1e-4)
    # The trainer's state is stored for a later run: finite numbers, in JSON that any reader accepts.
    state = json.loads((tmp_path / "checkpoint-8" / "trainer_state.json").read_text(), parse_constant=pytest.fail)
    assert state["best_metric"] == trainer.state.best_metric


def test_training_stops_once_it_leads_away_from_the_limit(tmp_path: Path, unlimited: Any) -> None:
    _, bits = unlimited
    for order in (0, 1):
        callback, stopping = make_callback(max_exposure=(bits[3] + bits[4]) / 2), EarlyStoppingCallback(2)
        trainer = make_trainer(tmp_path / str(order), [callback, stopping][:: 1 - 2 * order], **EVERY_STEP)
        callback.attach(trainer)
        trainer.train()
        assert (trainer.state.global_step, trainer.state.best_global_step) == (5, 3)


def test_beyond_the_limit_the_least_exposed_model_is_best(tmp_path: Path, unlimited: Any) -> None:
    _, bits = unlimited
    trainer = make_trainer(tmp_path, [make_callback(max_exposure=bits[1] / 2)], **EVERY_STEP)
    trainer.train()
    assert trainer.state.best_global_step == 1
    assert OVER_LIMIT < trainer.state.best_metric < UNDEFINED


def test_the_limit_is_kept_over_a_resume(tmp_path: Path, unlimited: Any) -> None:
    losses, bits = unlimited
    arguments = {"max_exposure": (bits[3] + bits[4]) / 2}
    make_trainer(tmp_path, [make_callback(**arguments)], **{**EVERY_STEP, "max_steps": 5}).train()
    trainer = make_trainer(tmp_path, [make_callback(**arguments)], **EVERY_STEP)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.best_global_step == 3
    assert trainer.state.best_metric == pytest.approx(losses[3], rel=1e-3)


def test_each_of_several_evaluation_sets_has_its_figure(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, [make_callback(max_exposure=9.0)], eval_dataset={"one": rows(TASK, 4), "two": rows("other text", 8)},
        **{**EVERY_STEP, "metric_for_best_model": "eval_two_exposure_limited_loss", "max_steps": 2},
    )  # fmt: skip
    trainer.train()
    for name in ("one", "two"):
        assert curve(trainer, f"eval_{name}_{KEY.removeprefix('eval_')}") == curve(trainer, f"eval_{name}_loss")
    assert trainer.state.best_metric == curve(trainer, "eval_two_loss")[2]


def test_of_several_evaluation_sets_one_must_be_named(tmp_path: Path) -> None:
    callback = make_callback(max_exposure=9.0)
    trainer = make_trainer(
        tmp_path, [callback], eval_dataset={"one": rows(TASK, 4), "two": rows(TASK, 4)}, **EVERY_STEP
    )
    callback.attach(trainer)
    with pytest.raises(
        InputError, match=r"^metric_for_best_model: .* Use one of eval_one_exposure_limited_loss, eval_two"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_failed_measurement_is_worse_than_any_exposure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = make_callback(max_exposure=6.0, on_error="warn")
    trainer = make_trainer(tmp_path, [callback], **{**EVERY_STEP, "max_steps": 2})

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no figures")

    monkeypatch.setattr("hf_exposure.measures.ExposureMeter.measure", fail)
    with pytest.warns(UserWarning, match="exposure could not be measured"):
        trainer.train()
    assert curve(trainer, KEY) == {1: UNDEFINED, 2: UNDEFINED}


@pytest.mark.parametrize(
    ("callback", "trainer", "message"),
    [
        ({}, EVERY_STEP, r"^metric_for_best_model: needs a limit: .*ExposureCallback\(canaries, max_exposure=X\)"),
        (
            {"max_exposure": 3.0},
            {**EVERY_STEP, "greater_is_better": True},
            r"^greater_is_better: would keep the worst checkpoint .*greater_is_better=False",
        ),
        ({"max_exposure": 3.0}, {}, r"^max_exposure: needs evaluations, but eval_strategy is 'no'"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(
    callback: dict[str, Any], trainer: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused = make_trainer(tmp_path, [make_callback(**callback)], **trainer)
    with pytest.raises(InputError, match=message):
        refused.train()
    assert refused.state.global_step == 0


def test_an_evaluation_without_a_loss_is_refused(tmp_path: Path) -> None:
    callback = make_callback(max_exposure=3.0)
    arguments = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1}
    trainer = make_trainer(tmp_path, [callback], **arguments)
    evaluate = trainer.evaluation_loop

    def without_loss(*arguments: Any, **more: Any) -> Any:
        output = evaluate(*arguments, **more)
        output.metrics.pop("eval_loss")
        return output

    trainer.evaluation_loop = without_loss
    with pytest.raises(InputError, match="max_exposure: needs the loss of each evaluation, but eval_loss is not"):
        trainer.train()


@pytest.mark.parametrize("limit", [-1.0, math.nan, "4", True, math.log2(1000), 30.0])
def test_an_invalid_limit_is_refused(limit: Any) -> None:
    with pytest.raises(InputError, match="^max_exposure: must be "):
        make_callback(max_exposure=limit)


def test_bare_exposure_as_the_best_metric_warns(tmp_path: Path) -> None:
    arguments = {**EVERY_STEP, "metric_for_best_model": "exposure_mean", "greater_is_better": False, "max_steps": 1}
    with pytest.warns(UserWarning, match="usually the one that was trained least. .*max_exposure=X .*limited_loss'"):
        make_trainer(tmp_path, [make_callback()], **arguments).train()


def test_every_checkpoint_beyond_the_limit_is_worse_than_any_within() -> None:
    limit = 4.0
    within = [exposure_limited_loss(loss, bits, limit) for loss in (-2.0, 0.0, 3.0, 1e20) for bits in (0.0, 4.0)]
    beyond = [exposure_limited_loss(loss, bits, limit) for bits in (4.0001, 5.0, 30.0, 1e4) for loss in (9.0, 0.0)]
    unknown = [
        exposure_limited_loss(loss, bits, limit)
        for loss, bits in [(math.nan, 1.0), (math.inf, 1.0), (-math.inf, 1.0), (1.0, math.nan), (1e35, 1.0)]
    ]
    assert within == sorted(within) and within == [-2.0, -2.0, 0.0, 0.0, 3.0, 3.0, 1e20, 1e20]
    # Exposure alone decides, so that a falling loss cannot compensate for it.
    assert beyond == sorted(beyond) and beyond[0::2] == beyond[1::2] and len(set(beyond)) == 4
    assert max(within) < min(beyond) and max(beyond) < min(unknown) and all(map(math.isfinite, unknown))


def test_a_lower_bound_counts_with_the_top_of_its_interval() -> None:
    bound = estimate(3.0, 1, high_bits=9.0, bound="lower")
    exact, control = estimate(1.0, 1, high_bits=2.0), estimate(8.0, 0)
    assert highest_mean_bits(report(bound, exact, control)) == 5.0
    assert math.isnan(highest_mean_bits(report(control)))
