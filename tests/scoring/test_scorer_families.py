"""Every model family satisfies the laws, agrees with brute force, and is read in the fastest correct mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model
from transformers import ByT5Tokenizer

from hf_exposure.scoring import CausalScorer
from hf_exposure.testing import assert_close, brute_force_bits, check_scorer

TEXTS = ["the pin is 1234", "the pin is 12", "the pin is 9876 and so on", "the pin is 1299", "the pin is 123"]
MODES = {
    "gpt2": "packed",
    "llama": "packed",
    "mistral": "cached",  # texts exceed the window of 8 tokens, which a mask of ancestors ignores
    "gpt_neox": "packed",
    "opt": "packed",
    "bloom": "cached",  # ALiBi counts places from the mask, not from position ids
    "mamba": "plain",
    "lstm": "plain",
}


def expected_bits(model: torch.nn.Module, texts: list[str]) -> list[float]:
    return [brute_force_bits(model, [byte + 3 for byte in text.encode()], 1) for text in texts]


@pytest.mark.parametrize("family", MODES)
def test_laws_and_brute_force(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model(family)
    scorer = CausalScorer(model, byte_tokenizer)
    check_scorer(scorer, TEXTS)
    assert scorer.mode == MODES[family]
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in ("bloom", "mamba")])
def test_eager_attention(family: str, byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model(family, attn_implementation="eager")
    scorer = CausalScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)
    assert scorer.mode == MODES[family]


@pytest.mark.parametrize("first", ["the pin is 1", "the"])
@pytest.mark.parametrize("family", MODES)
def test_the_mode_does_not_depend_on_the_first_text(family: str, first: str, byte_tokenizer: ByT5Tokenizer) -> None:
    """One text, or a short one, reveals nothing about masks and windows: agreement on it alone is no evidence."""
    model = tiny_model(family)
    scorer = CausalScorer(model, byte_tokenizer)
    scorer.sequence_bits(scorer.encode([first]))
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)


def test_a_window_longer_than_the_first_texts(byte_tokenizer: ByT5Tokenizer) -> None:
    """Packing is right within the window of 48 tokens, and abandoned when a later text exceeds it."""
    model = tiny_model("mistral", sliding_window=48)
    scorer = CausalScorer(model, byte_tokenizer)
    short = ["ab", "ac"]
    assert_close(scorer.sequence_bits(scorer.encode(short)), expected_bits(model, short), 1e-3)
    assert scorer.mode == "packed"
    long = [text * 4 for text in TEXTS]
    assert_close(scorer.sequence_bits(scorer.encode(long)), expected_bits(model, long), 1e-3)
    assert scorer.mode == "cached"


@pytest.mark.parametrize("mode", ["packed", "cached", "plain"])
@pytest.mark.parametrize("rows", [1, 7, 10**6])
def test_each_mode_at_any_batch_size(mode: str, rows: int, byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("llama")
    texts = [f"pin {17 * number % 1000:03d}" for number in range(60)] + ["pin", "no", "pin 017"]
    scorer = CausalScorer(model, byte_tokenizer, max_batch_tokens=rows, mode=mode)
    assert_close(scorer.sequence_bits(scorer.encode(texts)), expected_bits(model, texts), 1e-3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("length", [1, 2, 3, 126, 127, 128])
def test_texts_as_long_as_the_context(family: str, length: int, byte_tokenizer: ByT5Tokenizer) -> None:
    """Trying the model must not read beyond its last position, whatever part of the text is shared."""
    model = tiny_model(family)
    for texts in (["x" * 128], ["x" * length + "y" * (128 - length), "x" * 127 + "z", "xx"]):
        scorer = CausalScorer(model, byte_tokenizer)
        assert_close(scorer.sequence_bits(scorer.encode(texts)), expected_bits(model, texts), 1e-3)


def test_half_precision_within_its_rounding(byte_tokenizer: ByT5Tokenizer) -> None:
    """bfloat16 keeps 8 bits: a token's bits change by up to 2 %, and nothing is summed in bfloat16."""
    model = tiny_model("llama")
    exact = expected_bits(model, TEXTS)
    scorer = CausalScorer(model.bfloat16(), byte_tokenizer)
    bits = scorer.sequence_bits(scorer.encode(TEXTS))
    assert_close(bits / exact, 1.0, 0.02)
    check_scorer(scorer, TEXTS, tolerance=0.02 * max(exact))
    assert len(set(bits.round(6))) == len(TEXTS)


def test_double_precision_is_kept(byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2").double()
    scorer = CausalScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-9)
    assert scorer.mode == "packed"


def test_a_model_configured_without_cache(byte_tokenizer: ByT5Tokenizer) -> None:
    """The configuration left by gradient checkpointing."""
    model = tiny_model("gpt2")
    model.config.use_cache = False
    scorer = CausalScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)
    assert model.config.use_cache is False and scorer.mode == "packed"


class MaskIgnoring(torch.nn.Module):
    """Accepts a mask of ancestors and positions without an error, but still reads rows as plain text."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids: torch.Tensor, attention_mask: object = None, **keywords: Any) -> Any:
        return self.inner(input_ids=input_ids, **keywords)


@pytest.mark.parametrize("first", [["pin 1"], ["ab", "abcdef"], TEXTS])
def test_a_model_that_ignores_masks_is_detected(first: list[str], byte_tokenizer: ByT5Tokenizer) -> None:
    model = MaskIgnoring(tiny_model("gpt2"))
    scorer = CausalScorer(model, byte_tokenizer)
    scorer.sequence_bits(scorer.encode(first))
    assert scorer.mode == "cached"
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)


@pytest.mark.parametrize("texts", [["#12", "#34"], ["#1", "#2", "#3"], ["12", "34"], ["# 1", "# 2"]], ids=str)
@pytest.mark.parametrize("family", MODES)
def test_a_prefix_of_one_token_is_not_lost(family: str, texts: list[str], byte_tokenizer: ByT5Tokenizer) -> None:
    """A model without a cache agrees with itself where there is no prefix to forget."""
    model = tiny_model(family)
    scorer = CausalScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(texts)), expected_bits(model, texts), 1e-3)
    other = CausalScorer(model, byte_tokenizer)
    other.sequence_bits(other.encode(["12", "34"]))
    assert_close(other.sequence_bits(other.encode(texts)), expected_bits(model, texts), 1e-3)
