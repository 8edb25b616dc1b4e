"""Gradients of labels at checkpoints: against finite differences, and the results computed from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_exposure.errors import InputError
from hf_exposure.signals import label_gradients


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4)).double().train()


def states_of(model: nn.Module, count: int = 2) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            name: torch.randn(value.shape, generator=generator, dtype=value.dtype)
            for name, value in model.state_dict().items()
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("batch_size", [2, 64])
def test_finite_differences(batch_size: int) -> None:
    model = network()
    before, states = {name: value.clone() for name, value in model.state_dict().items()}, states_of(model)
    inputs, labels = torch.randn(5, 3, dtype=torch.float64), [0, 3, 1, 2, 0]
    found = label_gradients(model, states, inputs, labels, batch_size)
    assert found.shape == (2, 5, 3) and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    for t, state in enumerate(states):
        model.load_state_dict(state)
        for n, label in enumerate(labels):
            for p in range(3):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = inputs[n : n + 1].clone()
                    moved[0, p] += step
                    ends.append(float(model(moved)[0, label].detach()))
                assert found[t, n, p] == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-5)


def test_texts_are_moved_at_their_embeddings() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_layer=1, n_head=2, n_embd=8, n_positions=6)).eval()
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    found = label_gradients(model, [model.state_dict()], {"input_ids": ids}, [7, 8])
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    last = model(inputs_embeds=embedded).logits[:, -1]
    (expected,) = torch.autograd.grad(last[0, 7] + last[1, 8], embedded)
    np.testing.assert_allclose(found[0], expected.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"states": []}, "states: must have at least one checkpoint"),
        ({"states": [{}]}, "states: must have"),
        ({"labels": [0]}, "labels: must be"),
        ({"labels": [0, 0.5]}, "labels: must be"),
        ({"labels": [0, 4]}, "labels: must be classes from 0 to 3"),
    ],
)
def test_refused(change: dict[str, Any], named: str) -> None:
    model = network()
    arguments = {"states": states_of(model, 1), "inputs": torch.zeros(2, 3), "labels": [0, 1], **change}
    with pytest.raises(InputError, match=named):
        label_gradients(model, **arguments)
