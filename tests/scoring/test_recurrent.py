"""A recurrent model read step by step has the bits of whole texts, and the laws of a scorer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, draw_canaries, measure_exposure
from hf_exposure.errors import NonFiniteScoreError
from hf_exposure.extraction import build_automaton
from hf_exposure.scoring import RecurrentScorer, log_perplexity
from hf_exposure.testing import check_scorer, check_search

TEMPLATE = CanaryTemplate("pin {pin}.", pin=Digits(2))
TEXTS = [TEMPLATE.text_at(index) for index in range(100)]


class Recurrent(nn.Module):
    """Reads whole rows and single tokens alike; counts the single ones."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(384, 12), nn.Linear(12, 384)
        self.body = kind(12, 12, 2, batch_first=True, dropout=0.5)
        self.steps = 0

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.head(self.body(self.embedding(input_ids))[0]))

    def step(self, token_B: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        self.steps += len(token_B)
        hidden_B1H, state = self.body(self.embedding(token_B)[:, None], state)
        return self.head(hidden_B1H[:, 0]), state


@pytest.fixture(params=[nn.LSTM, nn.GRU])
def model(request: pytest.FixtureRequest) -> Recurrent:
    return Recurrent(request.param)


def test_it_satisfies_the_laws(model: Recurrent, byte_tokenizer: ByT5Tokenizer) -> None:
    check_scorer(RecurrentScorer(model, byte_tokenizer), ["pin 123.", "pin 129.", "pin 5", "a word", "pi"])
    check_scorer(RecurrentScorer(model, byte_tokenizer, end_token=True), ["pin 123.", "pin 1", "pin"])


@pytest.mark.parametrize("texts", [TEXTS, ["pin 12.", "a pin", "pin 12.", "another one"]], ids=["shared", "apart"])
def test_bits_are_those_of_whole_texts(model: Recurrent, byte_tokenizer: ByT5Tokenizer, texts: list[str]) -> None:
    scorer = RecurrentScorer(model, byte_tokenizer, rows=7)
    found = scorer.sequence_bits(scorer.encode(texts))
    np.testing.assert_allclose(found, log_perplexity(model, byte_tokenizer, texts), atol=1e-4)
    assert model.training, "left as it was found"


def test_search_is_brute_force(model: Recurrent, byte_tokenizer: ByT5Tokenizer) -> None:
    scorer = RecurrentScorer(model, byte_tokenizer)
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    check_search(scorer, automaton, TEXTS, log_perplexity(model, byte_tokenizer, TEXTS))


def test_what_texts_share_is_read_once(model: Recurrent, byte_tokenizer: ByT5Tokenizer) -> None:
    scorer = RecurrentScorer(model, byte_tokenizer)
    scorer.sequence_bits(scorer.encode(TEXTS))
    assert model.steps == 4 + 10 + 100, "the prefix, the first digits, the second ones; nothing is read after a stop"


def test_it_is_measured_as_any_other(model: Recurrent, byte_tokenizer: ByT5Tokenizer) -> None:
    canaries = draw_canaries(TEMPLATE, {1: 2}, controls=2, seed=0)
    own = measure_exposure(
        model, None, canaries, method="enumerate", scorer=lambda module: RecurrentScorer(module, byte_tokenizer)
    )
    other = measure_exposure(model, byte_tokenizer, canaries, method="enumerate")
    assert [one.rank_low for one in own.estimates] == [one.rank_low for one in other.estimates]


def test_no_number_is_an_error(model: Recurrent, byte_tokenizer: ByT5Tokenizer) -> None:
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    scorer = RecurrentScorer(model, byte_tokenizer)
    with pytest.raises(NonFiniteScoreError, match="NaN"):
        scorer.sequence_bits(scorer.encode(["pin 12."]))
