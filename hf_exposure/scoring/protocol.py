"""The interface that search and measurement need of a model.

Shapes: N texts, P prefix tokens; A samples that take a step, T new tokens of each at most, C children of each at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.token_tree import IntArray, PathBits, PathQuery


class SampleReader(Protocol):
    """Scores what follows the paths of many samples, which grow step by step after one prefix."""

    def step(
        self, sample_A: IntArray, tokens_AT: IntArray, run_A: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Appends tokens to the paths of the given samples and scores what follows.

        Args:
            sample_A: numbers of the samples, ascending.
            tokens_AT: at least one new token of each, padded with -1 on the right.
            run_A: the number of last new tokens whose bits are requested; fewer than there are.
            children_AC: tokens whose bits after the path are requested, padded with -1.

        Returns:
            (A,) bits of the run, and (A, C) bits of the children, inf for padding.

        Raises:
            CacheRefused: the caches cannot be kept; the caller then scores whole paths.
        """


@runtime_checkable
class Scorer(Protocol):
    """The interface of a model for the rest of the package. All figures are `-log2 p`, summed in float64.

    Your own scorer needs no base class. A class that inherits from this protocol must only define `encoder`,
    `tolerance_bits`, `sequence_bits`, `path_bits` and `prefix_bits`; the rest has defaults for a scorer whose figures
    do not depend on batches and that keeps no caches. `hf_exposure.testing` has the laws that all scorers must
    satisfy. `hf_exposure.scoring.CausalScorer` is the scorer for models that take `input_ids` and return `.logits`.

    Attributes:
        encoder: the encoder of texts.
        tolerance_bits: the same text scored in two different batches agrees to within this many bits.
        mode: the scoring mode, as named by `CausalScorer`; None before the first call.
        note: what a reader of a report must know about these figures; "" for log-perplexities.
        lost_trust: whether a batch was found wrong after others had been used.
        why_no_search: why the beginning of a text has no score, as far as known; "" if it has one.
        reading: the scoring mode that was found for the model, which is still valid after further training; or None.
    """

    encoder: Encoder

    @property
    def tolerance_bits(self) -> float: ...

    @property
    def mode(self) -> str | None:
        return None

    @property
    def note(self) -> str:
        return ""

    @property
    def lost_trust(self) -> bool:
        return False

    @property
    def why_no_search(self) -> str:
        return ""

    @property
    def reading(self) -> Any:
        return None

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The canonical encoding of each text."""
        return self.encoder.encode(texts)

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) log-perplexity of each text: the sum of its scored tokens' bits."""

    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) like `sequence_bits`, with each text as the model's only input; certificates are checked by this."""
        return self.sequence_bits(encoded)

    def distrust_batches(self) -> None:
        """From now on, scores every text and path in a separate call."""

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        """The answer to each query, after the shared `prefix`.

        A first token with nothing before it, neither prefix nor path, is not predicted: 0 bits.
        """

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of `prefix` given those before it; NaN for context, which is not scored."""

    def samples_at_once(self, samples: int, length: int) -> int:
        """The number of `samples` paths of `length` tokens that may be sampled at the same time; at least 1."""
        return samples

    def sample_reader(self, prefix: Sequence[int], samples: int, length: int) -> SampleReader | None:
        """A reader for `samples` paths of about `length` tokens after `prefix`; None if no caches can be kept."""
        return None
