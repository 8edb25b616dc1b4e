"""The effect of training on a row: differences between models with the row and models without it.

M models are trained on random subsets of N rows, and each scores all rows, including those that it never saw. For each
row, the models that had it and the models that did not are two random samples of trainings, and the difference of
their mean scores is the effect of the row. One set of trainings serves all rows at once; leaving out one row at a time
would need one set for each:

    memorization of row n by its own score        mean over models with n  -  mean over models without n
    influence of row n on the score of row k      the same difference, of the scores of k
    consistency (C-score) of row n                mean over models without n

With scores of 0 or 1 (whether the label is predicted) the first is label memorization (Feldman and Zhang 2020), with
any score of a text counterfactual memorization (Zhang et al. 2021).

Two halves of the models show whether there are enough: the order of the rows agrees between them except for noise.

Legend: M models, N rows that may be left out, K rows that are scored for influence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.limits import LARGEST_SEED

_ROUNDING = 1e-9


class Undefined(StrEnum):
    """Why a row has no estimate."""

    never_held_out = "every model was trained on it"
    never_included = "no model was trained on it"
    one_model = "fewer than two models on a side, so that the variation between trainings is unknown"


@dataclass(frozen=True, eq=False, kw_only=True)
class CounterfactualMemorization:
    """How much each row's score rises because it was trained on.

    Attributes:
        memorization_N: mean with the row minus mean without; NaN if a side has no model.
        standard_error_N: standard error of that difference; NaN if a side has fewer than two models.
        low_N, high_N: two-sided confidence limits, for each row separately; NaN if `standard_error_N` is.
        with_N, without_N: number of models on the two sides.
        confidence_level: as asked.
    """

    memorization_N: FloatArray
    standard_error_N: FloatArray
    low_N: FloatArray
    high_N: FloatArray
    with_N: NDArray[np.int64]
    without_N: NDArray[np.int64]
    confidence_level: float

    @property
    def undefined(self) -> dict[int, Undefined]:
        """{row: reason} of the rows without memorization or without limits."""
        return undefined_rows(self.with_N, self.without_N)


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How well two halves of the models agree about the rows, and what this implies for all models together.

    Attributes:
        halves: Pearson's correlation between the estimates of two halves, the mean over random splits.
        low, high: the central 95 % of that correlation over the splits. It reflects only the choice of the split, and
            is not a confidence interval.
        whole: reliability of all models together, 2 r / (1 + r) (Spearman, Brown): the share of the variance between
            the rows' estimates that is not noise.
        models, rows, splits: their numbers; rows are those with both sides in both halves of every split.
        reason: why the figures are NaN; "" otherwise.
    """

    halves: float
    low: float
    high: float
    whole: float
    models: int
    rows: int
    splits: int
    reason: str = ""


def counterfactual_memorization(scores_MN: ArrayLike, included_MN: ArrayLike) -> FloatArray:
    """Mean score of each row over the models trained on it, minus the mean over the others.

    Args:
        scores_MN: finite scores, one row for each model; higher means better known (accuracy, log-probability).
        included_MN: whether model m was trained on row n.

    Returns:
        (N,), in the unit of the scores; NaN if no model had the row, or every model had it.

    Raises:
        InputError: the arrays have different shapes, a score is not finite, or a flag is neither True nor False.

    Source: Zhang et al., "Counterfactual Memorization in Neural Language Models" (2021), definition 3.1; the estimator
        by subsets: Feldman and Zhang, "What Neural Networks Memorize and Why" (2020), section 3.

    Example (by hand: row 0 is known by 1.0 with and 0.0 without it, row 1 equally well; row 2 was in every model):
        >>> counterfactual_memorization([[1, 0.5, 1], [0, 0.5, 1]], [[1, 0, 1], [0, 1, 1]]).tolist()
        [1.0, 0.0, nan]
    """
    scores_MN, included_MN = checked_runs(scores_MN, included_MN)
    with_N, without_N = _means(scores_MN, included_MN)
    return with_N - without_N


