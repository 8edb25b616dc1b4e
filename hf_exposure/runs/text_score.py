"""A score for texts: what `run_subsets` asks of each model about each row of a text data set."""

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
    """The share of the text's tokens that are the model's first choice."""
    return exact_memorization(text)


@dataclass(frozen=True)
class TextScore:
    """score(model, rows) -> (N,): a statistic of each text's tokens under a causal language model.

    Args:
        tokenizer: the model's.
        statistic: of the text's tokens, as for `measure_membership`, higher where a text is better known:
            `token_accuracy`, the share of tokens that are the model's first choice, or `loss`, the mean of log2 p.
        text_column: where rows have one; chats and prompts with completions are read too.
        max_tokens: in one text; what is beyond is cut off.

    Raises:
        InputError: when called, rows that have no token to score; a row of another kind.

    Source: Zhang et al., "Counterfactual Memorization in Neural Language Models" (2021), section 3, whose score is
        the accuracy by tokens.

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
            rule = "must hold texts of two tokens or more"
            raise InputError("dataset", rule, f"{records.left_out} shorter ones", "Remove them (dataset.filter).")
        scores_N = np.empty(len(records))
        for row, signals in SignalReader(model).read(records):
            scores_N[records.number_N[row]] = self.statistic(signals, None)
        return scores_N
