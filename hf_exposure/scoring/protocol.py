"""What search and measurement ask of a model, and nothing more.

Shapes: N texts, P prefix tokens; A samples that take a step, T new tokens of each at most, C children of each at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hf_exposure.scoring.encoding import EncodedTexts, Encoder
from hf_exposure.scoring.token_tree import IntArray, PathBits, PathQuery


class SampleReader(Protocol):
    """Reads what comes after the paths of many samples, which grow step by step below one prefix."""

    def step(
        self, sample_A: IntArray, tokens_AT: IntArray, run_A: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Appends tokens to the paths of some samples and reads what comes after.

        Args:
            sample_A: numbers of the samples, ascending.
            tokens_AT: at least one new token of each, padded with -1 on the right.
            run_A: how many of the last of these are asked for; fewer than there are.
            children_AC: tokens whose bits after the path are asked for, padded with -1.

        Returns:
            (A,) bits of the run, and (A, C) bits of the children, inf for padding.

        Raises:
            CacheRefused: the caches cannot be kept; the caller then asks for whole paths.
        """


@runtime_checkable
class Scorer(Protocol):
    """A model as the rest of the package sees it. All figures are `-log2 p`, summed in float64.

    A scorer of your own needs no base class. One that inherits from this protocol has to write only `encoder`,
    `tolerance_bits`, `sequence_bits`, `path_bits` and `prefix_bits`: the rest has defaults, for a scorer whose figures
    do not depend on batches and that keeps no caches. `hf_exposure.testing` holds the laws that all scorers must
    satisfy. `hf_exposure.scoring.CausalScorer` is the scorer for models that take `input_ids` and return `.logits`.

    Attributes:
        encoder: how texts become tokens.
        tolerance_bits: the same text scored in two different batches agrees to within this many bits.
        mode: how the model is read, as `CausalScorer` names it; None before the first call.
        note: what a reader of a report must know about these figures; "" for log-perplexities.
        lost_trust: whether a batch was found wrong after others had been used.
        why_no_search: why the beginning of a text has no score of its own, as far as is known; "" where it has one.
        reading: how the model was found to be read, which need not be found again once it was trained on; or None.
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
        """(N,) as `sequence_bits`, each text being all that the model is given: what a certificate is checked by."""
        return self.sequence_bits(encoded)

    def distrust_batches(self) -> None:
        """From now on, score every text and path in a call of its own."""

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        """The answer to each query, after the shared `prefix`.

        A first token with nothing before it, neither prefix nor path, is not predicted: 0 bits.
        """

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of `prefix` given those before it; NaN for context, which is not scored."""

    def samples_at_once(self, samples: int, length: int) -> int:
        """How many of `samples` paths of `length` tokens may be sampled at the same time; at least 1."""
        return samples

    def sample_reader(self, prefix: Sequence[int], samples: int, length: int) -> SampleReader | None:
        """A reader for `samples` paths of about `length` tokens below `prefix`; None where no caches can be kept."""
        return None