def memorization_intervals(
    scores_MN: ArrayLike, included_MN: ArrayLike, confidence_level: float = 0.95
) -> CounterfactualMemorization:
    """`counterfactual_memorization` with standard errors and limits.

    The models of a side must be independent trainings. Scores that are all 0 or 1 have Newcombe's limits, which stay
    wide even if all models agree. Other scores have Welch's limits, which assume that means are about normal and
    cannot account for variation that too few models did not show.

    Args:
        scores_MN, included_MN: as for `counterfactual_memorization`.
        confidence_level: two-sided, for each row separately: at 95 %, about 50 of 1,000 rows lie outside their limits.

    Raises:
        InputError: `counterfactual_memorization` refuses the arrays, or the level is impossible.

    Source: Welch, Biometrika 34 (1947); Newcombe, Statistics in Medicine 17 (1998), method 10.

    Example (by hand: means 2 and 0; variances 2 and 2 over two models each; sqrt(2 / 2 + 2 / 2) = 1.414):
        >>> found = memorization_intervals([[3], [1], [1], [-1]], [[1], [1], [0], [0]])
        >>> found.memorization_N.tolist(), found.standard_error_N.round(3).tolist()
        ([2.0], [1.414])
    """
    scores_MN, included_MN = checked_runs(scores_MN, included_MN)
    level = checked_confidence(confidence_level)
    with_N, without_N = included_MN.sum(0), (~included_MN).sum(0)
    mean_with_N, mean_without_N = _means(scores_MN, included_MN)
    memorization_N = mean_with_N - mean_without_N
    share_with_N = _variances(scores_MN, included_MN, mean_with_N) / np.maximum(with_N, 1)
    share_without_N = _variances(scores_MN, ~included_MN, mean_without_N) / np.maximum(without_N, 1)
    error_N = np.sqrt(share_with_N + share_without_N)
    if np.isin(scores_MN, [0.0, 1.0]).all():
        low_N, high_N = _newcombe(mean_with_N, with_N, mean_without_N, without_N, level)
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            degrees_N = error_N**4 / (share_with_N**2 / (with_N - 1) + share_without_N**2 / (without_N - 1))
        half_N = stats.t.isf((1.0 - level) / 2.0, np.where(error_N > 0.0, degrees_N, 1.0)) * error_N
        low_N, high_N = memorization_N - half_N, memorization_N + half_N
    defined_N = ~np.isnan(error_N)
    return CounterfactualMemorization(
        memorization_N=memorization_N,
        standard_error_N=error_N,
        low_N=np.where(defined_N, low_N, np.nan),
        high_N=np.where(defined_N, high_N, np.nan),
        with_N=with_N,
        without_N=without_N,
        confidence_level=level,
    )


def label_memorization(correct_MN: ArrayLike, included_MN: ArrayLike) -> FloatArray:
    """`counterfactual_memorization` of whether the label is predicted: from -1 to 1, and high for atypical rows.

    Args:
        correct_MN: True or 1 if model m predicts the label of row n.
        included_MN: whether model m was trained on row n.

    Raises:
        InputError: a value is neither 0 nor 1, or `counterfactual_memorization` refuses the arrays.

    Source: Feldman and Zhang (2020), section 1; Feldman, "Does Learning Require Memorization?" (2020).

    Example:
        >>> label_memorization([[1, 1], [0, 1]], [[1, 0], [0, 1]]).tolist()
        [1.0, 0.0]
    """
    return counterfactual_memorization(_checked_correct(correct_MN), included_MN)


def consistency_score(correct_MN: ArrayLike, included_MN: ArrayLike) -> FloatArray:
    """C-score: how often models that never saw a row predict its label, at the size of the subsets.

    Args:
        correct_MN, included_MN: as for `label_memorization`.

    Returns:
        (N,) from 0 (atypical, or a wrong label) to 1; NaN if every model had the row. Jiang et al. average this over
        several sizes of subsets; to do the same, average the results of several calls.

    Raises:
        InputError: as for `label_memorization`.

    Source: Jiang et al., "Characterizing Structural Regularities of Labeled Data in Overparameterized Models" (2021).

    Example:
        >>> consistency_score([[1, 1], [0, 1], [1, 1]], [[1, 0], [0, 1], [0, 1]]).tolist()
        [0.5, 1.0]
    """
    return _means(*checked_runs(_checked_correct(correct_MN), included_MN))[1]


