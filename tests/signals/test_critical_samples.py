"""Critical samples against closed forms; the search's laws; texts; the measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from toy_measures import start_of
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.measures.critical import CriticalSampleRatio
from hf_exposure.signals import MovableRows, critical_samples
from hf_exposure.testing import check_measure


def linear(classes: int, width: int, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(width, classes)


def distances(model: nn.Linear, inputs: torch.Tensor) -> np.ndarray:
    """The radius from which a row of a linear classifier is critical: min_j (f_k - f_j) / ||w_k - w_j||_1."""
    weight, logits = model.weight.detach().double(), model(inputs).detach().double()
    own = logits.argmax(1)
    gaps = logits.gather(1, own[:, None]) - logits
    norms = (weight[own][:, None] - weight[None]).abs().sum(-1)
    ratios = torch.where(norms > 0, gaps / norms, torch.inf)
    return ratios.min(1).values.numpy()


class Mlp(nn.Module):
    """A network that is neither linear nor certain, with dropout that must be turned off."""

    def __init__(self, width: int = 20, classes: int = 4, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Linear(width, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, classes)
            )

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        assert labels is None, "labels play no part"
        return {"logits": self.layers(pixels)}


ROWS = torch.as_tensor(np.random.default_rng(0).normal(size=(60, 20)), dtype=torch.float32)


@pytest.mark.parametrize("width", [3, 200])
def test_two_classes_are_the_closed_form(width: int) -> None:
    model = linear(2, width)
    inputs = torch.as_tensor(np.random.default_rng(1).normal(size=(80, width)), dtype=torch.float32)
    limit = distances(model, inputs)
    radius = float(np.median(limit))
    clear = np.abs(limit / radius - 1) > 1e-3
    assert clear.sum() >= 75
    found = critical_samples(model, inputs, radius, batch_size=33)
    assert found.dtype == bool and (found == (limit < radius))[clear].all()


def test_the_end_without_noise_reaches_the_corner() -> None:
    """With noise to the end, a search among many inputs stays a little inside the box."""
    model = linear(2, 400)
    inputs = torch.as_tensor(np.random.default_rng(1).normal(size=(8, 400)), dtype=torch.float32)
    for row, limit in zip(inputs, distances(model, inputs), strict=True):
        assert critical_samples(model, row[None], float(limit) * 1.001, max_steps=40).all()
        assert not critical_samples(model, row[None], float(limit) * 0.999, max_steps=40).any()


def test_several_classes_never_beyond_the_closed_form() -> None:
    model = linear(5, 12, seed=3)
    inputs = torch.as_tensor(np.random.default_rng(2).normal(size=(120, 12)), dtype=torch.float32)
    limit = distances(model, inputs)
    radius = float(np.median(limit))
    found = critical_samples(model, inputs, radius)
    assert not found[limit > radius * 1.0001].any()
    # The nearest of several boundaries is not always that of the runner-up at the current point.
    assert found[limit < radius].mean() > 0.95


class RandomGradients(torch.autograd.Function):
    """The identity, with a gradient that carries no information."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(1e6 * gradient.abs().sum()) % 2**31)
        return torch.randn(gradient.shape, generator=generator)


class Uninformed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> Any:
        return self.model(RandomGradients.apply(pixels))


def test_gradients_matter() -> None:
    model = Mlp()
    informed = critical_samples(model, ROWS, 0.15, max_steps=40)
    random_signs = critical_samples(Uninformed(model), ROWS, 0.15, max_steps=40)
    assert informed.mean() > random_signs.mean() + 0.3
    assert not (random_signs & ~informed).any()


