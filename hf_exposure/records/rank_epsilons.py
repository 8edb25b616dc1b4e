"""Bounds on epsilon of differential privacy from a report's certified ranks, one for each repetition count.

`epsilon_from_ranks` requires ranks among *all* texts of the space. In an exposure rank the other inserted canaries do
not compete, so those that the model finds at least as likely are added here. Proofs:
docs/design/0020-epsilon-from-ranks.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_exposure.estimators import RankEpsilon, epsilon_from_ranks
from hf_exposure.records.estimates import ExposureEstimate

# Two scores of one text agree to within 1 bit in any precision, 8-bit layers included (`Scorer.tolerance_bits`).
_SURELY_APART_BITS = 2.0


def ranks_among_all(inserted: Sequence[ExposureEstimate]) -> list[int | None]:
    """Upper bounds of the ranks among all texts of the space; None if no rank is certified.

    The bound is the upper end of the exposure rank plus the number of other inserted canaries that cost at most 2 bits
    more, since the scoring error is smaller than that. If log-perplexities are withheld, all others are added.

    Example:
        >>> def row(cost, rank):
        ...     return ExposureEstimate(canary_id="", repetitions=8, log_perplexity_bits=cost, exposure_bits=9.0,
        ...         low_bits=9.0, high_bits=9.0, rank_low=rank, rank_high=rank, method="bounded")
        >>> ranks_among_all([row(20.0, 1), row(20.1, 1), row(30.0, 5), row(40.0, None)])
        [2, 2, 7, None]
    """
    costs = np.array([estimate.log_perplexity_bits for estimate in inserted])
    if np.isnan(costs).any():
        ahead = np.full(len(inserted), len(inserted) - 1)
    else:
        # The canary itself is counted too.
        ahead = np.searchsorted(np.sort(costs), costs + _SURELY_APART_BITS, side="right") - 1
    return [
        None if estimate.rank_high is None else estimate.rank_high + int(others)
        for estimate, others in zip(inserted, ahead, strict=True)
    ]


def rank_epsilons(
    estimates: Sequence[ExposureEstimate], space_size: int, confidence_level: float, delta: float
) -> Mapping[int, RankEpsilon]:
    """The bounds from certified ranks by repetitions; the record is a canary with all its repetitions.

    The repetition counts share the error, so all bounds hold together. All other canaries of the report, including
    controls, are subtracted from the space.

    Args:
        estimates: estimates of a set that was drawn uniformly, inserted canaries and controls.
        space_size: |R|.
        confidence_level: one-sided, for all bounds together.
        delta: the delta of the (epsilon, delta) to refute.
    """
    inserted = [estimate for estimate in estimates if not estimate.is_control]
    ranks = ranks_among_all(inserted)
    counts = sorted({estimate.repetitions for estimate in inserted})
    return {
        count: epsilon_from_ranks(
            [rank for rank, estimate in zip(ranks, inserted, strict=True) if estimate.repetitions == count],
            space_size,
            confidence_level=confidence_level,
            delta=delta,
            other_secrets=len(estimates) - 1,
            groups=len(counts),
        )
        for count in counts
    }
