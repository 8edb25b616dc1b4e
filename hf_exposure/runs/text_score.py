"""A score for text data sets in `run_subsets`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.estimators import exact_memorization
from hf_exposure.estimators.membership import Statistic, TokenSignals
from hf_exposure.signals import SignalReader, encode_records


def token_accuracy(text: TokenSignals, base: TokenSignals | None = None) -> float:
    """Returns the share of the text's tokens that are the model's top prediction."""
    return exact_memorization(text)


@dataclass(frozen=True)
class TextScore:
    """A function score(model, rows) -> (N,): a statistic of each text's tokens under a causal language model.

    Args:
        tokenizer: the model's.
        statistic: function of the text's tokens, as for `measure_membership`, higher for better-known texts:
            `token_accuracy`, the share of tokens that are the model's top prediction, or `loss`, the mean of log2 p.
        text_column: the column of texts, if rows have one; chats and prompts with completions are accepted too.
        max_tokens: maximum number of tokens per text; longer texts are truncated.

    Raises:
        InputError: in calls, a row has no token to score or is of another kind.

    Source: Zhang et al., "Counterfactual Memorization in Neural Language Models" (2021), section 3, which scores by
    per-token accuracy.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> TextScore(ByT5Tokenizer())(model, [{"text": "one"}, {"text": "two"}]).shape
        (2,)
    """

    tokenizer: Any
    statistic: Statistic = token_accuracy
    text_column: str = "text"
    max_tokens: int | None = None

    def __call__(self, model: nn.Module, rows: Any) -> NDArray[np.float64]:
        records = encode_records(
            "dataset", rows, self.tokenizer, text_column=self.text_column, max_tokens=self.max_tokens
        )
        if records.left_out:
            rule = "must have only texts of at least two tokens"
            raise InputError("dataset", rule, f"{records.left_out} shorter ones", "Remove them (dataset.filter).")
        scores_N = np.empty(len(records))
        for row, signals in SignalReader(model).read(records):
            scores_N[records.number_N[row]] = self.statistic(signals, None)
        return scores_N
