"""What every estimator asks of the arrays it is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.errors import InputError

__all__ = ["FloatArray", "checked_confidence", "checked_costs", "checked_space_size"]

FloatArray = NDArray[np.float64]


def checked_costs(argument: str, values: ArrayLike, *, smallest_count: int = 0, finite: bool = False) -> FloatArray:
    """`values` as a float64 vector, or an `InputError` that names `argument`.

    +inf is a legitimate cost (a text of probability 0) unless `finite`; NaN and -inf never are.
    """
    costs = np.asarray(values, dtype=np.float64)
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


def checked_confidence(confidence_level: float) -> float:
    """`confidence_level` strictly between 0 and 1, as a float."""
    if not 0.0 < confidence_level < 1.0:
        raise InputError("confidence_level", "must lie strictly between 0 and 1", confidence_level, "Type 0.95.")
    return float(confidence_level)


def checked_space_size(space_size: int) -> int:
    """`space_size` as an exact int of at least 1; floats are refused, since they lose the low digits of 10**30."""
    if isinstance(space_size, bool) or not isinstance(space_size, (int, np.integer)) or space_size < 1:
        raise InputError(
            "space_size", "must be an int, the number of texts in the space", space_size, "Pass template.space_size."
        )
    return int(space_size)
