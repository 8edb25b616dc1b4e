"""Runs that were stopped, resumed, or failed to measure: no result is lost or duplicated."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_runs import CHOOSES_BY_EXPOSURE, KEYS, logged, logged_steps, make_callback, make_trainer, small_model
from torch import nn
from transformers import TrainerCallback

from hf_exposure.errors import ExposureError, InputError, NonFiniteScoreError
from hf_exposure.records import ExposureReport
from hf_exposure.records.run_log import EXPOSURE_LOG

SAVING = {"save_strategy": "steps", "save_steps": 2, "dropout": 0.2}


class Killed(Exception):
    """Stands for a SIGKILL: the code that would follow does not run."""


class KillAfter(TrainerCallback):
    """Simulates a kill of the process at one event of one step."""

    def __init__(self, event: str, step: int) -> None:
        self.step = step
        setattr(self, event, self._maybe)

    def _maybe(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


def figures(reports: list[ExposureReport]) -> list[tuple[Any, ...]]:
    return [(r.step, r.epoch, tuple((e.canary_id, e.exposure_bits) for e in r.estimates)) for r in reports]


def curve(trainer: Any) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in entry.items() if key != "eval_exposure_seconds"} for entry in logged(trainer)
    ]


@pytest.mark.parametrize(
    ("strategy", "event", "step", "checkpoint"),
    [
        ("steps", "on_step_end", 5, 4),  # a step that was measured, and lost with its weights
        ("epoch", "on_step_begin", 4, 4),
        ("steps", "on_save", 6, 6),
        ("epoch", "on_save", 6, 6),  # the checkpoint of an epoch's end, before on_epoch_end
        ("epoch", "on_epoch_begin", 6, 6),  # after on_epoch_end: in the log, but in no checkpoint
        ("epoch", "on_save", 9, 9),  # the last step of all
    ],
)
def test_a_killed_run_resumes_with_the_curve_of_an_uninterrupted_one(
    tmp_path: Path, strategy: str, event: str, step: int, checkpoint: int
) -> None:
    arguments = {"strategy": strategy, "steps": 1 if strategy == "steps" else None}
    settings = {**SAVING, "max_steps": 9, "save_steps": 3} if checkpoint == 9 else {**SAVING, "max_steps": 8}
    whole = make_callback(**arguments)
    uninterrupted = make_trainer(tmp_path / "whole", [whole], **settings)
    uninterrupted.train()
    folder = tmp_path / "killed"
    killed = make_trainer(folder, [make_callback(**arguments), KillAfter(event, step)], **settings)
    with pytest.raises(Killed):
        killed.train()
    again = make_callback(**arguments)
    resumed = make_trainer(folder, [again], **settings)
    resumed.train(resume_from_checkpoint=str(folder / f"checkpoint-{checkpoint}"))
    assert figures(again.reports) == figures(whole.reports)
    assert figures(EXPOSURE_LOG.read(folder)) == figures(whole.reports)
    assert curve(resumed) == curve(uninterrupted)
    for expected, found in zip(uninterrupted.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_resuming_an_older_checkpoint_drops_what_came_after(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [make_callback(strategy="steps", steps=1)], max_steps=6, **SAVING)
    trainer.train()
    assert [r.step for r in EXPOSURE_LOG.read(tmp_path)] == [1, 2, 3, 4, 5, 6]
    callback = make_callback(strategy="steps", steps=2)
    resumed = make_trainer(tmp_path, [callback], max_steps=6, **SAVING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [r.step for r in callback.reports] == [1, 2, 4, 6]
    assert [r.step for r in EXPOSURE_LOG.read(tmp_path)] == [1, 2, 4, 6]
    assert logged_steps(resumed) == [1, 2, 4, 6]


def test_a_fresh_run_in_a_used_folder_starts_a_new_log(tmp_path: Path) -> None:
    make_trainer(tmp_path, [make_callback(strategy="steps", steps=1)], max_steps=4).train()
    callback = make_callback(strategy="end")
    make_trainer(tmp_path, [callback], max_steps=2).train()
    assert [r.step for r in EXPOSURE_LOG.read(tmp_path)] == [2] == [r.step for r in callback.reports]


def test_a_line_cut_short_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    make_trainer(tmp_path, [make_callback(strategy="steps", steps=1)], max_steps=4, **SAVING).train()
    log = tmp_path / EXPOSURE_LOG.file_name
    whole = log.read_bytes()
    log.write_bytes(whole[:-100])
    assert [r.step for r in EXPOSURE_LOG.read(tmp_path)] == [1, 2, 3]
    callback = make_callback(strategy="steps", steps=1)
    resumed = make_trainer(tmp_path, [callback], max_steps=4, **SAVING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [r.step for r in callback.reports] == [1, 2, 3, 4] == [r.step for r in EXPOSURE_LOG.read(tmp_path)]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / EXPOSURE_LOG.file_name).write_text('{"format": \n')
    with pytest.raises(InputError, match=r"exposure\.jsonl: line 1 must be complete JSON, got '\{\"format\": '\."):
        EXPOSURE_LOG.read(tmp_path)


def test_a_failed_append_leaves_the_lines_before_it(tmp_path: Path) -> None:
    callback = make_callback(strategy="end")
    make_trainer(tmp_path, [callback], max_steps=1).train()
    before = (tmp_path / EXPOSURE_LOG.file_name).read_bytes()
    assert callback.report is not None
    # A real one: the process may write no file longer than this.
    code = (
        "import resource, signal, sys; from pathlib import Path;"
        "from hf_exposure.records.run_log import EXPOSURE_LOG;"
        f"folder = Path({str(tmp_path)!r}); (report,) = EXPOSURE_LOG.read(folder);"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 50}, {len(before) + 50}));"
        "EXPOSURE_LOG.append(folder, report)"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode != 0
    assert "OSError" in failed.stderr
    assert (tmp_path / EXPOSURE_LOG.file_name).read_bytes() == before
    EXPOSURE_LOG.append(tmp_path, callback.report)
    assert (tmp_path / EXPOSURE_LOG.file_name).read_bytes() == 2 * before


class Failing(nn.Module):
    """A model that fails in evaluation mode: `fails` times with an error, or with NaN logits."""

    def __init__(self, error: Exception | None = None, fails: int = 10**9) -> None:
        super().__init__()
        self.inner, self.error, self.fails = small_model(), error, fails
        self.config = self.inner.config
        self.inner.lm_head.weight = nn.Parameter(self.inner.lm_head.weight.clone())  # untied, so that it can be saved

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **more: Any) -> Any:
        output = self.inner(input_ids=input_ids, labels=labels, **more)
        if not self.training and self.fails > 0:
            if self.error is not None:
                self.fails -= 1
                raise self.error
            output.logits = output.logits * math.nan
        return output


def test_warn_logs_nan_with_one_warning_and_trains_on(tmp_path: Path) -> None:
    callback = make_callback(strategy="steps", steps=1, on_error="warn")
    trainer = make_trainer(tmp_path, [callback], model=Failing(), max_steps=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.train()
    ours = [str(w.message) for w in caught if "exposure" in str(w.message)]
    assert len(ours) == 1
    assert ours[0].startswith("exposure could not be measured and is logged as NaN: NonFiniteScoreError: the model")
    assert trainer.state.global_step == 3
    assert logged_steps(trainer) == [1, 2, 3]
    for entry in logged(trainer):
        assert set(entry) == KEYS | {"step", "epoch"}
        assert all(math.isnan(entry[key]) for key in KEYS)
    assert callback.reports == []
    assert (tmp_path / EXPOSURE_LOG.file_name).read_text() == ""
    trainer.save_state()


class FailAt(TrainerCallback):
    """Lets the model fail at one step only, in the measurement that follows the evaluation."""

    def __init__(self, model: Failing, step: int) -> None:
        self.model, self.step = model, step

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # It fails during the whole measurement, since the check of the model before it tolerates one failure.
        self.model.fails = 10**9 if state.global_step == self.step else 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.model.fails = 0


@CHOOSES_BY_EXPOSURE
def test_figures_come_back_after_a_failure_and_choose_the_best_model(tmp_path: Path) -> None:
    callback = make_callback(strategy="eval", on_error="warn")
    model = Failing(RuntimeError("a passing fault"), fails=0)
    trainer = make_trainer(
        tmp_path, [callback, FailAt(model, 2)], model=model, max_steps=4, eval_strategy="steps", eval_steps=2,
        save_strategy="best", metric_for_best_model="exposure_mean", greater_is_better=False,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="a passing fault"):
        trainer.train()
    assert logged_steps(trainer) == [2, 4]
    assert [report.step for report in callback.reports] == [4]
    assert trainer.state.best_global_step == 4
    assert math.isfinite(trainer.state.best_metric)


def test_raise_raises(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, [make_callback(strategy="steps", steps=2)], model=Failing(), max_steps=3)
    with pytest.raises(NonFiniteScoreError, match="NaN logits"):
        trainer.train()
    assert trainer.state.global_step == 2


def test_out_of_memory_does_not_shrink_the_users_batch(tmp_path: Path) -> None:
    error = RuntimeError("CUDA out of memory. Tried to allocate more than there is.")
    trainer = make_trainer(
        tmp_path, [make_callback(strategy="steps", steps=1)], model=Failing(error), max_steps=2,
        auto_find_batch_size=True,
    )  # fmt: skip
    with pytest.raises(ExposureError, match=r"RuntimeError: CUDA out of memory.*A smaller max_batch_tokens") as caught:
        trainer.train()
    assert caught.value.__cause__ is error and "logged as NaN" not in str(caught.value)
    assert trainer._train_batch_size == 4


def test_a_log_that_cannot_be_written_warns_and_keeps_the_figures(tmp_path: Path) -> None:
    class RemoveFolder(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    callback = make_callback(strategy="steps", steps=1, on_error="warn")
    trainer = make_trainer(tmp_path / "run", [callback, RemoveFolder()], max_steps=2)
    with pytest.warns(UserWarning, match="exposure could not be written to .*FileNotFoundError"):
        trainer.train()
    assert all(math.isfinite(entry["eval_exposure_mean"]) for entry in logged(trainer))
    assert logged_steps(trainer) == [1, 2]
    strict = make_trainer(tmp_path / "run", [make_callback(strategy="steps", steps=1), RemoveFolder()], max_steps=2)
    with pytest.raises(ExposureError, match="could not be written to .* name another output_dir; on_error='warn'"):
        strict.train()


def test_every_line_of_the_log_is_valid_json(tmp_path: Path) -> None:
    make_trainer(tmp_path, [make_callback(strategy="steps", steps=1)], max_steps=2).train()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in (tmp_path / EXPOSURE_LOG.file_name).read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["schema_version"] == 1


def test_a_cpu_out_of_memory_warns_and_trains_on(tmp_path: Path) -> None:
    callback = make_callback(strategy="steps", steps=1, on_error="warn")
    trainer = make_trainer(tmp_path, [callback], model=Failing(MemoryError("no room for an array")), max_steps=2)
    with pytest.warns(UserWarning, match="logged as NaN: MemoryError: no room for an array"):
        trainer.train()
    assert trainer.state.global_step == 2 and logged_steps(trainer) == [1, 2]
