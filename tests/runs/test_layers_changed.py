"""Rewinding, retraining and example-tied dropout against the same by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.runs.example_tied import ExampleTied
from hf_exposure.runs.layers import retrain_layers, rewind_layers

INPUTS = torch.as_tensor(np.random.default_rng(0).normal(size=(24, 5)), dtype=torch.float32)
LABELS = torch.as_tensor(np.random.default_rng(1).integers(3, size=24))


def net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))


def score(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(INPUTS), LABELS))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_rewinding_is_a_copy_with_one_layer_of_the_checkpoint() -> None:
    model, early = net(0).train(), {"a": net(1), "b": net(2)}
    early["a"](INPUTS)  # other running statistics
    before = state(model)
    found = rewind_layers(model, {name: state(one) for name, one in early.items()}, score)
    assert found.layers == ["0", "1", "3"] and found.checkpoints == ["a", "b"] and model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert found.unchanged == pytest.approx(score(copy.deepcopy(model)))
    for s, one in enumerate(early.values()):
        for place, layer in enumerate(("0", "1", "3")):
            mixed = copy.deepcopy(model)
            mixed.get_submodule(layer).load_state_dict(one.get_submodule(layer).state_dict())
            assert found.scores_SL[s, place] == pytest.approx(score(mixed), rel=1e-6)
            assert found.lost_SL[s, place] == pytest.approx(found.unchanged - score(mixed), rel=1e-4, abs=1e-6)


def test_retraining_trains_one_layer_from_its_start() -> None:
    model, start = net(0).train(), state(net(3))
    before, seen = state(model), []

    def train(model: nn.Module) -> None:
        model.train()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        seen.append(len(weights))
        optimizer = torch.optim.SGD(weights, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(INPUTS), LABELS).backward()
            optimizer.step()

    found = retrain_layers(model, start, train, score, ["0", "3"])
    assert seen == [2, 2] and all(p.requires_grad and p.grad is None for p in model.parameters()) and model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for place, layer in enumerate(("0", "3")):
        mixed = copy.deepcopy(model)
        mixed.load_state_dict({**before, **{k: v for k, v in start.items() if k.startswith(f"{layer}.")}})
        mixed.requires_grad_(False).get_submodule(layer).requires_grad_(True)
        train(mixed)
        assert found.scores_SL[0, place] == pytest.approx(score(mixed), rel=1e-6)


def test_an_error_in_the_score_restores_the_layer() -> None:
    model = net(0)
    before, calls = state(model), []

    def fails(model: nn.Module) -> float:
        calls.append(model)
        if len(calls) > 1:
            raise RuntimeError("no score")
        return 0.0

    with pytest.raises(RuntimeError, match="no score"):
        rewind_layers(model, {"a": state(net(1))}, fails)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("states", "layers", "named"),
    [
        ({}, None, "states"), ({"a": {}}, None, "states"), ({"a": nn.Linear(5, 20).state_dict()}, ["0"], "states"),
        ({"a": net(1).state_dict()}, ["2"], "layers"), ({"a": net(1).state_dict()}, ["head"], "layers"),
        ({"a": net(1).state_dict()}, [], "layers"),
    ],
)  # fmt: skip
def test_refused(states: Any, layers: Any, named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: "):
        rewind_layers(net(0), states, score, layers)


def test_each_example_has_its_own_units() -> None:
    tied = ExampleTied(net(0), ["2"], num_rows=24, shared=0.25, own=0.1, seed=5)
    mask = tied.mask(0, 20, torch.arange(24))
    assert (mask[:, :5] == 1).all() and (mask[:, 5:].sum(1) == 2).all() and len(torch.unique(mask, dim=0)) > 12
    assert torch.equal(mask, ExampleTied(net(0), ["2"], 24, 0.25, 0.1, seed=5).mask(0, 20, torch.arange(24)))
    assert torch.equal(tied.mask(0, 20, None), torch.tensor([[7 / 5] * 5 + [0.0] * 15]))
    found = tied.eval()(INPUTS, row_index=torch.arange(24))
    model = net(0).eval()
    expected = model[3](model[2](model[1](model[0](INPUTS))) * mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tied(INPUTS), model[3](model[2](model[1](model[0](INPUTS))) * tied.mask(0, 20, None)))
    torch.testing.assert_close(tied.remove()(INPUTS), model(INPUTS))


def test_gradients_reach_own_units_only() -> None:
    tied = ExampleTied(net(0), ["2"], num_rows=24, shared=0.25, own=0.1)
    tied.train()(INPUTS[:2], row_index=[3, 7]).sum().backward()
    used = tied.mask(0, 20, torch.tensor([3, 7])).sum(0) > 0
    weight = tied.model[3].weight.grad.abs().sum(0)
    assert (weight[~used] == 0).all() and (weight[used] > 0).any()


def test_channels_of_pictures_and_units_of_tokens() -> None:
    convolution = ExampleTied(nn.Sequential(nn.Conv2d(1, 10, 1)), ["0"], num_rows=3)
    out = convolution.eval()(torch.ones(2, 1, 4, 4))
    assert (out[:, 2:] == 0).all() and (out[:, :2] != 0).all()
    tokens = ExampleTied(nn.Sequential(nn.Linear(4, 10)), ["0"], num_rows=3).eval()(torch.ones(2, 5, 4))
    assert (tokens[..., 2:] == 0).all() and (tokens[..., :2] != 0).all()


@pytest.mark.parametrize(
    ("settings", "call", "named"),
    [
        ({"shared": 0.0}, {}, "shared"), ({"own": 0.9}, {}, "own"), ({"layers": ["9"]}, {}, "layers"),
        ({"num_rows": 0}, {}, "num_rows"), ({"seed": -1}, {}, "seed"), ({}, {}, "row_index"),
        ({}, {"row_index": [24] * 24}, "row_index"), ({}, {"row_index": [1]}, "row_index"),
        ({"shared": 0.01}, {"row_index": range(24)}, "layers"),
    ],
)  # fmt: skip
def test_tied_refuses(settings: dict[str, Any], call: dict[str, Any], named: str) -> None:
    if "row_index" in call:
        call = {"row_index": torch.as_tensor(list(call["row_index"]))}
    with pytest.raises(InputError, match=rf"^{named}: "):
        ExampleTied(net(0), **{"layers": ["2"], "num_rows": 24, **settings}).train()(INPUTS, **call)
