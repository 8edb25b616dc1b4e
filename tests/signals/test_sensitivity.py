"""Loss-sensitivity against finite differences of a separate training loop, and against a single graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from hf_exposure.errors import InputError
from hf_exposure.estimators import gini
from hf_exposure.signals.sensitivity import batch_order, checkpoint_sensitivity, loss_sensitivity


def net(width: int = 4, classes: int = 3, hidden: int = 5, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Dropout(0.3), nn.Linear(hidden, classes)).double()


def data(rows: int = 7, width: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    return torch.as_tensor(rng.normal(size=(rows, width))), torch.as_tensor(rng.permutation(np.arange(rows) % classes))


def trained_losses(
    inputs: torch.Tensor, labels: torch.Tensor, batches: list[np.ndarray], rate: float, looked_at: torch.Tensor
) -> torch.Tensor:
    """(N,) losses of `looked_at` after ordinary SGD on `inputs`."""
    model = net().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for rows in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(looked_at), labels, reduction="none")


@pytest.mark.parametrize("direct", [True, False])
def test_finite_differences_of_an_ordinary_training(direct: bool) -> None:
    inputs, labels = data()
    rate, size, last = 0.5, 3, 8
    batches = batch_order(7, size, last, seed=3)
    found = loss_sensitivity(
        net().train(), inputs, labels, [2, last], rate, batch_size=size, seed=3, by_class=True, direct=direct
    )
    for place, steps in enumerate((2, last)):
        slopes = np.zeros((7, 4, 7))  # example, coordinate, loss of each row
        for row in range(7):
            for column in range(4):
                ends = []
                for sign in (1, -1):
                    moved = inputs.clone()
                    moved[row, column] += sign * 1e-5
                    seen = moved if direct else inputs
                    ends.append(trained_losses(moved, labels, batches[:steps], rate, seen).numpy())
                slopes[row, column] = (ends[0] - ends[1]) / 2e-5
        expected = np.abs(slopes.mean(axis=2)).sum(axis=1)
        np.testing.assert_allclose(found.norms_TN[place], expected, rtol=1e-6, atol=1e-9)
        for i in range(3):
            of_class = np.abs(slopes[:, :, labels.numpy() == i].mean(axis=2)).sum(axis=1)
            np.testing.assert_allclose(found.by_class_TCN[place, i], of_class, rtol=1e-6, atol=1e-9)
        loss = trained_losses(inputs, labels, batches[:steps], rate, inputs).mean()
        assert found.losses_T[place] == pytest.approx(float(loss))


def test_the_summaries_are_those_of_the_norms() -> None:
    inputs, labels = data()
    found = loss_sensitivity(net(), inputs, labels, [0, 2, 4], 0.5, by_class=True)
    np.testing.assert_allclose(found.sensitivity_N, found.norms_TN.mean(axis=0))
    expected = [gini(found.norms_TN[:1].mean(0)), gini(found.norms_TN[:2].mean(0)), gini(found.norms_TN.mean(0))]
    np.testing.assert_allclose(found.gini_T, expected)
    matrix = found.class_matrix_CC
    for i in range(3):
        for j in range(3):
            own = found.by_class_TCN[:, i][:, labels.numpy() == j]
            assert matrix[i, j] == pytest.approx(own.mean())
    wide = loss_sensitivity(net(), inputs, labels, [4], 0.5, norm=2)
    assert (wide.norms_TN[0] <= found.norms_TN[2]).all()
    with pytest.raises(InputError, match="^by_class: "):
        _ = wide.class_matrix_CC


def test_the_model_is_left_as_found() -> None:
    model, (inputs, labels) = net().train(), data()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    loss_sensitivity(model, inputs, labels, 3, 0.5)
    checkpoint_sensitivity(model, [before], inputs, labels)
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def language_model() -> GPT2LMHeadModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=20, n_layer=1, n_head=2, n_embd=8, n_positions=8, initializer_range=0.2,
                            bos_token_id=1, eos_token_id=1)  # fmt: skip
        return GPT2LMHeadModel(config).double().eval()


def test_texts_are_moved_at_their_embeddings() -> None:
    """Compared with a single graph of the same training, for a model that takes `inputs_embeds`."""
    ids = torch.as_tensor(np.random.default_rng(1).integers(2, 20, size=(3, 5)))
    labels = ids.clone()
    labels[0, 3:] = -100
    model = language_model()
    found = loss_sensitivity(model, {"input_ids": ids}, labels, [2], 0.3, direct=False)

    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    shift = torch.zeros(3, 5, 8, dtype=torch.float64, requires_grad=True)

    def loss(held: dict[str, torch.Tensor], moved: torch.Tensor) -> torch.Tensor:
        embeds = held["transformer.wte.weight"][ids] + moved
        logits = torch.func.functional_call(model, held, (), {"inputs_embeds": embeds}).logits
        rows = [nn.functional.cross_entropy(logits[row, :-1], labels[row, 1:], ignore_index=-100) for row in range(3)]
        return torch.stack(rows).mean()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for _ in range(2):
            slopes = torch.autograd.grad(loss(weights, shift), list(weights.values()), create_graph=True)
            weights = {name: w - 0.3 * s for (name, w), s in zip(weights.items(), slopes, strict=True)}
        (expected,) = torch.autograd.grad(loss(weights, torch.zeros_like(shift)), shift)
    np.testing.assert_allclose(found.norms_TN[0], expected.abs().sum(dim=(1, 2)).numpy(), rtol=1e-6)


def test_the_form_of_checkpoints_is_the_closed_form_of_a_linear_classifier() -> None:
    """dl/dx = W' (p - y), as a mean over two checkpoints."""
    inputs, labels = data()
    model = nn.Linear(4, 3).double()
    states = [{"weight": torch.randn(3, 4).double(), "bias": torch.randn(3).double()} for _ in range(2)]
    expected = np.zeros((3, 7))
    for state in states:
        weight = state["weight"].numpy()
        raw = np.exp(inputs.numpy() @ weight.T + state["bias"].numpy())
        slopes = (raw / raw.sum(axis=1, keepdims=True) - np.eye(3)[labels.numpy()]) @ weight
        for place, order in enumerate((1, 2, np.inf)):
            expected[place] += np.linalg.norm(slopes, ord=order, axis=1) / 2
    for place, order in enumerate((1, 2, np.inf)):
        found = checkpoint_sensitivity(model, states, inputs, labels, batch_size=3, norm=order)
        np.testing.assert_allclose(found, expected[place], rtol=1e-9)


