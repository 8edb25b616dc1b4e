"""Laws of measures, on which `MeasureCallback` relies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.callback.state_files import state_bytes, state_from_bytes
from hf_exposure.measures import Measure, PlainRecord, Record, SeenBatch, TrainingStart
from hf_exposure.records.run_log import RunLog
from hf_exposure.runtime.processes import SINGLE_PROCESS

# Keys with this ending are wall times, which differ between any two measurements.
_TIMES = "_seconds"


def check_measure(
    make: Callable[[], Measure],
    model: nn.Module,
    start: TrainingStart | None = None,
    batches: Sequence[SeenBatch] = (),
) -> None:
    """Checks the laws of a measure.

    Its keys are those that it announces; equal measures give equal figures, whatever the random state; the model, its
    gradients and all random states are left unchanged; a measure that restores a saved state continues like the one
    that saved it; a second training starts like the first; and records can be restored from the log.

    Args:
        make: a function that returns a new, equal measure at each call.
        model: a model in any mode; it is left unchanged if the measure obeys the laws.
        start: the argument of `prepare`; by default one process and no tokenizer.
        batches: the batches that it sees before it measures, if it has `on_batch`.

    Raises:
        AssertionError: a law is broken.

    Example:
        >>> from torch import nn
        >>> from hf_exposure.measures import PlainRecord
        >>> class Bias:
        ...     name, larger_is_better, needs_tokenizer = "bias", frozenset(), False
        ...     def prepare(self, start): pass
        ...     def metric_names(self): return ["eval_bias_sum"]
        ...     def measure(self, model):
        ...         return PlainRecord(figures={"eval_bias_sum": float(model.bias.detach().sum())})
        ...     def state_dict(self): return {}
        ...     def load_state_dict(self, state): pass
        >>> check_measure(Bias, nn.Linear(2, 3))
    """
    if start is None:
        start = TrainingStart(
            model=model, tokenizer=None, train_dataloader=None, processes=SINGLE_PROCESS, output_dir=Path()
        )
    _check_names(_prepared(make, start, batches), model)
    _check_repeatable(make, model, start, batches)
    _check_left_as_found(_prepared(make, start, batches), model)
    _check_state(make, model, start, batches)
    _check_fresh_start(make, model, start, batches)
    _check_log(_prepared(make, start, batches), model)


def _check_names(measure: Measure, model: nn.Module) -> None:
    """The keys are those announced, and begin with the measure's name."""
    names = measure.metric_names()
    assert measure.name.isidentifier() and names and len(set(names)) == len(names)
    assert all(key.startswith(f"eval_{measure.name}_") for key in names), names
    assert set(measure.metric_names()) == set(measure.measure(model).metrics()), "metric_names differ from metrics"
    assert measure.larger_is_better <= set(names), "larger_is_better names no metric"


def _check_repeatable(
    make: Callable[[], Measure], model: nn.Module, start: TrainingStart, batches: Sequence[SeenBatch]
) -> None:
    """Two equal measures that saw the same batches give the same figures, whatever the random state."""
    first = _figures(_prepared(make, start, batches).measure(model))
    torch.rand(3), np.random.rand(), random.random()
    assert _figures(_prepared(make, start, batches).measure(model)) == first, "the figures of two measures differ"


def _check_left_as_found(measure: Measure, model: nn.Module) -> None:
    """Weights, flags, gradients, hooks and random states are unchanged, in training and in evaluation mode."""
    flags = [module.training for module in model.modules()]
    gradients = [parameter.grad for parameter in model.parameters()]
    try:
        for training in (True, False):
            model.train(training)
            next(iter(model.children()), model).eval()  # a part whose mode differs from the whole
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter) if training and parameter.requires_grad else None
            before = _witness(model)
            measure.measure(model)
            after = _witness(model)
            for what, value in before.items():
                assert after[what] == value, f"the measure changed: {what}"
    finally:
        for module, training in zip(model.modules(), flags, strict=True):
            module.training = training
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient


def _check_state(
    make: Callable[[], Measure], model: nn.Module, start: TrainingStart, batches: Sequence[SeenBatch]
) -> None:
    """A measure that restores the state of another one from a file continues like that one."""
    measure = _prepared(make, start, batches)
    assert bool(measure.state_dict()) == bool(_prepared(make, start, ()).state_dict()), (
        "state_dict must return {} always, or never"
    )
    measure.measure(model)
    restored = make()
    restored.prepare(start)
    restored.load_state_dict(state_from_bytes(state_bytes(measure.name, measure.state_dict())))
    for _ in range(2):
        for each in (measure, restored):
            _show(each, batches)
        assert _figures(restored.measure(model)) == _figures(measure.measure(model)), "the saved state is incomplete"


def _check_fresh_start(
    make: Callable[[], Measure], model: nn.Module, start: TrainingStart, batches: Sequence[SeenBatch]
) -> None:
    """A second training starts like the first."""
    measure = _prepared(make, start, batches)
    expected = _figures(measure.measure(model))
    measure.prepare(start)
    _show(measure, batches)
    assert _figures(measure.measure(model)) == expected, "prepare does not reset the measure"


def _check_log(measure: Measure, model: nn.Module) -> None:
    """A record can be written as JSON and restored from the log with its figures."""
    record = measure.measure(model)
    json.dumps(record.to_dict(), allow_nan=False)
    log: RunLog[Any] = RunLog(measure.name, getattr(measure, "record_from_dict", PlainRecord.from_dict))
    with TemporaryDirectory() as folder:
        log.append(folder, record)
        (restored,) = log.read(folder)
    np.testing.assert_equal(restored.metrics(), record.metrics())


def _prepared(make: Callable[[], Measure], start: TrainingStart, batches: Sequence[SeenBatch]) -> Measure:
    measure = make()
    measure.prepare(start)
    _show(measure, batches)
    return measure


def _show(measure: Any, batches: Sequence[SeenBatch]) -> None:
    for batch in batches if hasattr(measure, "on_batch") else ():
        measure.on_batch(batch)


def _figures(record: Record) -> dict[str, str]:
    """The figures as text, so that NaN equals itself."""
    return {key: repr(float(value)) for key, value in record.metrics().items() if not key.endswith(_TIMES)}


def _witness(model: nn.Module) -> dict[str, Any]:
    """Everything that a measurement might change."""
    modules, parameters = list(model.modules()), list(model.parameters())
    return {
        "weights": [weight.tolist() for weight in model.state_dict().values()],
        "training flags": [module.training for module in modules],
        "which weights require gradients": [parameter.requires_grad for parameter in parameters],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in parameters],
        "grad mode": torch.is_grad_enabled(),
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
        "Python's random state": random.getstate(),
        "numpy's random state": str(np.random.get_state()),
        "torch's random state": torch.random.get_rng_state().tolist(),
    }
