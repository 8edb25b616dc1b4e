"""Measures during training: a callback that chooses the steps, calls the measures and logs their figures. It
computes nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import numpy as np
from torch import nn
from tqdm.auto import tqdm
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_exposure.callback.state_files import load_state, save_state
from hf_exposure.checks import flag, one_of
from hf_exposure.errors import ExposureError, InputError, OutOfStepError
from hf_exposure.hub.push import card_with_runs, complete_cards
from hf_exposure.measures.protocol import Measure, SeenBatch, TrainingStart
from hf_exposure.presenting import Presented
from hf_exposure.records.run_log import PlainRecord, Record, RunLog
from hf_exposure.runtime.job import check_alike, check_all_present, check_parallelism
from hf_exposure.runtime.model_state import left_as_found, unwrap_model
from hf_exposure.runtime.processes import Processes
from hf_exposure.runtime.progress import calls_shown
from hf_exposure.runtime.tap import tap_batches, tap_outputs

Strategy = Literal["steps", "epoch", "eval", "end"]
_MEMBERS = ("prepare", "metric_names", "measure", "state_dict", "load_state_dict")
_SHOWN_FIGURES = 6
_logger = logging.getLogger("hf_exposure.callback")
_REMEDIES = {"": "Pass the same value on every process."}


@dataclass(eq=False)
class _Scheduled:
    """A measure and its state in this training.

    Attributes:
        log: the file of the records.
        records: the same records in memory.
        at_evaluations: whether it is measured at every evaluation.
        step: the step of the last measurement.
        record: the record of the last measurement; None if it failed.
        is_stale: whether the model has changed since the last measurement, although the step has not.
        has_warned: whether a warning about a failure was given.
        broken: an error in `on_batch` or `on_output`, which makes every later figure undefined.
    """

    measure: Measure
    log: RunLog[Any]
    records: list[Any] = field(default_factory=list)
    at_evaluations: bool = False
    step: int | None = None
    record: Any = None
    is_stale: bool = False
    has_warned: bool = False
    broken: Exception | None = None

    def is_measured(self, step: int) -> bool:
        return self.step == step and not self.is_stale

    def metrics(self) -> dict[str, float]:
        """The figures of the last measurement; NaN if it failed."""
        if self.record is None:
            return dict.fromkeys(self.measure.metric_names(), math.nan)
        return {key: float(value) for key, value in self.record.metrics().items()}


class MeasureCallback(TrainerCallback):
    """Measures while a `Trainer` trains.

    The figures reach `log_history` and the metrics of each evaluation, hence `metric_for_best_model` and early
    stopping. After `callback.attach(trainer)` they reach every `report_to` tracker too. Every record is also appended
    to `_{name}.jsonl` in the output folder, which is cut back to the checkpoint's step on resume; the state of a
    measure is saved with each checkpoint and restored, so that a resumed run has the figures of an uninterrupted one.
    Training flags, random states, gradients, arguments and control flags are left unchanged.

    In a job of several processes each must have the callback, with the same measures and settings. A measurement that
    fails on one process fails on all of them.

    An `EarlyStoppingCallback` that watches a key of a measure must come after this callback in `callbacks=[...]`: it
    reads the metrics as they are when it is called. `attach` ensures this order.

    Args:
        measures: one `Measure`, or several; a `Trainer` may also have several of these callbacks.
        strategy: "epoch" measures at the end of each epoch, "steps" every `steps` optimizer steps, "eval" at each
            evaluation, "end" once, after the last step. If a measure's key chooses the best model, each evaluation
            takes that measure too, since the trainer needs the key there.
        steps: the interval in optimizer steps, with `strategy="steps"` only.
        processing_class: the tokenizer; the trainer's own by default.
        on_error: "raise", or "warn" to log NaN figures with one warning per measure and continue training when a
            measurement fails.

        baseline: measure before the first step too, as step 0, to see what the model knew before this training. A
            resumed run has that measurement in its log.
        push_to_hub: add the figures to the model cards that the trainer writes, in their `model-index` and in a
            section for each measure that supports cards; needs `attach`.

    Each measurement is printed in one line if the trainer shows progress bars. If it shows none (`disable_tqdm`), the
    logger `hf_exposure.callback` logs the line (INFO).

    Attributes:
        measures: the given measures, as a tuple.
        records: all records of this run by the name of their measure, including those before a resume.

    Raises:
        InputError: the strategy is unknown, `steps` is missing or misplaced, an object is no measure, or two measures
            have names that would share keys; when training starts, a measure needs a tokenizer and there is none,
            `strategy="eval"` has no evaluations, the best-model metric does not exist or is compared in the wrong
            direction, a process of the job lacks this callback, the job uses context or sequence parallelism, or a
            measure raises it.
        ProcessesDifferError: the processes of the job have different measures or settings.
        ExposureError: a measurement failed, with `on_error="raise"`.

    Example:
        >>> import torch
        >>> from hf_exposure import MeasureCallback
        >>> from hf_exposure.measures import PlainRecord
        >>> class WeightNorm:
        ...     name, larger_is_better, needs_tokenizer = "norm", frozenset(), False
        ...     def prepare(self, start): pass
        ...     def metric_names(self): return ["eval_norm_l2"]
        ...     def measure(self, model):
        ...         total = sum(weight.detach().double().square().sum() for weight in model.parameters())
        ...         return PlainRecord(figures={"eval_norm_l2": float(total) ** 0.5})
        ...     def state_dict(self): return {}
        ...     def load_state_dict(self, state): pass
        >>> callback = MeasureCallback(WeightNorm(), strategy="steps", steps=50)
        >>> callback.records                # trainer = Trainer(..., callbacks=[callback]); callback.attach(trainer)
        {'norm': []}
    """

    # Words for error messages that a subclass may change, such as the checkpoint that the wrong direction of a
    # best-model metric keeps.
    _worst, _first_argument = "worst", "measures"
    _remedy = "on_error='warn' continues training without the figures."

    def __init__(
        self,
        measures: Measure | Sequence[Measure],
        strategy: Strategy = "epoch",
        steps: int | None = None,
        processing_class: Any = None,
        on_error: Literal["raise", "warn"] = "raise",
        *,
        baseline: bool = False,
        push_to_hub: bool = False,
    ) -> None:
        flag("baseline", baseline)
        flag("push_to_hub", push_to_hub)
        one_of("strategy", strategy, get_args(Strategy), "Use 'epoch'.")
        if strategy == "steps" and (isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1):
            shown = steps if steps is None or isinstance(steps, (int, float)) else type(steps).__name__
            raise InputError("steps", "must be at least 1 with strategy='steps'", shown, "Pass steps=100, say.")
        if strategy != "steps" and steps is not None:
            raise InputError("steps", "goes with strategy='steps' only", steps, "Leave it out, or set the strategy.")
        if not isinstance(on_error, str) or on_error not in ("raise", "warn"):
            raise InputError("on_error", "must be 'raise' or 'warn'", on_error, "Use 'raise'.")
        self.measures = _checked_measures(measures)
        self.strategy, self.steps, self.on_error, self.baseline = strategy, steps, on_error, baseline
        self.push_to_hub = push_to_hub
        self._processing_class = processing_class
        self._trainer: Any = None
        self._state: TrainerState | None = None
        self._first_step = 0
        self._best_checkpoint: Path | None = None
        self._taps: list[Any] = []
        self._scheduled = [
            _Scheduled(one, RunLog(one.name, getattr(one, "record_from_dict", PlainRecord.from_dict)))
            for one in self.measures
        ]

    @property
    def records(self) -> dict[str, list[Record]]:
        """All records of this run, oldest first, by the name of their measure."""
        return {one.measure.name: one.records for one in self._scheduled}

    def attach(self, trainer: Any) -> Self:
        """Lets figures reach the trainer's trackers, and adds this callback to the trainer if it is absent.

        A callback never receives its trainer, and `trainer.log` is the only way to the trackers. The callback is
        moved to the front: an `EarlyStoppingCallback` reads the metrics in the order of the callbacks, and trackers
        close themselves in `on_train_end`.
        """
        if not hasattr(trainer, "callback_handler"):
            remedy = "Write callback.attach(trainer)."
            raise InputError("trainer", "must be a transformers Trainer", type(trainer).__name__, remedy)
        self._trainer = trainer
        callbacks = trainer.callback_handler.callbacks
        if self not in callbacks:
            trainer.add_callback(self)
        callbacks.remove(self)
        first = next((i for i, other in enumerate(callbacks) if not isinstance(other, DefaultFlowCallback)), 0)
        callbacks.insert(first, self)
        if self.push_to_hub:
            self._complete_cards(trainer)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check_arguments(args)
        check_parallelism(args)
        check_all_present(type(self).__name__)
        model = kwargs["model"]
        processes = Processes.of_job(model, calls_model=False)
        check_alike(processes, self._schedule(), _REMEDIES)
        self._claim_names(state)
        start = TrainingStart(
            model=model,
            tokenizer=self._tokenizer(kwargs.get("processing_class")),
            train_dataloader=kwargs.get("train_dataloader"),
            processes=processes,
            output_dir=Path(str(args.output_dir)),
            step=state.global_step,
            begins_again=args.auto_find_batch_size and self._failed_after_steps(state),
            is_first_process=state.is_world_process_zero,
        )
        with processes.barrier():
            self._prepare(start)
        self._state, self._first_step, self._best_checkpoint = state, state.global_step, None
        for one in self._scheduled:
            one.at_evaluations = self._chooses_best_model(one.measure, args) or self._measures_evaluations
            self._begin(one, start, args, state)
        if self.baseline and state.global_step == 0:
            self._measure(self._scheduled, args, state, model)
        self._open_tap(model, state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # This is measured already, except in a run that was killed after the last save of an epoch and before its
        # measurement.
        if state.global_step and state.epoch == int(state.epoch or 0):
            self._measure(self._due_after_epoch(args, state), args, state, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.strategy == "steps" and self.steps and state.global_step % self.steps == 0:
            self._measure(self._scheduled, args, state, kwargs["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        ends = control.should_training_stop or state.global_step >= state.max_steps
        # With load_best_model_at_end the final model is known only in on_train_end, so that "end" measures there.
        if self.strategy == "epoch" or (self.strategy == "end" and ends and not args.load_best_model_at_end):
            self._measure(self._scheduled, args, state, kwargs["model"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._state is not None:  # an evaluation before any training finds nothing prepared
            self._measure([one for one in self._scheduled if one.at_evaluations], args, state, kwargs["model"])
        if metrics is not None:
            for one in self._scheduled:
                if one.is_measured(state.global_step):
                    # This is the dict that best-model selection and early stopping read next, on every process.
                    metrics.update(one.metrics())

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for one in self._scheduled:
            self._save(one, args, state, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._close_tap()
        best_was_loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        self._best_checkpoint = Path(str(state.best_model_checkpoint)) if best_was_loaded else None
        for one in self._scheduled:
            # The loaded model differs from the one measured at this step: later evaluations must not repeat its
            # figures.
            one.is_stale |= best_was_loaded
        if self.strategy == "end":
            note = (
                f"measured on the best model, from step {state.best_global_step}, which was loaded at the end"
                if best_was_loaded
                else ""
            )
            self._measure(self._scheduled, args, state, kwargs["model"], note)
        elif not best_was_loaded:
            # As in on_epoch_begin, if no epoch is left.
            self._measure(self._due_after_epoch(args, state), args, state, kwargs["model"])

    def _failed_after_steps(self, state: TrainerState) -> bool:
        """Whether the training before this one began at the same step and failed after a later one.

        An open tap belongs to a training that ended without `on_train_end`.
        """
        if self._state is None or not self._taps:
            return False
        return state.global_step == self._first_step < self._state.global_step

    # Methods that a subclass for one measure overrides.

    @property
    def _measures_evaluations(self) -> bool:
        """Whether every evaluation measures, whatever figure chooses the best model."""
        return self.strategy == "eval"

    def _check_arguments(self, args: TrainingArguments) -> None:
        """Refuses settings of the trainer with which the callback cannot do what was asked."""
        if args.eval_strategy == "no" and self.strategy == "eval":
            rule = "'eval' needs evaluations, but eval_strategy is 'no'"
            raise InputError("strategy", rule, self.strategy, "Use 'epoch'.")
        if self.push_to_hub and self._trainer is None:
            rule = "needs callback.attach(trainer), since the trainer writes the card"
            raise InputError("push_to_hub", rule, True, "Attach it, or call push_to_hub of the record after training.")

    def _complete_cards(self, trainer: Any) -> None:
        """Adds the figures to the trainer's model cards."""
        complete_cards(trainer, self, lambda content, name, folder: card_with_runs(content, name, self._runs()))

    def _runs(self) -> list[Presented]:
        """For each measure that supports model cards, all its measurements as one record."""
        made = [
            cast(Any, one.measure).run_of(one.records)
            for one in self._scheduled
            if one.records and _has_runs(one.measure)
        ]
        return [run for run in made if run.can_be("card")]

    def _schedule(self) -> dict[str, object]:
        """The settings that decide when and how this process measures; they must be the same on all processes."""
        names = ", ".join(one.name for one in self.measures)
        return {"measures": names, "strategy": self.strategy, "steps": self.steps, "on_error": self.on_error,
            "baseline": self.baseline}  # fmt: skip

    def _name_is_taken(self, name: str, other: str) -> InputError:
        return _overlapping(name, other)

    def _prepare(self, start: TrainingStart) -> None:
        """Prepares the measures before the first step. A failure on one process must fail on all of them."""
        for measure in self.measures:
            if measure.needs_tokenizer and start.tokenizer is None:
                rule = "must be the tokenizer, since the trainer has none"
                remedy = f"Pass {type(self).__name__}({self._first_argument}, processing_class=tokenizer)."
                raise InputError("processing_class", rule, None, remedy)
            measure.prepare(start)
            _check_keys(measure.name, measure.metric_names())

    def _chooses_best_model(self, measure: Measure, args: TrainingArguments) -> bool:
        """Whether a key of the measure chooses the best model; refuses a key that is unknown or compared in the
        wrong direction.
        """
        key = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
        if not key.startswith(f"eval_{measure.name}_"):
            return False
        known, larger = measure.metric_names(), key in measure.larger_is_better
        if key not in known:
            remedy = f"Use one of {', '.join(known)}."
            raise InputError("metric_for_best_model", "must be a figure of this callback", key, remedy)
        if bool(args.greater_is_better) != larger:
            rule = f"would keep the {self._worst} checkpoint for metric_for_best_model={key!r}"
            remedy = f"Pass greater_is_better={larger} to TrainingArguments."
            raise InputError("greater_is_better", rule, args.greater_is_better, remedy)
        return True

    def _complete(self, record: Any, state: TrainerState, note: str, model: nn.Module) -> Any:
        """The record with its step and epoch. `note` says which model was measured, if it is not that of the step."""
        return _at_step(record, state.global_step, state.epoch)

    def _line(self, record: Any) -> str:
        """The line that is shown for a measurement."""
        figures = [f"{key.removeprefix('eval_')} {value:.4g}" for key, value in record.metrics().items()]
        more = f", and {len(figures) - _SHOWN_FIGURES} more" if len(figures) > _SHOWN_FIGURES else ""
        return f"step {record.step}: {', '.join(figures[:_SHOWN_FIGURES])}{more}"

    # Methods that are the same for every measure.

    def _shows(self, args: TrainingArguments, state: TrainerState) -> bool:
        return state.is_world_process_zero and not args.disable_tqdm

    def _announce(self, line: str, args: TrainingArguments, state: TrainerState) -> None:
        if self._shows(args, state):
            tqdm.write(line, file=sys.stderr)
        elif state.is_world_process_zero:
            _logger.info(line)

    def _claim_names(self, state: TrainerState) -> None:
        # The names are an attribute, not a dataclass field: each training has a new TrainerState, and only fields are
        # saved.
        taken: dict[str, int] = vars(state).setdefault("_measured_by", {})
        for measure in self.measures:
            for other, owner in taken.items():
                if owner != id(self) and _share_keys(measure.name, other):
                    raise self._name_is_taken(measure.name, other)
        taken.update({measure.name: id(self) for measure in self.measures})

    def _tokenizer(self, processing_class: Any) -> Any:
        tokenizer = self._processing_class if self._processing_class is not None else processing_class
        return getattr(tokenizer, "tokenizer", tokenizer)

    def _begin(self, one: _Scheduled, start: TrainingStart, args: TrainingArguments, state: TrainerState) -> None:
        """Opens the log, and restores the state of a resumed run and the entries that its checkpoint's history lacks.

        The checkpoint of an epoch's last step is written before `on_epoch_end`, where that epoch is measured.
        """
        measure, saved = one.measure, None
        if start.step:
            saved = load_state(_checkpoint(args, start.step), measure, args.process_index, start.processes)
            with start.processes.barrier():
                if saved is not None:
                    measure.load_state_dict(saved.state)
                elif measure.state_dict() and start.is_first_process:
                    where = f"the checkpoint of step {start.step} in {args.output_dir}"
                    warnings.warn(
                        f"{where} has no state of {measure.name!r}, so the measure starts again there", stacklevel=2
                    )
        last = start.step if saved is None else saved.measured
        one.records = one.log.start(str(args.output_dir), last, start.processes)
        one.record = one.records[-1] if one.records else None
        one.step = None if one.record is None else one.record.step
        if (
            saved is not None and saved.measured != one.step
        ):  # the last measurement failed, so only the state knows of it
            one.step, one.record = saved.measured, None
        one.is_stale, one.has_warned, one.broken = False, False, None
        keys = set(measure.metric_names())
        logged = {entry["step"] for entry in state.log_history if not keys.isdisjoint(entry)}
        for record in one.records:
            if record.step not in logged:
                _add_to_history(state, record.metrics(), record.step, record.epoch)

    def _due_after_epoch(self, args: TrainingArguments, state: TrainerState) -> list[_Scheduled]:
        """The measures that are due between the last step of an epoch, with its checkpoint, and the next epoch."""
        evaluates = args.eval_strategy == "epoch" and args.eval_delay <= (state.epoch or 0)
        return [one for one in self._scheduled if self.strategy == "epoch" or (evaluates and one.at_evaluations)]

    def _measure(
        self, due: Iterable[_Scheduled], args: TrainingArguments, state: TrainerState, model: nn.Module, note: str = ""
    ) -> None:
        """Measures what was not yet measured at this step, and logs it."""
        for one in due:
            if one.is_measured(state.global_step):
                continue
            with calls_shown(model, f"measuring {one.measure.name}", hidden=not self._shows(args, state)):
                one.record = self._measured(one, state, model, note)
            one.step, one.is_stale = state.global_step, False
            if one.record is not None:
                one.records.append(one.record)
                self._append(one, args, state, model)
                self._announce(self._line(one.record), args, state)
            self._log(state, one.metrics())

    def _measured(self, one: _Scheduled, state: TrainerState, model: nn.Module, note: str) -> Any:
        """The record, or None if the measurement failed on any process and `on_error` is "warn"."""
        try:
            with Processes.of_job(model).barrier(), left_as_found(model):
                if one.broken is not None:
                    raise one.broken
                record = self._complete(one.measure.measure(model), state, note, model)
                _check_keys(one.measure.name, record.metrics())
                return record
        except OutOfStepError:
            raise  # continuing would leave the other processes waiting
        except Exception as error:
            self._fail(one, error, "could not be measured", self._remedy, meanwhile=" and is logged as NaN")
            return None

    def _append(self, one: _Scheduled, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        try:
            with Processes.of_job(model, calls_model=False).barrier():
                if state.is_world_process_zero:
                    is_read = hasattr(one.measure, "record_from_dict")
                    one.log.append(str(args.output_dir), one.record if is_read else PlainRecord.of(one.record))
        except (OSError, ExposureError, TypeError, ValueError) as error:
            remedy = (
                "Free disk space there, or name another output_dir; on_error='warn' continues training without the "
                "log."
            )
            self._fail(one, error, f"could not be written to {args.output_dir}", remedy)

    def _save(self, one: _Scheduled, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        """Saves the state of the measure in this process to the checkpoint of this step.

        A measure that missed a batch is not saved: a resumed run could not know, so it restarts the measure and warns.
        """
        processes = Processes.of_job(model, calls_model=False)
        place = _checkpoint(args, state.global_step)
        try:
            with processes.barrier():
                if one.broken is None:
                    save_state(place, one.measure, args.process_index, processes.count, one.step)
        except Exception as error:
            remedy = (
                "Free disk space there; on_error='warn' continues training, and a resumed run restarts the measure."
            )
            self._fail(one, error, f"could not be saved in {place}", remedy)

    def _open_tap(self, model: nn.Module, state: TrainerState) -> None:
        self._close_tap()
        seeing = [one for one in self._scheduled if hasattr(one.measure, "on_batch")]
        hearing = [one for one in self._scheduled if hasattr(one.measure, "on_output")]

        def receive(inputs: dict[str, Any]) -> None:
            for one in seeing:
                self._give(one, "on_batch", SeenBatch(inputs=inputs, step=state.global_step))

        def receive_output(inputs: dict[str, Any], output: Any) -> None:
            for one in hearing:
                self._give(one, "on_output", SeenBatch(inputs=inputs, step=state.global_step), output)

        if seeing:
            self._taps.append(tap_batches(unwrap_model(model), receive))
        if hearing:
            self._taps.append(tap_outputs(unwrap_model(model), receive_output))

    def _close_tap(self) -> None:
        while self._taps:
            self._taps.pop().remove()

    def _give(self, one: _Scheduled, member: str, *what: Any) -> None:
        """Passes a batch of this process to a measure. With `on_error="warn"` a failure shows at the next
        measurement, on all processes.
        """
        if one.broken is not None:
            return
        try:
            getattr(one.measure, member)(*what)
        except Exception as error:
            one.broken = error
            if self.on_error == "raise":
                self._fail(one, error, "failed on a training batch", self._remedy)

    def _log(self, state: TrainerState, metrics: dict[str, float]) -> None:
        # The state is another trainer's: the callback was attached once and is now used by a second trainer.
        if self._trainer is None or self._trainer.state is not state:
            _add_to_history(state, metrics, state.global_step, state.epoch)
            return
        # trainer.log clears should_log, and with it the training loss that is due at this step.
        should_log = self._trainer.control.should_log
        self._trainer.log(dict(metrics))
        self._trainer.control.should_log = should_log

    def _fail(self, one: _Scheduled, error: Exception, what: str, remedy: str, meanwhile: str = "") -> None:
        """Raises an error with the remedy, or warns the first time, saying what is done meanwhile."""
        name, cause = one.measure.name, f"{type(error).__name__}: {error}"
        if self.on_error == "raise":
            self._close_tap()  # the training ends without on_train_end
            if isinstance(error, ExposureError):
                raise error
            # The error is wrapped: with auto_find_batch_size the trainer would take an out-of-memory error for its
            # own, and silently start again with half the batch size.
            raise ExposureError(f"{name} {what}: {cause}. {remedy}") from error
        if not one.has_warned:
            one.has_warned = True
            warnings.warn(f"{name} {what}{meanwhile}: {cause}", stacklevel=2)


def _has_runs(measure: Any) -> bool:
    return callable(getattr(measure, "run_of", None))


def _checked_measures(measures: Any) -> tuple[Measure, ...]:
    """One or several as a tuple.

    Raises:
        InputError: there is no measure, an object is no measure, or names would share keys.
    """
    remedy = "Pass an object with the members of hf_exposure.measures.Measure, or a list of them."
    given = (measures,) if hasattr(measures, "measure") or not isinstance(measures, Iterable) else tuple(measures)
    if not given or isinstance(measures, str):
        raise InputError("measures", "must be a measure or several", measures, remedy)
    for one in given:
        missing = [name for name in _MEMBERS if not callable(getattr(one, name, None))]
        missing += [name for name in ("name", "larger_is_better", "needs_tokenizer") if not hasattr(one, name)]
        if missing or isinstance(one, type):
            rule = f"must be measures, which have {', '.join(missing)}" if missing else "must be objects, not classes"
            raise InputError("measures", rule, type(one).__name__, remedy)
        if not isinstance(one.name, str) or not one.name.isidentifier():
            raise InputError("measures", "must have names that are Python identifiers", one.name, "Rename it.")
    for number, one in enumerate(given):
        for other in given[:number]:
            if _share_keys(one.name, other.name):
                raise _overlapping(one.name, other.name)
    return given


def _check_keys(name: str, keys: Iterable[str]) -> None:
    """Refuses keys that could be confused with those of another measure or of the trainer itself."""
    prefix = f"eval_{name}_"
    if wrong := [key for key in keys if not key.startswith(prefix)]:
        rule = f"must have keys that begin with {prefix}"
        raise InputError("measures", rule, wrong, "Rename them in metric_names and in the records.")


def _share_keys(name: str, other: str) -> bool:
    """Whether two measures could have the same key: one name begins with the other, up to an underscore."""
    return f"{name}_".startswith(f"{other}_") or f"{other}_".startswith(f"{name}_")


def _overlapping(name: str, other: str) -> InputError:
    same = "the same keys and the same file" if name == other else "keys that cannot be told apart"
    rule = f"must have different names, none of which begins with another: two would write {same}"
    return InputError("measures", rule, f"{other}, {name}", "Give one of them another name.")


def _at_step(record: Any, step: int, epoch: float | None) -> Any:
    """A copy of the record with its step and epoch; the record is a dataclass, a pydantic model, or any object with
    such attributes.
    """
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return replace(cast(Any, record), step=step, epoch=epoch)
    if hasattr(record, "model_copy"):  # pydantic's
        return record.model_copy(update={"step": step, "epoch": epoch})
    copied = copy.copy(record)
    copied.step, copied.epoch = step, epoch
    return copied


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def _add_to_history(state: TrainerState, metrics: dict[str, float], step: int | None, epoch: float | None) -> None:
    """Does what `Trainer.log` does, without the trackers."""
    values: dict[str, Any] = {**metrics, **({} if epoch is None else {"epoch": epoch}), "step": step}
    state.log_history.append(values)