def test_the_form_of_checkpoints_orders_examples_as_the_exact_one() -> None:
    inputs, labels = data(60, 6)
    model = net(6, hidden=8).float()
    steps = list(range(20, 201, 20))
    exact = loss_sensitivity(model, inputs, labels, steps, 0.3, batch_size=10).sensitivity_N
    states, weights = [], {name: p.detach().clone() for name, p in model.named_parameters()}
    copy = net(6, hidden=8).float().eval()
    copy.load_state_dict(weights)
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.3)
    for step, rows in enumerate(batch_order(60, 10, 200)):
        if step % 20 == 0:
            states.append({name: p.detach().clone() for name, p in copy.named_parameters()})
        optimizer.zero_grad()
        nn.functional.cross_entropy(copy(inputs[rows].float()), labels[rows]).backward()
        optimizer.step()
    cheap = checkpoint_sensitivity(model, states, inputs, labels)
    assert spearmanr(exact, cheap).statistic > 0.6


def test_batches_are_epochs() -> None:
    batches = batch_order(7, 3, 6, seed=1)
    assert [len(batch) for batch in batches] == [3, 3, 1, 3, 3, 1]
    assert sorted(np.concatenate(batches[:3])) == sorted(np.concatenate(batches[3:])) == list(range(7))
    assert not np.array_equal(batches[0], batches[3])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": []}, "steps"), ({"steps": [3, 2]}, "steps"), ({"steps": 1.5}, "steps"), ({"seed": -1}, "seed"),
        ({"learning_rate": 0.0}, "learning_rate"), ({"batch_size": 0}, "batch_size"), ({"norm": 3}, "norm"),
        ({"labels": [0, 1]}, "labels"), ({"labels": [0.5] * 7}, "labels"), ({"labels": ["cat"] * 7}, "labels"),
        ({"inputs": torch.ones(0, 4)}, "inputs"),
    ],
)  # fmt: skip
def test_refused(change: dict[str, Any], named: str) -> None:
    inputs, labels = data()
    values = {"model": net(), "inputs": inputs, "labels": labels, "steps": 1, "learning_rate": 0.1, **change}
    with pytest.raises(InputError, match=rf"^{named}: "):
        loss_sensitivity(**values)


def test_checkpoints_of_another_model_are_refused() -> None:
    inputs, labels = data()
    for states in ([], [net(hidden=6).state_dict()], [{}]):
        with pytest.raises(InputError, match="^states: "):
            checkpoint_sensitivity(net(), states, inputs, labels)
