"""Exposure during training: `MeasureCallback` for one set of canaries, with delivery checks, doses and an exposure
limit.

With a limit, one figure chooses a checkpoint: the evaluation loss, as long as exposure stays within the limit.
Exposure rises while a model trains, so the checkpoint with the least exposure is usually the one that has learned
least. Users want the lowest loss among the checkpoints whose exposure is at most X. A trainer compares one number, so
every checkpoint beyond the limit gets a number that is worse than any within it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_exposure.callback.measure_callback import MeasureCallback, Strategy
from hf_exposure.callback.state_files import load_state
from hf_exposure.canaries import CanarySet
from hf_exposure.data import DeliveryReport, check_dataloader
from hf_exposure.data.datasets import dataset_facts
from hf_exposure.errors import InputError
from hf_exposure.hub.push import card_with_report, complete_cards, write_published
from hf_exposure.hub.trackers import attach_report
from hf_exposure.measures import MeasureOptions
from hf_exposure.measures.base_model import BaseModel
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.measures.protocol import Measure, TrainingStart
from hf_exposure.records import Doses, ExposureReport, Uncounted, Validity
from hf_exposure.records.run_facts import highest_mean_bits
from hf_exposure.report.forecast import forecast_exposures, forecast_words
from hf_exposure.report.verdict import measurement_line
from hf_exposure.runtime.processes import Processes
from hf_exposure.runtime.weights_hash import weights_sha256

OVER_LIMIT = 1e30
"""Figures beyond the limit begin here and grow with exposure. They fit a float32, in which trackers store figures."""
UNDEFINED = 1e38
"""The figure if the loss or the exposure is unknown, which is worse than any exposure."""


def exposure_limited_loss(loss: float, mean_exposure_bits: float, max_exposure_bits: float) -> float:
    """The loss if exposure is at most the limit, else a number that is worse than any loss. Always finite.

    Beyond the limit, less exposure is better, whatever the loss: if no checkpoint is within the limit, the least
    exposed one is chosen, and early stopping notices that training moves away from the limit.

    Example:
        >>> [exposure_limited_loss(loss, bits, 4.0) for loss, bits in [(3.2, 1.4), (2.9, 4.0), (2.7, 7.0)]]
        [3.2, 2.9, 8e+30]
    """
    if not math.isfinite(loss) or math.isnan(mean_exposure_bits) or loss >= OVER_LIMIT:
        return UNDEFINED
    if mean_exposure_bits <= max_exposure_bits:
        return float(loss)
    return min(OVER_LIMIT * (1.0 + mean_exposure_bits), UNDEFINED)


_LIMITED = "exposure_limited_loss"
_NOTHING_READ = DeliveryReport(canaries=(), rows=0, complete=False)


# The arguments of the trainer that a report records.
_OF_TRAINING = (
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "seed",
)


class ExposureCallback(MeasureCallback):
    """Measures the canaries' exposure while a `Trainer` trains.

    The figures reach `log_history` and the metrics of each evaluation, hence `metric_for_best_model` and early
    stopping: `max_exposure=X` with `metric_for_best_model="eval_exposure_limited_loss"` finds the best model whose
    exposure is at most X. After `callback.attach(trainer)` they reach every `report_to` tracker too. Every report is
    also appended to `_exposure.jsonl` in the output folder, which is cut back to the checkpoint's step on resume.
    Model mode, random state, tokenizer, arguments and control flags are left unchanged: training is the same as
    without the callback.

    An `EarlyStoppingCallback` that watches an exposure key must come after this one in `callbacks=[...]`: it reads the
    metrics as they are when it is called. `attach` ensures this order.

    Args:
        canaries: the inserted set.
        strategy: "epoch" measures at the end of each epoch, "steps" every `steps` optimizer steps, "eval" at each
            evaluation, "end" once, after the last step. If an exposure key chooses the best model, each evaluation
            measures too, since the trainer needs the key there.
        steps: the interval in optimizer steps, with `strategy="steps"` only.
        processing_class: the tokenizer; the trainer's own by default.
        on_error: "raise", or "warn" to log NaN figures with one warning and continue training when a measurement
            fails. A failure on one process counts on all, except inside a sharded model, where it ends the job.
        require_delivery: whether it is an error, when training starts, if the trainer's data do not train on a canary.
            None, the default: an error if the data can be read in advance (a stream cannot). True: also an error if
            they cannot be read. False: a warning, and every report of the run says INVALID.
        max_exposure: a limit in bits for the mean exposure of the inserted canaries. Every evaluation then measures,
            and logs `eval_exposure_limited_loss`: its loss if the exposure is at most the limit, else a number that is
            worse than any loss (10^30 and more, growing with exposure). A lower bound counts as the top of its
            interval. Each of several evaluation sets has its own figure (`eval_{name}_exposure_limited_loss`).
        push_to_hub: add the rounded figures to what the trainer pushes, in its model card and in `exposure/`; needs
            `attach`.
        base_model: as for `measure_exposure`.
        count_doses: count in the training batches how often each canary is trained on, whatever packing, sampling,
            streams and resumes do to the data. It costs far less than 1 % of a training step.
        baseline: measure before the first step too, as step 0, to find canaries that the model favors before it sees
            them.
        **measure_arguments: the arguments of `ExposureMeter`: method, references, seed, context, ...

    Attributes:
        report: the last `ExposureReport`; None before the first measurement.
        reports: all reports of this run, including those before a resume.
        delivery: which canaries arrive in an epoch, known once training has started (`check_delivery`).
        doses: {canary id: how many times its whole text contributed to the loss until now}, counted in the training
            batches of all processes. Empty before training; NaN if it could not be counted; `report.doses.uncounted`
            gives the reason. In a job of several processes it is as of the last measurement, checkpoint or end of
            training. If the best model is loaded at the end, the last report has the doses of its checkpoint, while
            this attribute covers the whole training. With `count_doses=False` it is an estimate: the insertions that
            arrive in an epoch times the epochs trained.

    Raises:
        InputError: the strategy or an argument is unknown, or `steps` is missing or misplaced; when training starts,
            there is no tokenizer, `strategy="eval"` has no evaluations, the best-model metric does not exist or would
            keep the most memorized checkpoint, there is a second `ExposureCallback`, a canary is longer than the
            model's context or does not arrive (unless `require_delivery` is False), a process of the job lacks this
            callback, or the job uses context or sequence parallelism; or, with `max_exposure`, an evaluation has no
            loss.
        ProcessesDifferError: the processes of the job have different canaries, settings or tokenizers.
        ExposureError: a measurement failed, with `on_error="raise"`.

    Source: Carlini et al. 2019, "The Secret Sharer", Sections 7.1 (after every batch) and 7.2 (over epochs).

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, ExposureCallback, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(4)), {1: 2}, controls=2, seed=0)
        >>> callback = ExposureCallback(canaries, strategy="steps", steps=50, references=256)
        >>> callback.report is None         # trainer = Trainer(..., callbacks=[callback]); callback.attach(trainer)
        True
    """

    _worst, _first_argument = "most memorized", "canaries"
    _remedy = "A smaller max_batch_tokens needs less memory; on_error='warn' continues training without the figures."

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
        count_doses: bool = True,
        baseline: bool = False,
        **measure_arguments: Unpack[MeasureOptions],
    ) -> None:
        exposure = ExposureMeasure(canaries, base_model=base_model, count_doses=count_doses, **measure_arguments)
        super().__init__(
            exposure, strategy, steps, processing_class, on_error, baseline=baseline, push_to_hub=push_to_hub
        )
        if require_delivery is not None and not isinstance(require_delivery, bool):
            given = type(require_delivery).__name__
            raise InputError("require_delivery", "must be None, True or False", given, "Leave it out for None.")
        if max_exposure is not None:
            _check_limit(max_exposure, canaries)
        self.canaries, self.max_exposure = canaries, max_exposure
        self.delivery: DeliveryReport | None = None
        self._exposure, self._require_delivery = exposure, require_delivery
        self._is_first_process, self._rank = True, 0
        self._run_name, self._run_arguments = "", dict[str, Any]()
        self._dataset_facts: dict[str, Any] = {}

    @property
    def reports(self) -> list[ExposureReport]:
        """All measurements of this run, oldest first."""
        return self._scheduled[0].records

    @property
    def report(self) -> ExposureReport | None:
        """The last measurement."""
        return self.reports[-1] if self.reports else None

    @property
    def doses(self) -> dict[str, float]:
        """How many times the whole text of each canary contributed to the loss until now, by canary id."""
        if self._state is None:
            return {}
        epochs = self._state.epoch or 0.0
        doses = self._exposure.doses(epochs)
        if doses.counted:
            return {one.canary_id: float(one.whole) for one in doses.counted}
        if doses.uncounted is not Uncounted.SWITCHED_OFF:
            return {canary.id: math.nan for canary in self.canaries}
        if self.delivery is None:
            return {}
        return {canary_id: epochs * dose for canary_id, dose in self.delivery.doses_per_epoch.items()}

    def _complete_cards(self, trainer: Any) -> None:
        complete_cards(trainer, self, functools.partial(card_with_report, self))

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().on_evaluate(args, state, control, metrics, **kwargs)
        is_measured = self._scheduled[0].is_measured(state.global_step)
        if metrics is not None and self.max_exposure is not None and is_measured:
            limited = self._limited(metrics, self.max_exposure)
            metrics.update(limited)
            self._log(state, limited)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_end(args, state, control, **kwargs)
        doses = self._exposure.doses(state.epoch or 0.0, together=True)
        if self._is_first_process:
            self._warn_of_stream(doses, state.epoch or 0.0)
        if self._trainer is not None and self._trainer.state is state and state.is_world_process_zero:
            attach_report(self.reports, self._trainer.callback_handler.callbacks, self.canaries)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.push_to_hub and state.is_world_process_zero:
            write_published(self.reports, str(args.output_dir), self.canaries)

    @property
    def _measures_evaluations(self) -> bool:
        return super()._measures_evaluations or self.max_exposure is not None

    def _check_arguments(self, args: TrainingArguments) -> None:
        super()._check_arguments(args)
        self._run_name = args.run_name or Path(str(args.output_dir)).name
        self._run_arguments, self._rank = self._described(args), args.process_index
        if self.max_exposure is not None and args.eval_strategy == "no":
            rule = "needs evaluations, but eval_strategy is 'no'"
            raise InputError("max_exposure", rule, self.max_exposure, "Pass eval_strategy='epoch'.")

    def _described(self, args: TrainingArguments) -> dict[str, Any]:
        """The arguments of this callback and of the training that a report records."""
        base = self._exposure.base_model
        return {
            **self._schedule(),
            "require_delivery": self._require_delivery,
            "count_doses": hasattr(self._exposure, "on_batch"),
            "base_model": base if base is None or isinstance(base, str) else type(base).__name__,
            **{name: getattr(args, name, None) for name in _OF_TRAINING},
        }

    def _schedule(self) -> dict[str, object]:
        return {**super()._schedule(), "max_exposure": self.max_exposure}

    def _name_is_taken(self, name: str, other: str) -> InputError:
        if name != other:
            return super()._name_is_taken(name, other)
        rule = "must have only one ExposureCallback: two would write the same keys and the same file"
        return InputError("callbacks", rule, "two", "Measure the second set of canaries in a separate run.")

    def _prepare(self, start: TrainingStart) -> None:
        """Also checks the training data for the canaries."""
        super()._prepare(start)
        self.delivery, self._is_first_process = None, start.is_first_process
        self._dataset_facts = dataset_facts(getattr(start.train_dataloader, "dataset", None))
        meter = self._exposure.meter
        if start.train_dataloader is not None and meter is not None:
            self.delivery = check_dataloader(
                start.train_dataloader,
                self.canaries,
                meter.tokenizer,
                context=meter.settings.context,
                source=meter.settings.source,
                require=self._require_delivery,
                warn=start.is_first_process,
            )

    def _complete(self, record: ExposureReport, state: TrainerState, note: str, model: nn.Module) -> ExposureReport:
        report: ExposureReport = super()._complete(record, state, note, model)
        notes = (*report.notes, note) if note else report.notes
        epochs, doses = self._trained(state, model)
        read = self.delivery or _NOTHING_READ
        # That the data could not be read in advance does not matter once the batches themselves were read.
        unread = read.note and not doses.counted
        notes = (*notes, *read.problems, *([read.note] if unread else []))
        coins = [canary.id for canary in self.canaries if canary.coin is not None]
        dosed = report.with_doses(read.doses_per_epoch, epochs).with_counted_doses(doses, coins)
        completed = replace(
            dosed, notes=notes, delivery=read.counted(epochs, doses), dataset={**dosed.dataset, **self._dataset_facts}
        )
        return completed.with_run(
            name=self._run_name,
            arguments=self._run_arguments,
            # Reading all weights takes as long as a forward pass or two: once is enough.
            weights_sha256=weights_sha256(model) if self._is_last(state) else None,
            threshold_bits=None if self.max_exposure is None else float(self.max_exposure),
            threshold_of="all inserted",
        )

    def _trained(self, state: TrainerState, model: nn.Module) -> tuple[float, Doses]:
        """The passes over the data that the measured model was trained for, and its doses.

        They are the current ones, unless the best model was loaded from an earlier checkpoint.
        """
        epochs, place = state.epoch or 0.0, self._best_checkpoint
        if place is None:
            return epochs, self._exposure.doses(epochs)
        # The evaluation that chose it is in the history.
        of_best = [entry for entry in state.log_history if entry.get("step") == state.best_global_step]
        epochs = next((entry["epoch"] for entry in of_best if "epoch" in entry), epochs)
        saved = load_state(place, self._exposure, self._rank, Processes.of_job(model, calls_model=False))
        return epochs, self._exposure.doses_of(None if saved is None else saved.state, epochs)

    def _line(self, record: ExposureReport) -> str:
        expected = forecast_words(forecast_exposures(self.reports))
        return measurement_line(record) + (f"; expected at the end: {expected}" if expected else "")

    def _is_last(self, state: TrainerState) -> bool:
        return self.strategy == "end" or state.global_step >= state.max_steps

    def _warn_of_stream(self, doses: Doses, epochs: float) -> None:
        """Warns at the end about flaws that could not be seen at the start."""
        read = self.delivery or _NOTHING_READ
        delivery = read.counted(epochs, doses)
        if not read.complete and doses.counted and delivery is not None and delivery.validity is Validity.INVALID:
            warnings.warn(f"INVALID: {'; '.join(delivery.flaws)}, for the training so far", stacklevel=2)

    def _chooses_best_model(self, measure: Measure, args: TrainingArguments) -> bool:
        if self._limits_loss(args):
            return True
        if not super()._chooses_best_model(measure, args):
            return False
        if self._is_first_process:
            key = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
            advice = (
                f"metric_for_best_model={key!r} keeps the checkpoint that memorized least, which is usually the one "
                "that was trained least. For the best model whose exposure is at most X bits, pass max_exposure=X "
                "to "
                f"ExposureCallback and metric_for_best_model='eval_{_LIMITED}'."
            )
            warnings.warn(advice, stacklevel=2)
        return True

    def _limited(self, metrics: Mapping[str, float], max_exposure: float) -> dict[str, float]:
        """The limited loss of an evaluation, by its key; `evaluate` gives all keys the same prefix."""
        # Every evaluation logs its runtime, whatever else it computes, which reveals the prefix of its keys.
        prefixes = [key.removesuffix("_runtime") for key in metrics if key.endswith("_runtime")]
        prefix = next((prefix for prefix in prefixes if f"{prefix}_loss" in metrics), None)
        if prefix is None:
            rule = f"needs the loss of each evaluation, but {(prefixes or ['eval'])[0]}_loss is not among its metrics"
            remedy = "Evaluate on rows with labels, with a model that returns a loss."
            raise InputError("max_exposure", rule, sorted(metrics), remedy)
        report = self._scheduled[0].record
        mean_bits = math.nan if report is None else highest_mean_bits(report)
        loss = exposure_limited_loss(metrics[f"{prefix}_loss"], mean_bits, max_exposure)
        return {f"{prefix}_{_LIMITED}": loss}

    def _limits_loss(self, args: TrainingArguments) -> bool:
        """Whether the limited loss of an evaluation set chooses the best model."""
        key = args.metric_for_best_model
        if key is None or not key.endswith(_LIMITED):
            return False
        if self.max_exposure is None:
            rule = f"needs a limit: {_LIMITED} is the loss where exposure is within it"
            raise InputError("metric_for_best_model", rule, key, "Pass ExposureCallback(canaries, max_exposure=X).")
        if args.greater_is_better:
            rule = f"would keep the worst checkpoint for metric_for_best_model={key!r}"
            raise InputError("greater_is_better", rule, True, "Pass greater_is_better=False to TrainingArguments.")
        # Without `attach` the evaluation sets are unknown; the trainer then fails at its first evaluation.
        several = getattr(self._trainer, "eval_dataset", None)
        known = [f"eval_{name}_{_LIMITED}" for name in several] if isinstance(several, dict) else []
        if known and f"eval_{key.removeprefix('eval_')}" not in known:
            rule = "must name one of the evaluation sets, each of which has its own figure"
            raise InputError("metric_for_best_model", rule, key, f"Use one of {', '.join(known)}.")
        return True


def _check_limit(max_exposure: Any, canaries: CanarySet) -> None:
    remedy = "Use 4.0, say: chance has 1.44 bits on average."
    if not isinstance(max_exposure, (int, float)) or isinstance(max_exposure, bool) or not max_exposure >= 0:
        raise InputError("max_exposure", "must be a number of bits of at least 0", max_exposure, remedy)
    highest = canaries.log2_space_size
    if max_exposure >= highest:
        rule = f"must be below {highest:.1f} bits, which no exposure exceeds in a space of that size"
        raise InputError("max_exposure", rule, max_exposure, remedy)
