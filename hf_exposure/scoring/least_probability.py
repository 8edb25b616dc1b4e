"""Lower bounds on the probability of drawing each token, for model outputs that are known to within a tolerance.

The figures of a text differ in their last digits between batches. A bound for all of them uses each token's lowest
probability: its own logit is lower by the tolerance, and those of its rivals are higher. Top-k and top-p also have a
boundary, and a token near it may be in or out: it counts as out for itself, and as in for its rivals.

Shapes: V vocabulary entries.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp

from hf_exposure.scoring.decoding import Sampling

# A generous bound on the error of sums and exponentials in double precision, in nats.
_ROUNDING = 1e-9
# The schemes of `decoding` and of `transformers` sum a vocabulary's probabilities in float32.
_FLOAT32 = 2.0**-24


def least_probabilities(
    bits_V: npt.NDArray[np.float64], sampling: Sampling | None, tolerance_bits: float
) -> npt.NDArray[np.float64]:
    """(V,) a lower bound on each token's probability, for all figures within `tolerance_bits` of those given.

    Args:
        bits_V: -log2 of the probability of every token of the vocabulary, without any scheme; inf for probability 0.
        sampling: the sampling scheme; None for greedy decoding, where two tokens that are too close both have 0.
        tolerance_bits: the largest error of each figure.

    Example:
        >>> least_probabilities(np.array([1.0, 1.0, np.inf]), Sampling(), 0.0).round(6).tolist()
        [0.5, 0.5, 0.0]
        >>> least_probabilities(np.array([0.2, 3.0, 9.0]), Sampling(top_k=1), 1e-4).tolist()
        [1.0, 0.0, 0.0]
        >>> least_probabilities(np.array([0.2, 3.0, 9.0]), None, 1e-4).tolist()
        [1.0, 0.0, 0.0]
    """
    order_V = np.argsort(-bits_V, kind="stable")  # the likeliest last
    logs_V = -bits_V[order_V] * math.log(2)
    apart = 2 * tolerance_bits * math.log(2) + _ROUNDING
    # For each token: how many are certainly above it, and how many may be, without itself.
    above_V = len(logs_V) - np.searchsorted(logs_V, logs_V + apart, side="right")
    near_V = len(logs_V) - np.searchsorted(logs_V, logs_V - apart, side="left") - 1
    possible_V = np.isfinite(logs_V)
    if sampling is None:
        least_V = (possible_V & (near_V == 0)).astype(np.float64)
    else:
        certain_V = possible_V.copy()
        if sampling.top_k is not None:
            certain_V &= near_V < sampling.top_k
            possible_V &= above_V < sampling.top_k
        scaled_V = (logs_V - logs_V[-1]) / sampling.temperature
        margin = apart / sampling.temperature
        if sampling.top_p is not None and sampling.top_p < 1:
            low_V, high_V = _tails(scaled_V, margin, certain_V, possible_V)
            slack = _ROUNDING + len(logs_V) * _FLOAT32
            certain_V &= (low_V > 1 - sampling.top_p + slack) | (near_V == 0)
            possible_V &= (high_V > 1 - sampling.top_p - slack) | (above_V == 0)
        least_V = np.where(certain_V, expit(scaled_V - _log_rivals(scaled_V, possible_V) - margin), 0.0)
    result_V: npt.NDArray[np.float64] = np.empty_like(least_V)
    result_V[order_V] = least_V
    return result_V


def _log_rivals(scaled_V: npt.NDArray[np.float64], possible_V: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """(V,) the log of the sum over all other possible tokens."""
    weights_V = np.where(possible_V, scaled_V, -np.inf)
    # All but the likeliest have the likeliest among their rivals, so the difference loses no digits.
    with np.errstate(divide="ignore"):
        rivals_V: npt.NDArray[np.float64] = np.log(np.maximum(np.exp(weights_V).sum() - np.exp(weights_V), 0.0))
        rivals_V[-1] = logsumexp(weights_V[:-1]) if len(weights_V) > 1 else -np.inf
    return rivals_V


def _tails(
    scaled_V: npt.NDArray[np.float64],
    margin: float,
    certain_V: npt.NDArray[np.bool_],
    possible_V: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(V,) the smallest and the largest share of probability of each token and those below it; ascending."""
    sure, maybe = np.where(certain_V, scaled_V, -np.inf), np.where(possible_V, scaled_V, -np.inf)
    place_V = np.arange(len(scaled_V))
    first_near_V = np.searchsorted(scaled_V, scaled_V - margin, side="left")
    last_near_V = np.searchsorted(scaled_V, scaled_V + margin, side="right")
    with np.errstate(divide="ignore", invalid="ignore"):
        # The smallest: itself and the tokens that are certainly below it, against all others. A token that may be on
        # either side and comes before it in the order weighs no more than itself.
        near_V = np.log(place_V - first_near_V) + scaled_V
        below_V = np.logaddexp(_log_sums(sure)[first_near_V], scaled_V)
        above_V = np.logaddexp(_log_sums(maybe[::-1])[::-1][place_V + 1], near_V)
        low_V = expit(np.nan_to_num(below_V - above_V - margin, nan=-np.inf))
        # The largest: itself and all tokens that may be below it, against those that are certainly above.
        below_V = _log_sums(maybe)[last_near_V]
        above_V = _log_sums(sure[::-1])[::-1][last_near_V]
        high_V = expit(np.nan_to_num(below_V - above_V + margin, nan=np.inf))
    return low_V, high_V


def _log_sums(logs_V: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(V + 1,) logs of the sums of the first 0, 1, 2, ... terms."""
    sums_V: npt.NDArray[np.float64] = np.concatenate([[-np.inf], np.logaddexp.accumulate(logs_V)])
    return sums_V