def counterfactual_influence(scores_MK: ArrayLike, included_MN: ArrayLike) -> FloatArray:
    """How much training on row n changes the score of row k.

    Args:
        scores_MK: finite scores of other rows, such as those of a test set, one row for each model.
        included_MN: whether model m was trained on row n.

    Returns:
        (N, K); a row of NaN if no model, or every model, had row n. `influence_standard_errors` has the standard
        errors.

    Raises:
        InputError: as for `counterfactual_memorization`.

    Source: Feldman and Zhang (2020), section 1, equation 2; Zhang et al. (2021), section 5.

    Example (by hand: with row 0 the scores are 3 and 1, without it 1 and 1):
        >>> counterfactual_influence([[3, 1], [1, 1]], [[1], [0]]).tolist()
        [[2.0, 0.0]]
    """
    scores_MK, included_MN = checked_runs(scores_MK, included_MN, same_rows=False)
    with_NK, without_NK = _mean_products(_centered(scores_MK), included_MN)
    return with_NK - without_NK


def influence_standard_errors(scores_MK: ArrayLike, included_MN: ArrayLike) -> FloatArray:
    """Standard errors of `counterfactual_influence`, from the variation between models of a side.

    Args:
        scores_MK, included_MN: as for `counterfactual_influence`.

    Returns:
        (N, K); NaN if a side has fewer than two models.

    Raises:
        InputError: as for `counterfactual_memorization`.

    Example (variances 2 and 2 over two models each, as in `memorization_intervals`):
        >>> influence_standard_errors([[3], [1], [1], [-1]], [[1], [1], [0], [0]]).round(3).tolist()
        [[1.414]]
    """
    scores_MK, included_MN = checked_runs(scores_MK, included_MN, same_rows=False)
    scores_MK = _centered(scores_MK)
    means, squares = _mean_products(scores_MK, included_MN), _mean_products(scores_MK**2, included_MN)
    variance_NK = np.zeros_like(means[0])
    for side_MN, mean_NK, square_NK in zip((included_MN, ~included_MN), means, squares, strict=True):
        count_N1 = side_MN.sum(0)[:, None]
        # Negative values are rounding errors of 0.
        scatter_NK = np.maximum(square_NK - mean_NK**2, 0.0)
        variance_NK += np.where(count_N1 > 1, scatter_NK / np.maximum(count_N1 - 1, 1), np.nan)
    return np.sqrt(variance_NK)


def undefined_rows(with_N: ArrayLike, without_N: ArrayLike) -> dict[int, Undefined]:
    """The reasons why rows have no estimate, from the numbers of models on the two sides.

    Example:
        >>> {row: reason.name for row, reason in undefined_rows([4, 0, 3, 1], [0, 4, 3, 3]).items()}
        {0: 'never_held_out', 1: 'never_included', 3: 'one_model'}
    """
    sides_N2 = np.column_stack([np.asarray(with_N), np.asarray(without_N)])
    found = {}
    for row in np.flatnonzero((sides_N2 < 2).any(1)):
        with_row, without_row = sides_N2[row]
        found[int(row)] = (
            Undefined.never_held_out
            if without_row == 0
            else Undefined.never_included
            if with_row == 0
            else Undefined.one_model
        )
    return found


