"""Packed rows that are longer than any text: a window that counts the slots of a row must not cut them.

GPT-Neo masks by a table of slots, whatever the positions are, so a row of several texts loses sight of its beginning
where no single text does.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer, GPTNeoConfig, GPTNeoForCausalLM

from hf_exposure import CanaryTemplate, Digits
from hf_exposure.extraction import UniformPaths, build_automaton, draw_proposals, prefix_cost
from hf_exposure.scoring import CausalScorer, causal

TOKENIZER = ByT5Tokenizer()
TEMPLATE = CanaryTemplate("the quite random number of this is {n}", n=Digits(18))
# A text has 53 tokens, rows of several samples up to 200 slots, and those of the second test 195.
WINDOWS = (64, 92, 124, 156, 512)


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
    uniform = UniformPaths(TEMPLATE, 0).take(scorer, automaton, 0, 64)
    drawn = draw_proposals(scorer, automaton, uniform, np.random.default_rng(0))
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
    assert scorer.mode == ("packed" if window > 150 else "cached")


def test_a_width_is_tried_once_for_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(causal, "choose_row_width", lambda *_: 160)
    model, texts = _neo(156), [TEMPLATE.text_at(index) for index in range(0, 10**18, 10**16)]
    first = CausalScorer(model, TOKENIZER)
    first.sequence_bits(first.encode(texts))
    reading = first.reading
    assert reading is not None and 0 < reading.widest <= 156 < reading.too_wide
    later = CausalScorer(model, TOKENIZER)
    later.read_as(reading)
    later.sequence_bits(later.encode(texts))
    rows = later.counts.rows
    later.sequence_bits(later.encode(texts))
    # Besides the prefix and one text that is scored alone, the first call fed what the second fed.
    assert rows == later.counts.rows - rows + 2
