"""Any measure under a `Trainer`: when it is taken, what is logged, what a resumed run remembers, what fails."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callback_runs import TOKENIZER, make_callback, make_trainer
from toy_measures import Classifier, FailsAt, KillAt, Killed, Tally, Toy, classify, pictures
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_exposure import MeasureCallback
from hf_exposure.errors import ExposureError, InputError
from hf_exposure.measures import PlainRecord
from hf_exposure.records.run_log import RunLog

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 9}
BEST = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2,
        "load_best_model_at_end": True, "max_steps": 6}  # fmt: skip


def log_of(name: str) -> RunLog[PlainRecord]:
    return RunLog(name, PlainRecord.from_dict)


def curve(trainer: Any, key: str) -> list[tuple[int, float]]:
    return [(entry["step"], entry[key]) for entry in trainer.state.log_history if key in entry]


@pytest.mark.parametrize(
    ("strategy", "arguments", "expected"),
    [
        ({"strategy": "steps", "steps": 2}, {"max_steps": 7}, [2, 4, 6]),
        ({"strategy": "epoch"}, {"max_steps": 7}, [3, 6, 7]),
        (
            {"strategy": "eval"},
            {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 4},
            [4, 6],
        ),
        ({"strategy": "eval"}, {"max_steps": 3, "eval_strategy": "epoch", "eval_on_start": True}, [0, 3]),
        ({"strategy": "end"}, {"max_steps": 4}, [4]),
    ],
)
@pytest.mark.parametrize("attach", [False, True])
def test_a_classifier_without_tokenizer_is_measured_at_its_steps(
    tmp_path: Path, strategy: dict[str, Any], arguments: dict[str, Any], expected: list[int], attach: bool
) -> None:
    # A trainer that evaluates every few steps also evaluates after the last one.
    callback = MeasureCallback([Toy(), Tally()], **strategy)
    trainer = classify(tmp_path, [callback], **arguments)
    if attach:
        callback.attach(trainer)
    trainer.train()
    assert list(callback.records) == ["toy", "tally"]
    for name, key in (("toy", "eval_toy_norm"), ("tally", "eval_tally_rows")):
        records = callback.records[name]
        assert [record.step for record in records] == expected
        assert curve(trainer, key) == [(record.step, record.metrics()[key]) for record in records]
        assert log_of(name).read(tmp_path) == records
        assert [record.epoch for record in records] == [step / 3 for step in expected]
    # By hand: batches of four rows, and the model was trained on each of them once.
    assert [record.metrics()["eval_tally_rows"] for record in callback.records["tally"]] == [4 * n for n in expected]
    assert callback.measures[0].start.tokenizer is None and callback.measures[0].start.output_dir == tmp_path
    last = torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()]).norm()
    if expected[-1] == trainer.state.global_step:
        assert callback.records["toy"][-1].metrics()["eval_toy_norm"] == pytest.approx(float(last))


def test_the_tap_sees_what_is_trained_on_and_nothing_else(tmp_path: Path) -> None:
    callback = MeasureCallback(Tally(), strategy="end")
    trainer = classify(
        tmp_path, [callback], max_steps=3, gradient_accumulation_steps=3, eval_strategy="steps", eval_steps=1,
        per_device_train_batch_size=2,
    )  # fmt: skip
    trainer.train()
    (record,) = callback.records["tally"]
    # Six batches of two per epoch; an optimizer step uses three, so three steps are an epoch and a half.
    assert record.metrics()["eval_tally_rows"] == 18
    assert callback.measures[0].steps == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    # After training nothing is seen any more.
    assert not trainer.model._forward_pre_hooks
    trainer.model.train()(pixels=torch.zeros(5, 4))
    assert callback.measures[0].rows == 18


def test_a_whole_epoch_is_seen_once(tmp_path: Path) -> None:
    callback = MeasureCallback(Tally(), strategy="epoch")
    classify(tmp_path, [callback], max_steps=6).train()
    once = float(sum(row["pixels"].double().sum() for row in pictures()))
    found = [record.metrics()["eval_tally_total"] for record in callback.records["tally"]]
    assert found == pytest.approx([once, 2 * once])


@pytest.mark.parametrize(
    ("key", "greater", "best"), [("eval_toy_norm", False, "min"), ("eval_toy_score", True, "max")]
)
def test_a_measure_chooses_the_best_model_in_its_direction(tmp_path: Path, key: str, greater: bool, best: str) -> None:
    callback = MeasureCallback([Toy(), Tally()], strategy="end")
    trainer = classify(tmp_path, [callback], metric_for_best_model=key, greater_is_better=greater, **BEST)
    trainer.train()
    values = dict(curve(trainer, key)[:3])
    assert list(values) == [2, 4, 6]  # every evaluation measures, although the strategy is a different one
    assert trainer.state.best_metric == (min if best == "min" else max)(values.values())
    assert trainer.state.best_global_step == 2 and values[2] != values[6]  # the norm grows
    # The final model is the loaded one; the tally, which selects nothing, was measured at the end only.
    assert callback.records["toy"][-1].metrics()[key] == pytest.approx(values[2], rel=1e-6)
    assert [record.step for record in callback.records["tally"]] == [6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"metric_for_best_model": "toy_norm", "greater_is_better": True},
            r"^greater_is_better: would keep the worst checkpoint for metric_for_best_model='eval_toy_norm', "
            r"got True\. Pass greater_is_better=False",
        ),
        (
            {"metric_for_best_model": "eval_toy_score", "greater_is_better": False},
            r"^greater_is_better: .*got False\. Pass greater_is_better=True",
        ),
        (
            {"metric_for_best_model": "eval_toy_norms"},
            r"^metric_for_best_model: must be a figure of this callback, got 'eval_toy_norms'\. "
            r"Use one of eval_toy_norm,",
        ),
    ],
)
def test_a_best_metric_that_cannot_work_is_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    trainer = classify(tmp_path, [MeasureCallback(Toy())], **BEST, **arguments)
    with pytest.raises(InputError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("order", [1, -1])
def test_early_stopping_by_a_measure(tmp_path: Path, order: int) -> None:
    callback, stopping = MeasureCallback(Toy(), strategy="eval"), EarlyStoppingCallback(1)
    arguments = {**BEST, "max_steps": 12, "metric_for_best_model": "eval_toy_norm", "greater_is_better": False}
    trainer = classify(tmp_path, [callback, stopping][::order], **arguments)
    callback.attach(trainer)
    trainer.train()
    assert (trainer.state.global_step, trainer.state.best_global_step) == (4, 2)


@pytest.mark.parametrize(
    ("strategy", "event", "step", "save_steps"),
    [
        ("steps", "on_step_end", 5, 2),  # a step that was measured, and lost with its weights
        ("steps", "on_save", 6, 2),
        ("epoch", "on_step_begin", 4, 2),
        ("epoch", "on_save", 6, 2),  # the checkpoint of an epoch's end, before the measurement of that epoch
        ("epoch", "on_log", 6, 2),  # in the log, but the checkpoint's state was written before the measurement
        ("epoch", "on_epoch_begin", 6, 2),  # the same, and in the history
        ("epoch", "on_save", 9, 3),  # the last step of all
        ("end", "on_step_end", 7, 3),
    ],
)
def test_a_killed_run_resumes_with_the_figures_of_an_uninterrupted_one(
    tmp_path: Path, strategy: str, event: str, step: int, save_steps: int
) -> None:
    def callback_for(folder: Path, *others: TrainerCallback) -> tuple[MeasureCallback, Any]:
        callback = MeasureCallback([Tally(), Toy()], strategy, steps=1 if strategy == "steps" else None)
        trainer = classify(folder, [callback, *others], **{**SAVING, "save_steps": save_steps})
        return callback.attach(trainer), trainer

    whole, uninterrupted = callback_for(tmp_path / "whole")
    uninterrupted.train()
    folder = tmp_path / "killed"
    _, killed = callback_for(folder, KillAt(event, step, key="eval_tally_rows" if event == "on_log" else ""))
    with pytest.raises(Killed):
        killed.train()
    again, resumed = callback_for(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*starts again.*")
        resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{step - step % save_steps}"))
    assert again.records == whole.records
    assert [record.metrics()["eval_tally_taken"] for record in again.records["tally"]] == list(
        range(1, len(whole.records["tally"]) + 1)
    )
    for name, key in (("tally", "eval_tally_total"), ("toy", "eval_toy_norm")):
        assert log_of(name).read(folder) == whole.records[name]
        assert curve(resumed, key) == curve(uninterrupted, key)


@pytest.mark.parametrize(("strategy", "metric"), [("eval", None), ("end", "eval_tally_taken")])
@pytest.mark.parametrize("step", [3, 6])
def test_an_evaluation_that_no_checkpoint_knows_is_measured_again(
    tmp_path: Path, strategy: Any, metric: str | None, step: int
) -> None:
    # The checkpoint of an epoch's last step is written before the evaluation at the end of the epoch.
    settings = {"eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 3, "max_steps": 6,
                "metric_for_best_model": metric, "greater_is_better": False if metric else None}  # fmt: skip
    whole = MeasureCallback([Tally(), Toy()], strategy)
    classify(tmp_path, [whole], **settings).train()
    again = MeasureCallback([Tally(), Toy()], strategy)
    classify(tmp_path, [again], **settings).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))

    def figures(callback: MeasureCallback) -> list[tuple[int | None, float]]:
        return [(one.step, one.metrics()["eval_tally_taken"]) for one in callback.records["tally"]]

    assert figures(again) == figures(whole) == [(3, 1), (6, 2)]
    assert log_of("tally").read(tmp_path) == again.records["tally"]


def test_an_evaluation_that_was_delayed_is_not_made_up_for(tmp_path: Path) -> None:
    settings = {"eval_strategy": "epoch", "eval_delay": 2, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    classify(tmp_path, [MeasureCallback(Tally(), "eval")], **settings).train()
    again = MeasureCallback(Tally(), "eval")
    classify(tmp_path, [again], **settings).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert [record.step for record in again.records["tally"]] == [6]


def test_a_finished_run_that_trains_on_remembers(tmp_path: Path) -> None:
    classify(tmp_path, [MeasureCallback(Tally(), "epoch")], save_strategy="epoch", max_steps=6).train()
    callback = MeasureCallback(Tally(), "epoch")
    resumed = classify(tmp_path, [callback], save_strategy="epoch", max_steps=9)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    figures = [record.metrics() for record in callback.records["tally"]]
    assert [(f["eval_tally_taken"], f["eval_tally_rows"]) for f in figures] == [(1, 12), (2, 24), (3, 36)]


def test_a_checkpoint_without_the_state_says_so(tmp_path: Path) -> None:
    classify(tmp_path, [], **SAVING).train()
    callback = MeasureCallback([Toy(), Tally()], "end")
    resumed = classify(tmp_path, [callback], **SAVING)
    with pytest.warns(UserWarning, match="step 6 in .* has no state of 'tally', so the measure starts again there"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert callback.records["tally"][0].metrics()["eval_tally_rows"] == 12
    # Once saved, the state is found; a damaged one is named.
    state = tmp_path / "checkpoint-8" / "_tally_state_0.pt"
    assert state.stat().st_mode & 0o077 == 0 and not (tmp_path / "checkpoint-8" / "_toy_state_0.pt").exists()
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(InputError, match=r"_tally_state_0\.pt: must be complete, .* Remove the file"):
        classify(tmp_path, [MeasureCallback(Tally())], **SAVING).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-8")
        )


def test_a_state_that_could_not_be_read_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    class Arrays(Tally):
        def state_dict(self) -> dict[str, Any]:
            return {"total": np.zeros(2)}

    trainer = classify(tmp_path, [MeasureCallback(Arrays())], **SAVING)
    with pytest.raises(ExposureError, match="'tally' must return plain values and tensors from state_dict"):
        trainer.train()
    assert trainer.state.global_step == 2
    lenient = classify(tmp_path, [MeasureCallback(Arrays(), "steps", 3, on_error="warn")], **SAVING)
    with pytest.warns(UserWarning, match="tally could not be saved in .*checkpoint-2: ExposureError: the measure"):
        lenient.train()
    assert [step for step, _ in curve(lenient, "eval_tally_rows")] == [3, 6, 9]


@pytest.mark.parametrize("error", [ValueError("no such figure"), torch.OutOfMemoryError("no room")])
def test_a_failure_is_nan_and_one_warning_and_leaves_the_other_measures_alone(
    tmp_path: Path, error: Exception
) -> None:
    callback = MeasureCallback([FailsAt(2, error), Toy()], strategy="steps", steps=1, on_error="warn")
    trainer = classify(tmp_path, [callback], max_steps=3)
    with pytest.warns(UserWarning, match=f"^fails could not be measured and is logged as NaN: .*{error}") as caught:
        trainer.train()
    assert len([one for one in caught if "could not be measured" in str(one.message)]) == 1
    assert [record.step for record in callback.records["fails"]] == [1, 3]
    assert [record.step for record in callback.records["toy"]] == [1, 2, 3]
    assert [step for step, value in curve(trainer, "eval_fails_taken") if math.isnan(value)] == [2]
    assert [step for step, _ in curve(trainer, "eval_fails_norm")] == [1, 2, 3]
    strict = classify(tmp_path, [MeasureCallback(FailsAt(2, error), "steps", 1)], max_steps=3)
    with pytest.raises(ExposureError, match=f"^fails could not be measured: .*: {error}. on_error"):
        strict.train()
    assert strict.state.global_step == 2


def test_a_failure_on_a_batch(tmp_path: Path) -> None:
    class Chokes(Tally):
        def on_batch(self, batch: Any) -> None:
            if batch.step == 3:
                raise KeyError("labels")
            super().on_batch(batch)

    callback = MeasureCallback(Chokes(), strategy="steps", steps=2, on_error="warn")
    trainer = classify(tmp_path, [callback])
    with pytest.warns(UserWarning, match="tally could not be measured and is logged as NaN: KeyError: 'labels'"):
        trainer.train()
    # The batch that was not seen is missing in every later figure.
    assert [math.isnan(value) for _, value in curve(trainer, "eval_tally_rows")] == [False, True, True]
    # A resumed run does not treat the state as complete either.
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    with pytest.warns(UserWarning, match="could not be measured"):
        classify(tmp_path, [MeasureCallback(Chokes(), "steps", 2, on_error="warn")], **saving).train()
    states = sorted(path.parent.name for path in tmp_path.glob("checkpoint-*/_tally_state_0.pt"))
    assert states == ["checkpoint-2"]
    strict = classify(tmp_path, [MeasureCallback(Chokes(), "end")])
    with pytest.raises(ExposureError, match="^tally failed on a training batch: KeyError: 'labels'"):
        strict.train()
    assert strict.state.global_step == 3
    assert not strict.model._forward_pre_hooks  # the tap is removed from the model


class Named(Toy):
    def __init__(self, name: Any) -> None:
        self.name = name

    def metric_names(self) -> list[str]:
        return [f"eval_{self.name}_norm"]


def test_two_measures_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^measures: must have different names, .* the same keys and the same file"):
        MeasureCallback([Toy(), Toy()])
    for names in (["toy", "toy_of_mine"], ["toy_of_mine", "toy"]):
        with pytest.raises(InputError, match="two would write keys that cannot be told apart, got 'toy.*, toy"):
            MeasureCallback([Named(name) for name in names])
    # The same in two callbacks of one trainer; one trainer after the other is allowed.
    first, second = MeasureCallback(Toy()), MeasureCallback([Tally(), Named("toy")])
    trainer = classify(tmp_path, [first, second], max_steps=1)
    with pytest.raises(InputError, match="measures: must have different names, .* got 'toy, toy'. Give one of them"):
        trainer.train()
    trainer.remove_callback(first)
    trainer.train()
    trainer.train()
    assert [record.step for record in second.records["toy"]] == [1]
    MeasureCallback([Named("toy"), Named("toys")])
    exposed = make_trainer(tmp_path, [MeasureCallback(Named("exposure")), make_callback()], max_steps=1)
    with pytest.raises(InputError, match="^callbacks: must have only one ExposureCallback"):
        exposed.train()


def test_several_callbacks_share_a_trainer(tmp_path: Path) -> None:
    tally, toy, exposure = MeasureCallback(Tally(), "epoch"), MeasureCallback(Toy(), "steps", 2), make_callback()
    trainer = make_trainer(tmp_path, [tally, toy, exposure], max_steps=6)
    trainer.train()
    assert [record.step for record in tally.records["tally"]] == [3, 6]
    assert [record.step for record in toy.records["toy"]] == [2, 4, 6]
    assert [report.step for report in exposure.reports] == [3, 6]
    assert {path.name for path in tmp_path.iterdir()} == {"_tally.jsonl", "_toy.jsonl", "_exposure.jsonl"}


class NeedsTokenizer(Toy):
    needs_tokenizer = True


def test_a_missing_tokenizer_is_refused_where_one_is_needed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^processing_class: .* Pass MeasureCallback\(measures, processing_class="):
        classify(tmp_path, [MeasureCallback(NeedsTokenizer())]).train()
    callback = MeasureCallback(NeedsTokenizer(), "end", processing_class=TOKENIZER)
    classify(tmp_path, [callback], max_steps=1).train()
    assert callback.measures[0].start.tokenizer is TOKENIZER


class WrongKeys(Toy):
    def metric_names(self) -> list[str]:
        return ["toy_norm"]


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ([], r"^measures: must be a measure or several"),
        ("toy", r"^measures: must be a measure or several"),
        (3, r"^measures: must be measures, which have prepare, metric_names, measure, .*got 'int'"),
        (PlainRecord(figures={}), r"^measures: must be measures, which have prepare"),
        (Toy, r"^measures: must be objects, not classes"),
        (Named("a b"), r"^measures: must have names that are Python identifiers, got 'a b'"),
        (Named(None), r"^measures: must have names that are Python identifiers, got None"),
    ],
)
def test_what_is_no_measure_is_refused(measures: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeasureCallback(measures)


def test_keys_without_the_name_are_refused_at_the_start(tmp_path: Path) -> None:
    trainer = classify(tmp_path, [MeasureCallback(WrongKeys())])
    with pytest.raises(InputError, match="^measures: must have keys that begin with eval_toy_"):
        trainer.train()
    assert trainer.state.global_step == 0


class OverwritesTheLoss(Toy):
    def measure(self, model: Any) -> PlainRecord:
        return PlainRecord(figures={"eval_toy_norm": 1.0, "eval_loss": 0.0})


def test_records_with_other_keys_are_refused(tmp_path: Path) -> None:
    arguments = {"eval_strategy": "epoch", "max_steps": 3}
    with pytest.raises(InputError, match=r"^measures: must have keys that begin with eval_toy_, got \['eval_loss'\]"):
        classify(tmp_path, [MeasureCallback(OverwritesTheLoss(), "eval")], **arguments).train()
    callback = MeasureCallback(OverwritesTheLoss(), "eval", on_error="warn")
    trainer = classify(tmp_path, [callback], **arguments)
    with pytest.warns(UserWarning, match="^toy could not be measured"):
        trainer.train()
    assert math.isnan(curve(trainer, "eval_toy_norm")[0][1]) and curve(trainer, "eval_loss")[0][1] > 0


class Careless(Toy):
    """Changes everything that a measure must leave as it found it."""

    def measure(self, model: Any) -> PlainRecord:
        record = super().measure(model)
        model.eval()
        torch.manual_seed(5)
        model(pixels=torch.rand(3, 4), labels=torch.tensor([0, 1, 1]))["loss"].backward()
        next(model.parameters()).requires_grad_(False)
        return record


def test_training_is_the_same_to_the_bit_even_with_a_careless_measure(tmp_path: Path) -> None:
    expected = classify(tmp_path / "without", [])
    expected.train()
    measured = classify(tmp_path / "with", [MeasureCallback([Careless(), Tally()], "steps", 1)])
    measured.train()
    assert len(log_of("toy").read(tmp_path / "with")) == 6
    for one, other in zip(expected.model.parameters(), measured.model.parameters(), strict=True):
        assert torch.equal(one, other) and other.requires_grad
    # The comparison can fail.
    assert not torch.equal(Classifier().layers[0].weight, measured.model.layers[0].weight)


def test_the_log_is_json_with_null_for_what_is_undefined(tmp_path: Path) -> None:
    class Undefined(Toy):
        def measure(self, model: Any) -> PlainRecord:
            return PlainRecord(figures={"eval_toy_norm": math.nan, "eval_toy_score": 1}, details={"rows": [1, 2]})

    callback = MeasureCallback(Undefined(), "end")
    trainer = classify(tmp_path, [callback], max_steps=1)
    trainer.train()
    (line,) = (tmp_path / "_toy.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "figures": {"eval_toy_norm": None, "eval_toy_score": 1.0}, "details": {"rows": [1, 2]}, "step": 1,
        "epoch": pytest.approx(1 / 3),
    }  # fmt: skip
    (record,) = log_of("toy").read(tmp_path)
    assert math.isnan(record.metrics()["eval_toy_norm"]) and record.details == {"rows": [1, 2]}
    with pytest.raises(InputError, match="^record: must hold figures and details"):
        PlainRecord.from_dict({"step": 1})


@dataclass(frozen=True)
class Norms:
    """A user-defined record that has exactly what the protocol requires."""

    by_layer: np.ndarray
    step: int | None = None
    epoch: float | None = None

    def metrics(self) -> dict[str, float]:
        return {"eval_toy_norm": self.by_layer.max(), "eval_toy_score": -self.by_layer.max()}

    def to_dict(self) -> dict[str, Any]:
        return {"by_layer": self.by_layer, "largest": np.float32("inf"), "step": self.step, "epoch": self.epoch}


class Loose:
    """The same record without a dataclass."""

    def __init__(self) -> None:
        self.step = self.epoch = None

    def metrics(self) -> dict[str, float]:
        return {"eval_toy_norm": 2.0, "eval_toy_score": -2.0}

    def to_dict(self) -> dict[str, Any]:
        return {"by_layer": [0.0, 2.0], "largest": None, "step": self.step, "epoch": self.epoch}


@pytest.mark.parametrize("record", [Norms(np.array([0.0, 2.0])), Loose()], ids=["dataclass", "object"])
def test_records_of_ones_own_are_logged_and_survive_a_resume(tmp_path: Path, record: Any) -> None:
    class Own(Toy):
        def measure(self, model: Any) -> Any:
            return record

    classify(tmp_path, [MeasureCallback(Own(), "steps", 2)], **{**SAVING, "max_steps": 4}).train()
    callback = MeasureCallback(Own(), "steps", 2)
    trainer = classify(tmp_path, [callback], **{**SAVING, "max_steps": 4})
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    first, second = callback.records["toy"]
    assert (record.step, first.step, second.step, second.epoch) == (None, 2, 4, pytest.approx(4 / 3))
    assert first.metrics() == second.metrics() == {"eval_toy_norm": 2.0, "eval_toy_score": -2.0}
    assert first.details == {"by_layer": [0.0, 2.0], "largest": None}
    assert [one.step for one in log_of("toy").read(tmp_path)] == [2, 4]
    assert curve(trainer, "eval_toy_norm") == [(2, 2.0), (4, 2.0)]


def test_pydantic_records(tmp_path: Path) -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):
        model_config = {"frozen": True}
        norm: float
        step: int | None = None
        epoch: float | None = None

        def metrics(self) -> dict[str, float]:
            return {"eval_toy_norm": self.norm, "eval_toy_score": -self.norm}

        def to_dict(self) -> dict[str, Any]:
            return self.model_dump()

    class Own(Toy):
        record_from_dict = Model.model_validate

        def measure(self, model: Any) -> Any:
            return Model(norm=1.5)

    callback = MeasureCallback(Own(), "end")
    classify(tmp_path, [callback], max_steps=3).train()
    assert (
        callback.records["toy"]
        == [Model(norm=1.5, step=3, epoch=1.0)]
        == RunLog("toy", Model.model_validate).read(tmp_path)
    )
