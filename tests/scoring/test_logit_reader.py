"""Reading chosen rows of the head: the same results, without computing all logits of a batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    ByT5Tokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
)

from hf_exposure.runtime import logits as logits_module
from hf_exposure.scoring import CausalScorer

VOCABULARY = 20_000
TEXTS = [f"The number is {n:03d}{' yes' if n % 3 else ''}" for n in range(40)]


def _gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY, n_layer=2, n_head=2, n_embd=32, initializer_range=0.3, bos_token_id=0, eos_token_id=1
    )
    return GPT2LMHeadModel(config)


def _opt() -> OPTForCausalLM:
    # The head reads a projection of the last hidden state.
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32,
            word_embed_proj_dim=16, init_std=0.3,
        )
    )  # fmt: skip


def _gemma2() -> Gemma2ForCausalLM:
    # Logits are capped after the head.
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=16, intermediate_size=32, initializer_range=0.3, final_logit_softcapping=3.0,
        )
    )  # fmt: skip


@pytest.mark.parametrize(("make", "by_rows"), [(_gpt2, True), (_opt, True), (_gemma2, False)])
def test_rows_give_what_whole_logits_give(make: Any, by_rows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = make()
    scorer = CausalScorer(model, ByT5Tokenizer())
    found = scorer.sequence_bits(scorer.encode(TEXTS))
    assert scorer._reader.reads_rows is by_rows
    monkeypatch.setattr(logits_module, "_SMALL_VOCABULARY", 10**9)
    whole = CausalScorer(model, ByT5Tokenizer())
    assert not whole._reader.reads_rows
    np.testing.assert_allclose(found, whole.sequence_bits(whole.encode(TEXTS)), atol=1e-3)


def test_the_head_never_sees_a_whole_batch() -> None:
    model = _gpt2()
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel()))
    scorer = CausalScorer(model, ByT5Tokenizer(), mode="packed")
    scorer.sequence_bits(scorer.encode([f"The number is {33 * n:05d}" for n in range(3000)]))
    assert scorer.counts.tokens > 3000
    # 2^24 logits of 4 bytes is 64 MiB; the batch's own would be five times as many.
    assert max(seen) <= 2**24 < scorer.counts.tokens * VOCABULARY / 5


def test_no_hook_is_left_behind_even_after_an_error() -> None:
    model = _gpt2()
    model.transformer.register_forward_hook(lambda module, inputs, output: 1 / 0)
    scorer = CausalScorer(model, ByT5Tokenizer(), mode="packed")
    with pytest.raises(ZeroDivisionError):
        scorer.sequence_bits(scorer.encode(TEXTS))
    assert not model.lm_head._forward_pre_hooks


class _HeadTwice(torch.nn.Module):
    """Runs its head first on different hidden states, which agree with the true ones at the last position only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _gpt2()
        self.config = self.inner.config

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inner.lm_head

    def forward(self, input_ids: torch.Tensor) -> Any:
        hidden = self.inner.transformer(input_ids=input_ids).last_hidden_state
        draft = torch.cat([hidden[:, :-1] + 1.0, hidden[:, -1:]], dim=1)
        self.inner.lm_head(draft)
        return SimpleNamespace(logits=self.inner.lm_head(hidden))


def test_a_head_that_runs_twice_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = _HeadTwice().eval()
    scorer = CausalScorer(model, ByT5Tokenizer())
    found = scorer.sequence_bits(scorer.encode(TEXTS))
    assert not scorer._reader.reads_rows
    monkeypatch.setattr(logits_module, "_SMALL_VOCABULARY", 10**9)
    whole = CausalScorer(model, ByT5Tokenizer())
    np.testing.assert_allclose(found, whole.sequence_bits(whole.encode(TEXTS)), atol=1e-3)


class _ChangedLogits(torch.nn.Module):
    """A model that changes logits after its head, in a way that ordinary logits do not reveal."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.inner, self.change = _gpt2(), change
        self.config = self.inner.config
        with torch.no_grad():
            self.inner.lm_head.weight.mul_(0.01)
            # One token is likely, but only after one beginning.
            ids = torch.tensor([[byte + 3 for byte in b"The number is 03"]])
            hidden = self.inner.transformer(ids).last_hidden_state[0, -1]
            self.inner.lm_head.weight[ord("7") + 3] = 15.0 * hidden / hidden.norm() ** 2

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inner.lm_head

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.change(self.inner(input_ids=input_ids).logits))


def _write_to_one_token(logits: torch.Tensor) -> torch.Tensor:
    logits[..., ord("7") + 3] = -30.0
    return logits


def _write_to_first_row(logits: torch.Tensor) -> torch.Tensor:
    logits[0, :, :5].zero_()
    return logits


def _write_by_index(logits: torch.Tensor) -> torch.Tensor:
    logits[:, :, torch.tensor([3, ord("7") + 3])] = -30.0
    return logits


@pytest.mark.filterwarnings("ignore:Use of index_put_ on expanded tensors")
@pytest.mark.parametrize(
    "change",
    [
        lambda logits: 5.0 * torch.tanh(logits / 5.0),
        lambda logits: logits.clamp(max=9.0),
        lambda logits: logits[..., :19_000],
        lambda logits: logits.div_(2.0),
        lambda logits: logits.masked_fill_(torch.arange(VOCABULARY) == ord("7") + 3, -30.0),
        _write_to_one_token,
        _write_to_first_row,
        _write_by_index,
    ],
    ids=["capped", "clamped", "sliced", "divided in place", "masked", "one token", "one row", "by index"],
)
def test_logits_that_change_behind_the_head_are_read_whole(change: Any) -> None:
    """This holds whatever the logits are: a cap leaves small ones unchanged."""
    torch.manual_seed(0)
    model = _ChangedLogits(change).eval()
    scorer = CausalScorer(model, ByT5Tokenizer())
    found = scorer.sequence_bits(scorer.encode(TEXTS))
    assert not scorer._reader.reads_rows
    for text, bits in zip(TEXTS[:8], found, strict=False):
        ids = torch.tensor([[byte + 3 for byte in text.encode()]])
        with torch.no_grad():
            own = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
        expected = -own[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum().item() / np.log(2)
        assert bits == pytest.approx(expected, abs=1e-3)
