"""A scorer without a model: a table of bigram bits. It implements exactly the `Scorer` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_exposure.scoring import EncodedTexts, Encoder, PathBits, PathQuery, Scorer


class TableScorer(Scorer):
    """A toy language model: the bits of a token depend on the token before it."""

    tolerance_bits = 1e-9

    def __init__(self, tokenizer: Any, bits_VV: np.ndarray) -> None:
        self.encoder, self.bits_VV = Encoder.of(tokenizer), bits_VV

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        return np.array([self.along(ids)[encoded.first_scored :].sum() for ids in encoded.ids])

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        return np.where(np.arange(len(prefix)) < self.encoder.first_scored, np.nan, self.along(prefix))

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        return [self.answer((*prefix, *query.tokens), query) for query in queries]

    def answer(self, ids: Sequence[int], query: PathQuery) -> PathBits:
        children_C = self.bits_VV[ids[-1], query.children] if ids else np.zeros(len(query.children))
        return PathBits(float(self.along(ids)[len(ids) - query.run :].sum()), children_C)

    def along(self, ids: Sequence[int]) -> np.ndarray:
        """(L,) bits of each token given the one before it; 0 for the first, which has none."""
        return np.concatenate([np.zeros(len(ids[:1])), self.bits_VV[list(ids[:-1]), list(ids[1:])]])


def random_bits(entries: int = 384, seed: int = 0) -> np.ndarray:
    """(V, V) bits of each token after each other one; each row's probabilities sum to 1."""
    logits_VV = 3.0 * np.random.default_rng(seed).standard_normal((entries, entries))
    return np.logaddexp2.reduce(logits_VV, axis=1, keepdims=True) - logits_VV


DIGIT_MODELS = {
    # name: (seed, spread of the logits, logits added to the memorized path 31415)
    "flat": (1, 0.5, 0.0),
    "uneven": (2, 1.5, 0.0),
    "peaked": (3, 3.0, 0.0),
    "memorized": (4, 1.0, 9.0),
}


def digit_logits(seed: int, spread: float, gain: float) -> np.ndarray:
    """(5, 10, 10) logits of each digit, at each of five positions, after each digit; 0 comes before the first."""
    logits: np.ndarray = np.random.default_rng(seed).normal(size=(5, 10, 10)) * spread
    previous = 0
    for position, digit in enumerate((3, 1, 4, 1, 5)):
        logits[position, previous, digit] += gain
        previous = digit
    return logits


class DigitScorer(TableScorer):
    """A toy language model of digits: their bits depend on their position and on the digit before; other bytes are
    certain.

    Args:
        tokenizer: a byte tokenizer whose tokens are bytes plus 3.
        bits_PDD: (P, 10, 10) bits of each digit, at each of P positions, after each digit; 0 comes before the first.
        start: the number of tokens before the first digit.
    """

    def __init__(self, tokenizer: Any, bits_PDD: np.ndarray, start: int) -> None:
        super().__init__(tokenizer, np.zeros((384, 384)))
        self.bits_PDD, self.start = bits_PDD, start

    def after(self, ids: Sequence[int]) -> np.ndarray:
        """(384,) bits of the token that follows these."""
        position, bits_V = len(ids) - self.start, np.zeros(384)
        if 0 <= position < len(self.bits_PDD):
            bits_V[_DIGITS] = self.bits_PDD[position, ids[-1] - _DIGITS[0] if position else 0]
        return bits_V

    def answer(self, ids: Sequence[int], query: PathQuery) -> PathBits:
        run = range(len(ids) - query.run, len(ids))
        return PathBits(float(sum(self.after(ids[:at])[ids[at]] for at in run)), self.after(ids)[query.children])

    def along(self, ids: Sequence[int]) -> np.ndarray:
        return np.array([self.after(ids[:at])[ids[at]] if at else 0.0 for at in range(len(ids))])


_DIGITS = np.arange(10) + ord("0") + 3
