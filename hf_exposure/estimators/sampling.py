"""Exposure from uniform draws of the space: the paper's "approximation by sampling"."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

from numpy.typing import ArrayLike

from hf_exposure.checks import one_of
from hf_exposure.estimators.arrays import checked_costs
from hf_exposure.estimators.importance import importance_exposure
from hf_exposure.estimators.rank import ranks
from hf_exposure.records import CostEstimate

__all__ = ["Convention", "sampling_exposure"]

Convention = Literal["valid", "tensorflow_privacy"]


def sampling_exposure(
    costs: ArrayLike,
    references: ArrayLike,
    *,
    space_size: int | None = None,
    confidence_level: float = 0.95,
    convention: Convention = "valid",
) -> list[CostEstimate]:
    """Exposure from N uniform draws, m of them at or below the canary's cost: `log2((N + 1)/(m + 1))` bits.

    The canary counts as one of N + 1 draws, which makes the figure exactly valid for a canary that was never inserted:
    `P(exposure >= x) <= 2^-x`. It is `importance_exposure` at equal weights. Ties count against the canary.

    Args:
        costs: (K,) costs of the canaries in bits, lower = likelier.
        references: (N,) costs of independent uniform draws from the space, without the other inserted canaries.
        space_size: |R'|; no figure exceeds `log2 |R'|`. Without it `high_bits` of a canary below all references is
            inf, and the note says so: draws alone set it no upper end.
        confidence_level: of the Clopper-Pearson interval on the share, turned into bits.
        convention: "valid", or "tensorflow_privacy" for `log2 N - log2(m + 1)`, which is what its
            `compute_exposure_interpolation` returns (there in another order, and with ties resolved either way). It is
            at most `log2 N`, and below 0 for a canary outranked by all. The interval is the same.

    Returns:
        one `CostEstimate` per cost, in input order; with m = 0 the figure is a lower bound (`bound` "lower").

    Raises:
        InputError: NaN or -inf costs, no references, an unknown convention.

    Source: Carlini et al. 2019, section 4.3 (there m/N); the +1: Phipson and Smyth, "Permutation p-values should never
        be zero", SAGMB 9 (2010).

    Example:
        >>> references = [1, 2, 3, 3, 4, 5, 6, 7]
        >>> [round(e.exposure_bits, 4) for e in sampling_exposure([3.0, 0.0], references)]    # 9/5 and 9/1
        [0.848, 3.1699]
        >>> theirs = sampling_exposure([3.0, 0.0], references, convention="tensorflow_privacy")
        >>> [round(e.exposure_bits, 4) for e in theirs]                                       # 8/5 and 8/1
        [0.6781, 3.0]
    """
    one_of("convention", convention, get_args(Convention), 'Type "valid".')
    estimates = importance_exposure(costs, references, space_size=space_size, confidence_level=confidence_level)
    references_N = checked_costs("references", references)
    points = [estimate.exposure_bits for estimate in estimates]
    if convention == "tensorflow_privacy":
        log2_draws = math.log2(references_N.size)
        points = [log2_draws - math.log2(rank) for rank in ranks(costs, references_N).tolist()]
    return [
        replace(estimate, exposure_bits=bits, method="sample")
        for estimate, bits in zip(estimates, points, strict=True)
    ]
