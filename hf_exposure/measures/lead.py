"""The lead of canaries over the likeliest text that was not inserted, if a search must find that text.

Shapes: K canaries, inserted ones first.
"""

from __future__ import annotations

import numpy as np

from hf_exposure.estimators import lead_over_runner_up
from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.extraction import search_likeliest
from hf_exposure.measures.methods import Measurement


def leads_by_search(measured: Measurement, max_expansions: int, ranked_first: int) -> FloatArray:
    """(K,) leads by a search for the likeliest texts; NaN for all if it does not end within its budget.

    Args:
        measured: the measurement, with an automaton.
        max_expansions: the budget of each search; a second one is only needed if it was not known which canaries rank
            first.
        ranked_first: the number of inserted canaries that are known to rank first, before all texts not inserted.
    """
    assert measured.automaton is not None
    texts, is_inserted_K = [canary.text for canary in measured.canaries], measured.is_inserted_K
    inserted, controls = set(texts[: int(is_inserted_K.sum())]), set(texts[int(is_inserted_K.sum()) :])
    space_size = measured.canaries.template.space_size
    wanted = min(space_size, ranked_first + 1)
    while True:
        found = search_likeliest(measured.scorer, measured.automaton, top_k=wanted, max_expansions=max_expansions)
        if not found.certified:
            return np.full(len(texts), np.nan)
        rivals = [one for one in found.candidates if one.text not in inserted]
        # If a control is the likeliest of them, its rival is the next one.
        if len(rivals) > any(one.text in controls for one in rivals[:1]) or wanted == space_size:
            break
        wanted = min(space_size, wanted + 1 + len(inserted))
    return lead_over_runner_up(measured.costs_K, [one.log_perplexity_bits for one in rivals], is_rival=~is_inserted_K)
