"""When the callback measures, and what the trainer then sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from callback_runs import (
    CANARIES,
    CHOOSES_BY_EXPOSURE,
    KEYS,
    logged,
    logged_steps,
    make_callback,
    make_trainer,
    rows,
    small_model,
)
from transformers import ByT5Tokenizer, EarlyStoppingCallback, TrainerCallback

from hf_exposure import ExposureCallback, measure_exposure
from hf_exposure.errors import InputError
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.records.run_log import EXPOSURE_LOG

BEST = {
    "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
    "load_best_model_at_end": True, "metric_for_best_model": "eval_exposure_mean", "greater_is_better": False,
}  # fmt: skip


class Evaluations(TrainerCallback):
    """Records the metrics as later callbacks see them."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, Any]]] = []

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.seen.append((state.global_step, metrics))


@pytest.mark.parametrize(
    ("strategy", "arguments", "expected"),
    [
        ({"strategy": "steps", "steps": 2}, {"max_steps": 7}, [2, 4, 6]),
        ({"strategy": "epoch"}, {"max_steps": 7}, [3, 6, 7]),  # the third epoch is cut short
        ({"strategy": "epoch"}, {"max_steps": -1, "num_train_epochs": 2}, [3, 6]),
        ({"strategy": "eval"}, {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3}, [3, 6]),
        ({"strategy": "eval"}, {"max_steps": 6, "eval_strategy": "epoch", "eval_on_start": True}, [0, 3, 6]),
        ({"strategy": "end"}, {"max_steps": 7}, [7]),
        ({"strategy": "steps", "steps": 1}, {"max_steps": 2, "gradient_accumulation_steps": 2}, [1, 2]),
    ],
)
def test_each_strategy_measures_at_its_steps(
    tmp_path: Path, strategy: dict[str, Any], arguments: dict[str, Any], expected: list[int]
) -> None:
    callback = make_callback(**strategy)
    trainer = make_trainer(tmp_path, [callback], **arguments)
    trainer.train()
    assert [report.step for report in callback.reports] == expected
    assert [report.step for report in EXPOSURE_LOG.read(tmp_path)] == expected
    assert logged_steps(trainer) == expected


def test_log_history_has_the_keys_of_the_contract_as_plain_floats(tmp_path: Path) -> None:
    callback = make_callback(strategy="epoch")
    trainer = make_trainer(tmp_path, [callback], max_steps=3)
    trainer.train()
    (entry,) = logged(trainer)
    assert set(entry) == KEYS | {"step", "epoch"}
    assert {type(entry[key]) for key in KEYS} == {float}
    assert (entry["step"], entry["epoch"]) == (3, 1.0)
    assert callback.report is not None
    assert (callback.report.step, callback.report.epoch) == (3, 1.0)
    assert {key: entry[key] for key in KEYS} == callback.report.metrics()
    trainer.save_state()
    on_disk = json.loads((tmp_path / "trainer_state.json").read_text())
    assert [row["step"] for row in on_disk["log_history"] if "eval_exposure_mean" in row] == [3]


def test_without_controls_their_keys_are_absent(tmp_path: Path) -> None:
    canaries = type(CANARIES)(inserted=CANARIES.inserted, template=CANARIES.template)
    callback = ExposureCallback(canaries, strategy="end")
    trainer = make_trainer(tmp_path, [callback], max_steps=1)
    trainer.train()
    # The set was put together by hand and not drawn, so its ranks bound no epsilon.
    assert set(logged(trainer)[0]) - {"step", "epoch"} == KEYS - {
        "eval_exposure_controls_mean",
        "eval_exposure_p_value",
        "eval_exposure_rank_epsilon",
    }


