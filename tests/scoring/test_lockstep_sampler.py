"""Samples drawn in lockstep: the figures of whole paths, with and without kept caches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from hf_exposure.scoring import CausalScorer, LockstepSampler
from hf_exposure.scoring.packed_sampler import PackedSampler

PREFIX = (70, 71, 72, 73, 74)
CHILDREN = (51, 52, 53)
LEVELS = 6


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=384, n_layer=2, n_head=2, n_embd=32, n_positions=64, initializer_range=0.3)
    )


def _llama() -> nn.Module:
    return LlamaForCausalLM(_small(LlamaConfig))


def _sliding_window(window: int) -> nn.Module:
    return MistralForCausalLM(_small(MistralConfig, sliding_window=window))


def _small(config: type, **more: int) -> object:
    return config(
        vocab_size=384, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, **more,
    )  # fmt: skip


def _bits_by_hand(model: nn.Module, path: Sequence[int]) -> np.ndarray:
    """(V,) bits of the next token after the prefix and a path, from one plain forward pass."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([[*PREFIX, *path]])).logits[0, -1].double()
    return -torch.log_softmax(logits, dim=-1).numpy() / np.log(2)


def _walk(scorer: CausalScorer, samples: int, seed: int) -> tuple[LockstepSampler, float]:
    """Draws random paths of 3 to 6 levels, with two forced tokens at the third; returns the largest error in bits."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, LEVELS + 1, samples)
    sampler = LockstepSampler(scorer, PREFIX, samples, LEVELS + 2)
    paths: list[tuple[int, ...]] = [()] * samples
    by_hand: dict[tuple[int, ...], np.ndarray] = {}
    worst = 0.0
    for level in range(LEVELS):
        alive = np.flatnonzero(lengths > level)
        forced = (60, 61) if level == 2 else ()
        chosen = [(int(generator.choice(CHILDREN)),) if level else () for _ in alive]
        after = [(*paths[sample], *one, *forced) for sample, one in zip(alive.tolist(), chosen, strict=True)]
        run = np.full(len(alive), len(forced))
        children = np.tile(np.array([*CHILDREN, -1]), (len(alive), 1))
        run_bits, child_bits = sampler.step(alive, after, run, children)
        assert np.isinf(child_bits[:, -1]).all()
        for line, sample in enumerate(alive.tolist()):
            before = paths[sample] + chosen[line]
            paths[sample] = before + forced
            for cut in {before, before + forced[:1], paths[sample]} - set(by_hand):
                by_hand[cut] = _bits_by_hand(scorer.model, cut)
            expected = sum(by_hand[before + forced[:i]][token] for i, token in enumerate(forced))
            worst = max(worst, abs(run_bits[line] - expected))
            worst = max(worst, np.abs(child_bits[line, :-1] - by_hand[paths[sample]][list(CHILDREN)]).max())
    return sampler, worst


@pytest.mark.parametrize("build", [_gpt2, _llama], ids=["gpt2", "llama"])
def test_kept_caches_give_the_figures_of_whole_paths_for_fewer_tokens(build) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    scorer = CausalScorer(build(), ByT5Tokenizer(), max_batch_tokens=64)
    plain = CausalScorer(scorer.model, ByT5Tokenizer(), max_batch_tokens=64)
    plain.sample_reader = lambda *_: None  # type: ignore[assignment]
    fed = []
    for each in (scorer, plain):
        _walk(each, 60, seed=1)  # how the model reads is tried here
        before = each.counts.tokens
        sampler, worst = _walk(each, 60, seed=0)
        assert worst < 1e-3
        assert sampler.keeps_caches == (each is scorer)
        fed.append(each.counts.tokens - before)
    assert fed[0] < fed[1]


@pytest.mark.parametrize("window", [7, 20])
def test_a_cache_that_forgets_is_not_kept(window: int) -> None:
    """Paths of 13 tokens fit a window of 20, but a row of several samples does not."""
    torch.manual_seed(3)
    scorer = CausalScorer(_sliding_window(window), ByT5Tokenizer())
    sampler, worst = _walk(scorer, 40, seed=1)
    assert worst < 1e-3
    assert not sampler.keeps_caches


class _Forgetful(nn.Module):
    """A model that corrupts the cache of every call with a grown cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, **inputs: object) -> object:
        output = self.model(**inputs)
        if output.past_key_values is not None and output.past_key_values.get_seq_length() > len(PREFIX):
            for layer in output.past_key_values.layers:
                layer.values[..., len(PREFIX) :, :] *= 0.5
        return output


def test_a_cache_that_is_read_differently_is_detected_by_its_figures() -> None:
    torch.manual_seed(3)
    scorer = CausalScorer(_Forgetful(_gpt2()), ByT5Tokenizer())
    sampler, worst = _walk(scorer, 40, seed=1)
    assert worst < 1e-3
    assert not sampler.keeps_caches


def test_no_memory_for_caches_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    scorer = CausalScorer(_gpt2(), ByT5Tokenizer())
    calls = itertools.count()

    def full(self: PackedSampler, *arguments: object) -> None:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("no room")
        feed(self, *arguments)

    feed = PackedSampler._feed
    monkeypatch.setattr(PackedSampler, "_feed", full)
    sampler, worst = _walk(scorer, 40, seed=1)
    assert worst < 1e-3
    assert not sampler.keeps_caches and next(calls) > 2


def test_without_a_prefix_whole_paths_are_asked_for() -> None:
    torch.manual_seed(3)
    scorer = CausalScorer(_gpt2(), ByT5Tokenizer())
    sampler = LockstepSampler(scorer, (), 4, 3)
    first = np.array([[51, 52], [51, 52], [51, 52], [51, 52]])
    sampler.step(np.arange(4), [()] * 4, np.zeros(4, dtype=np.int64), first)
    _, bits = sampler.step(np.arange(4), [(51,), (52,), (51,), (52,)], np.zeros(4, dtype=np.int64), first)
    with torch.no_grad():
        logits = scorer.model.eval()(input_ids=torch.tensor([[51], [52]])).logits[:, -1].double()
    expected = -torch.log_softmax(logits, dim=-1)[:, [51, 52]].numpy() / np.log(2)
    np.testing.assert_allclose(bits, np.tile(expected, (2, 1)), atol=1e-3)
    assert not sampler.keeps_caches
