"""The costs of the references as a histogram, so that a report can show the paper's Figure 3 and contains no text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.errors import InputError
from hf_exposure.estimators import SkewNormalFit, fit_skew_normal
from hf_exposure.estimators.skew_normal import FEWEST_REFERENCES
from hf_exposure.fields import Count, Flag, Positive, Real

# Fine enough that a law fitted to the bins looks the same as one fitted to the costs.
_BINS = 128
_MOST_FITTED = 4096


@dataclass(frozen=True, kw_only=True)
class ReferenceCosts:
    """Log-perplexities of uniformly drawn texts of a template, in bits.

    Attributes:
        count: the number of texts.
        low_bits, high_bits: edges of the histogram: the smallest and the largest cost.
        counts: the counts of its bins, which have equal width.
        whole_space: whether they are all texts of the template, not a sample.
    """

    count: Positive
    low_bits: Real
    high_bits: Real
    counts: tuple[Count, ...]
    whole_space: Flag = False

    @classmethod
    def of(cls, costs: ArrayLike, *, whole_space: bool = False) -> ReferenceCosts | None:
        """The summary of (N,) costs in bits; None if none is finite.

        Example:
            >>> summary = ReferenceCosts.of(np.linspace(40.0, 60.0, 1281))
            >>> summary.count, summary.low_bits, summary.high_bits, set(summary.counts) <= {10, 11}
            (1281, 40.0, 60.0, True)
        """
        costs_N = np.asarray(costs, dtype=np.float64)
        costs_N = costs_N[np.isfinite(costs_N)]
        if not costs_N.size:
            return None
        counts, edges = np.histogram(costs_N, bins=_BINS)
        return cls(
            count=int(costs_N.size),
            low_bits=float(edges[0]),
            high_bits=float(edges[-1]),
            counts=tuple(counts.tolist()),
            whole_space=whole_space,
        )

    @property
    def edges_bits(self) -> NDArray[np.float64]:
        """(bins + 1,) edges of the bins, in bits."""
        return np.linspace(self.low_bits, self.high_bits, len(self.counts) + 1)

    @cached_property
    def law(self) -> SkewNormalFit | None:
        """The skew-normal law fitted to the bins by maximum likelihood; None with fewer than 20 costs, or if all are
        equal.

        The fit takes about half a second, so it is computed when a report is plotted and not when it is measured.
        """
        if self.count < FEWEST_REFERENCES or self.low_bits == self.high_bits:
            return None
        centers = (self.edges_bits[1:] + self.edges_bits[:-1]) / 2
        if (total := sum(self.counts)) > _MOST_FITTED:
            # Evenly spaced quantiles represent a million costs.
            places = (np.arange(_MOST_FITTED) + 0.5) / _MOST_FITTED * total
            costs_N = centers[np.searchsorted(np.cumsum(self.counts), places.astype(np.int64), side="right")]
        else:
            costs_N = np.repeat(centers, self.counts)
        try:
            return fit_skew_normal(costs_N)
        except InputError:
            return None  # all costs in one bin