def test_noise_leaves_where_the_gradient_vanishes() -> None:
    class Plateau(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            beyond = torch.relu(x[:, 0].abs() - 0.05)  # flat around 0, another class soon after
            return torch.stack([torch.full_like(beyond, 0.01), beyond], dim=1)

    inputs = torch.zeros(20, 2)
    assert not critical_samples(Plateau(), inputs, 0.2, noise=0.0).any()
    assert critical_samples(Plateau(), inputs, 0.2).all()


def test_a_sure_model_still_has_a_gradient() -> None:
    """Softmax outputs are exactly 1 in 32 bits here, so that their own gradient is 0."""
    model = linear(2, 3)
    model.weight.data.mul_(1000)
    inputs = torch.as_tensor(np.random.default_rng(3).normal(size=(20, 3)), dtype=torch.float32)
    limit = distances(model, inputs)
    assert (torch.softmax(model(inputs), 1).max(1).values == 1).all()
    assert critical_samples(model, inputs, float(limit.max()) * 1.01, noise=0.0).all()


def test_every_point_stays_in_the_box() -> None:
    farthest: list[float] = []

    class Watches(Mlp):
        def forward(self, pixels: torch.Tensor) -> Any:  # type: ignore[override]
            from_each = (pixels.detach()[:, None] - ROWS[None]).abs().amax(dim=2)
            farthest.append(float(from_each.amin(dim=1).max()))
            return super().forward(pixels)

    critical_samples(Watches(), ROWS, 1e-3, noise=3.0, max_steps=12)
    assert len(farthest) == 13 and farthest[0] == 0 and max(farthest) == pytest.approx(1e-3, rel=1e-3)


def test_answers_do_not_depend_on_batches_or_on_how_rows_are_named() -> None:
    model = Mlp().train()
    found = critical_samples(model, ROWS, 0.05, seed=4)
    assert 0.1 < found.mean() < 0.9
    for inputs in (ROWS.numpy(), {"pixels": ROWS.double(), "labels": torch.zeros(60)}):
        np.testing.assert_array_equal(critical_samples(model, inputs, 0.05, seed=4, batch_size=7), found)
    assert model.training


def test_out_of_memory_halves_the_batch() -> None:
    class Small(Mlp):
        def forward(self, pixels: torch.Tensor) -> Any:  # type: ignore[override]
            if len(pixels) > 8:
                raise torch.OutOfMemoryError("no room")
            return super().forward(pixels)

    np.testing.assert_array_equal(critical_samples(Small(), ROWS, 0.05), critical_samples(Mlp(), ROWS, 0.05))


def test_two_processes_are_one() -> None:
    class Half:
        num_shards = 2

        def __init__(self, shard: int) -> None:
            self.shard = shard

        def all_reduce_sum(self, work: Any) -> np.ndarray:
            parts.append(work())
            return parts[-1]

    parts: list[np.ndarray] = []
    for shard in range(2):
        critical_samples(Mlp(), ROWS, 0.05, processes=Half(shard))  # type: ignore[arg-type]
    assert not (parts[0] * parts[1]).any() and parts[0].any() and parts[1].any()
    np.testing.assert_array_equal((parts[0] + parts[1]).astype(bool), critical_samples(Mlp(), ROWS, 0.05))


# Texts.

TINY = {"vocab_size": 50, "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.3}  # fmt: skip


def texts(rows: int = 12, length: int = 6) -> dict[str, torch.Tensor]:
    generator = np.random.default_rng(5)
    ids = torch.as_tensor(generator.integers(2, 50, size=(rows, length)))
    mask = torch.ones_like(ids)
    for row in range(0, rows, 2):
        ids[row, 4:], mask[row, 4:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def language_models() -> list[nn.Module]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.3,
    )  # fmt: skip
    return [
        GPT2LMHeadModel(GPT2Config(**TINY)),
        GPT2ForSequenceClassification(GPT2Config(**TINY, num_labels=3)),
        LlamaForCausalLM(config),
    ]


@pytest.mark.parametrize("number", range(3))
def test_moved_embeddings_are_those_that_the_model_takes(number: int) -> None:
    """The hook equals the model's own `inputs_embeds`, and the decision is that of the last token read."""
    model, inputs = language_models()[number].eval(), texts()
    rows = MovableRows(model, inputs)
    every = np.arange(rows.num_rows)
    shift = 0.1 * torch.randn(12, 6, 16, generator=torch.Generator().manual_seed(1))
    found = rows.logits(every, shift).detach()
    moved = model.get_input_embeddings()(inputs["input_ids"]).detach() + shift
    if found.shape[1] == 3:  # it looks for padding in input_ids, which are passed only with the hook
        one = [model(inputs_embeds=moved[row : row + 1, : inputs["attention_mask"][row].sum()]).logits[0]
               for row in every]  # fmt: skip
    else:
        logits = model(inputs_embeds=moved, attention_mask=inputs["attention_mask"]).logits
        one = [logits[row, inputs["attention_mask"][row].sum() - 1] for row in every]
    torch.testing.assert_close(found, torch.stack(one).detach(), atol=1e-5, rtol=1e-5)


def test_critical_texts() -> None:
    model = language_models()[0]
    inputs = texts()
    scale = MovableRows(model, inputs).embedding_scale()
    assert scale == pytest.approx(float(model.transformer.wte.weight.detach().square().mean().sqrt()))
    ratios = [critical_samples(model, inputs, share * scale, max_steps=20).mean() for share in (1e-4, 0.03, 1.0)]
    assert ratios[0] <= ratios[1] <= ratios[2] and ratios[0] < 0.2 and ratios[2] == 1.0
    assert not any(module._forward_hooks for module in model.modules())


def test_padding_stays_where_it_is() -> None:
    model, inputs = language_models()[0].eval(), texts()
    seen: list[torch.Tensor] = []
    handle = model.transformer.h[0].register_forward_pre_hook(lambda _, states: seen.append(states[0].detach()))
    critical_samples(model, inputs, 1e-6, noise=3.0, max_steps=3)
    handle.remove()
    padded = inputs["attention_mask"] == 0
    assert len(seen) == 4 and padded.any()
    for state in seen[1:]:
        moved = (state != seen[0]).any(dim=2)
        assert not moved[padded].any() and moved[~padded].all()


# Refusals, and side effects that must not remain.


class NoLogits(nn.Module):
    def forward(self, pixels: torch.Tensor) -> str:
        return "a picture"


class Nan(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.stack([pixels[:, 0], torch.where(pixels[:, 0] > 2, torch.nan, 0.0)], dim=1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"radius": 0.0}, "radius"), ({"radius": np.nan}, "radius"), ({"radius": "0.1"}, "radius"),
        ({"step": -0.1}, "step"), ({"noise": -1.0}, "noise"), ({"step": 0.0, "noise": 0.0}, "step, noise"),
        ({"max_steps": 0}, "max_steps"), ({"seed": -1}, "seed"), ({"batch_size": 0}, "batch_size"),
        ({"inputs": torch.ones(3, 20).long()}, "inputs"), ({"inputs": torch.full((3, 20), np.nan)}, "inputs"),
        ({"inputs": torch.ones(0, 20)}, "inputs"), ({"inputs": "pixels"}, "inputs"), ({"model": "gpt2"}, "model"),
        ({"inputs": {"a": ROWS, "b": ROWS}}, "inputs"), ({"inputs": texts()}, "model"),
        ({"model": NoLogits()}, "model"),
        ({"model": linear(1, 20)}, "model"),
    ],
)  # fmt: skip
def test_refused(arguments: dict[str, Any], named: str) -> None:
    values = {"model": Mlp(), "inputs": ROWS, "radius": 0.1, **arguments}
    with pytest.raises(InputError, match=rf"^{named}: "):
        critical_samples(**values)


