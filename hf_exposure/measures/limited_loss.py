"""One figure to choose a checkpoint by: the evaluation loss, as long as exposure stays within a limit.

Exposure rises while a model trains, so the checkpoint of least exposure is the one that has learned least. What people
want is the lowest loss among the checkpoints whose exposure is at most X. A trainer compares one number, so this file
puts both into one: every checkpoint beyond the limit is worse than any within it.
"""

from __future__ import annotations

import math

import numpy as np

from hf_exposure.records import ExposureReport

OVER_LIMIT = 1e30
"""Figures beyond the limit begin here, and grow with exposure. A float32, as trackers store figures, can hold them."""
UNDEFINED = 1e38
"""Where the loss or the exposure is not known, which is worse than any exposure."""


def exposure_limited_loss(loss: float, mean_exposure_bits: float, max_exposure_bits: float) -> float:
    """The loss where exposure is at most the limit, else a number that is worse than any loss. Always finite.

    Beyond the limit less exposure is better, whatever the loss: where no checkpoint is within the limit, the least
    exposed one is chosen, and early stopping sees that training leads away from the limit.

    Example:
        >>> [exposure_limited_loss(loss, bits, 4.0) for loss, bits in [(3.2, 1.4), (2.9, 4.0), (2.7, 7.0)]]
        [3.2, 2.9, 8e+30]
    """
    if not math.isfinite(loss) or math.isnan(mean_exposure_bits) or loss >= OVER_LIMIT:
        return UNDEFINED
    if mean_exposure_bits <= max_exposure_bits:
        return float(loss)
    return min(OVER_LIMIT * (1.0 + mean_exposure_bits), UNDEFINED)


def highest_mean_bits(report: ExposureReport) -> float:
    """The mean exposure of the inserted canaries, with the top of its interval for a figure that is a lower bound.

    A lower bound within the limit does not show that the exposure is.
    """
    bits = [one.high_bits if one.is_lower_bound else one.exposure_bits for one in report.inserted]
    return float(np.mean(bits)) if bits else math.nan
