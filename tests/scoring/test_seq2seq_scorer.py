"""Targets given their sources, against one text at a time and the model's own loss in float64; search included."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import character_tokenizer, tiny_model
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    ByT5Tokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_exposure import (
    CanaryTemplate,
    Digits,
    ExposureCallback,
    draw_canaries,
    extract,
    log_perplexity,
    measure_exposure,
    rank_bounds,
)
from hf_exposure.context import SourceTemplate, source_for
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.extraction import build_automaton
from hf_exposure.scoring import Scorer, Seq2SeqScorer, make_scorer
from hf_exposure.testing import assert_close, check_scorer, check_search

SOURCE = "my number"
TARGETS = ["pin 1234", "pin 12", "pin 9876 and so on", "pin 1299", "pin 123"]
SOURCES = ["a", "the number is 12", "a", "no", "my number is 123, really"]
TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(2))
SPACE = [TEMPLATE.text_at(index) for index in range(100)]
CANARIES = draw_canaries(TEMPLATE, {1: 3, 4: 2}, controls=4, seed=5)
FAMILIES = ["t5", "bart"]


@cache
def model_of(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> nn.Module:
    """Random weights, so large that the source and every token change the predictions."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if family == "t5":
            sizes = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": 384}
            model = T5ForConditionalGeneration(T5Config(**{**sizes, "decoder_start_token_id": 0, **changes}))
        else:
            side = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in BART_SIDE.items()}
            sizes = {"d_model": 32, "vocab_size": 384, "max_position_embeddings": 64, **side}
            ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 1}
            model = BartForConditionalGeneration(BartConfig(**{**sizes, **ids, **changes}))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return model.eval().to(dtype)


BART_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 64}


