"""The exposure expected at the end of a training, from the measurements so far, with an interval.

Exposure rises while a model trains, fast at first, and levels off at or below its maximum. The remaining rise is
predicted from three quantities: the remaining share of the training, the recent rate of rise, and the distance from
the maximum. From these, three linear functions (of `features`) give the middle and both ends of the interval. They are
quantile regressions on many small trainings; their ends are then widened by their errors on other trainings
(conformalized quantile regression), so that no distribution of errors is assumed. All quantities are shares of log2
|R| and of the training, so that neither the space nor the number of steps matters.

`benchmarks/forecast.py` fits the functions and tests them on other trainings; `docs/design/0031-forecast.md` has the
result and its limits. They are valid for trainings like those. Where a forecast is not possible, there is none: see
`Silence`.

Shapes: T measurements; F features.

Source: Romano, Patterson and Candès 2019, "Conformalized Quantile Regression".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import gammaincinv

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, number_array

FEWEST_MEASUREMENTS = 3
# The exposure of a canary that the model never saw exceeds x bits with probability 2^-x, so the mean of n is a Gamma
# variable.
_CHANCE_QUANTILE = 0.95
# Share of log2 |R| from which on there is no room to rise.
_TOP_SHARE = 0.98


class Silence(StrEnum):
    """Why there is no forecast."""

    TOO_FEW = "fewer than three measurements"
    AT_CHANCE = "no rise above chance yet"
    AT_TOP = "at the top of what can be measured"
    UNDEFINED = "an exposure is undefined, a lower bound or an extrapolation"


@dataclass(frozen=True, kw_only=True)
class ExposureForecast:
    """The mean exposure expected at the end of a training.

    Attributes:
        expected_bits, low_bits, high_bits: the middle and the ends of the interval; NaN if there is no forecast.
        confidence_level: the level of the interval.
        silence: why there is no forecast; None if there is one.
    """

    expected_bits: float = math.nan
    low_bits: float = math.nan
    high_bits: float = math.nan
    confidence_level: float = math.nan
    silence: Silence | None = None


def forecast_exposure(
    fractions: ArrayLike, mean_bits: ArrayLike, log2_space_size: float, canaries: int
) -> ExposureForecast:
    """Forecasts the mean exposure of the canaries of one repetition count at the end of a training, from the
    measurements so far.

    Args:
        fractions: (T,) shares of the training that were done at each measurement, ascending, above 0 and below 1.
        mean_bits: (T,) mean exposures of the canaries at these measurements; NaN if one is undefined or only a bound.
            Such a mean is ignored, unless it is the last.
        log2_space_size: log2 |R|, the largest exposure there is.
        canaries: the number of canaries in the means.

    Raises:
        InputError: the fractions do not ascend or are outside 0 to 1, the lists have different lengths, or a number is
            out of range.

    Source: ours; the method is conformalized quantile regression (Romano et al. 2019).

    Example:
        >>> found = forecast_exposure([0.25, 0.5, 0.75], [2.0, 5.0, 7.0], 29.9, canaries=8)
        >>> found.silence is None and 5.0 < found.low_bits < found.expected_bits < found.high_bits < 15.0
        True
        >>> print(forecast_exposure([0.25, 0.5, 0.75], [1.4, 1.2, 1.5], 29.9, canaries=8).silence)
        no rise above chance yet
    """
    fractions_T, bits_T = number_array("fractions", fractions), number_array("mean_bits", mean_bits)
    top = real_number("log2_space_size", log2_space_size, "must be above 0", "Pass report.log2_space_size.", above=0.0)
    whole_number("canaries", canaries, 1)
    if fractions_T.shape != bits_T.shape or fractions_T.ndim != 1:
        shapes = f"{fractions_T.shape} and {bits_T.shape}"
        raise InputError("mean_bits", "must have a mean for each of fractions", shapes, "Pass lists of equal length.")
    if not ((fractions_T > 0) & (fractions_T < 1)).all() or not (np.diff(fractions_T) > 0).all():
        rule = "must ascend, above 0 and below 1"
        raise InputError("fractions", rule, fractions_T.tolist(), "Pass step / max_steps of each measurement.")
    if silence := why_silent(bits_T, top, canaries):
        return ExposureForecast(silence=silence)
    known_T = np.isfinite(bits_T)
    fractions_T, bits_T = fractions_T[known_T], bits_T[known_T]
    lines, share = fitted(), bits_T[-1] / top
    rises = np.array(lines["coefficients"]) @ features(fractions_T, bits_T / top)
    low, middle, high = np.sort(rises)
    spare = float(lines["margin"]) * math.sqrt(1 - fractions_T[-1])
    low, high = low - spare, high + spare
    expected, low, high = (float(np.clip(share + rise, 0.0, 1.0)) * top for rise in (middle, low, high))
    return ExposureForecast(
        expected_bits=expected, low_bits=low, high_bits=high, confidence_level=float(lines["confidence_level"])
    )


def features(fractions_T: FloatArray, shares_T: FloatArray) -> FloatArray:
    """(F,) the features of the linear functions, from exposures as shares of log2 |R|; all vanish at the end of
    training.

    Example:
        >>> features(np.array([0.25, 0.5]), np.array([0.1, 0.3])).round(3).tolist()
        [0.4, 0.2, 0.35, 0.105, 0.495]
    """
    done, share = fractions_T[-1], shares_T[-1]
    left, room = 1 - done, 1 - share
    # The recent rise: over the second half of the training so far, at least between the last two measurements.
    half = min(int(np.searchsorted(fractions_T, done / 2)), len(fractions_T) - 2)
    times_T, own_T = fractions_T[half:], shares_T[half:]

    def slope(x_T: FloatArray) -> float:
        centered_T = x_T - x_T.mean()
        return float(centered_T @ own_T / (centered_T @ centered_T))

    steady = np.clip(slope(times_T) * left, -share, room)
    slowing = np.clip(slope(np.log(times_T)) * math.log(1 / done), -share, room)
    return np.array([steady, slowing, left * room, left * room * share, math.sqrt(left) * room])


def why_silent(bits_T: FloatArray, log2_space_size: float, canaries: int) -> Silence | None:
    """Why no forecast is possible from the mean exposures so far; None if one is."""
    if np.isfinite(bits_T).sum() < FEWEST_MEASUREMENTS:
        return Silence.TOO_FEW
    if not math.isfinite(bits_T[-1]):
        return Silence.UNDEFINED
    if bits_T[-1] <= float(gammaincinv(canaries, _CHANCE_QUANTILE)) / canaries / math.log(2):
        return Silence.AT_CHANCE
    return Silence.AT_TOP if bits_T[-1] >= _TOP_SHARE * log2_space_size else None


@cache
def fitted() -> dict[str, Any]:
    """The functions that `benchmarks/forecast.py` fitted: coefficients of the low end, the middle and the high end,
    and the margin.
    """
    text = resources.files("hf_exposure.estimators").joinpath("forecast.json").read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(text)
    return values
