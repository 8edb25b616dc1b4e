"""Checks of the arrays that estimators take: each function checks one rule and raises an `InputError` if it is
broken.
"""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.checks import holds_more, real_number
from hf_exposure.errors import InputError
from hf_exposure.limits import LARGEST_FIGURE, LARGEST_SPACE_DIGITS, MOST_TEXTS

FloatArray = NDArray[np.float64]


def number_array(argument: str, values: ArrayLike, remedy: str = "Pass a list of numbers.") -> FloatArray:
    """`values` as a float64 array of any shape. Texts, even those that spell numbers, and missing values are
    refused.
    """
    rule = "must be numbers"
    if holds_more(values, MOST_TEXTS):
        raise InputError(argument, f"must hold at most {MOST_TEXTS} entries", "more", "Use fewer.")
    try:
        array = np.asarray(values)
    except Exception:  # rows of unequal length and tensors with gradients or on a device each raise different errors
        raise InputError(argument, rule, type(values).__name__, remedy) from None
    if array.dtype.kind == "O" and not all(isinstance(value, Real) for value in array.flat):
        raise InputError(argument, rule, f"{type(values).__name__} with other values", remedy)
    if array.dtype.kind not in "biufO":
        raise InputError(argument, rule, f"an array of type {array.dtype}", remedy)
    try:
        return array.astype(np.float64)
    except (OverflowError, TypeError, ValueError):
        raise InputError(argument, "must be numbers that a float can hold", "a larger one", remedy) from None


def checked_costs(argument: str, values: ArrayLike, *, smallest_count: int = 0, finite: bool = False) -> FloatArray:
    """`values` as a float64 vector, or an `InputError` that names `argument`.

    +inf is a legitimate cost (a text of probability 0) unless `finite`; NaN and -inf never are.
    """
    costs = number_array(argument, values)
    if costs.ndim != 1:
        raise InputError(
            argument, "must be a flat list of numbers", f"an array of shape {costs.shape}", "Pass costs.ravel()."
        )
    if costs.size < smallest_count:
        raise InputError(
            argument,
            f"must hold at least {smallest_count} cost{'s' if smallest_count > 1 else ''}",
            costs.size,
            "Score more texts.",
        )
    if (np.isfinite(costs) & (np.abs(costs) > LARGEST_FIGURE)).any():
        raise InputError(
            argument, f"must be at most {LARGEST_FIGURE} bits each", "more", "Find out where it comes from."
        )
    bad = ~np.isfinite(costs) if finite else np.isnan(costs) | np.isneginf(costs)
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise InputError(
            argument,
            "must be log-perplexities in bits, " + ("all finite" if finite else "never NaN or -inf"),
            f"{float(costs[where])} at position {where} ({int(bad.sum())} in all)",
            "Find out why the model returned it; do not drop it silently.",
        )
    return costs


def checked_flags(argument: str, values: ArrayLike, count: int, remedy: str) -> NDArray[np.bool_]:
    """`values`, one bool or one for each of `count` canaries, as (count,) bools; 0 and 1 are accepted too."""
    flags = number_array(argument, values, remedy)
    if flags.shape not in {(), (count,)} or not np.isin(flags, [0, 1]).all():
        raise InputError(argument, f"must be True or False, or ({count},) of them", _described(values), remedy)
    return np.broadcast_to(flags.astype(bool), (count,))


def _described(values: ArrayLike) -> object:
    """A scalar itself, or the shape of an array."""
    shape = np.shape(values)
    return f"an array of shape {shape}" if shape else values


def checked_confidence(confidence_level: float) -> float:
    """`confidence_level` strictly between 0 and 1, as a float."""
    rule = "must lie strictly between 0 and 1"
    return real_number("confidence_level", confidence_level, rule, "Type 0.95.", above=0.0, below=1.0)


def checked_space_size(space_size: int) -> int:
    """`space_size` as an exact int of at least 1; floats are refused, since they lose the low digits of 10**30."""
    remedy = "Pass template.space_size."
    if isinstance(space_size, bool) or not isinstance(space_size, (int, np.integer)) or space_size < 1:
        raise InputError("space_size", "must be an int, the number of texts in the space", space_size, remedy)
    if space_size > 10**LARGEST_SPACE_DIGITS:
        raise InputError("space_size", f"must be at most 10^{LARGEST_SPACE_DIGITS}", space_size, remedy)
    return int(space_size)
