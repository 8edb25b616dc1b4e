"""What the coins of a canary set say of the run's differential privacy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from hf_exposure.canaries import CanarySet
from hf_exposure.estimators import epsilon_lower_bound
from hf_exposure.measure.settings import MeasureSettings

__all__ = ["epsilon_of"]


def epsilon_of(canaries: CanarySet, costs: np.ndarray, settings: MeasureSettings) -> dict[str, Any] | None:
    """What the coins refute; None without coins on both sides, since fixed controls bound no epsilon.

    `costs` (K,) are the canaries' log-perplexities in bits, in the set's order.
    """
    coins = [canary.coin for canary in canaries]
    flipped = np.array([coin is not None for coin in coins])
    included = np.array([bool(coin) for coin in coins])[flipped]
    if not included.any() or included.all():
        return None
    bound = epsilon_lower_bound(
        costs[flipped], included, delta=settings.delta, confidence_level=settings.confidence_level
    )
    return asdict(bound)
