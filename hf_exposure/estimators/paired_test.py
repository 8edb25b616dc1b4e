"""Whether the same canaries have more exposure at one checkpoint than at another: the sign-flip permutation test."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hf_exposure.checks import one_of, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import number_array
from hf_exposure.limits import LARGEST_SEED

Alternative = Literal["two-sided", "greater", "less"]

# Up to this many sign changes, all are examined; otherwise this many random ones, including the observed one.
_SIGN_CHANGES = 100_000


def paired_p_value(
    earlier: ArrayLike, later: ArrayLike, *, alternative: Alternative = "two-sided", seed: int = 0
) -> float:
    """The p-value of "the exposures are the same at both checkpoints", for the same canaries measured at each.

    Under that hypothesis the two figures of a canary are exchangeable. The p-value is the share of all 2^N swaps in
    which the mean difference is at least as extreme as the observed one. It assumes no distribution of exposures.

    Args:
        earlier, later: (N,) figures of the same N canaries, in the same order.
        alternative: "greater" asks whether the later ones are larger, "less" whether they are smaller.
        seed: the seed of the random swaps, which are used if there are more than 100,000 swaps.

    Returns:
        The p-value, at least 2^-N (twice that, two-sided); 1.0 if nothing differs; NaN without canaries or if a figure
        is NaN.

    Raises:
        InputError: the arrays are not flat or not of equal length, or the alternative is unknown.

    Source: Fisher, The Design of Experiments (1935), Section 21; the question: Carlini et al. 2019, Section 7.2.

    Example (by hand: one swap of 2^3 has a mean as large as all three rises):
        >>> paired_p_value([1, 2, 3], [2, 4, 6], alternative="greater")
        0.125
    """
    one_of("alternative", alternative, ["two-sided", "greater", "less"], "Use 'less' for a fall.")
    whole_number("seed", seed, 0, LARGEST_SEED)
    earlier_N, later_N = number_array("earlier", earlier), number_array("later", later)
    if earlier_N.ndim != 1 or earlier_N.shape != later_N.shape:
        shapes = f"shapes {earlier_N.shape} and {later_N.shape}"
        raise InputError("earlier, later", "must be flat and of equal length", shapes, "Pass the same canaries twice.")
    differences_N = later_N - earlier_N
    if not differences_N.size or np.isnan(differences_N).any():
        return math.nan
    if not differences_N.any():
        return 1.0
    if differences_N.size == 1:  # SciPy requires two or more
        rises = differences_N[0] > 0
        return 1.0 if alternative == "two-sided" or rises != (alternative == "greater") else 0.5
    tested = stats.permutation_test(
        (differences_N,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_SIGN_CHANGES,
        alternative=alternative,
        rng=np.random.default_rng(seed),
    )
    return float(tested.pvalue)
