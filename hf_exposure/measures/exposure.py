"""Exposure as a measure: the meter behind the members that `MeasureCallback` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from torch import nn

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import instance_of
from hf_exposure.measures.base_model import BaseModel, check_base_model
from hf_exposure.measures.meter import ExposureMeter
from hf_exposure.measures.protocol import TrainingStart
from hf_exposure.measures.settings import MeasureOptions, MeasureSettings
from hf_exposure.records import ExposureReport

_PREFIX = "eval_exposure_"


class ExposureMeasure:
    """The exposure of a set of canaries. `ExposureCallback` adds what concerns a training: delivery, doses, limits.

    Args:
        canaries: the set that was inserted.
        base_model: measured as well, as for `measure_exposure`.
        **measure_arguments: those of `ExposureMeter`.

    Attributes:
        meter: made by the first `prepare`, and kept while the tokenizer stays the same.

    Raises:
        InputError: an unknown argument or a value out of range.
    """

    name = "exposure"
    # All other figures grow with memorization, or cost time.
    larger_is_better = frozenset({f"{_PREFIX}p_value"})
    needs_tokenizer = True

    def __init__(
        self, canaries: CanarySet, *, base_model: BaseModel | None = None, **measure_arguments: Unpack[MeasureOptions]
    ) -> None:
        instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
        # Refused at construction, not when training starts.
        MeasureSettings.of("ExposureCallback or measure_exposure", **measure_arguments)
        self.canaries, self.base_model, self.measure_arguments = canaries, base_model, measure_arguments
        self.meter: ExposureMeter | None = None

    def prepare(self, start: TrainingStart) -> None:
        """Draws and encodes what the canaries are compared with.

        Raises:
            InputError: a canary longer than the model's context, or a base model that this model cannot have.
            ProcessesDifferError: processes of the job were given other canaries, settings or tokenizers.
        """
        check_base_model(start.model, self.base_model)
        if self.meter is None or self.meter.tokenizer is not start.tokenizer:
            across_processes = start.processes.count > 1
            self.meter = ExposureMeter(
                self.canaries, start.tokenizer, across_processes=across_processes, **self.measure_arguments
            )
        self.meter.check_fits(start.model)
        base = self.base_model if isinstance(self.base_model, str) else type(self.base_model).__name__
        self.meter.check_alike(start.processes, {"base_model": base})

    def metric_names(self) -> list[str]:
        """The keys of the contract; those of controls where there are any."""
        names = ["mean", "median", "max", "rank1_fraction", "seconds"]
        names += [f"x{repetitions}_mean" for repetitions in self.canaries.repetition_counts]
        names += ["controls_mean", "p_value"] if self.canaries.controls else []
        return [_PREFIX + name for name in names]

    def measure(self, model: nn.Module) -> ExposureReport:
        """The report of every canary."""
        assert self.meter is not None, "prepare comes first"
        return self.meter.measure(model, base_model=self.base_model)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: a measurement depends on the model alone."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    @staticmethod
    def record_from_dict(values: Mapping[str, Any]) -> ExposureReport:
        """The report of a line of the log."""
        return ExposureReport.from_dict(values)