def test_nan_names_the_row_and_leaves_the_model() -> None:
    inputs = torch.zeros(5, 1)
    inputs[3] = 3.0
    model = Nan().train()
    with pytest.raises(NonFiniteScoreError, match="text 3"):
        critical_samples(model, inputs, 0.1, batch_size=2)
    assert model.training


def test_recurrent_and_frozen_models() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.head(self.lstm(x)[0][:, -1]),)

    torch.manual_seed(0)
    model = Recurrent().requires_grad_(False)
    with torch.no_grad():
        assert critical_samples(model, torch.randn(10, 5, 4), 5.0, max_steps=20).mean() > 0.5


# The measure.


def test_the_measure_keeps_the_laws() -> None:
    model = Mlp()
    check_measure(lambda: CriticalSampleRatio({"pixels": ROWS[:16]}, 0.05, max_steps=6), model, start_of(model))
    language_model = language_models()[0]
    check_measure(lambda: CriticalSampleRatio(texts(4), 0.01, max_steps=4), language_model, start_of(language_model))


def test_the_measure_says_what_the_function_finds() -> None:
    model = Mlp()
    measure = CriticalSampleRatio(ROWS, 0.05, seed=4, confidence_level=0.9, name="critical_validation")
    measure.prepare(start_of(model))
    record, found = measure.measure(model), critical_samples(model, ROWS, 0.05, seed=4)
    assert record.figures["eval_critical_validation_ratio"] == found.mean()
    assert record.details["critical_rows"] == np.flatnonzero(found).tolist()
    hits = int(found.sum())
    exact = stats.binomtest(hits, 60).proportion_ci(0.9, method="exact")
    assert record.figures["eval_critical_validation_low"] == pytest.approx(exact.low)
    assert record.figures["eval_critical_validation_high"] == pytest.approx(exact.high)
    with pytest.raises(InputError, match="^name: "):
        CriticalSampleRatio(ROWS, 0.05, name="critical samples")
