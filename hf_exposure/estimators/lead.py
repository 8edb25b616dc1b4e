"""The lead of a canary: by how many bits the likeliest text that was not inserted costs more than the canary.

Exposure is at most log2|R|: for two canaries that rank first, it does not show which one stands out further. The lead
does.

Legend: K canaries, N texts of the space that were not inserted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_exposure.estimators.arrays import FloatArray, checked_costs, checked_flags


def lead_over_runner_up(
    costs: ArrayLike, rival_costs: ArrayLike, *, is_rival: bool | Sequence[bool] | NDArray[np.bool_] = False
) -> FloatArray:
    """By how many bits the likeliest other text costs more than each canary.

    Args:
        costs: (K,) log-perplexities of the canaries in bits.
        rival_costs: (N,) log-perplexities of texts that were not inserted, including at least the likeliest two.
        is_rival: whether a canary is itself one of the N texts, as a held-out control is; it is then not its own
            rival. Its two costs may differ by rounding, as those of different batches do.

    Returns:
        (K,) bits: above 0 for a canary that ranks first, below 0 if others are likelier; NaN without a rival, and if
        canary and rival both have probability 0.

    Raises:
        InputError: a cost is NaN or -inf, or an array is not flat.

    Source: Carlini et al. 2019, Table 1 (14.63 bits against 18.56).

    Example:
        >>> lead_over_runner_up([14.63, 19.01], [18.56, 19.01], is_rival=[False, True]).round(2).tolist()
        [3.93, -0.45]
    """
    costs_K = checked_costs("costs", costs)
    itself_K = checked_flags("is_rival", is_rival, costs_K.size, "Pass False, or one for each cost.")
    two = np.append(np.sort(checked_costs("rival_costs", rival_costs))[:2], [np.nan, np.nan])[:2]
    with np.errstate(invalid="ignore"):  # inf - inf
        # Its own cost is the nearest one; without a second cost to tell, it is the likeliest if it costs no more.
        is_likeliest_K = (costs_K <= two[0]) | (costs_K - two[0] < two[1] - costs_K)
        leads_K: FloatArray = np.where(itself_K & is_likeliest_K, two[1], two[0]) - costs_K
    return leads_K
