"""The share of rows that are critical samples, as a measure for `MeasureCallback`.

The search can only miss critical samples, so the share is a lower limit. It has the exact interval of Clopper and
Pearson for a population from which the rows were drawn.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from hf_exposure.checks import whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators import clopper_pearson
from hf_exposure.estimators.arrays import checked_confidence
from hf_exposure.measures.protocol import TrainingStart
from hf_exposure.records.critical import CriticalRun
from hf_exposure.records.run_log import PlainRecord
from hf_exposure.runtime.job import check_alike
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.signals.critical import CriticalSearch, critical_samples, refuse_sharded
from hf_exposure.signals.movable import MovableRows

_REMEDIES = {"": "Pass the same value on every process."}


class CriticalSampleRatio:
    """The critical sample ratio of a set of rows while a model trains.

    Use a few hundred rows that are not trained on: training moves its own rows away from the decision boundaries once
    they are learned, so their ratio first rises and then falls.

    Args:
        inputs, radius, step, noise, max_steps, seed, argument, batch_size: as for `critical_samples`. In a job of
            several processes each has all rows, and searches its part of them.
        confidence_level: the level of the interval.
        name: the name, which must differ if a training has several of these measures, such as "critical_validation"
            and "critical_train".

    Raises:
        InputError: as for `critical_samples`, or the name is no identifier.

    Example:
        >>> import torch
        >>> line = nn.Linear(1, 2, bias=False)
        >>> line.weight.data = torch.tensor([[1.0], [-1.0]])
        >>> measure = CriticalSampleRatio(torch.tensor([[0.1], [-0.4], [0.6], [2.0]]), radius=0.5)
        >>> figures = measure.measure(line).figures
        >>> [round(figures[f"eval_critical_{name}"], 3) for name in ("ratio", "low", "high")]
        [0.5, 0.068, 0.932]
    """

    larger_is_better: frozenset[str] = frozenset()
    needs_tokenizer = False

    def __init__(
        self,
        inputs: Any,
        radius: float,
        step: float = 0.25,
        noise: float = 0.2,
        max_steps: int = 100,
        seed: int = 0,
        *,
        argument: str | None = None,
        batch_size: int = 64,
        confidence_level: float = 0.95,
        name: str = "critical",
    ) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise InputError("name", "must be a Python identifier", type(name).__name__, "Write name='critical'.")
        search = CriticalSearch(radius, step, noise, max_steps, seed)
        self.name, self.inputs, self.argument = name, inputs, argument
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.confidence_level = checked_confidence(confidence_level)
        self.settings: dict[str, Any] = {
            "radius": search.radius, "step": search.step, "noise": search.noise,
            "max_steps": search.max_steps, "seed": search.seed,
        }  # fmt: skip
        self._processes: Processes = SINGLE_PROCESS

    def prepare(self, start: TrainingStart) -> None:
        refuse_sharded(start.model)
        rows = MovableRows(start.model, self.inputs, self.argument)
        rows.unmoved(np.array([0]))  # invalid inputs are refused before the first step
        self._processes = start.processes
        check_alike(self._processes, {"rows": rows.num_rows, **self.settings}, _REMEDIES)

    def metric_names(self) -> list[str]:
        return [f"eval_{self.name}_{figure}" for figure in ("ratio", "low", "high", "seconds")]

    def measure(self, model: nn.Module) -> PlainRecord:
        """The ratio with its interval; the details have the critical rows, the settings, and the embeddings' scale."""
        began = time.perf_counter()
        found_N = critical_samples(
            model, self.inputs, **self.settings, argument=self.argument, batch_size=self.batch_size,
            processes=self._processes,
        )  # fmt: skip
        low, high = clopper_pearson(int(found_N.sum()), len(found_N), self.confidence_level)
        values = [float(found_N.mean()), float(low), float(high), time.perf_counter() - began]
        details = {
            **self.settings,
            "rows": len(found_N),
            "confidence_level": self.confidence_level,
            "embedding_scale": MovableRows(model, self.inputs, self.argument).embedding_scale(),
            "critical_rows": np.flatnonzero(found_N).tolist(),
        }
        return PlainRecord(figures=dict(zip(self.metric_names(), values, strict=True)), details=details)

    def run_of(self, records: Sequence[PlainRecord]) -> CriticalRun:
        """All measurements of a training as one record: to print, to save and to publish."""
        return CriticalRun(records, self.name)

    def state_dict(self) -> dict[str, Any]:
        return {}  # the measure has no state between measurements

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