def split_half_reliability(
    scores_MN: ArrayLike, included_MN: ArrayLike, splits: int = 20, seed: int = 0
) -> Reliability:
    """Whether there are enough models: the correlation of memorization from one half of them with that from the other.

    Args:
        scores_MN, included_MN: as for `counterfactual_memorization`.
        splits: random ways to cut the models into halves.
        seed: of the splits.

    Returns:
        `Reliability`; NaN with the reason if there are fewer than four models, or fewer than three rows with both
        sides in both halves.

    Raises:
        InputError: as for `counterfactual_memorization`.

    Source: Feldman and Zhang (2020), appendix; Spearman and Brown, British Journal of Psychology 3 (1910).

    Example (rows whose memorization is 0, 1, 2 and 3 in every model):
        >>> included = [[1, 0, 1, 0], [0, 1, 0, 1]] * 8
        >>> scores = [[level * flag for level, flag in enumerate(row)] for row in included]
        >>> round(split_half_reliability(scores, included).whole, 6)
        1.0
    """
    scores_MN, included_MN = checked_runs(scores_MN, included_MN)
    splits = whole_number("splits", splits, 1, 10_000)
    generator = np.random.default_rng(whole_number("seed", seed, 0, LARGEST_SEED))
    models = len(scores_MN)
    halves_S = []
    for _ in range(splits if models >= 4 else 0):
        order = generator.permutation(models)
        ends = (order[: models // 2], order[models // 2 :])
        halves_S.append([counterfactual_memorization(scores_MN[half], included_MN[half]) for half in ends])
    if not halves_S:
        return _unreliable(models, 0, "fewer than four models")
    halves_S2N = np.asarray(halves_S)
    defined_N = ~np.isnan(halves_S2N).any((0, 1))
    rows = int(defined_N.sum())
    if rows < 3:
        return _unreliable(models, rows, "fewer than three rows with models on both sides in both halves")
    halves_S2N = halves_S2N[:, :, defined_N]
    if not np.ptp(halves_S2N, axis=2).all():
        return _unreliable(models, rows, "all rows are memorized equally")
    found_S = np.array([np.corrcoef(first_N, second_N)[0, 1] for first_N, second_N in halves_S2N])
    mean = float(found_S.mean())
    low, high = np.quantile(found_S, [0.025, 0.975])
    return Reliability(
        halves=mean,
        low=float(low),
        high=float(high),
        whole=2.0 * mean / (1.0 + mean) if mean > 0.0 else 0.0,
        models=models,
        rows=rows,
        splits=splits,
    )


def _unreliable(models: int, rows: int, reason: str) -> Reliability:
    nan = math.nan
    return Reliability(halves=nan, low=nan, high=nan, whole=nan, models=models, rows=rows, splits=0, reason=reason)


def models_for_reliability(found: Reliability, target: float = 0.8) -> int | None:
    """The number of models whose two halves would correlate by `target`, extrapolated from the present models.

    A half of M models has reliability r, so a half of c M has c r / (1 + (c - 1) r) (Spearman, Brown).

    Args:
        found: the result of `split_half_reliability`.
        target: the desired correlation between two halves, strictly between 0 and 1.

    Returns:
        The total number of models, at least 4; None if the halves do not correlate, so that it cannot be estimated.

    Example (by hand: halves of 10 models correlate by 0.5, that is, signal and noise are equal; 0.8 allows a quarter
    of that noise):
        >>> found = Reliability(halves=0.5, low=0.4, high=0.6, whole=0.667, models=20, rows=100, splits=20)
        >>> models_for_reliability(found)
        80
    """
    target = real_number("target", target, "must lie strictly between 0 and 1", "Type 0.8.", above=0.0, below=1.0)
    if not found.halves > 0.0:
        return None
    times = target / (1.0 - target) * (1.0 - found.halves) / found.halves
    return max(4, math.ceil(found.models * times - _ROUNDING))


def models_for_standard_error(standard_error: float, share: float = 0.5, deviation: float = 0.5) -> int:
    """The number of models that gives each row's memorization this standard error, computed before any is trained.

    Args:
        standard_error: the desired standard error, in the unit of the scores.
        share: the share of the rows in each subset.
        deviation: standard deviation of a row's score between models of one side; 0.5 is the maximum for scores from 0
            to 1.

    Raises:
        InputError: a figure is not above 0, or the share is not below 1.

    Example (by hand: 0.5 ** 2 * (1 / 0.5 + 1 / 0.5) / 0.1 ** 2 = 100):
        >>> models_for_standard_error(0.1), models_for_standard_error(0.1, share=0.7)
        (100, 120)
    """
    wanted = real_number("standard_error", standard_error, "must be above 0", "Type 0.1.", above=0.0)
    share = real_number("share", share, "must lie strictly between 0 and 1", "Type 0.5.", above=0.0, below=1.0)
    scatter = real_number("deviation", deviation, "must be above 0", "Type 0.5.", above=0.0)
    return max(4, math.ceil((scatter / wanted) ** 2 * (1.0 / share + 1.0 / (1.0 - share)) - _ROUNDING))


def checked_runs(
    scores: ArrayLike, included: ArrayLike, *, same_rows: bool = True, argument: str = "scores_MN"
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Scores (M, K) and inclusions (M, N) of the same models; K must equal N unless `same_rows` is false."""
    scores_MK, flags_MN = number_array(argument, scores), number_array("included_MN", included)
    if flags_MN.ndim != 2 or not flags_MN.size or not np.isin(flags_MN, [0.0, 1.0]).all():
        rule = "must be True or False, one row for each model"
        raise InputError("included_MN", rule, f"an array of shape {flags_MN.shape}", "Pass the masks of the runs.")
    wanted = flags_MN.shape if same_rows else (len(flags_MN), *scores_MK.shape[1:2])
    if scores_MK.ndim != 2 or scores_MK.shape != wanted or not scores_MK.size:
        rule = "must have one row for each model" + (" and the shape of included_MN" if same_rows else "")
        shapes = f"shapes {scores_MK.shape} and {flags_MN.shape}"
        raise InputError(argument, rule, shapes, "Pass scores and masks of the same runs.")
    if not np.isfinite(scores_MK).all():
        model, row = (int(place[0]) for place in np.nonzero(~np.isfinite(scores_MK)))
        remedy = "Leave out the runs that diverged; do not drop single scores."
        raise InputError(argument, "must be finite", f"a score of model {model}, row {row} that is not", remedy)
    return scores_MK, flags_MN.astype(bool)


def _checked_correct(correct_MN: ArrayLike) -> FloatArray:
    values = number_array("correct_MN", correct_MN)
    if not np.isin(values, [0.0, 1.0]).all():
        rule, remedy = "must be True or False, or 0 or 1", "Pass other scores to counterfactual_memorization."
        raise InputError("correct_MN", rule, "other values", remedy)
    return values


def _means(scores_MN: FloatArray, included_MN: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """(N,) means over the models with a row and without it; NaN if there is no such model."""
    sides = []
    for side_MN in (included_MN, ~included_MN):
        count_N = side_MN.sum(0)
        sum_N = np.where(side_MN, scores_MN, 0.0).sum(0)
        sides.append(np.where(count_N > 0, sum_N / np.maximum(count_N, 1), np.nan))
    return sides[0], sides[1]


def _variances(scores_MN: FloatArray, side_MN: NDArray[np.bool_], mean_N: FloatArray) -> FloatArray:
    """(N,) unbiased variances over the models of a side; NaN if there are fewer than two."""
    count_N = side_MN.sum(0)
    squares_N = (np.where(side_MN, scores_MN - mean_N, 0.0) ** 2).sum(0)
    return np.where(count_N > 1, squares_N / np.maximum(count_N - 1, 1), np.nan)


def _centered(scores_MK: FloatArray) -> FloatArray:
    """Subtracts the mean of each column, which changes no difference, so that squares of small numbers lose no
    digits.
    """
    centered_MK: FloatArray = scores_MK - scores_MK.mean(0)
    return centered_MK


def _mean_products(scores_MK: FloatArray, included_MN: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """(N, K) means of the scores over the models with row n and without it; NaN if there is no such model."""
    sides = []
    for side_MN in (included_MN, ~included_MN):
        count_N1 = side_MN.sum(0)[:, None]
        sum_NK = side_MN.T.astype(np.float64) @ scores_MK
        sides.append(np.where(count_N1 > 0, sum_NK / np.maximum(count_N1, 1), np.nan))
    return sides[0], sides[1]


def _newcombe(
    share_with_N: FloatArray,
    with_N: NDArray[np.int64],
    share_without_N: FloatArray,
    without_N: NDArray[np.int64],
    level: float,
) -> tuple[FloatArray, FloatArray]:
    """Limits on a difference of two shares, from Wilson's limits on each."""
    low_with, high_with = _wilson(share_with_N, with_N, level)
    low_without, high_without = _wilson(share_without_N, without_N, level)
    difference_N = share_with_N - share_without_N
    low_N: FloatArray = difference_N - np.hypot(share_with_N - low_with, high_without - share_without_N)
    high_N: FloatArray = difference_N + np.hypot(high_with - share_with_N, share_without_N - low_without)
    return low_N, high_N


def _wilson(share_N: FloatArray, count_N: NDArray[np.int64], level: float) -> tuple[FloatArray, FloatArray]:
    z = float(stats.norm.isf((1.0 - level) / 2.0))
    count_N = np.maximum(count_N, 1)
    middle_N = share_N + z**2 / (2.0 * count_N)
    half_N = z * np.sqrt(share_N * (1.0 - share_N) / count_N + z**2 / (4.0 * count_N**2))
    return (middle_N - half_N) / (1.0 + z**2 / count_N), (middle_N + half_N) / (1.0 + z**2 / count_N)
