"""The exposure of one cost, as an estimator returns it, and the kind of figure. Scores are in bits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from hf_exposure.errors import InputError
from hf_exposure.fields import Figure, Rank, same_fields

Bound = Literal["exact", "interval", "lower", "extrapolated", "undefined"]
"""The kind of figure of an exposure, from the most to the least informative.

- "exact": the rank was counted; `low_bits` and `high_bits` differ only by ties within the scoring error.
- "interval": a point estimate with a confidence interval that limits the exposure on both sides.
- "lower": `exposure_bits` is a lower bound, and the exposure may be as high as the space allows.
- "extrapolated": a point beyond all references, without a valid interval.
- "undefined": there is no figure; `exposure_bits` is NaN, and null in JSON.
"""

CHANCE_BITS = 1 / math.log(2)
"""Mean exposure of a canary that the model never saw, 1.44 bits: `P(exposure >= x) <= 2^-x`, integrated over x."""


def weakest_bound(bounds: Iterable[Bound]) -> Bound:
    """The kind of the mean of such figures; "undefined" if there are none.

    Example:
        >>> weakest_bound(["exact", "lower", "interval"])
        'lower'
    """
    kinds = get_args(Bound)
    return max(bounds, key=kinds.index, default="undefined")


# Published figures are rounded to 0.1 bit.
_ROUNDED_BITS = 0.1


@dataclass(frozen=True, kw_only=True)
class ExposureFigures:
    """The exposure of one text, with what is known about it.

    Attributes:
        exposure_bits: the point estimate, log2|R'| - log2 rank; NaN if it is undefined.
        low_bits, high_bits: ends of the confidence interval on the exposure; NaN if there is none.
        rank_low, rank_high: certified bounds on the rank; None if unknown.
        method: the estimator's name.
        bound: the kind of figure (`Bound`): "exact", "interval", "lower", "extrapolated" or "undefined". By default it
            is derived from the figures.
        note: what a reader must know to use the figure, or "".
    """

    exposure_bits: Figure
    low_bits: Figure
    high_bits: Figure
    rank_low: Rank | None = None
    rank_high: Rank | None = None
    method: str
    # It is None only until it is derived.
    bound: Bound = None  # type: ignore[assignment]
    note: str = ""

    __eq__ = same_fields

    def __post_init__(self) -> None:
        if self.bound is None:
            object.__setattr__(self, "bound", self.derived_bound())
        if self.bound not in get_args(Bound):
            raise InputError("bound", f"must be one of {', '.join(get_args(Bound))}", self.bound, "Leave it out.")
        if (self.bound == "undefined") != math.isnan(self.exposure_bits):
            rule = "must be 'undefined' if exposure_bits is NaN, and only then"
            raise InputError("bound", rule, f"{self.bound} with {self.exposure_bits} bits", "Leave it out.")

    def derived_bound(self, most_bits: float = math.inf) -> Bound:
        """The kind implied by the other figures if log2 |R'| is `most_bits`; if ambiguous, the kind that claims less.

        Example:
            >>> figures = ExposureFigures(method="sample", exposure_bits=12.0, low_bits=10.1, high_bits=29.9)
            >>> figures.derived_bound(), figures.derived_bound(most_bits=29.9)
            ('interval', 'lower')
        """
        if math.isnan(self.exposure_bits):
            return "undefined"
        if self.method == "enumerate":
            return "exact"
        if self.method == "bounded" or self.rank_low is not None:
            # A search that ended with ties within the scoring error cannot be distinguished from one that was stopped.
            low, high = (self.low_bits, self.high_bits) if self.rank_low is None else (self.rank_low, self.rank_high)
            return "exact" if low == high else "lower"
        if self.method == "skew_normal" or math.isnan(self.low_bits):
            return "extrapolated"
        top_bits = most_bits - _ROUNDED_BITS
        reaches_the_top = not math.isfinite(self.high_bits) or self.high_bits >= top_bits
        return "lower" if reaches_the_top and self.exposure_bits < top_bits else "interval"

    @property
    def is_lower_bound(self) -> bool:
        """Whether `exposure_bits` is only a lower bound."""
        return self.bound == "lower"

    def known_bits(self, most_bits: float) -> tuple[float, float]:
        """The interval that is known to contain the exposure, within [0, most_bits]; `most_bits` is log2 of the size
        of the space.

        The interval of a lower bound reaches to the top, unless a search has certified how high the canary can rank.
        For an extrapolated or undefined figure it is the whole range.
        """
        if self.bound in ("extrapolated", "undefined"):
            return 0.0, most_bits
        is_open = self.bound == "lower" and self.rank_low is None
        low, high = self.low_bits, most_bits if is_open else self.high_bits
        low = 0.0 if math.isnan(low) else min(max(low, 0.0), most_bits)
        return low, most_bits if math.isnan(high) else min(max(high, low), most_bits)


@dataclass(frozen=True, kw_only=True)
class CostEstimate(ExposureFigures):
    """The exposure of one cost (a log-perplexity) against references: what an estimator returns for each cost.

    Attributes:
        effective_hits: the number of equal draws at or below the cost that would be as precise, if the exposure was
            estimated from draws, else None. Stop drawing early only above 100.
        draw_gain: the variance of as many independent draws of one text each, divided by the estimate's, if it was
            estimated from draws, else None; above 1 where draws were spread evenly or count all texts that they could
            have ended with.
    """

    effective_hits: float | None = None
    draw_gain: float | None = None

    __eq__ = same_fields
