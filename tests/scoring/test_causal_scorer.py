"""Properties of a scorer besides its scores: encodings, errors, an unchanged model, memory, large vocabularies."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import character_tokenizer, merging_tokenizer, tiny_model
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import log_perplexity
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.scoring import CausalScorer, Encoder, PathQuery
from hf_exposure.testing import assert_close, brute_force_bits, check_scorer

PINS = ["pin 12", "pin 1", "pin 123", "pin 9", "no pin", "pin 12"]
LETTERS = "0123456789 abcdefghijklmnopqrstuvwxyz"


class Wrapped(nn.Module):
    """A model whose logits become NaN or whose memory runs out; everything else is the model's own."""

    def __init__(self, inner: nn.Module, *, nan_after: int | None = None, most_rows: int = 10**9) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.nan_after, self.most_rows, self.refusals = nan_after, most_rows, 0

    def forward(self, input_ids: torch.Tensor, **keywords: Any) -> Any:
        if len(input_ids) > self.most_rows:
            self.refusals += 1
            raise torch.OutOfMemoryError("simulated")
        output = self.inner(input_ids=input_ids, **keywords)
        if self.nan_after is not None:
            output.logits[input_ids == self.nan_after] = float("nan")
        return output


def test_bits_of_a_uniform_model_by_hand(byte_tokenizer: ByT5Tokenizer) -> None:
    """256 equally likely entries: 8 bits for each byte except the first, which is not predicted."""
    model = SimpleUniform(256)
    assert log_perplexity(model, byte_tokenizer, ["a", "abc", "ab"][1:]).tolist() == [16.0, 8.0]


class SimpleUniform(nn.Module):
    def __init__(self, vocabulary: int, offset: float = 0.0) -> None:
        super().__init__()
        self.vocabulary, self.offset = vocabulary, offset

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.full((*input_ids.shape, self.vocabulary), self.offset))


def test_large_logits_and_impossible_tokens(byte_tokenizer: ByT5Tokenizer) -> None:
    assert_close(log_perplexity(SimpleUniform(256, 1e3), byte_tokenizer, ["abc"]), [16.0], 1e-3)

    class Impossible(SimpleUniform):
        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            output = super().forward(input_ids)
            output.logits[..., ord("b") + 3] = -float("inf")
            return output

    found = log_perplexity(Impossible(257), byte_tokenizer, ["ac", "abc", "ba"])
    assert found.tolist() == [8.0, np.inf, 8.0]


def test_leading_tokens_are_context_and_trailing_ones_left_out() -> None:
    tokenizer, model = character_tokenizer(LETTERS, special=True), tiny_model("gpt2")
    ids = [tokenizer.convert_tokens_to_ids(list(text)) for text in PINS]
    expected = [brute_force_bits(model, [0, *known], 1) for known in ids]
    assert_close(log_perplexity(model, tokenizer, PINS), expected, 1e-3)
    ended = [brute_force_bits(model, [0, *known, 1], 1) for known in ids]
    assert_close(log_perplexity(model, tokenizer, PINS, end_token=True), ended, 1e-3)
    assert Encoder.of(tokenizer).encode(["a"]).ids == ((0, tokenizer.convert_tokens_to_ids("a")),)
    check_scorer(CausalScorer(model, tokenizer, end_token=True), PINS)


def test_the_end_token_of_a_tokenizer_that_adds_none(byte_tokenizer: ByT5Tokenizer) -> None:
    """ByT5 adds `</s>` itself; a plain byte BPE only has one."""
    merging, model = merging_tokenizer(), tiny_model("gpt2")
    assert Encoder.of(byte_tokenizer, end_token=True).encode(["hi"]).ids == ((107, 108, 1),)
    assert Encoder.of(merging).encode(["is no"]).ids != Encoder.of(merging, end_token=True).encode(["is no"]).ids
    check_scorer(CausalScorer(model, merging, end_token=True), PINS)
    merging.eos_token = None
    with pytest.raises(InputError, match=r"^end_token: needs a tokenizer that has an end token, got .*eos_token"):
        Encoder.of(merging, end_token=True)


def test_a_tokenizer_without_the_letter_a() -> None:
    """It drops unknown characters, so the place of its special tokens must be found with another text."""
    tokenizer = character_tokenizer("0123456789 ", special=True)
    tokenizer.backend_tokenizer.model.unk_token = None
    tokenizer.unk_token = None
    assert Encoder.of(tokenizer).leading == (0,)


