"""Exposure during training: a `TrainerCallback` that chooses the step, measures, and logs. It computes nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Unpack, get_args

import numpy as np
from torch import nn
from transformers import DefaultFlowCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import flag, instance_of, one_of
from hf_exposure.data import DeliveryReport, check_dataloader
from hf_exposure.errors import ExposureError, InputError, OutOfStepError
from hf_exposure.hub.push import complete_cards, write_published
from hf_exposure.hub.trackers import attach_report
from hf_exposure.measures import ExposureMeter, MeasureOptions, MeasureSettings
from hf_exposure.measures.base_model import BaseModel, check_base_model
from hf_exposure.measures.limited_loss import exposure_limited_loss, highest_mean_bits
from hf_exposure.records import ExposureReport
from hf_exposure.report.run import append_report, start_log
from hf_exposure.runtime.job import call_roll, check_parallelism
from hf_exposure.runtime.processes import Processes

Strategy = Literal["steps", "epoch", "eval", "end"]
_PREFIX = "eval_exposure_"
# Keys of which a larger value means less memorisation, or nothing; all others grow with it.
_LARGER_IS_BETTER = ("eval_exposure_p_value",)
_LIMITED = "exposure_limited_loss"


class ExposureCallback(TrainerCallback):
    """Measures the canaries' exposure while a `Trainer` trains.

    The figures reach `log_history` and the metrics of each evaluation, hence `metric_for_best_model` and early
    stopping: `max_exposure=X` with `metric_for_best_model="eval_exposure_limited_loss"` finds the best model whose
    exposure is at most X. After `callback.attach(trainer)` they reach every `report_to` tracker too. Every report is
    also appended to `_exposure.jsonl` in the output folder, which is cut back to the checkpoint's step on resume.
    Model mode, random state, tokenizer, arguments and control flags are left as found: training is the same as without
    the callback.

    An `EarlyStoppingCallback` that watches an exposure key must come after this one in `callbacks=[...]`: it reads
    what stands in the metrics when its turn comes. `attach` sees to the order.

    Args:
        canaries: the set that was inserted.
        strategy: "epoch" measures at the end of each epoch, "steps" every `steps` optimiser steps, "eval" at each
            evaluation, "end" once, after the last step. Where an exposure key chooses the best model, each
            evaluation measures too, since the trainer needs the key there.
        steps: with `strategy="steps"`.
        processing_class: the tokenizer; the trainer's own by default.
        on_error: "raise", or "warn" to log NaN figures with one warning and train on when a measurement fails. A
            failure on one process is one on all, except inside a sharded model, where it ends the job.
        require_delivery: whether a canary that the trainer's data do not train on is an error when training starts.
            None, the default: an error wherever the data can be read in advance (a stream cannot). True: an error too
            where they cannot be read. False: a warning, and every report of the run says INVALID.
        max_exposure: a limit in bits for the mean exposure of the inserted canaries. Every evaluation then measures,
            and logs `eval_exposure_limited_loss`: its loss where the exposure is at most the limit, else a number
            that is worse than any loss (10^30 and more, growing with exposure). A figure that is a lower bound counts
            with the top of its interval. Of several evaluation sets, each has a figure of its own
            (`eval_{name}_exposure_limited_loss`).
        push_to_hub: let what the trainer pushes hold the rounded figures, in its model card and in `exposure/`; needs
            `attach`.
        base_model: as for `measure_exposure`.
        **measure_arguments: those of `ExposureMeter`: method, references, seed, context, ...

    Attributes:
        report: the last `ExposureReport`, None before the first.
        reports: all of this run, those before a resume included.
        delivery: what of the canaries arrives in an epoch, known once training started (`check_delivery`).

    Raises:
        InputError: an unknown strategy or argument, `steps` missing or out of place; at the start of training: no
            tokenizer, `strategy="eval"` without evaluations, a best-model metric that does not exist or would keep the
            most memorised checkpoint, a second `ExposureCallback`, a canary longer than the model's context, one that
            does not arrive (unless `require_delivery` is False), a process of the job without this callback, context
            or sequence parallelism; an evaluation without a loss, with `max_exposure`.
        ProcessesDifferError: processes of the job were given other canaries, settings or tokenizers.
        ExposureError: a measurement failed, with `on_error="raise"`.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 6 measures during training.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(4)), {1: 2}, controls=2, seed=0)
        >>> callback = ExposureCallback(canaries, strategy="steps", steps=50, references=256)
        >>> callback.report is None         # trainer = Trainer(..., callbacks=[callback]); callback.attach(trainer)
        True
    """

    def __init__(
        self,
        canaries: CanarySet,
        strategy: Strategy = "epoch",
        steps: int | None = None,
        processing_class: Any = None,
        on_error: Literal["raise", "warn"] = "raise",
        *,
        require_delivery: bool | None = None,
        max_exposure: float | None = None,
        push_to_hub: bool = False,
        base_model: BaseModel | None = None,
        **measure_arguments: Unpack[MeasureOptions],
    ) -> None:
        instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
        one_of("strategy", strategy, get_args(Strategy), "Use 'epoch'.")
        if strategy == "steps" and (isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1):
            shown = steps if steps is None or isinstance(steps, (int, float)) else type(steps).__name__
            raise InputError("steps", "must be at least 1 with strategy='steps'", shown, "Pass steps=100, say.")
        if strategy != "steps" and steps is not None:
            raise InputError("steps", "goes with strategy='steps' only", steps, "Leave it out, or set the strategy.")
        if not isinstance(on_error, str) or on_error not in ("raise", "warn"):
            raise InputError("on_error", "must be 'raise' or 'warn'", on_error, "Use 'raise'.")
        if require_delivery is not None and not isinstance(require_delivery, bool):
            given = type(require_delivery).__name__
            raise InputError("require_delivery", "must be None, True or False", given, "Leave it out for None.")
        flag("push_to_hub", push_to_hub)
        if max_exposure is not None:
            _check_limit(max_exposure, canaries)
        self._base_model = base_model
        # Refused at construction, not when training starts.
        MeasureSettings.of("ExposureCallback or measure_exposure", **measure_arguments)
        self.canaries, self.strategy, self.steps, self.on_error = canaries, strategy, steps, on_error
        self.max_exposure, self.push_to_hub = max_exposure, push_to_hub
        self.reports: list[ExposureReport] = []
        self._processing_class, self._measure_arguments = processing_class, measure_arguments
        self._meter: ExposureMeter | None = None
        self._trainer: Any = None
        self._every_evaluation = strategy == "eval" or max_exposure is not None
        self._last_step: int | None = None
        self._last_mean_bits = math.nan
        self._last_metrics: dict[str, float] = {}
        self._warned = False
        self._require_delivery = require_delivery
        self.delivery: DeliveryReport | None = None

    @property
    def report(self) -> ExposureReport | None:
        """The last measurement."""
        return self.reports[-1] if self.reports else None

    def attach(self, trainer: Any) -> ExposureCallback:
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
            complete_cards(trainer, self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.eval_strategy == "no":
            if self.strategy == "eval":
                rule = "'eval' needs evaluations, but eval_strategy is 'no'"
                raise InputError("strategy", rule, self.strategy, "Use 'epoch'.")
            if self.max_exposure is not None:
                rule = "needs evaluations, but eval_strategy is 'no'"
                raise InputError("max_exposure", rule, self.max_exposure, "Pass eval_strategy='epoch'.")
        if self.push_to_hub and self._trainer is None:
            rule = "needs callback.attach(trainer), since a card is the trainer's to write"
            raise InputError("push_to_hub", rule, True, "Attach it, or call report.push_to_hub after training.")
        chooses_best_model = self._chooses_best_model(args, warn=state.is_world_process_zero)
        self._every_evaluation = self.strategy == "eval" or self.max_exposure is not None or chooses_best_model
        check_parallelism(args)
        check_base_model(kwargs["model"], self._base_model)
        call_roll("ExposureCallback")
        processes = self._processes(kwargs["model"])
        with processes.together():
            self._prepare(kwargs.get("processing_class"), across_processes=args.world_size > 1)
            self._check_start(state, kwargs.get("model"), kwargs.get("train_dataloader"))
        assert self._meter is not None
        self._meter.check_alike(processes, self._schedule())
        self.reports = start_log(str(args.output_dir), state.global_step, self._processes(kwargs["model"]))
        self._last_step, self._last_metrics, self._last_mean_bits, self._warned = None, {}, math.nan, False
        if state.global_step:
            self._rejoin(state)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Measured already, but for a run that was killed after the last save of an epoch and before its measurement.
        if self.strategy == "epoch" and state.global_step and state.epoch == int(state.epoch or 0):
            self._measure_once(args, state, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.strategy == "steps" and self.steps and state.global_step % self.steps == 0:
            self._measure_once(args, state, kwargs["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        ends = control.should_training_stop or state.global_step >= state.max_steps
        # A best model that is loaded at the end is not the one of the last step: that one waits for on_train_end.
        if self.strategy == "epoch" or (self.strategy == "end" and ends and not args.load_best_model_at_end):
            self._measure_once(args, state, kwargs["model"])

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._every_evaluation and self._meter is not None:
            self._measure_once(args, state, kwargs["model"])
        if metrics is not None and self._last_step == state.global_step:
            # The very dict that best-model selection and early stopping read next, on every process.
            metrics.update(self._last_metrics)
            if self.max_exposure is not None:
                limited = self._limited(metrics, self.max_exposure)
                metrics.update(limited)
                self._log(state, limited)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        best_was_loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        if best_was_loaded:
            # Another model than the one measured at this step: an evaluation from here on must not repeat its figures.
            self._last_step = None
        if self.strategy == "end":
            note = f"of the best model, of step {state.best_global_step}, loaded at the end" if best_was_loaded else ""
            self._measure_once(args, state, kwargs["model"], note)
        elif self.strategy == "epoch" and not best_was_loaded:
            # As in on_epoch_begin, where no epoch is left.
            self._measure_once(args, state, kwargs["model"])
        if self._trainer is not None and self._trainer.state is state and state.is_world_process_zero:
            attach_report(self.reports, self._trainer.callback_handler.callbacks, self.canaries)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.push_to_hub and state.is_world_process_zero:
            write_published(self.reports, str(args.output_dir), self.canaries)

    def _prepare(self, processing_class: Any, *, across_processes: bool = False) -> None:
        tokenizer = self._processing_class if self._processing_class is not None else processing_class
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if tokenizer is None:
            raise InputError(
                "processing_class",
                "must be the tokenizer, since the trainer has none",
                None,
                "Pass ExposureCallback(canaries, processing_class=tokenizer).",
            )
        if self._meter is None or self._meter.tokenizer is not tokenizer:
            self._meter = ExposureMeter(
                self.canaries, tokenizer, across_processes=across_processes, **self._measure_arguments
            )

    def _check_start(self, state: TrainerState, model: Any, dataloader: Any) -> None:
        """Refuses at the start what would be found out after hours, and looks at what is trained on."""
        assert self._meter is not None
        # The state is new in each training, and no field of it: it is not saved.
        if vars(state).setdefault("_measured_by", id(self)) != id(self):
            rule = "must hold one ExposureCallback: two would write the same keys and the same file"
            raise InputError("callbacks", rule, "two", "Measure the second set of canaries in a run of its own.")
        if model is not None:
            self._meter.check_fits(model)
        self.delivery = None
        if dataloader is not None:
            self.delivery = check_dataloader(
                dataloader,
                self.canaries,
                self._meter.tokenizer,
                context=self._meter.settings.context,
                source=self._meter.settings.source,
                require=self._require_delivery,
                warn=state.is_world_process_zero,
            )

    def _schedule(self) -> dict[str, object]:
        """What decides when this process measures and what it then does: the same on all processes."""
        base = self._base_model if isinstance(self._base_model, str) else type(self._base_model).__name__
        return {
            "strategy": self.strategy,
            "steps": self.steps,
            "on_error": self.on_error,
            "max_exposure": self.max_exposure,
            "base_model": base,
        }

    def _limited(self, metrics: Mapping[str, float], max_exposure: float) -> dict[str, float]:
        """The loss of an evaluation under the limit, by its key; `evaluate` has named all keys alike."""
        # Every evaluation times itself, whatever else it computes, which tells the prefix of its keys.
        prefixes = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")]
        prefix = next((prefix for prefix in prefixes if f"{prefix}_loss" in metrics), None)
        if prefix is None:
            rule = f"needs the loss of each evaluation, but {(prefixes or ['eval'])[0]}_loss is not among its metrics"
            remedy = "Evaluate on rows with labels, with a model that returns a loss."
            raise InputError("max_exposure", rule, sorted(metrics), remedy)
        loss = exposure_limited_loss(metrics[f"{prefix}_loss"], self._last_mean_bits, max_exposure)
        return {f"{prefix}_{_LIMITED}": loss}

    def _with_delivery(self, report: ExposureReport, epoch: float | None) -> ExposureReport:
        if self.delivery is None:
            return report
        notes = (*report.notes, *self.delivery.problems, *filter(None, [self.delivery.note]))
        dosed = report.with_doses(self.delivery.doses_per_epoch, epoch or 0.0)
        return replace(dosed, notes=notes, delivery=self.delivery.counted(epoch or 0.0))

    def _chooses_best_model(self, args: TrainingArguments, *, warn: bool) -> bool:
        """Whether an exposure key chooses the best model; refuses one that is unknown or the wrong way round."""
        if self._limits_loss(args):
            return True
        key = args.metric_for_best_model
        if key is None or not f"eval_{key.removeprefix('eval_')}".startswith(_PREFIX):
            return False
        key = f"eval_{key.removeprefix('eval_')}"
        known = self._metric_keys()
        if key not in known:
            raise InputError(
                "metric_for_best_model", "must be a figure of this callback", key, f"Use one of {', '.join(known)}."
            )
        if bool(args.greater_is_better) != (key in _LARGER_IS_BETTER):
            raise InputError(
                "greater_is_better",
                f"would keep the most memorised checkpoint for metric_for_best_model={key!r}",
                args.greater_is_better,
                f"Pass greater_is_better={key in _LARGER_IS_BETTER} to TrainingArguments.",
            )
        if warn:
            advice = (
                f"metric_for_best_model={key!r} keeps the checkpoint that memorized least, which is mostly the one "
                "that was trained least. For the best model whose exposure is at most X bits, pass max_exposure=X to "
                f"ExposureCallback and metric_for_best_model='eval_{_LIMITED}'."
            )
            warnings.warn(advice, stacklevel=2)
        return True

    def _limits_loss(self, args: TrainingArguments) -> bool:
        """Whether the loss under the limit chooses the best model, of the one evaluation set or of one among many."""
        key = args.metric_for_best_model
        if key is None or not key.endswith(_LIMITED):
            return False
        if self.max_exposure is None:
            rule = f"needs a limit: {_LIMITED} is the loss where exposure is within it"
            raise InputError("metric_for_best_model", rule, key, "Pass ExposureCallback(canaries, max_exposure=X).")
        if args.greater_is_better:
            rule = f"would keep the worst checkpoint for metric_for_best_model={key!r}"
            raise InputError("greater_is_better", rule, True, "Pass greater_is_better=False to TrainingArguments.")
        # Whoever is not attached does not know the evaluation sets; the trainer then fails at its first evaluation.
        several = getattr(self._trainer, "eval_dataset", None)
        known = [f"eval_{name}_{_LIMITED}" for name in several] if isinstance(several, dict) else []
        if known and f"eval_{key.removeprefix('eval_')}" not in known:
            rule = "must name one of several evaluation sets, each of which has a figure of its own"
            raise InputError("metric_for_best_model", rule, key, f"Use one of {', '.join(known)}.")
        return True

    def _metric_keys(self) -> list[str]:
        names = ["mean", "median", "max", "rank1_fraction", "seconds"]
        names += [f"x{repetitions}_mean" for repetitions in self.canaries.repetition_counts]
        names += ["controls_mean", "p_value"] if self.canaries.controls else []
        return [_PREFIX + name for name in names]

    def _rejoin(self, state: TrainerState) -> None:
        """Gives the history of a resumed run what its checkpoint lacks.

        The checkpoint of an epoch's last step is written before `on_epoch_end`, where that epoch is measured.
        """
        logged = {entry["step"] for entry in state.log_history if f"{_PREFIX}mean" in entry}
        for report in self.reports:
            if report.step not in logged:
                _add_to_history(state, report.metrics(), report.step, report.epoch)
        if self.report is not None and self.report.step == state.global_step:
            self._last_step, self._last_metrics = self.report.step, self.report.metrics()
            self._last_mean_bits = highest_mean_bits(self.report)

    def _measure_once(self, args: TrainingArguments, state: TrainerState, model: nn.Module, note: str = "") -> None:
        """Measures unless this step was measured already, and logs."""
        if self._last_step == state.global_step:
            return
        assert self._meter is not None
        try:
            report = self._meter.measure(model, base_model=self._base_model)
        except OutOfStepError:
            raise  # to train on would leave the other processes waiting
        except (ExposureError, RuntimeError, MemoryError) as error:
            remedy = "A smaller max_batch_tokens needs less memory; on_error='warn' trains on without the figures."
            self._fail(error, "could not be measured", remedy, meanwhile=" and is logged as NaN")
            metrics, mean_bits = dict.fromkeys(self._metric_keys(), math.nan), math.nan
        else:
            notes = (*report.notes, note) if note else report.notes
            report = replace(report, step=state.global_step, epoch=state.epoch, notes=notes)
            report = self._with_delivery(report, state.epoch)
            self.reports.append(report)
            metrics, mean_bits = report.metrics(), highest_mean_bits(report)
            try:
                with self._processes(model).together():
                    if state.is_world_process_zero:
                        append_report(str(args.output_dir), report)
            except (OSError, ExposureError) as error:
                remedy = "Make room there, or name another output_dir; on_error='warn' trains on without the log."
                self._fail(error, f"could not be written to {args.output_dir}", remedy)
        self._last_step, self._last_metrics, self._last_mean_bits = state.global_step, metrics, mean_bits
        self._log(state, metrics)

    def _processes(self, model: nn.Module) -> Processes:
        return Processes.of_job(model, calls_model=False)

    def _log(self, state: TrainerState, metrics: dict[str, float]) -> None:
        # Another trainer's state: the callback was attached once, and went on to a second trainer.
        if self._trainer is None or self._trainer.state is not state:
            _add_to_history(state, metrics, state.global_step, state.epoch)
            return
        # trainer.log clears should_log, and with it the training loss that was due at this very step.
        should_log = self._trainer.control.should_log
        self._trainer.log(dict(metrics))
        self._trainer.control.should_log = should_log

    def _fail(self, error: Exception, what: str, remedy: str, meanwhile: str = "") -> None:
        """Raises with the remedy, or warns the first time, and of what is done meanwhile."""
        cause = f"{type(error).__name__}: {error}"
        if self.on_error == "raise":
            if isinstance(error, ExposureError):
                raise error
            # Not as it came: with auto_find_batch_size the trainer takes an out-of-memory error for its own, and
            # silently begins again with half the batch.
            raise ExposureError(f"exposure {what}: {cause}. {remedy}") from error
        if not self._warned:
            self._warned = True
            warnings.warn(f"exposure {what}{meanwhile}: {cause}", stacklevel=2)


def _check_limit(max_exposure: Any, canaries: CanarySet) -> None:
    remedy = "Use 4.0, say: chance has 1.44 bits on average."
    if not isinstance(max_exposure, (int, float)) or isinstance(max_exposure, bool) or not max_exposure >= 0:
        raise InputError("max_exposure", "must be a number of bits of at least 0", max_exposure, remedy)
    highest = canaries.log2_space_size
    if max_exposure >= highest:
        rule = f"must be below {highest:.1f} bits, which no exposure exceeds in a space of that size"
        raise InputError("max_exposure", rule, max_exposure, remedy)


def _add_to_history(state: TrainerState, metrics: dict[str, float], step: int | None, epoch: float | None) -> None:
    """What `Trainer.log` does, but for the trackers."""
    values: dict[str, Any] = {**metrics, **({} if epoch is None else {"epoch": epoch}), "step": step}
    state.log_history.append(values)