def loss_bits(family: str, source: str, target: str, *, end_token: bool = False) -> float:
    """The model's own training loss in float64: a mean of nats over the labels, which the model shifts itself."""
    labels = [byte + 3 for byte in target.encode()] + [1] * end_token
    source_ids = torch.tensor([[byte + 3 for byte in source.encode()] + [1]])
    with torch.no_grad():
        loss = model_of(family, torch.float64)(input_ids=source_ids, labels=torch.tensor([labels])).loss
    return loss.item() * len(labels) / math.log(2.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end_token", [False, True])
def test_each_target_with_its_own_source(family: str, end_token: bool, byte_tokenizer: ByT5Tokenizer) -> None:
    expected = [loss_bits(family, s, t, end_token=end_token) for s, t in zip(SOURCES, TARGETS, strict=True)]
    for tokens in (1, 40, 100, None):
        found = log_perplexity(
            model_of(family),
            byte_tokenizer,
            TARGETS,
            sources=SOURCES,
            end_token=end_token,
            max_batch_tokens=tokens,
        )
        assert found.dtype == np.float64
        assert_close(found, expected, 1e-3)
    exact = log_perplexity(
        model_of(family, torch.float64), byte_tokenizer, TARGETS, sources=SOURCES, end_token=end_token
    )
    # T5's normalization takes its mean square in float32, whatever the model's dtype.
    assert_close(exact, expected, 1e-5 if family == "t5" else 1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_source_for_all_is_each_with_that_source(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    model = model_of(family)
    expected = [loss_bits(family, SOURCE, target) for target in TARGETS]
    assert_close(log_perplexity(model, byte_tokenizer, TARGETS, sources=SOURCE), expected, 1e-3)
    assert_close(log_perplexity(model, byte_tokenizer, TARGETS, sources=[SOURCE] * len(TARGETS)), expected, 1e-3)
    other = log_perplexity(model, byte_tokenizer, TARGETS, sources="other")
    assert (np.abs(other - expected) > 0.01).all(), "a source that moves nothing would prove nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_laws_with_a_fixed_source(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    scorer = Seq2SeqScorer(model_of(family), byte_tokenizer, source=SOURCE)
    assert isinstance(scorer, Scorer)
    check_scorer(scorer, TARGETS)
    assert scorer.mode == "cached", "the prefix and the source are encoded once"
    bits = scorer.prefix_bits(scorer.encode(["pin"]).ids[0])
    assert np.isnan(bits).tolist() == [True, False, False, False], "the start token predicts the first of the target"
    plain = Seq2SeqScorer(model_of(family), byte_tokenizer, source=SOURCE, mode="plain", max_batch_tokens=7)
    assert_close(plain.sequence_bits(plain.encode(TARGETS)), [loss_bits(family, SOURCE, t) for t in TARGETS], 1e-3)


def test_equal_pairs_get_equal_figures_in_any_order(byte_tokenizer: ByT5Tokenizer) -> None:
    texts, sources = TARGETS * 2, SOURCES + SOURCES[::-1]
    found = log_perplexity(model_of("t5"), byte_tokenizer, texts, sources=sources)
    backwards = log_perplexity(model_of("t5"), byte_tokenizer, texts[::-1], sources=sources[::-1])
    assert found.tolist() == backwards.tolist()[::-1]
    assert found[2] == found[7], "the middle pair is there twice"


def test_special_tokens_before_a_target_are_context() -> None:
    """As BART is trained: the decoder reads start, BOS, target; only the target is scored."""
    tokenizer, model = character_tokenizer("pin 0123456789", special=True), model_of("bart", torch.float64)
    ids = tokenizer.convert_tokens_to_ids(list("pin 12"))
    fed = [1, 0, *ids]
    with torch.no_grad():
        source = torch.tensor([[0, *tokenizer.convert_tokens_to_ids(list("99")), 1]])
        logits = model(input_ids=source, decoder_input_ids=torch.tensor([fed])).logits[0]
    chances = torch.log_softmax(logits, dim=-1) / math.log(2.0)
    expected = -sum(chances[place - 1, fed[place]].item() for place in range(2, len(fed)))
    assert_close(log_perplexity(model, tokenizer, ["pin 12"], sources="99"), [expected], 1e-9)
    assert_close(log_perplexity(model, tokenizer, ["pin 12"], sources=["99"]), [expected], 1e-9)


class TwoVocabularies(ByT5Tokenizer):
    """Encodes targets in capitals, which acts like a second vocabulary."""

    def __call__(self, text: Any = None, text_target: Any = None, **keywords: Any) -> Any:
        if text_target is None:
            return super().__call__(text, **keywords)
        capitals = text_target.upper() if isinstance(text_target, str) else [each.upper() for each in text_target]
        return super().__call__(capitals, **keywords)


def test_targets_are_encoded_as_targets() -> None:
    expected = [loss_bits("t5", "small", target.upper()) for target in TARGETS]
    assert_close(log_perplexity(model_of("t5"), TwoVocabularies(), TARGETS, sources="small"), expected, 1e-3)
    assert_close(log_perplexity(model_of("t5"), TwoVocabularies(), TARGETS, sources=["small"] * 5), expected, 1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_search_with_a_fixed_source_is_brute_force(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    costs = [loss_bits(family, SOURCE, text) for text in SPACE]
    scorer = Seq2SeqScorer(model_of(family), byte_tokenizer, source=SOURCE)
    check_search(scorer, build_automaton(TEMPLATE, scorer.encoder), SPACE, costs, budgets=(1, 3, 8))
    model, best = model_of(family), SPACE[int(np.argmin(costs))]
    found = extract(model, byte_tokenizer, TEMPLATE, top_k=2, source=SOURCE)
    assert found.certified and found.candidates[0].text == best
    bounds = rank_bounds(model, byte_tokenizer, best, TEMPLATE, source=SOURCE)
    assert (bounds.low, bounds.high, bounds.certified) == (1, 1, True)


def defined_ranks(family: str, source: str) -> list[int]:
    """Ranks exactly as defined; `source` may have the hole {pin}."""
    bits = {text: loss_bits(family, source.replace("{pin}", text[4:6]), text) for text in SPACE}
    inserted = {canary.text for canary in CANARIES.inserted}
    return [
        1 + sum(bits[text] <= bits[canary.text] for text in SPACE if text != canary.text and text not in inserted)
        for canary in CANARIES
    ]


@pytest.mark.parametrize("method", ["enumerate", "bounded"])
def test_exposure_with_a_fixed_source(method: Any, byte_tokenizer: ByT5Tokenizer) -> None:
    report = measure_exposure(model_of("t5"), byte_tokenizer, CANARIES, method=method, source=SOURCE)
    assert [e.rank_low for e in report.estimates] == defined_ranks("t5", SOURCE)
    assert report.settings["source"] == SOURCE
    drawn = measure_exposure(
        model_of("t5"), byte_tokenizer, CANARIES, method="auto", references=64, source=SOURCE, precision_bits=0.01
    )
    assert drawn.notes == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_exposure_with_the_secret_in_both(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    source = "my {pin}!"
    report = measure_exposure(model_of(family), byte_tokenizer, CANARIES, source=source)
    ranks = defined_ranks(family, source)
    assert [(e.rank_low, e.rank_high) for e in report.estimates] == [(rank, rank) for rank in ranks]
    assert ranks != defined_ranks(family, "my 00!")
    for canary, estimate in zip(CANARIES, report.estimates, strict=True):
        expected = loss_bits(family, f"my {canary.text[4:6]}!", canary.text)
        assert estimate.log_perplexity_bits == pytest.approx(expected, abs=1e-3)


def test_the_secret_in_both_is_sampled_not_searched(byte_tokenizer: ByT5Tokenizer) -> None:
    model, source = model_of("t5"), "my {pin}!"
    report = measure_exposure(model, byte_tokenizer, CANARIES, references=50, source=source)
    assert {e.method for e in report.estimates} == {"sample"}
    assert "the source contains the secret too" in report.notes[0]
    fitted = measure_exposure(
        model, byte_tokenizer, CANARIES, method="skew_normal", source=source, accept_bad_fit=True
    )
    assert {e.method for e in fitted.estimates} == {"skew_normal"}
    with pytest.raises(InputError, match="method: must be 'auto', .* since the source contains the secret too"):
        measure_exposure(model, byte_tokenizer, CANARIES, method="bounded", source=source)
    with pytest.raises(InputError, match="source: must be one fixed text to search texts.*my {pin}!"):
        extract(model, byte_tokenizer, TEMPLATE, source=source)
    with pytest.raises(InputError, match="source: must be one fixed text to search texts"):
        rank_bounds(model, byte_tokenizer, SPACE[0], TEMPLATE, source=source)


def test_errors_name_the_source(byte_tokenizer: ByT5Tokenizer) -> None:
    model = model_of("bart")
    with pytest.raises(InputError, match="source: must be given for an encoder-decoder model"):
        log_perplexity(model, byte_tokenizer, TARGETS)
    with pytest.raises(InputError, match="sources: must be one text for each of the 5 targets"):
        log_perplexity(model, byte_tokenizer, TARGETS, sources=["a"])
    with pytest.raises(InputError, match="source: must be a text of at least one character, got ''"):
        log_perplexity(model, byte_tokenizer, TARGETS, sources="")
    with pytest.raises(InputError, match="source: must fit the model's context of 64 tokens.*It takes 81"):
        log_perplexity(model, byte_tokenizer, TARGETS, sources="x" * 80)
    with pytest.raises(InputError, match="texts: must fit the model's context of 64 tokens"):
        log_perplexity(model, byte_tokenizer, ["x" * 80], sources=["a"])
    with pytest.raises(InputError, match="source: goes with encoder-decoder models only"):
        log_perplexity(tiny_model("gpt2"), byte_tokenizer, TARGETS, sources="a")
    with pytest.raises(InputError, match="source: may have only the template's holes, plain: pin"):
        SourceTemplate("my {number}", TEMPLATE)
    with pytest.raises(InputError, match="source: must have matching braces"):
        source_for("my {pin", TEMPLATE)
    with pytest.raises(InputError, match="Set model.config.decoder_start_token_id"):
        Seq2SeqScorer(model_of("t5", decoder_start_token_id=None), byte_tokenizer, source="a")
    assert len(log_perplexity(model, byte_tokenizer, [], sources=[])) == 0


@pytest.mark.parametrize("sources", ["a", ["a", "b"]], ids=["one", "each"])
def test_nan_names_the_target(sources: Any, byte_tokenizer: ByT5Tokenizer) -> None:
    def spoil(module: nn.Module, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        output.logits[(keywords["decoder_input_ids"] == ord("9") + 3).any(dim=1)] = float("nan")

    with (
        model_of("t5").register_forward_hook(spoil, with_kwargs=True),
        pytest.raises(NonFiniteScoreError, match="NaN logits for text 1$"),
    ):
        log_perplexity(model_of("t5"), byte_tokenizer, ["pin 12", "pin 9876"], sources=sources)


@pytest.mark.parametrize("sources", [SOURCE, SOURCES], ids=["one", "each"])
def test_the_model_is_left_as_found(sources: Any, byte_tokenizer: ByT5Tokenizer) -> None:
    model = model_of("t5").train()
    model.encoder.eval()
    state, flags = torch.get_rng_state(), [module.training for module in model.modules()]
    first = log_perplexity(model, byte_tokenizer, TARGETS, sources=sources)
    assert torch.equal(state, torch.get_rng_state())
    assert flags == [module.training for module in model.modules()]
    assert (first == log_perplexity(model.eval(), byte_tokenizer, TARGETS, sources=sources)).all()


@pytest.mark.parametrize("sources", [SOURCE, SOURCES], ids=["one", "each"])
def test_out_of_memory_halves_the_batch(sources: Any, byte_tokenizer: ByT5Tokenizer) -> None:
    model, most = model_of("t5"), 2

    def refuse(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        if len(keywords["decoder_input_ids"]) > most:
            raise torch.OutOfMemoryError("simulated")

    expected = log_perplexity(model, byte_tokenizer, TARGETS, sources=sources)
    with model.register_forward_pre_hook(refuse, with_kwargs=True):
        assert_close(log_perplexity(model, byte_tokenizer, TARGETS, sources=sources), expected, 1e-3)


def test_a_large_vocabulary_is_read_at_chosen_places(byte_tokenizer: ByT5Tokenizer) -> None:
    model = model_of("bart", vocab_size=20_000)
    for sources in (SOURCE, SOURCES):
        scorer = make_scorer(model, byte_tokenizer, source=SOURCE)
        assert scorer._reader.reads_rows
        found = log_perplexity(model, byte_tokenizer, TARGETS, sources=sources)
        each = [SOURCE] * len(TARGETS) if isinstance(sources, str) else sources
        expected = [hand_bits(model, source, target) for source, target in zip(each, TARGETS, strict=True)]
        assert_close(found, expected, 1e-3)


def hand_bits(model: nn.Module, source: str, target: str) -> float:
    ids = [1] + [byte + 3 for byte in target.encode()]
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor([[byte + 3 for byte in source.encode()] + [1]]),
            decoder_input_ids=torch.tensor([ids]),
        ).logits[0]
    chances = torch.log_softmax(logits.double(), dim=-1) / math.log(2.0)
    return -sum(chances[place - 1, ids[place]].item() for place in range(1, len(ids)))


def test_the_callback_takes_a_source() -> None:
    ExposureCallback(CANARIES, source="my {pin}!")
    with pytest.raises(InputError, match="sauce: must be an argument"):
        ExposureCallback(CANARIES, sauce="a")
