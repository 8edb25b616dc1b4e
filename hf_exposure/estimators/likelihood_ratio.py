"""Membership inference with shadow models: was this row in the training data, judged by models whose data are known?

LiRA fits one normal law to a row's scores under models trained with it, and one to those under models trained without
it, and asks under which the target's score is likelier. This removes the row's own difficulty from the attack, which
the plain loss attack cannot do. RMIA compares the row's likelihood ratio with those of rows that were certainly not
trained on.

Scores should be approximately normal. Probabilities are not, but their logits are (`logit_confidence`).

Legend: M shadow models, N rows, Z rows of the population.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.special import logsumexp

from hf_exposure.checks import flag, one_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, number_array
from hf_exposure.estimators.counterfactual import checked_runs

Density = Literal["logpdf", "logcdf"]
Variance = Literal["row", "shared"]


def lira(
    scores_MN: ArrayLike,
    included_MN: ArrayLike,
    target_scores_N: ArrayLike,
    offline: bool = False,
    *,
    density: Density | None = None,
    variance: Variance = "row",
) -> FloatArray:
    """Likelihood-ratio attack: how much likelier the target's score is under models that had the row than under
    others.

    The scores of a row have mean and standard deviation m1, s1 over the models that had it, and m0, s0 over the
    others. With normal laws, the target's score t gives

        online                log N(t; m1, s1) - log N(t; m0, s0)
        offline, "logcdf"     log P(N(m0, s0) <= t): how far above the models without the row; the paper's test
        offline, "logpdf"     -log N(t; m0, s0): how unusual on either side, as in the authors' code

    The two offline forms differ if a score is lower than without the row: "logpdf" considers such a row a member,
    "logcdf" does not.

    Args:
        scores_MN: finite scores of the shadow models, such as logits of probabilities; higher means better known.
        included_MN: whether shadow model m was trained on row n.
        target_scores_N: scores of the model under attack, which must not be one of the shadow models.
        offline: whether to use only models without the row, as an attacker must who has trained no model on it.
        density: "logcdf" or "logpdf" for the offline form, by default "logcdf"; the online form always uses densities.
        variance: "row" for the variance of each row (maximum likelihood), or "shared" for one pooled over all rows,
            which is better with fewer than about 64 models.

    Returns:
        (N,) natural logarithms; higher means member. NaN if a side in use has fewer than two models (one, with a
        shared variance), or no variation at all.

    Raises:
        InputError: the shapes do not match, a score is not finite, or "logcdf" is given for the online form.

    Source: Carlini et al., "Membership Inference Attacks From First Principles" (2022), algorithm 1 and section 4.

    Example (by hand, t = 1: with the row m = 1, s = 1, without m = -1, s = 1; the ratio is (2 ** 2 - 0) / 2):
        >>> lira([[2], [0], [0], [-2]], [[1], [1], [0], [0]], [1]).round(6).tolist()
        [2.0]
        >>> lira([[2], [0], [0], [-2]], [[1], [1], [0], [0]], [-1], offline=True).round(4).tolist()
        [-0.6931]
    """
    scores_MN, included_MN = checked_runs(scores_MN, included_MN)
    target_N = _checked_target("target_scores_N", target_scores_N, included_MN.shape[1])
    offline = flag("offline", offline)
    one_of("variance", variance, get_args(Variance), "Use 'row'.")
    chosen = one_of("density", density or ("logcdf" if offline else "logpdf"), get_args(Density), "Leave it out.")
    if chosen == "logcdf" and not offline:
        rule = "must be 'logpdf' online, where the ratio is one of densities"
        raise InputError("density", rule, chosen, "Leave it out, or set offline=True.")
    mean_N, deviation_N = _normal_law(scores_MN, ~included_MN, variance)
    if chosen == "logcdf":
        return np.asarray(stats.norm.logcdf(target_N, mean_N, deviation_N), dtype=np.float64)
    ratio_N = -stats.norm.logpdf(target_N, mean_N, deviation_N)
    if not offline:
        ratio_N = ratio_N + stats.norm.logpdf(target_N, *_normal_law(scores_MN, included_MN, variance))
    return np.asarray(ratio_N, dtype=np.float64)


def lira_leave_one_out(
    scores_MN: ArrayLike,
    included_MN: ArrayLike,
    offline: bool = False,
    *,
    density: Density | None = None,
    variance: Variance = "row",
) -> FloatArray:
    """`lira` against each of the models in turn, with all others as its shadow models.

    Args:
        scores_MN, included_MN, offline, density, variance: as for `lira`.

    Returns:
        (M, N) log-likelihood ratios. Those where `included_MN` is True belong to members, the others to controls: pass
        them to `tpr_at_fpr`. Its interval assumes that rows of one model are independent, so attack one model for a
        verdict.

    Raises:
        InputError: there are fewer than two models, or `lira` refuses the arguments.

    Example:
        >>> ratios = lira_leave_one_out([[2.0], [3.0], [2.5], [0.0], [1.0], [0.5]], [[1], [1], [1], [0], [0], [0]])
        >>> (ratios > 0).ravel().tolist()
        [True, True, True, False, False, False]
    """
    scores_MN, included_MN = checked_runs(scores_MN, included_MN)
    models = len(scores_MN)
    if models < 2:
        raise InputError("scores_MN", "must hold at least two models", models, "Train more.")
    others_M = ~np.eye(models, dtype=bool)
    return np.stack(
        [
            lira(scores_MN[others], included_MN[others], target_N, offline, density=density, variance=variance)
            for others, target_N in zip(others_M, scores_MN, strict=True)
        ]
    )


def rmia(
    log_probabilities_MN: ArrayLike,
    included_MN: ArrayLike,
    target_log_probabilities_N: ArrayLike,
    population_MZ: ArrayLike,
    target_population_Z: ArrayLike,
    *,
    gamma: float = 1.0,
    offline: bool = False,
    offline_share: float = 0.3,
) -> FloatArray:
    """Robust membership inference: the share of the population that the row's likelihood ratio exceeds `gamma` times.

    The ratio of a row is p(row | target) / p(row), with p(row) the mean probability over shadow models, where models
    with the row and models without it have equal weight in total. Offline, only models without the row are used, and
    p(row) is ((1 + a) p_without + (1 - a)) / 2 with a = `offline_share`.

    Args:
        log_probabilities_MN: finite natural logarithms of the probability that shadow model m gives row n (its label,
            its text).
        included_MN: whether shadow model m was trained on row n.
        target_log_probabilities_N: the same for the model under attack.
        population_MZ, target_population_Z: log-probabilities of rows that no model was trained on.
        gamma: the factor; at least 1.
        offline, offline_share: see above; the share lies between 0 and 1.

    Returns:
        (N,) from 0 to 1; higher means member. NaN if a side in use has no model.

    Raises:
        InputError: the shapes do not match, or a logarithm is not finite or above 0.

    Source: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference Attacks" (2024), section 3.

    Example (by hand: the row's ratio is 0.8 / 0.5, those of the population 1 and 2):
        >>> import math
        >>> log = lambda values: [[math.log(value) for value in row] for row in values]
        >>> shadow, population = log([[0.8], [0.2]]), log([[0.5, 0.4]] * 2)
        >>> rmia(shadow, [[1], [0]], log([[0.8]])[0], population, log([[0.5, 0.8]])[0]).tolist()
        [0.5]
    """
    logs_MN, included_MN = checked_runs(log_probabilities_MN, included_MN, argument="log_probabilities_MN")
    target_N = _checked_target("target_log_probabilities_N", target_log_probabilities_N, included_MN.shape[1])
    logs_MZ, _ = checked_runs(population_MZ, included_MN, same_rows=False, argument="population_MZ")
    target_Z = _checked_target("target_population_Z", target_population_Z, logs_MZ.shape[1])
    names = ("log_probabilities_MN", "target_log_probabilities_N", "population_MZ", "target_population_Z")
    for name, logs in zip(names, (logs_MN, target_N, logs_MZ, target_Z), strict=True):
        if (logs > 0.0).any():
            rule = "must be logarithms of probabilities, at most 0"
            raise InputError(name, rule, "larger ones", "Pass natural logarithms, not costs in bits.")
    gamma = real_number("gamma", gamma, "must be at least 1", "Type 1.", at_least=1.0)
    rule = "must lie from 0 to 1"
    share = real_number("offline_share", offline_share, rule, "Type 0.3.", at_least=0.0, at_most=1.0)
    without_N = _log_means(logs_MN, ~included_MN)
    if flag("offline", offline):
        rest = np.log1p(-share) if share < 1.0 else -np.inf
        prior_N = _log_sums(np.log1p(share) + without_N, rest) - np.log(2.0)
    else:
        prior_N = _log_sums(_log_means(logs_MN, included_MN), without_N) - np.log(2.0)
    ratio_N = target_N - prior_N
    ratio_Z = target_Z - _log_means(logs_MZ, np.ones_like(logs_MZ, dtype=bool))
    # Equal ratios may differ by rounding: without the tolerance, the order of sums would decide whether a tie counts.
    at_most_N = np.searchsorted(np.sort(ratio_Z), ratio_N - np.log(gamma) + 1e-12, side="right")
    return np.where(np.isnan(ratio_N), np.nan, at_most_N / ratio_Z.size)


def logit_confidence(log_probabilities: ArrayLike) -> FloatArray:
    """log(p / (1 - p)) from the natural logarithms of probabilities, exact for p near 0.

    Args:
        log_probabilities: any shape, at most 0: minus the cross-entropy of each row.

    Returns:
        Logits of the same shape. A floating-point probability of 1 is treated as 1 - 2**-53, so that the logit is
        finite.

    Raises:
        InputError: a logarithm is above 0, -inf or NaN.

    Source: Carlini et al. (2022), section 4.2.

    Example:
        >>> logit_confidence([-1e-3, np.log(0.5), -50.0]).round(3).tolist()
        [6.907, 0.0, -50.0]
    """
    logs = number_array("log_probabilities", log_probabilities)
    if not np.isfinite(logs).all() or (logs > 0.0).any():
        rule = "must be finite logarithms of probabilities, at most 0"
        raise InputError("log_probabilities", rule, "others", "Pass minus the cross-entropy of each row.")
    logs = np.minimum(logs, -(2.0**-53))
    return logs - np.log(-np.expm1(logs))


def _checked_target(argument: str, values: ArrayLike, count: int) -> FloatArray:
    target_N = number_array(argument, values)
    if target_N.shape != (count,) or not np.isfinite(target_N).all():
        rule = f"must be {count} finite numbers, one for each row"
        raise InputError(argument, rule, f"an array of shape {target_N.shape}", "Score the same rows.")
    return target_N


def _normal_law(scores_MN: FloatArray, side_MN: NDArray[np.bool_], variance: str) -> tuple[FloatArray, FloatArray]:
    """(N,) mean and standard deviation over the models of a side; NaN if there are too few, or no variation."""
    count_N = side_MN.sum(0)
    mean_N = np.where(side_MN, scores_MN, 0.0).sum(0) / np.maximum(count_N, 1)
    squares_N = (np.where(side_MN, scores_MN - mean_N, 0.0) ** 2).sum(0)
    if variance == "row":
        variance_N = np.where(count_N > 1, squares_N / np.maximum(count_N, 1), np.nan)
    else:
        degrees = int(np.maximum(count_N - 1, 0).sum())
        pooled = squares_N.sum() / degrees if degrees else np.nan
        variance_N = np.where(count_N > 0, pooled, np.nan)
    return mean_N, np.sqrt(np.where(variance_N > 0.0, variance_N, np.nan))


def _log_means(logs_MN: FloatArray, side_MN: NDArray[np.bool_]) -> FloatArray:
    """(N,) logarithm of the mean probability over the models of a side; NaN if there are none."""
    count_N = side_MN.sum(0)
    with np.errstate(divide="ignore"):
        total_N = logsumexp(np.where(side_MN, logs_MN, -np.inf), axis=0)
    return np.where(count_N > 0, total_N - np.log(np.maximum(count_N, 1)), np.nan)


def _log_sums(one_N: FloatArray, other_N: ArrayLike) -> FloatArray:
    """(N,) logarithm of the sum; NaN, and no warning, where one of the two is."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.logaddexp(one_N, other_N), dtype=np.float64)
