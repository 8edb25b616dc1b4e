"""What a certificate names is scored again alone before it is given.

A search feeds many texts at once, after a shared prefix and by a cache. A model whose answer depends on any of that
may pass every check and still give one text of a search another cost than a user gets who scores it alone. Then the
search is made again, in calls of one text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from hf_exposure.scoring import Scorer

__all__ = ["MOST_CONFIRMED", "confirmed", "moved_bits"]

Found = TypeVar("Found")

MOST_CONFIRMED = 64
"""How many of a search's texts are scored alone at most."""
# As many times the scorer's noise are another figure.
_AGREEMENT = 20.0


def moved_bits(scorer: Scorer, texts: Sequence[str], costs_bits: Sequence[float], most: int = MOST_CONFIRMED) -> float:
    """The largest difference between a text's cost in the search and alone; 0.0 where all agree within rounding.

    Args:
        scorer: that the search used.
        texts, costs_bits: what it found, whole log-perplexities; of more than `most`, a spread over all is compared.
    """
    if not len(texts):
        return 0.0
    chosen = np.unique(np.linspace(0, len(texts) - 1, num=min(most, len(texts))).astype(int)).tolist()
    alone = scorer.alone_bits(scorer.encode([texts[number] for number in chosen]))
    found = np.array([costs_bits[number] for number in chosen])
    differ = ~np.isclose(alone, found, rtol=0.0, atol=_AGREEMENT * scorer.noise_bits)
    return float(np.nan_to_num(np.abs(alone[differ] - found[differ]), nan=np.inf).max(initial=0.0))


def confirmed(scorer: Scorer, search: Callable[[], tuple[Found, float]]) -> Found:
    """What `search` finds; where a text of it moved or a batch failed, what it finds with every text read alone.

    Args:
        search: returns what it found, and by how many bits a text of it moved.
    """
    began_in = scorer.mode
    found, moved = search()
    # Or where a batch was found wrong on the way: what was read before it may be wrong as well.
    if (moved or scorer.lost_trust) and began_in != "alone":
        scorer.distrust_batches()
        found, _ = search()
    return found