def test_evaluation_metrics_hold_the_figures(tmp_path: Path) -> None:
    evaluations, callback = Evaluations(), make_callback(strategy="eval")
    trainer = make_trainer(tmp_path, [callback, evaluations], max_steps=4, eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert [step for step, _ in evaluations.seen] == [2, 4]
    for (_, metrics), report in zip(evaluations.seen, callback.reports, strict=True):
        assert "eval_loss" in metrics
        assert {key: metrics[key] for key in KEYS} == report.metrics()
    # A call after training: the model is that of the last step, so its figures are reused and not measured again.
    assert trainer.evaluate()["eval_exposure_mean"] == callback.reports[-1].metrics()["eval_exposure_mean"]
    assert len(callback.reports) == 2


def test_a_dict_of_evaluation_sets_measures_once_a_step(tmp_path: Path) -> None:
    evaluations, callback = Evaluations(), make_callback(strategy="eval")
    sets = {"first": rows(4), "second": rows(8)}
    trainer = make_trainer(
        tmp_path, [callback, evaluations], eval_dataset=sets, max_steps=4, eval_strategy="steps", eval_steps=2
    )
    trainer.train()
    assert [step for step, _ in evaluations.seen] == [2, 2, 4, 4]
    assert all(set(metrics) >= KEYS for _, metrics in evaluations.seen)
    assert logged_steps(trainer) == [2, 4]


@CHOOSES_BY_EXPOSURE
@pytest.mark.parametrize(
    ("strategy", "attach"),
    [({"strategy": "epoch"}, False), ({"strategy": "steps", "steps": 3}, True), ({"strategy": "eval"}, False)],
)
def test_exposure_chooses_the_best_model(tmp_path: Path, strategy: dict[str, Any], attach: bool) -> None:
    callback = make_callback(**strategy)
    trainer = make_trainer(tmp_path, [callback], max_steps=6, **BEST)
    if attach:
        callback.attach(trainer)
    trainer.train()
    # The evaluations at steps 2, 4 and 6 measure, which the strategy alone would not.
    by_step = {report.step: report.metrics()["eval_exposure_mean"] for report in callback.reports}
    own_steps = set() if strategy["strategy"] == "eval" else {3}
    assert list(by_step) == sorted({2, 4, 6} | own_steps)
    candidates = {step: by_step[step] for step in (2, 4, 6)}
    assert trainer.state.best_metric == min(candidates.values())
    assert trainer.state.best_global_step == min(candidates, key=lambda step: candidates[step])
    # The data contain canaries only: exposure rises, so the first is best, and later weights are dropped.
    assert trainer.state.best_global_step == 2
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    # The loaded model is measured again: these are not the figures of step 6, the last one measured.
    again = trainer.evaluate()
    assert again["eval_exposure_mean"] == pytest.approx(by_step[2], abs=1e-3)
    assert by_step[6] > by_step[2] + 0.1


@CHOOSES_BY_EXPOSURE
def test_the_end_is_the_best_model_where_that_is_loaded(tmp_path: Path) -> None:
    callback = make_callback(strategy="end")
    trainer = make_trainer(tmp_path, [callback], max_steps=6, **BEST)
    trainer.train()
    assert [report.step for report in callback.reports] == [2, 4, 6, 6]
    first, *_, end = callback.reports
    assert [e.exposure_bits for e in end.estimates] == [e.exposure_bits for e in first.estimates]
    assert "measured on the best model, from step 2, which was loaded at the end" in end.notes


@CHOOSES_BY_EXPOSURE
@pytest.mark.parametrize(("order", "attach"), [("after", False), ("after", True), ("before", True)])
def test_early_stopping_on_exposure(tmp_path: Path, order: str, attach: bool) -> None:
    callback, stopping = make_callback(strategy="epoch"), EarlyStoppingCallback(early_stopping_patience=1)
    trainer = make_trainer(
        tmp_path, [callback, stopping] if order == "after" else [stopping, callback], max_steps=12, **BEST
    )
    if attach:
        callback.attach(trainer)
    trainer.train()
    # Exposure only rises here, so the second evaluation is worse than the first, and training ends.
    assert trainer.state.global_step == 4
    assert trainer.state.best_global_step == 2


def test_attach_adds_the_callback_once_and_puts_it_first(tmp_path: Path) -> None:
    callback, stopping = make_callback(), EarlyStoppingCallback()
    trainer = make_trainer(tmp_path, [stopping])
    assert callback.attach(trainer) is callback
    callback.attach(trainer)
    names = [type(other).__name__ for other in trainer.callback_handler.callbacks]
    assert names.count("ExposureCallback") == 1
    assert names[:2] == ["DefaultFlowCallback", "ExposureCallback"]
    present = make_callback()
    other = make_trainer(tmp_path, [stopping, present])
    present.attach(other)
    assert [type(c).__name__ for c in other.callback_handler.callbacks].count("ExposureCallback") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"metric_for_best_model": "eval_exposure_mean", "greater_is_better": None},
            r"^greater_is_better: would keep the most memorized checkpoint for metric_for_best_model="
            r"'eval_exposure_mean', got True\. Pass greater_is_better=False to TrainingArguments\.$",
        ),
        (
            {"metric_for_best_model": "exposure_x4_mean", "greater_is_better": True},
            r"^greater_is_better: .*'eval_exposure_x4_mean', got True",
        ),
        (
            {"metric_for_best_model": "eval_exposure_p_value", "greater_is_better": False},
            r"^greater_is_better: .*got False\. Pass greater_is_better=True",
        ),
        (
            {"metric_for_best_model": "exposure_x8_mean"},
            r"^metric_for_best_model: must be a figure of this callback, got 'eval_exposure_x8_mean'\. "
            r"Use one of eval_exposure_mean, .*eval_exposure_x4_mean",
        ),
    ],
)
def test_a_best_metric_that_cannot_work_is_refused_at_the_start(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    callback = make_callback()
    trainer = make_trainer(tmp_path, [callback], **{**BEST, **arguments})
    with pytest.raises(InputError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0
    assert callback.report is None


def test_the_known_metrics_are_those_that_are_logged() -> None:
    assert set(ExposureMeasure(CANARIES).metric_names()) == KEYS


def test_another_best_metric_is_left_alone(tmp_path: Path) -> None:
    callback = make_callback(strategy="end")
    arguments = {**BEST, "metric_for_best_model": "loss", "greater_is_better": None}
    trainer = make_trainer(tmp_path, [callback], max_steps=4, **arguments)
    trainer.train()
    assert trainer.state.best_metric == min(e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e)
    assert len(callback.reports) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strategy": "often"}, r"^strategy: must be one of steps, epoch, eval, end, got 'often'\. Use 'epoch'\.$"),
        ({"strategy": "steps"}, r"^steps: must be at least 1 with strategy='steps', got None\. Pass steps=100"),
        ({"strategy": "steps", "steps": 0}, r"^steps: must be at least 1 with strategy='steps', got 0\."),
        ({"strategy": "epoch", "steps": 5}, r"^steps: goes with strategy='steps' only, got 5\. Leave it out"),
        ({"on_error": "ignore"}, r"^on_error: must be 'raise' or 'warn', got 'ignore'\. Use 'raise'\.$"),
        ({"refrences": 5}, r"^refrences: must be an argument of .*measure_exposure, got 5\. Use one of method, ref"),
        ({"method": "guess"}, r"^method: must be one of auto, enumerate, .*got 'guess'"),
        ({"references": 0}, r"^references: must be a whole number of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_when_given(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_callback(**arguments)


def test_eval_strategy_without_evaluations_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [make_callback(strategy="eval")])
    with pytest.raises(
        InputError, match=r"^strategy: 'eval' needs evaluations, but eval_strategy is 'no', got 'eval'"
    ):
        trainer.train()


def test_a_missing_tokenizer_is_refused_and_can_be_passed(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [make_callback()], tokenizer=None)
    with pytest.raises(InputError, match=r"^processing_class: must be the tokenizer.*processing_class=tokenizer\)\.$"):
        trainer.train()
    callback = make_callback(strategy="end", processing_class=ByT5Tokenizer())
    make_trainer(tmp_path, [callback], tokenizer=None, max_steps=1).train()
    assert callback.report is not None


def test_the_base_model_is_measured_too(tmp_path: Path) -> None:
    callback = make_callback(strategy="epoch", base_model=small_model())
    make_trainer(tmp_path, [callback], max_steps=6).train()
    first, last = callback.reports
    alone = measure_exposure(small_model(), ByT5Tokenizer(), CANARIES)
    base = [estimate.base_exposure_bits for estimate in first.estimates]
    assert base == [estimate.exposure_bits for estimate in alone.estimates]
    assert base == [estimate.base_exposure_bits for estimate in last.estimates]
    assert base != [estimate.exposure_bits for estimate in last.estimates]


def test_one_callback_serves_two_trainers_one_after_the_other(tmp_path: Path) -> None:
    callback = make_callback(strategy="steps", steps=1)
    first = make_trainer(tmp_path / "first", [callback], max_steps=2)
    callback.attach(first)
    first.train()
    second = make_trainer(tmp_path / "second", [callback], max_steps=3, model=small_model(seed=5))
    second.train()
    assert (logged_steps(first), logged_steps(second)) == ([1, 2], [1, 2, 3])
    assert [report.step for report in callback.reports] == [1, 2, 3]
    assert len(EXPOSURE_LOG.read(tmp_path / "first")) == 2


def test_prediction_does_not_measure(tmp_path: Path) -> None:
    callback = make_callback(strategy="end")
    trainer = make_trainer(tmp_path, [callback], max_steps=2)
    trainer.train()
    assert "eval_exposure_mean" not in trainer.predict(rows(4)).metrics
    assert len(callback.reports) == 1
