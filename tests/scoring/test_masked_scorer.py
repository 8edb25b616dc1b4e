"""Pseudo-log-likelihoods against a hand-written loop, and which models are treated as masked ones."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, character_tokenizer, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from hf_exposure import CanaryTemplate, Digits, draw_canaries, extract, log_perplexity, measure_exposure, rank_bounds
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.scoring import CausalScorer, MaskedScorer, Scorer, make_scorer
from hf_exposure.scoring.select import sees_later_tokens
from hf_exposure.testing import assert_close, check_batch_independence

CHARACTERS = "pinok 0123456789"
TEXTS = ["pin 123", "pin 12", "pin 9", "7", "pin 123 ok"]
TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(2))
CANARIES = draw_canaries(TEMPLATE, {1: 3}, controls=3, seed=2)
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 40,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


@cache
def masked_tokenizer(around: bool = True) -> PreTrainedTokenizerFast:
    """One token per character; [CLS] before and [SEP] after a text, or nothing."""
    vocabulary = {name: index for index, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    for character in CHARACTERS:
        vocabulary.setdefault(character, len(vocabulary))
    backend = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if around:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{k}_token": v for k, v in names.items()})


@cache
def bert(family: str = "bert", **changes: Any) -> nn.Module:
    kinds = {"bert": (BertForMaskedLM, BertConfig), "roberta": (RobertaForMaskedLM, RobertaConfig)}
    kind, config = kinds[family]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = kind(config(**{**SIZES, **changes}))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.3)
    return model.eval()


def hand_bits(model: nn.Module, text: str, around: bool = True) -> float:
    """Masks each token in turn, with one forward pass each."""
    vocabulary = masked_tokenizer().get_vocab()
    ids = [vocabulary[character] for character in text]
    total = 0.0
    for place, token in enumerate(ids):
        hidden = [*ids[:place], vocabulary["[MASK]"], *ids[place + 1 :]]
        row = [2, *hidden, 3] if around else hidden
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row])).logits[0, place + around].double()
        total -= torch.log_softmax(logits, dim=-1)[token].item() / math.log(2.0)
    return total


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("tokens", [1, 30, None])
def test_each_token_masked_in_turn(family: str, tokens: int | None) -> None:
    model = bert(family)
    found = log_perplexity(model, masked_tokenizer(), TEXTS, max_batch_tokens=tokens)
    assert_close(found, [hand_bits(model, text) for text in TEXTS], 1e-3)


def test_without_special_tokens_the_first_token_is_scored_too() -> None:
    found = log_perplexity(bert(), masked_tokenizer(around=False), TEXTS)
    assert_close(found, [hand_bits(bert(), text, around=False) for text in TEXTS], 1e-3)


def test_a_large_vocabulary_is_read_at_chosen_places() -> None:
    model = bert(vocab_size=20_000)
    scorer = MaskedScorer(model, masked_tokenizer())
    assert scorer._reader.reads_rows
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), [hand_bits(model, text) for text in TEXTS], 1e-3)


def test_the_laws_that_hold_without_prefixes() -> None:
    scorer = MaskedScorer(bert(), masked_tokenizer())
    assert isinstance(scorer, Scorer) and scorer.tolerance_bits == 1e-4
    check_batch_independence(scorer, TEXTS, 1e-3)
    assert len(scorer.sequence_bits(scorer.encode([]))) == 0


def test_the_model_is_left_as_found() -> None:
    model = bert(hidden_dropout_prob=0.5).train()
    state, expected = torch.get_rng_state(), log_perplexity(bert(hidden_dropout_prob=0.5), masked_tokenizer(), TEXTS)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert (expected == log_perplexity(model.eval(), masked_tokenizer(), TEXTS)).all()


def test_out_of_memory_halves_the_batch() -> None:
    def refuse(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        if len(keywords["input_ids"]) > 3:
            raise torch.OutOfMemoryError("simulated")

    with bert().register_forward_pre_hook(refuse, with_kwargs=True):
        found = log_perplexity(bert(), masked_tokenizer(), TEXTS)
    assert_close(found, [hand_bits(bert(), text) for text in TEXTS], 1e-3)


def test_search_is_refused() -> None:
    model, tokenizer = bert(), masked_tokenizer()
    for search in (
        lambda: extract(model, tokenizer, TEMPLATE),
        lambda: rank_bounds(model, tokenizer, "pin 12 ok", TEMPLATE),
        lambda: MaskedScorer(model, tokenizer).path_bits((2,), []),
    ):
        with pytest.raises(InputError, match="model: must read from left to right to search texts"):
            search()
    with pytest.raises(InputError, match="method: must be 'auto', .* a masked model predicts each token"):
        measure_exposure(model, tokenizer, CANARIES, method="bounded")


def test_exposure_among_all_texts_by_hand() -> None:
    model = bert()
    bits = {text: hand_bits(model, text) for text in map(TEMPLATE.text_at, range(100))}
    inserted = {canary.text for canary in CANARIES.inserted}
    ranks = [
        1 + sum(bits[text] <= bits[own.text] for text in bits if text != own.text and text not in inserted)
        for own in CANARIES
    ]
    report = measure_exposure(model, masked_tokenizer(), CANARIES)
    assert [e.rank_low for e in report.estimates] == ranks
    assert report.notes == (MaskedScorer.note,) and "pseudo-log-likelihood" in report.notes[0]


def test_a_large_space_is_sampled() -> None:
    report = measure_exposure(bert(), masked_tokenizer(), CANARIES, references=50)
    assert {e.method for e in report.estimates} == {"sample"}
    assert [note.split(":")[0] for note in report.notes] == [
        "log-perplexities are pseudo-log-likelihoods",
        "no search, uniform references instead",
    ]


def test_nan_and_long_texts_are_named() -> None:
    nine = masked_tokenizer().get_vocab()["9"]

    def spoil(module: nn.Module, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        output.logits[(keywords["input_ids"] == nine).any(dim=1)] = float("nan")

    with (
        bert().register_forward_hook(spoil, with_kwargs=True),
        pytest.raises(NonFiniteScoreError, match=f"NaN logits for text {TEXTS.index('pin 9')}$"),
    ):
        log_perplexity(bert(), masked_tokenizer(), TEXTS)
    with pytest.raises(InputError, match="texts: must fit the model's context of 32 tokens.*It takes 33"):
        log_perplexity(bert(), masked_tokenizer(), ["1" * 31])


def test_a_model_that_reads_both_ways_needs_a_mask_token() -> None:
    with pytest.raises(InputError, match="model: must read from left to right, or come with .* a mask token"):
        make_scorer(bert(), character_tokenizer(CHARACTERS))
    with pytest.raises(InputError, match="end_token: goes with models that read from left to right"):
        make_scorer(bert(), masked_tokenizer(), end_token=True)
    with pytest.raises(InputError, match="tokenizer: must have a mask token"):
        MaskedScorer(tiny_model("gpt2"), character_tokenizer(CHARACTERS))


@pytest.mark.parametrize("family", [*FAMILIES, "lstm"])
@pytest.mark.parametrize("scale", [0.02, 0.3, 2.0])
def test_causal_models_are_not_taken_for_masked_ones(family: str, scale: float, byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model(family, scale=scale).train()
    state = torch.get_rng_state()
    assert not sees_later_tokens(model, byte_tokenizer)
    assert torch.equal(state, torch.get_rng_state()) and all(module.training for module in model.modules())
    assert type(make_scorer(model, byte_tokenizer)) is CausalScorer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_causal_models_of_any_precision_are_not_taken_for_masked_ones(
    family: str, dtype: torch.dtype, byte_tokenizer: ByT5Tokenizer
) -> None:
    assert not sees_later_tokens(tiny_model(family).to(dtype), byte_tokenizer)


def test_a_mask_token_or_the_name_of_a_masked_model_does_not_matter() -> None:
    """A mask token proves nothing, nor does the name: the same BERT with a causal mask is a causal model."""
    config = BertConfig(**SIZES, is_decoder=True)
    for model in (tiny_model("gpt2", vocab_size=40), BertLMHeadModel(config).eval()):
        assert type(make_scorer(model, masked_tokenizer())) is CausalScorer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_freshly_initialized_masked_model_is_recognized(dtype: torch.dtype) -> None:
    """With small random weights, as before any training, attention has little effect, and the check still sees it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(BertConfig(**SIZES)).to(dtype)
    assert sees_later_tokens(model, masked_tokenizer())


def test_padding_on_the_right_changes_nothing(byte_tokenizer: ByT5Tokenizer) -> None:
    """With texts of different lengths in a call, the causal model's figures are those of each text alone."""
    model = tiny_model("llama")
    together = log_perplexity(model, byte_tokenizer, ["ab", "abcdefghijkl", "xyz"])
    alone = [log_perplexity(model, byte_tokenizer, [text])[0] for text in ("ab", "abcdefghijkl", "xyz")]
    assert_close(together, np.array(alone), 1e-3)
