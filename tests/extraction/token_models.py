"""Models of any vocabulary for tests of search, and the costs of many texts without the package's help."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from conftest import tiny_model
from tokenizer_styles import tokenizer_in_style
from torch import nn

BATCH = 1024


class BagOfTokens(nn.Module):
    """A fast model: the next token depends on the last two."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.tables = nn.Parameter(2.0 * torch.randn(2, entries, entries, generator=generator))

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        before = torch.nn.functional.pad(input_ids, (1, 0))[:, :-1]
        return SimpleNamespace(logits=self.tables[0][input_ids] + self.tables[1][before])


class RecurrentTokens(nn.Module):
    """An LSTM without the Hugging Face interface."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(entries, 16), nn.Linear(32, entries)
        self.lstm = nn.LSTM(16, 32, batch_first=True)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=4.0 * self.head(self.lstm(self.embedding(input_ids))[0]))


def entries_of(tokenizer: Any) -> int:
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values()))


@cache
def model_for(style: str, family: str) -> nn.Module:
    """A random model with the vocabulary of the tokenizer in a style."""
    entries = entries_of(tokenizer_in_style(style))
    if family == "bag":
        return BagOfTokens(entries).eval()
    if family == "lstm":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return RecurrentTokens(entries).eval()
    return tiny_model(family, vocab_size=entries)


def bare_costs(model: nn.Module, sequences: Sequence[Sequence[int]], first_scored: int) -> np.ndarray:
    """(N,) `sum_i -log2 p(x_i | x_<i)` from the bare model on whole sequences, batched by length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(sequences):
        by_length[len(ids)].append(place)
    costs = np.empty(len(sequences))
    for places in by_length.values():
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            ids = torch.tensor([list(sequences[place]) for place in some])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[:, first_scored - 1 : -1].double()
            own = logits.gather(2, ids[:, first_scored:, None])[..., 0]
            costs[some] = (torch.logsumexp(logits, dim=2) - own).sum(dim=1).numpy() / math.log(2.0)
    return costs