def test_tokens_that_merge_across_a_text() -> None:
    """Beginnings of texts are not beginnings of their encodings: `is 1` + `2` merges into one token."""
    tokenizer, model = merging_tokenizer(), tiny_model("llama")
    texts = ["no is 1", "no is 12", "no is 123", "no is 1234", "no is", "no i"]
    ids = tokenizer(texts)["input_ids"]
    assert ids[1][: len(ids[0])] != ids[0]
    assert_close(log_perplexity(model, tokenizer, texts), [brute_force_bits(model, known, 1) for known in ids], 1e-3)
    check_scorer(CausalScorer(model, tokenizer), texts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_padding_side_does_not_matter(side: str) -> None:
    tokenizer, model = character_tokenizer(LETTERS, special=True), tiny_model("opt")
    expected = log_perplexity(model, tokenizer, PINS)
    tokenizer.padding_side, tokenizer.pad_token = side, "</s>"
    tokenizer(PINS, padding=True)
    assert log_perplexity(model, tokenizer, PINS).tolist() == expected.tolist()
    assert tokenizer.padding_side == side


@pytest.mark.parametrize(
    "texts",
    [["abc"], ["abc", "abc"], ["abc", "abd"], ["abc", "xyz", "qrs"], ["ab", "abc", "abcd"], ["ab", "cdefghijk"]],
    ids=["single", "duplicates", "last token", "nothing shared", "prefixes", "unequal"],
)
@pytest.mark.parametrize("special", [True, False])
def test_shapes_of_trees(texts: list[str], special: bool) -> None:
    tokenizer, model = character_tokenizer(LETTERS, special=special), tiny_model("gpt2")
    ids = [[*([0] if special else []), *tokenizer.convert_tokens_to_ids(list(text))] for text in texts]
    assert_close(log_perplexity(model, tokenizer, texts), [brute_force_bits(model, known, 1) for known in ids], 1e-3)
    assert log_perplexity(model, tokenizer, []).shape == (0,)


def test_errors_name_the_text_and_the_remedy(byte_tokenizer: ByT5Tokenizer) -> None:
    model, letters = tiny_model("gpt2"), character_tokenizer(LETTERS)
    with pytest.raises(
        InputError, match=r"^texts: must fit the model's context of 128 tokens, got text 1\. It takes 129"
    ):
        log_perplexity(model, byte_tokenizer, ["xx", "y" * 129])
    scorer = CausalScorer(model, byte_tokenizer)
    for ask in (
        lambda: scorer.prefix_bits([5] * 129),
        lambda: scorer.path_bits([5] * 100, [PathQuery((5,) * 29, 0, np.array([5]))]),
    ):
        with pytest.raises(InputError, match="context of 128 tokens"):
            ask()
    with pytest.raises(InputError, match=r"^tokenizer: must encode every character .*got text 1\."):
        log_perplexity(model, letters, ["pin 1", "pin ?"])
    for text in ("", "a"):
        with pytest.raises(InputError, match=r"^texts: each needs at least one token that .*, got text 1\..*BOS"):
            log_perplexity(model, byte_tokenizer, ["ab", text])
    with pytest.raises(InputError, match=r"^texts: must be a list of strings, got 'str'\. Write \[text\]"):
        log_perplexity(model, byte_tokenizer, "ab")
    with pytest.raises(InputError, match=r"^max_batch_tokens: must be a whole number of at least 1, got 0"):
        log_perplexity(model, byte_tokenizer, ["ab"], max_batch_tokens=0)


def test_nan_names_the_text_and_leaves_no_mark(byte_tokenizer: ByT5Tokenizer) -> None:
    model = Wrapped(tiny_model("gpt2"), nan_after=ord("9") + 3)
    scorer = CausalScorer(model, byte_tokenizer)
    with pytest.raises(NonFiniteScoreError, match="NaN logits for text 1$"):
        scorer.sequence_bits(scorer.encode(["pin 12", "pin 91", "pin 9"]))
    with pytest.raises(NonFiniteScoreError, match="NaN logits after 2 tokens of the template$"):
        scorer.path_bits([60], [PathQuery((60,), 0, np.array([61]))])
    healthy = ["pin 12", "pin 11", "pin 9"]  # the last byte is read, never fed
    ids = [[byte + 3 for byte in text.encode()] for text in healthy]
    expected = [brute_force_bits(model.inner, known, 1) for known in ids]
    assert_close(scorer.sequence_bits(scorer.encode(healthy)), expected, 1e-3)


def test_a_training_flag_that_a_forward_pass_sets_is_restored(byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2").eval()
    model.transformer.h[0].register_forward_hook(lambda module, *_: setattr(module, "training", True))
    log_perplexity(model, byte_tokenizer, PINS)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_generators_are_left_as_found(fails: bool, byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5)
    expected = log_perplexity(model, byte_tokenizer, PINS)
    model.train()
    model.transformer.h[0].eval()
    flags = [module.training for module in model.modules()]
    config, keys = model.config.to_dict(), list(model.state_dict())
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    if fails:
        model.transformer.h[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log_perplexity(model, byte_tokenizer, PINS)
    else:
        assert log_perplexity(model, byte_tokenizer, PINS).tolist() == expected.tolist(), "dropout was on"
    assert [module.training for module in model.modules()] == flags
    assert model.config.to_dict() == config and list(model.state_dict()) == keys
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()


@pytest.mark.parametrize("most_rows", [1, 3])
def test_out_of_memory_halves_the_batch(most_rows: int, byte_tokenizer: ByT5Tokenizer) -> None:
    texts = [f"{number:03d} is a pin" for number in range(40)]
    expected = log_perplexity(tiny_model("gpt2"), byte_tokenizer, texts)
    model = Wrapped(tiny_model("gpt2"), most_rows=most_rows)
    assert_close(log_perplexity(model, byte_tokenizer, texts), expected, 1e-4)
    assert model.refusals > 0
    hopeless = Wrapped(tiny_model("gpt2"), most_rows=0)
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        log_perplexity(hopeless, byte_tokenizer, texts)


def test_a_long_vocabulary_goes_through_in_pieces(byte_tokenizer: ByT5Tokenizer, monkeypatch: Any) -> None:
    model = tiny_model("llama")
    expected = log_perplexity(model, byte_tokenizer, PINS)
    monkeypatch.setattr("hf_exposure.scoring.forward._LOGITS_PER_PIECE_ON_CPU", 3 * 384)
    assert log_perplexity(model, byte_tokenizer, PINS).tolist() == expected.tolist()


def test_shared_tokens_are_fed_once(byte_tokenizer: ByT5Tokenizer) -> None:
    """All 1,000 numbers after 4 bytes: 4 + 110 tokens are fed instead of 7,000, and rows repeat few ancestors."""
    model = tiny_model("gpt2")
    scorer = CausalScorer(model, byte_tokenizer, mode="packed")
    scorer.sequence_bits(scorer.encode([f"pin {number:03d}" for number in range(1000)]))
    assert 114 <= scorer.counts.tokens <= 200
