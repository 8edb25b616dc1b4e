"""Packed rows that are longer than any text: a window that counts the slots of a row must not cut them.

GPT-Neo masks by a table of slots, whatever the positions are, so a row of several texts loses sight of its beginning
where no single text does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer, GPTNeoConfig, GPTNeoForCausalLM

from hf_exposure import CanaryTemplate, Digits
from hf_exposure.extraction import UniformPaths, build_automaton, draw_proposals, prefix_cost
from hf_exposure.runtime.logits import LogitReader
from hf_exposure.scoring import CausalScorer, LockstepSampler, causal
from hf_exposure.scoring.packed_sampler import PackedSampler

TOKENIZER = ByT5Tokenizer()
TEMPLATE = CanaryTemplate("the quite random number of this is {n}", n=Digits(18))
# A text has 53 tokens, rows of several samples up to 200 slots, and those of the second test 195.
WINDOWS = (64, 92, 124, 180, 512)


def _neo(window: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPTNeoConfig(
            vocab_size=384, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
            window_size=window, max_position_embeddings=1024, initializer_range=0.3,
        )  # fmt: skip
        return GPTNeoForCausalLM(config).eval()


def _bits_by_hand(model: nn.Module, text: str) -> float:
    ids = torch.tensor([TOKENIZER(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].double()
    return -torch.log_softmax(logits, dim=-1)[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum().item() / math.log(2)


@pytest.mark.parametrize("window", WINDOWS)
def test_samples_get_the_bits_of_texts_alone(window: int) -> None:
    model = _neo(window)
    scorer = CausalScorer(model, TOKENIZER)
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    drawn = draw_proposals(scorer, automaton, 256, UniformPaths(TEMPLATE, 0), np.random.default_rng(0))
    prefix_bits = prefix_cost(scorer, automaton)
    for number in np.linspace(0, len(drawn.texts) - 1, 12).astype(int):
        expected = _bits_by_hand(model, drawn.texts[number])
        assert prefix_bits + drawn.hole_bits_N[number] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("window", WINDOWS)
def test_texts_in_wide_rows_get_the_bits_of_texts_alone(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "choose_row_width", lambda *_: 160)
    model = _neo(window)
    scorer = CausalScorer(model, TOKENIZER)
    texts = [TEMPLATE.text_at(index) for index in range(0, 10**18, 10**16)]
    bits_N = scorer.sequence_bits(scorer.encode(texts))
    for number in (0, 7, 38, 61, 99):
        assert bits_N[number] == pytest.approx(_bits_by_hand(model, texts[number]), abs=1e-3)
    # Not one by one, which is what a check of the batch would come to.
    assert scorer.mode == ("packed" if window > 165 else "cached")


def test_a_width_is_tried_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "choose_row_width", lambda *_: 160)
    model, texts = _neo(180), [TEMPLATE.text_at(index) for index in range(0, 10**18, 10**16)]
    first = CausalScorer(model, TOKENIZER)
    first.sequence_bits(first.encode(texts))
    reading = first.reading
    assert reading is not None and 0 < reading.widest < reading.too_wide <= 180
    later = CausalScorer(model, TOKENIZER)
    later.read_as(reading)
    later.sequence_bits(later.encode(texts))
    rows = later.counts.rows
    later.sequence_bits(later.encode(texts))
    # Besides the prefix and one text that is scored alone, the first call fed what the second fed.
    assert rows == later.counts.rows - rows + 2


def test_texts_without_a_common_beginning_share_no_row_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first texts of a row look back to its first slot then, so those must be tried far from it."""
    monkeypatch.setattr(causal, "choose_row_width", lambda *_: 256)
    model = _neo(250)
    scorer = CausalScorer(model, TOKENIZER)
    texts = [TEMPLATE.text_at(index) for index in range(0, 10**18, 10**16)] + ["zebras and other animals " * 3]
    bits_N = scorer.sequence_bits(scorer.encode(texts))
    expected = [_bits_by_hand(model, text) for text in texts]
    np.testing.assert_allclose(bits_N, expected, atol=1e-3)


def test_a_row_that_outgrows_what_was_tried_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def short_rows(*found: Any, **more: Any) -> PackedSampler:
        def reads_rows_of(slots: int) -> bool:
            asked.append(slots)
            return len(asked) < 3

        return PackedSampler(*found, **more | {"reads_rows_of": reads_rows_of})

    monkeypatch.setattr(causal, "PackedSampler", short_rows)
    model = _neo(512)
    scorer = CausalScorer(model, TOKENIZER)
    prefix, paths = (70, 71, 72, 73), [tuple(50 + int(bit) for bit in f"{number:09b}") for number in range(256)]
    sampler, everyone, child = LockstepSampler(scorer, prefix, len(paths), 9), np.arange(256), np.full((256, 1), 51)
    was_kept = []
    for depth in range(1, 10):
        cut = [path[:depth] for path in paths]
        _, bits_A1 = sampler.step(everyone, cut, np.zeros(256, dtype=np.int64), child)
        was_kept.append(sampler.keeps_caches)
        for number in (0, 100, 255):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prefix, *cut[number]]])).logits[0, -1].double()
            expected = -torch.log_softmax(logits, dim=-1)[51].item() / math.log(2)
            assert bits_A1[number, 0] == pytest.approx(expected, abs=1e-3)
    assert any(was_kept) and not was_kept[-1]
    assert len(asked) == 3 and asked == sorted(set(asked))


@pytest.mark.parametrize("most", [90, 140, 200])
def test_a_tried_row_that_does_not_fit_into_memory_is_no_error(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = LogitReader.__call__

    def limited(self: LogitReader, **inputs: Any) -> Any:
        if inputs["input_ids"].numel() > most:
            raise torch.OutOfMemoryError("out of memory")
        return original(self, **inputs)

    monkeypatch.setattr(LogitReader, "__call__", limited)
    model = _neo(512)
    scorer = CausalScorer(model, TOKENIZER, max_batch_tokens=64)
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    drawn = draw_proposals(scorer, automaton, 32, UniformPaths(TEMPLATE, 0), np.random.default_rng(0))
    bits = prefix_cost(scorer, automaton) + drawn.hole_bits_N
    monkeypatch.undo()
    np.testing.assert_allclose(bits[::5], [_bits_by_hand(model, text) for text in drawn.texts[::5]], atol=1e-3)


def test_growing_sets_of_texts_are_tried_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    original = CausalScorer._reads_rows_of

    def counted(self: CausalScorer, slots: int, *more: Any) -> bool:
        tried.append(slots)
        return original(self, slots, *more)

    monkeypatch.setattr(CausalScorer, "_reads_rows_of", counted)
    scorer = CausalScorer(_neo(512), TOKENIZER)
    for count in range(1, 50):
        scorer.sequence_bits(scorer.encode([TEMPLATE.text_at(index * 10**16) for index in range(count)]))
    assert 0 < len(tried) <= 8
