"""The private training step against gradients of one row at a time, and its epsilon against a formula by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from examples.secret_sharer.models import make_model
from examples.secret_sharer.private_training import (
    Privacy,
    PrivateTraining,
    noise_for,
    spent_epsilon,
    train_privately,
    with_private_layers,
)
from examples.secret_sharer.training import character_tokenizer, encode_rows
from hf_exposure import log_perplexity

TOKENIZER = character_tokenizer("")
ROWS = encode_rows(TOKENIZER, ["The first row.", "A shorter", "And one that is longer.", "The last."])


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return make_model("lstm", len(TOKENIZER), width=8)


def test_opacus_layer_computes_what_torch_does() -> None:
    model = small_model()
    texts = ["The code is 007.", "A longer text than that one."]
    private = with_private_layers(copy.deepcopy(model))
    expected = log_perplexity(model, TOKENIZER, texts)
    assert log_perplexity(private, TOKENIZER, texts) == pytest.approx(expected, abs=1e-3)
    assert not any(isinstance(module, nn.LSTM) for module in private.modules())


@pytest.mark.parametrize("clip", [0.01, 0.4, 1000.0])
def test_a_step_is_the_mean_of_the_rows_own_clipped_gradients(clip: float) -> None:
    model, rate = small_model(), 0.5
    total = [torch.zeros_like(weight) for weight in model.parameters()]
    for row_T in ROWS:  # one at a time, with torch's own LSTM
        model.zero_grad()
        logits_TV = model(input_ids=row_T[None, :-1].clamp(min=0)).logits[0]
        kept = row_T[1:] >= 0
        (functional.cross_entropy(logits_TV[kept], row_T[1:][kept], reduction="sum") / (len(row_T) - 1)).backward()
        gradients = [weight.grad for weight in model.parameters()]
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        for sum_of_rows, gradient in zip(total, gradients, strict=True):
            sum_of_rows += gradient * min(1.0, clip / norm) / len(ROWS)
    expected = {
        name: weight.detach() - rate * gradient
        for (name, weight), gradient in zip(model.named_parameters(), total, strict=True)
    }
    private = with_private_layers(small_model())
    # There is one batch of all rows: each is drawn with probability 1.
    privacy = Privacy(epochs=1, batch_size=len(ROWS), learning_rate=rate, optimizer="sgd", noise=0.0, clip=clip)
    assert train_privately(private, ROWS, privacy, delta=1e-6) == math.inf
    trained = private.state_dict()  # by torch's names
    for name, weight in expected.items():
        torch.testing.assert_close(trained[name], weight, atol=2e-5, rtol=1e-4)


def test_every_batch_has_noise_and_the_epsilon_spent_is_the_planned_one() -> None:
    # With 4 rows in batches of 2 on average, one batch in 16 is empty.
    quiet = Privacy(epochs=4, batch_size=2, learning_rate=0.1, optimizer="sgd", noise=0.0, seed=3)
    loud = Privacy(epochs=4, batch_size=2, learning_rate=0.1, optimizer="sgd", noise=4.0, seed=3)
    models = []
    for privacy in (quiet, loud, loud):
        model = with_private_layers(small_model())
        booked = train_privately(model, ROWS, privacy, delta=1e-6)
        models.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert booked == pytest.approx(spent_epsilon(loud, len(ROWS), 1e-6))
    assert torch.equal(models[1], models[2])  # a seed gives the same noise
    # The root of 8 steps x noise 4 x clip 1 / 2 rows x rate 0.1 is the standard deviation of a weight.
    assert (models[1] - models[0]).std().item() == pytest.approx(math.sqrt(8) * 0.2, rel=0.1)


def test_norms_are_those_of_the_rows_own_gradients() -> None:
    model = small_model()
    norms = []
    for row_T in ROWS:
        model.zero_grad()
        logits_TV = model(input_ids=row_T[None, :-1].clamp(min=0)).logits[0]
        kept = row_T[1:] >= 0
        (functional.cross_entropy(logits_TV[kept], row_T[1:][kept], reduction="sum") / (len(row_T) - 1)).backward()
        norms.append(math.sqrt(sum(float((weight.grad**2).sum()) for weight in model.parameters())))
    clip = 0.5 * (sorted(norms)[1] + sorted(norms)[2])
    privacy = Privacy(epochs=1, batch_size=len(ROWS), learning_rate=0.1, optimizer="sgd", noise=0.0, clip=clip)
    training = PrivateTraining(with_private_layers(small_model()), ROWS, privacy, watched=2)
    training.epoch()
    assert training.watched_norms == pytest.approx([norms[2]], rel=1e-3)
    assert (training.rows_seen, training.rows_clipped) == (4, 2)


def test_a_private_training_that_was_stopped_ends_as_if_it_had_not_been() -> None:
    privacy = Privacy(epochs=2, batch_size=2, learning_rate=0.1, optimizer="rmsprop", noise=1.0, seed=5)
    whole, first, second = (PrivateTraining(with_private_layers(small_model()), ROWS, privacy, 1) for _ in range(3))
    whole.epoch()
    whole.epoch()
    first.epoch()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.epoch()
    for one, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.booked(1e-6) == second.booked(1e-6) > first.booked(1e-6)
    assert whole.watched_norms == second.watched_norms and whole.rows_seen == second.rows_seen


def test_epsilon_of_the_whole_batch_is_the_gaussian_mechanism_s() -> None:
    """Without sampling, the Renyi divergence of order a is at most steps x a / (2 noise^2) (Mironov 2017)."""
    privacy = Privacy(epochs=10, batch_size=8, learning_rate=0.1, optimizer="sgd", noise=5.0)
    orders = [1 + step / 1000 for step in range(1, 63_000)]
    by_hand = min(10 * a / (2 * 25) + math.log((a - 1) / a) - (math.log(1e-6) + math.log(a)) / (a - 1) for a in orders)
    assert spent_epsilon(privacy, 8, 1e-6) == pytest.approx(by_hand, rel=0.02)


@pytest.mark.parametrize("epsilon", [0.65, 2e8])
def test_the_noise_that_is_found_spends_the_epsilon_asked_for(epsilon: float) -> None:
    privacy = Privacy(epochs=3, batch_size=10, learning_rate=0.1, optimizer="sgd", noise=1.0)
    noise = noise_for(epsilon, 100, 1e-6, privacy)
    spent = spent_epsilon(Privacy(**vars(privacy) | {"noise": noise}), 100, 1e-6)
    assert 0.98 * epsilon < spent <= epsilon
