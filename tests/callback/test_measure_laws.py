"""The package's measures satisfy the laws of measures, and for each law a measure that violates it is detected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from callback_runs import CANARIES, TOKENIZER, make_start, small_model
from torch import nn
from toy_measures import Classifier, Tally, Toy, pictures, start_of

from examples.own_measure import ProbeLoss
from hf_exposure.measures import PlainRecord, SeenBatch
from hf_exposure.measures.exposure import ExposureMeasure
from hf_exposure.testing import check_measure

INPUTS = {name: torch.stack([row[name] for row in pictures(4)]) for name in ("pixels", "labels")}
BATCHES = [SeenBatch(inputs=INPUTS, step=step) for step in range(2)]


def test_toys() -> None:
    model = Classifier()
    check_measure(Toy, model, start_of(model))
    check_measure(Tally, model, start_of(model), BATCHES)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_the_measure_of_the_example() -> None:
    model = small_model(dropout=0.3)
    batch = dict(TOKENIZER(["pin 12.", "pin 34."], return_tensors="pt"))
    check_measure(lambda: ProbeLoss(batch), model, make_start(model=model))


@pytest.mark.parametrize("method", ["enumerate", "sample", "importance"])
def test_exposure(method: str) -> None:
    model = small_model(dropout=0.3)
    start = make_start(model=model)
    check_measure(lambda: ExposureMeasure(CANARIES, method=method, references=40), model, start)


class LeavesEvaluationMode(Toy):
    def measure(self, model: nn.Module) -> PlainRecord:
        model.eval()
        return super().measure(model)


class DrawsNumbers(Toy):
    def measure(self, model: nn.Module) -> PlainRecord:
        return PlainRecord(figures={"eval_toy_norm": float(torch.rand(())), "eval_toy_score": 0.0})


class MovesRandomState(Toy):
    def measure(self, model: nn.Module) -> PlainRecord:
        torch.rand(1)
        return super().measure(model)


class LeavesGradients(Toy):
    def measure(self, model: nn.Module) -> PlainRecord:
        sum(weight.square().sum() for weight in model.parameters()).backward()
        return super().measure(model)


class ChangesWeights(Toy):
    def measure(self, model: nn.Module) -> PlainRecord:
        record = super().measure(model)
        with torch.no_grad():
            model.layers[0].weight.add_(0.0).mul_(1.5)
        return record


class ForgetsItsCount(Tally):
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "taken": 0}


class NeverBeginsAnew(Tally):
    def __init__(self) -> None:
        super().prepare(start_of(Classifier()))

    def prepare(self, start: Any) -> None:
        pass


class PromisesOtherKeys(Toy):
    def metric_names(self) -> list[str]:
        return ["eval_toy_norm"]


class Unprefixed(Toy):
    name = "other"


class NotJson(Toy):
    def measure(self, model: nn.Module) -> PlainRecord:
        return PlainRecord(figures=super().measure(model).figures, details={"model": model})


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (LeavesEvaluationMode, AssertionError, "the measure changed: training flags"),
        (DrawsNumbers, AssertionError, "the figures of two measures differ"),
        (MovesRandomState, AssertionError, "the measure changed: torch's random state"),
        (LeavesGradients, AssertionError, "the measure changed: gradients"),
        (ChangesWeights, AssertionError, "differ|the measure changed: weights"),
        (ForgetsItsCount, AssertionError, "the saved state is incomplete"),
        (NeverBeginsAnew, AssertionError, "prepare does not reset the measure"),
        (PromisesOtherKeys, AssertionError, "metric_names differ from metrics"),
        (Unprefixed, AssertionError, "eval_toy_norm"),
        (NotJson, TypeError, "not JSON serializable"),
    ],
)
def test_each_law_can_be_broken(kind: Any, error: type[Exception], message: str) -> None:
    model = Classifier()
    with pytest.raises(error, match=message):
        check_measure(kind, model, start_of(model), BATCHES)
