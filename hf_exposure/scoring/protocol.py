"""What search and measurement ask of a model, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from hf_exposure.scoring.encoding import EncodedTexts
from hf_exposure.scoring.token_tree import PathBits, PathQuery


@runtime_checkable
class Scorer(Protocol):
    """A model as the rest of the package sees it. All figures are `-log2 p`, summed in float64.

    `tests/laws.py` holds what every scorer must satisfy. `hf_exposure.scoring.CausalScorer` is the one for models
    that take `input_ids` and return `.logits`.

    Attributes:
        noise_bits: the same text scored in two different batches agrees to within this many bits.
        mode: how the model is read, as `CausalScorer` names it; None before the first call.
        lost_trust: whether a batch was found wrong after others had been used.
        why_no_search: why the beginning of a text has no score of its own, as far as is known; "" where it has one.
    """

    @property
    def noise_bits(self) -> float: ...

    @property
    def mode(self) -> str | None: ...

    @property
    def lost_trust(self) -> bool: ...

    @property
    def why_no_search(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The canonical encoding of each text."""

    def sequence_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) log-perplexity of each text: the sum of its scored tokens' bits."""

    def alone_bits(self, encoded: EncodedTexts) -> np.ndarray:
        """(N,) as `sequence_bits`, each text being all that the model is given: what a certificate is checked by."""

    def distrust_batches(self) -> None:
        """From now on, score every text and path in a call of its own."""

    def path_bits(self, prefix: Sequence[int], queries: Sequence[PathQuery]) -> list[PathBits]:
        """The answer to each query, after the shared `prefix`."""

    def prefix_bits(self, prefix: Sequence[int]) -> np.ndarray:
        """(P,) bits of each token of `prefix` given those before it; NaN for context, which is not scored."""
