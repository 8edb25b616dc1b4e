"""The example's models: real `PreTrainedModel`s without attention or cache, measured like any other."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from examples.secret_sharer.models import ARCHITECTURES, make_model
from examples.secret_sharer.training import Training, character_tokenizer, encode_rows, loss_bits, train
from hf_exposure import CanaryTemplate, Digits, draw_canaries, extract, log_perplexity, measure_exposure, rank_bounds
from hf_exposure.scoring import CausalScorer

TEMPLATE = CanaryTemplate("The code is {code}.", code=Digits(3))
TOKENIZER = character_tokenizer("")
# Every architecture, and also two layers of those that the paper has at two depths.
MODELS = [(name, 1) for name in ARCHITECTURES] + [("lstm", 2), ("gru", 2)]


def small_model(architecture: str, layers: int = 1) -> PreTrainedModel:
    torch.manual_seed(0)
    return make_model(architecture, len(TOKENIZER), width=16, layers=layers).eval()


def own_bits(model: PreTrainedModel, text: str) -> float:
    """Scores one character after the other, each in its own call."""
    ids = [TOKENIZER.convert_tokens_to_ids(character) for character in text]
    total = 0.0
    for end in range(1, len(ids)):
        with torch.no_grad():
            probabilities = model(input_ids=torch.tensor([ids[:end]])).logits[0, -1].double().softmax(-1)
        total -= math.log2(float(probabilities[ids[end]]))
    return total


@pytest.mark.parametrize(("architecture", "layers"), MODELS)
def test_bits_are_those_of_one_character_at_a_time(architecture: str, layers: int) -> None:
    model = small_model(architecture, layers)
    texts = [TEMPLATE.text_at(index) for index in (0, 7, 999)]
    expected = [own_bits(model, text) for text in texts]
    assert log_perplexity(model, TOKENIZER, texts).tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("architecture", "layers"), MODELS)
def test_search_and_measurement_agree_with_scoring_every_text(architecture: str, layers: int) -> None:
    model = small_model(architecture, layers)
    canaries = draw_canaries(TEMPLATE, {1: 2}, controls=0, seed=4)
    texts = [TEMPLATE.text_at(index) for index in range(1000)]
    costs = dict(zip(texts, log_perplexity(model, TOKENIZER, texts), strict=True))
    first, second = (canary.text for canary in canaries.inserted)
    rank = 1 + sum(cost <= costs[first] for text, cost in costs.items() if text not in (first, second))
    bounds = rank_bounds(model, TOKENIZER, first, TEMPLATE, exclude=[second])
    assert bounds.certified and bounds.low <= rank <= bounds.high
    best = extract(model, TOKENIZER, TEMPLATE)
    assert best.certified and costs[best.candidates[0].text] == pytest.approx(min(costs.values()), abs=1e-4)
    report = measure_exposure(model, TOKENIZER, canaries, method="enumerate")
    assert report.estimates[0].exposure_bits == pytest.approx(math.log2(999 / rank), abs=1e-9)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "transformer"])
def test_these_models_are_read_whole(architecture: str) -> None:
    scorer = CausalScorer(small_model(architecture), TOKENIZER)
    scorer.sequence_bits(scorer.encode([TEMPLATE.text_at(index) for index in range(20)]))
    assert scorer.mode == "plain"


@pytest.mark.parametrize(("architecture", "layers"), MODELS)
def test_saved_and_loaded(architecture: str, layers: int, tmp_path: Path) -> None:
    model = small_model(architecture, layers)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == layers and again.num_parameters() == model.num_parameters()
    ids = torch.arange(12)[None]
    assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in again.state_dict().items())
    # Kernels may differ in the last bit if the same weights have a different memory alignment.
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize(("architecture", "layers"), [(name, 1) for name in ARCHITECTURES[:4]] + [("lstm", 2)])
def test_nothing_looks_ahead(architecture: str, layers: int) -> None:
    model = small_model(architecture, layers)
    ids = torch.randint(2, 60, (1, 40), generator=torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[0, 25] = (ids[0, 25] + 1) % 60
    with torch.no_grad():
        before, after = model(input_ids=ids).logits, model(input_ids=changed).logits
    assert torch.equal(before[:, :25], after[:, :25]) and not torch.allclose(before[:, 25], after[:, 25])


@pytest.mark.parametrize(("architecture", "layers"), [*MODELS, ("cnn", 4), ("wavenet", 2)])
def test_about_as_many_parameters_as_asked_for(architecture: str, layers: int) -> None:
    with torch.device("meta"):
        model = make_model(architecture, 60, layers=layers, parameters=620_000)
    assert 0.93 * 620_000 < sum(weights.numel() for weights in model.parameters()) <= 620_000


def test_loss_is_bits_per_character_and_training_lowers_it() -> None:
    model = small_model("gru")
    rows = encode_rows(TOKENIZER, ["abcabcabcabc", "abc"] * 16)
    assert rows.shape == (32, 12) and (rows[1, 3:] == -100).all()
    # Each pair of rows has 11 + 2 characters after a first one.
    expected = (own_bits(model, "abcabcabcabc") + own_bits(model, "abc")) / 13
    assert loss_bits(model, rows) == pytest.approx(expected, abs=1e-5)
    losses = train(model, rows, Training(epochs=20, batch_size=8, learning_rate=1e-2))
    assert losses[-1] < 0.5 < losses[0] and loss_bits(model, rows) < 0.5


def test_training_is_repeatable_and_keeps_the_order_when_told() -> None:
    rows = encode_rows(TOKENIZER, [f"row {number:02}" for number in range(24)])
    seen: list[torch.Tensor] = []

    def trained() -> PreTrainedModel:
        model = small_model("lstm")
        model.register_forward_pre_hook(lambda _, args, more: seen.append(more["input_ids"]), with_kwargs=True)
        train(model, rows, Training(epochs=1, batch_size=8, shuffle=False, seed=3))
        return model

    first, second = trained(), trained()
    assert torch.equal(torch.cat(seen[:3]), rows[:, :-1])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_what_looks_like_a_special_token_is_characters() -> None:
    tokenizer = character_tokenizer("a <unk> <pad>")
    ids = tokenizer("a <unk> <pad>\u20ac")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [*"a <unk> <pad>", tokenizer.unk_token]


def test_training_ends_when_a_callback_says_so() -> None:
    rows = encode_rows(TOKENIZER, [f"row {number:02}" for number in range(24)])
    training, steps, epochs = Training(epochs=5, batch_size=8), [], []
    losses = train(
        small_model("gru"),
        rows,
        training,
        after_batch=lambda step: steps.append(step) or step == 4,  # type: ignore[func-returns-value]
        after_epoch=epochs.append,
    )
    assert (steps, epochs, len(losses)) == ([1, 2, 3, 4], [1], 2)
