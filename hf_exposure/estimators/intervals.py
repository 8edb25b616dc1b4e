"""Confidence limits on the share of a space, from equal or from weighted draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betainccinv, betaincinv, gammainccinv, gammaincinv

from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array

__all__ = ["beta_quantiles", "clopper_pearson", "clopper_pearson_low"]

# Below this share the Beta quantile is the Gamma quantile to as many digits, and scipy's Beta gives up near 1e-300.
_GAMMA_BELOW = 1e-9
# More hits than this pin the share to six digits; scipy's quantiles lose their way well beyond it.
_MOST_HITS = 1e12


def clopper_pearson(
    hits: ArrayLike, draws: ArrayLike, confidence_level: float = 0.95
) -> tuple[FloatArray, FloatArray]:
    """Exact two-sided limits on a binomial proportion: they cover it at least `confidence_level` of the time.

    Args:
        hits: (K,) ints, from 0 to `draws`.
        draws: scalar or (K,), at least 1.
        confidence_level: strictly between 0 and 1; half of what is left lies beyond each end.

    Returns:
        `low`, `high`: (K,) proportions. No hit gives low = 0, all hits give high = 1.

    Raises:
        InputError: hits outside 0..draws, no draws, or an impossible confidence level.

    Source: Clopper and Pearson, Biometrika 26 (1934); in Beta form, Brown, Cai and DasGupta, Statistical Science 16
        (2001), section 4.2.1.

    Example:
        >>> low, high = clopper_pearson([0, 10], 10)
        >>> low.round(6).tolist(), high.round(6).tolist()      # by hand: 1 - 0.025 ** 0.1 = 0.308497
        ([0.0, 0.691503], [0.308497, 1.0])
    """
    level = checked_confidence(confidence_level)
    try:
        hits_K, draws_K = np.broadcast_arrays(number_array("hits", hits), number_array("draws", draws))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        rule = "must be one number for each of hits, or one for all"
        raise InputError(
            "draws", rule, f"shapes {np.shape(hits)} and {np.shape(draws)}", "Count them again."
        ) from None
    if not (draws_K >= 1).all() or not ((hits_K >= 0) & (hits_K <= draws_K)).all():
        raise InputError("hits", "must lie in 0..draws, of at least one draw", "others", "Count them again.")
    # One more draw on the other side at each end: this is the special case of `weighted_share` at equal weights.
    low, _ = beta_quantiles(hits_K / (draws_K + 1), hits_K, level)
    _, high = beta_quantiles((hits_K + 1) / (draws_K + 1), hits_K + 1, level)
    return low, high


def clopper_pearson_low(hits: int, draws: int, confidence_level: float = 0.95) -> float:
    """The exact one-sided lower limit on a binomial proportion: all that is left of the level lies below it.

    Example (by hand: 4 of 4 at 95 % is 0.05 ** (1 / 4)):
        >>> round(clopper_pearson_low(4, 4), 4), clopper_pearson_low(0, 4)
        (0.4729, 0.0)
    """
    level = checked_confidence(confidence_level)
    shapes = {number_array(name, value).shape for name, value in (("hits", hits), ("draws", draws))}
    if shapes != {()} or draws < 1 or not 0 <= hits <= draws:
        raise InputError("hits", "must lie in 0..draws, of at least one draw", (hits, draws), "Count them again.")
    return float(betaincinv(hits, draws - hits + 1, 1.0 - level)) if hits else 0.0


def beta_quantiles(share: FloatArray, hits: FloatArray, confidence_level: float) -> tuple[FloatArray, FloatArray]:
    """The two tail quantiles of the Beta law with mean `share` and `hits / share` draws, `hits` of them hits.

    Args:
        share: (K,) means, in [0, 1].
        hits: (K,) first Beta parameter, at least 0 and not necessarily whole; inf means "no uncertainty".
        confidence_level: the mass between the two quantiles.

    Returns:
        `low`, `high`: (K,). A share of 0 gives 0 and 0, a share of 1 gives 1 and 1.

    Example:
        >>> low, high = beta_quantiles(np.array([0.5]), np.array([1.0]), 0.9)     # uniform
        >>> low.round(6).tolist(), high.round(6).tolist()
        ([0.05], [0.95])
    """
    tail = (1.0 - confidence_level) / 2.0
    share, hits = np.broadcast_arrays(share, np.minimum(hits, _MOST_HITS))
    inner = (share > 0.0) & (share < 1.0) & (hits > 0.0)
    y, a = np.where(inner, share, 0.5), np.where(inner, hits, 1.0)
    b = a * (1.0 - y) / y
    rare = y < _GAMMA_BELOW
    b_beta = np.where(rare, 1.0, b)
    low = np.where(rare, y * (gammaincinv(a, tail) / a), betaincinv(a, b_beta, tail))
    high = np.where(rare, y * (gammainccinv(a, tail) / a), betainccinv(a, b_beta, tail))
    outside = np.where(share >= 1.0, 1.0, 0.0)
    return np.where(inner, low, outside), np.where(inner, np.minimum(high, 1.0), outside)
