"""Statistics of each example over one training: when it was learned, how often it was forgotten, with what confidence,
and how noisy it is.

A record has one row for each of T times at which the examples were evaluated, and one column for each of N examples
(for a language model, each token). Everything here is a function of such arrays, however they were recorded.

An example that was not evaluated in some row is NaN there, since a loop that records its own training batches may skip
one. Means ignore NaN, and are NaN if nothing else is left. For correctness, the last known value is carried forward,
and an example counts as wrong before its first evaluation. Events lie between two successive evaluations, as in Toneva
et al. (2019), who evaluate an example each time it is in a batch.

Legend: T times of one training, N examples, R runs, P inputs of one example.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, checked_flags, number_array
from hf_exposure.estimators.intervals import clopper_pearson

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ForgettingEvents:
    """How often each example was forgotten.

    Attributes:
        counts_N: forgetting events: right at one evaluation and wrong at the next.
        learning_counts_N: learning events: wrong at one evaluation and right at the next.
        first_learned_N: the first row in which the example is right; -1 if there is none.
        unforgettable_N: whether the example is right in some row and in every row after that.
    """

    counts_N: Integers
    learning_counts_N: Integers
    first_learned_N: Integers
    unforgettable_N: Flags


def forgetting_events(correct_TN: ArrayLike) -> ForgettingEvents:
    """Forgetting and learning events of each example.

    An example that is never right has no forgetting event and is not unforgettable; Toneva et al. sort it after the
    most forgotten ones.

    Args:
        correct_TN: (T, N) whether each example was right; NaN where it was not evaluated.

    Raises:
        InputError: there is no row, or a value is not 0, 1 or NaN.

    Source: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR 2019,
        section 3. Their code counts an example that is never right as forgotten infinitely often.

    Example (by hand):
        >>> events = forgetting_events([[0, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]])
        >>> events.counts_N.tolist(), events.first_learned_N.tolist(), events.unforgettable_N.tolist()
        ([0, 2, 0], [1, 0, -1], [True, False, False])
    """
    right_TN = _carried(_correctness("correct_TN", correct_TN))
    changes_TN = np.diff(right_TN.astype(np.int64), axis=0)
    counts_N, learned = (changes_TN == -1).sum(axis=0), right_TN.any(axis=0)
    return ForgettingEvents(
        counts_N=counts_N.astype(np.int64),
        learning_counts_N=(changes_TN == 1).sum(axis=0).astype(np.int64),
        first_learned_N=np.where(learned, right_TN.argmax(axis=0), -1).astype(np.int64),
        unforgettable_N=learned & (counts_N == 0),
    )


def first_split_learning_time(correct_TN: ArrayLike) -> Integers:
    """(N,) the first row from which on each example is always right; T if the last row is wrong.

    Args:
        correct_TN: (T, N) as for `forgetting_events`, while the first split is trained on.

    Source: Maini et al., "Characterizing Datapoints via Second-Split Forgetting", NeurIPS 2022, section 3.

    Example (by hand):
        >>> first_split_learning_time([[0, 1, 1], [1, 0, 1], [1, 1, 0]]).tolist()
        [1, 2, 3]
    """
    return _settled_N(_carried(_correctness("correct_TN", correct_TN)))


def second_split_forgetting_time(correct_TN: ArrayLike) -> Integers:
    """(N,) the first row from which on each example is always wrong; T if it is never forgotten, that is, right at the
    end.

    Noisy examples are forgotten first, atypical ones later, typical ones never.

    Args:
        correct_TN: (T, N) whether each example of the first split is right, while training goes on with the second.

    Raises:
        InputError: `forgetting_events` refuses the array, or an example was never evaluated.

    Source: Maini et al. 2022, section 3.

    Example (by hand):
        >>> second_split_forgetting_time([[1, 0, 1], [0, 0, 1], [0, 0, 1]]).tolist()
        [1, 0, 3]
    """
    known_TN = _correctness("correct_TN", correct_TN)
    unseen = np.isnan(known_TN).all(axis=0)
    if unseen.any():
        remedy = "Leave those columns out."
        raise InputError(
            "correct_TN", "must have a value for each example in some row", f"{int(unseen.sum())} never", remedy
        )
    return _settled_N(~_carried(known_TN))


@dataclass(frozen=True, eq=False)
class ForgettingOverSteps:
    """The success of an attack after the examples were last used.

    Attributes:
        rates_T, low_T, high_T: the attack's success in each row, with its interval.
        k: the fewest steps after which success is at most alpha from then on; None if the last row is above alpha.
        certified_k: the same with the upper ends of the intervals in place of the rates.
    """

    rates_T: FloatArray
    low_T: FloatArray
    high_T: FloatArray
    k: int | None
    certified_k: int | None


def alpha_k_forgetting(
    success_TN: ArrayLike, steps_since_T: ArrayLike, alpha: float, confidence_level: float = 0.95
) -> ForgettingOverSteps:
    """The number of steps after which a training (alpha, k)-forgets examples that it no longer uses.

    Training (alpha, k)-forgets an example if, k steps after it was last used, an attack succeeds with a rate of at
    most alpha. The rate is taken over examples that were treated alike, such as canaries with the same number of
    repetitions.

    Args:
        success_TN: (T, N) whether the attack succeeded on each example in each row, such as exposure above a
            threshold or rank 1.
        steps_since_T: (T,) steps since the examples were last used, ascending.
        alpha: success rate, from 0 to 1.
        confidence_level: the level of each row's interval (Clopper-Pearson).

    Raises:
        InputError: there is no row or example, a value is neither 0 nor 1, or the steps do not ascend.

    Source: Jagielski et al., "Measuring Forgetting of Memorized Training Examples", ICLR 2023, definition 2.1.

    Example:
        >>> forgetting = alpha_k_forgetting([[1, 1], [1, 0], [0, 0]], [0, 10, 20], alpha=0.5)
        >>> forgetting.rates_T.tolist(), forgetting.k, forgetting.certified_k
        ([1.0, 0.5, 0.0], 10, None)
    """
    success = _correctness("success_TN", success_TN)
    if np.isnan(success).any() or not success.shape[1]:
        raise InputError("success_TN", "must be 0 or 1 for each of some examples", "others", "Attack all of them.")
    steps_T = number_array("steps_since_T", steps_since_T)
    if steps_T.shape != success.shape[:1] or not (np.diff(steps_T) > 0).all() or not (steps_T >= 0).all():
        remedy = "Pass one number of steps for each row."
        raise InputError("steps_since_T", "must ascend from 0 or more, one for each row", steps_T.shape, remedy)
    alpha = real_number("alpha", alpha, "must be from 0 to 1", "Type alpha=0.1.", at_least=0.0, at_most=1.0)
    low_T, high_T = clopper_pearson(success.sum(axis=1), success.shape[1], confidence_level)
    rates_T = success.mean(axis=1)

    def first(figures_T: FloatArray) -> int | None:
        place = int(_settled_N((figures_T <= alpha)[:, None])[0])
        return int(steps_T[place]) if place < len(steps_T) else None

    return ForgettingOverSteps(rates_T, low_T, high_T, first(rates_T), first(high_T))


@dataclass(frozen=True, eq=False)
class DataMap:
    """The position of each example on the map: easy (high confidence, low variability), ambiguous (high variability),
    or hard (low confidence).

    Attributes:
        confidence_N: mean probability of the label.
        variability_N: its standard deviation (of the population, as in the source's code).
        correctness_N: share of the rows in which the example is right.
    """

    confidence_N: FloatArray
    variability_N: FloatArray
    correctness_N: FloatArray


def data_map(probability_TN: ArrayLike, correct_TN: ArrayLike | None = None) -> DataMap:
    """Confidence, variability and correctness of each example over the rows.

    Args:
        probability_TN: (T, N) probability of the label, from 0 to 1; NaN where an example was not evaluated.
        correct_TN: (T, N) whether the label is the likeliest class. Without it, an example counts as right if its
            label has more than half of the probability, which is the same for two classes and stricter for more.

    Raises:
        InputError: there is no row, a probability is outside [0, 1], or the shapes differ.

    Source: Swayamdipta et al., "Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics",
        EMNLP 2020, section 2.

    Example (by hand):
        >>> found = data_map([[0.2, 0.9], [0.6, 0.9]])
        >>> found.confidence_N.round(6).tolist(), found.variability_N.round(6).tolist(), found.correctness_N.tolist()
        ([0.4, 0.9], [0.2, 0.0], [0.5, 1.0])
    """
    probability = _record("probability_TN", probability_TN)
    if not ((probability >= 0) & (probability <= 1) | np.isnan(probability)).all():
        raise InputError("probability_TN", "must lie in [0, 1]", "others", "Pass probabilities, not logarithms.")
    if correct_TN is None:
        correct = np.where(np.isnan(probability), np.nan, probability > 0.5)
    else:
        correct = _correctness("correct_TN", correct_TN)
        if correct.shape != probability.shape:
            remedy = "Pass both of one record."
            raise InputError("correct_TN", f"must have the shape {probability.shape}", correct.shape, remedy)
    confidence_N = _mean(probability)
    variability_N = np.sqrt(_mean((probability - confidence_N) ** 2))
    return DataMap(confidence_N, variability_N, _mean(correct))


def area_under_margin(margin_TN: ArrayLike) -> FloatArray:
    """(N,) mean over the rows of each example's margin: its label's logit minus the largest other logit.

    Wrongly labeled examples have low, often negative, areas: their label's logit grows only against what the network
    learned from the others.

    Args:
        margin_TN: (T, N) margins; NaN where an example was not evaluated.

    Raises:
        InputError: there is no row, or a margin is infinite.

    Source: Pleiss et al., "Identifying Mislabeled Data using the Area Under the Margin Ranking", NeurIPS 2020.

    Example (by hand):
        >>> area_under_margin([[1.0, -2.0], [3.0, -4.0]]).tolist()
        [2.0, -3.0]
    """
    return _mean(_record("margin_TN", margin_TN))


def gini(values_N: ArrayLike) -> float:
    """The Gini coefficient of values of at least 0: half their mean absolute difference over their mean.

    0 if all are equal, 1 - 1/N if one has everything. NaN if all are 0, since their mean is 0.

    Raises:
        InputError: there is no value, or one is negative, infinite or missing.

    Source: Arpit et al., "A Closer Look at Memorization in Deep Networks", ICML 2017, section 3.2 (of the
        loss-sensitivities of examples); Gini 1913.

    Example (by hand: |1 - 3| twice, over 2 x 2^2 x 2):
        >>> gini([1.0, 3.0]), gini([0.0, 0.0, 0.0, 5.0]), gini([2.0, 2.0])
        (0.25, 0.75, 0.0)
    """
    values = number_array("values_N", values_N)
    if values.ndim != 1 or not values.size or not (np.isfinite(values) & (values >= 0)).all():
        rule = "must be a flat list of one or more finite numbers of at least 0"
        raise InputError("values_N", rule, f"an array of shape {values.shape}", "Pass norms, say.")
    largest = float(values.max())
    if largest == 0.0:
        return float("nan")
    ordered = np.ldexp(np.sort(values), -np.frexp(largest)[1])  # this neither overflows nor rounds
    weights = 2.0 * np.arange(1, len(ordered) + 1) - len(ordered) - 1.0
    return max(0.0, float(weights @ ordered) / (len(ordered) * float(ordered.sum())))


@dataclass(frozen=True, eq=False)
class MomentumLosses:
    """The running loss of each example.

    Attributes:
        running_TN: exponential averages after each row.
        score_N: the last average, from 0 to 1: one half for an example that is average, more for examples that the
            network fits late.
    """

    running_TN: FloatArray
    score_N: FloatArray


def momentum_losses(loss_TN: ArrayLike, momentum: float = 0.97) -> MomentumLosses:
    """Exponential averages of each example's loss, and their normalized last values.

    The average starts at an example's first loss, and stays constant while it is not evaluated.

    Args:
        loss_TN: (T, N) losses; NaN where an example was not evaluated.
        momentum: weight of the past, from 0 to below 1.

    Raises:
        InputError: there is no row, a loss is infinite, or the momentum is impossible.

    Source: Zhou et al., "Contrastive Learning with Boosted Memorization", ICML 2022, equations 2 and 3.

    Example (by hand: 4 / 2 + 2 / 2 = 3 and 0; their mean is 1.5):
        >>> found = momentum_losses([[4.0, 0.0], [2.0, 0.0]], momentum=0.5)
        >>> found.running_TN[-1].tolist(), found.score_N.tolist()
        ([3.0, 0.0], [1.0, 0.0])
    """
    loss = _record("loss_TN", loss_TN)
    rule = "must be from 0 to below 1"
    momentum = real_number("momentum", momentum, rule, "Type momentum=0.97.", at_least=0.0, below=1.0)
    running = np.empty_like(loss)
    last_N = np.full(loss.shape[1], np.nan)
    for row, loss_N in enumerate(loss):
        moved_N = np.where(np.isnan(last_N), loss_N, momentum * last_N + (1.0 - momentum) * loss_N)
        last_N = running[row] = np.where(np.isnan(loss_N), last_N, moved_N)
    apart_N = last_N - _mean(last_N[:, None])
    farthest = np.nanmax(np.abs(apart_N), initial=0.0)
    return MomentumLosses(running, 0.5 + 0.5 * apart_N / farthest if farthest else apart_N + 0.5)


def variance_of_gradients(gradients_TNP: ArrayLike, labels_N: ArrayLike | None = None) -> FloatArray:
    """(N,) how much the gradient of each example's label with respect to its inputs varies over checkpoints.

    The standard deviation over the checkpoints of each input's gradient, averaged over the inputs. With labels, the
    score is standardized within each class; it is NaN in a class in which all scores are equal.

    Args:
        gradients_TNP: (T, N, ...) gradients of the label's logit with respect to the inputs of each example, at T
            checkpoints.
        labels_N: (N,) the class of each example.

    Raises:
        InputError: there are too few dimensions or no checkpoint, a value is not finite, or the number of labels
            differs.

    Source: Agarwal, D'souza and Hooker, "Estimating Example Difficulty using Variance of Gradients", CVPR 2022,
        section 2; the standard deviation is that of their code.

    Example (by hand):
        >>> variance_of_gradients([[[1.0, 0.0]], [[3.0, 0.0]]]).tolist()
        [0.5]
    """
    gradients = number_array("gradients_TNP", gradients_TNP)
    if gradients.ndim < 3 or not gradients.shape[0] or not np.isfinite(gradients).all():
        rule = "must be finite gradients of checkpoints, examples and inputs, in this order"
        raise InputError("gradients_TNP", rule, f"an array of shape {gradients.shape}", "Stack them on a new axis 0.")
    scores_N: FloatArray = gradients.std(axis=0).reshape(gradients.shape[1], -1).mean(axis=1)
    if labels_N is None:
        return scores_N
    labels = np.asarray(labels_N)
    if labels.shape != scores_N.shape:
        raise InputError("labels_N", f"must be {len(scores_N)} labels", labels.shape, "Pass one for each example.")
    for label in np.unique(labels):
        own = labels == label
        spread = scores_N[own].std()
        scores_N[own] = (scores_N[own] - scores_N[own].mean()) / spread if spread > 0 else np.nan
    return scores_N


@dataclass(frozen=True, eq=False)
class NoiseCurves:
    """Accuracy over time, separately for clean and for noisy examples.

    Attributes:
        clean_T, noisy_T: share of the clean examples, and of the noisy ones, that are predicted as the label that was
            trained on. For wrong labels, this is memorization. NaN if there are none.
        clean_low_T, clean_high_T, noisy_low_T, noisy_high_T: their intervals (Clopper-Pearson).
    """

    clean_T: FloatArray
    noisy_T: FloatArray
    clean_low_T: FloatArray
    clean_high_T: FloatArray
    noisy_low_T: FloatArray
    noisy_high_T: FloatArray


def noise_curves(correct_TN: ArrayLike, noisy_N: ArrayLike, confidence_level: float = 0.95) -> NoiseCurves:
    """Accuracy in each row on clean and on noisy examples.

    Args:
        correct_TN: (T, N) whether each example was right; NaN where it was not evaluated.
        noisy_N: (N,) which examples are noisy, as in `NoiseInjector.changed`.
        confidence_level: the level of the intervals.

    Source: Arpit et al. 2017, section 4 and Figures 7 and 8; as a measure of memorization, the survey's "noisy label
        evaluation".

    Example (by hand):
        >>> curves = noise_curves([[1, 1, 0], [1, 1, 1]], [False, False, True])
        >>> curves.clean_T.tolist(), curves.noisy_T.tolist()
        ([1.0, 1.0], [0.0, 1.0])
    """
    correct = _correctness("correct_TN", correct_TN)
    noisy = checked_flags("noisy_N", noisy_N, correct.shape[1], "Pass noise.changed.")
    (clean_T, *clean), (noisy_T, *of_noise) = (
        _shares(correct[:, chosen], checked_confidence(confidence_level)) for chosen in (~noisy, noisy)
    )
    return NoiseCurves(clean_T, noisy_T, *clean, *of_noise)


def time_to_fit(correct_TN: ArrayLike, share: float = 1.0) -> int | None:
    """The first row in which at least `share` of the evaluated examples is right; None if there is none.

    Source: Arpit et al. 2017, section 3.3.2: epochs to 100 % training accuracy.

    Example (by hand):
        >>> time_to_fit([[0, 1], [1, 1]]), time_to_fit([[0, 1], [1, 1]], share=0.5), time_to_fit([[0, 1]])
        (1, 0, None)
    """
    share = real_number("share", share, "must be above 0 and at most 1", "Type share=1.0.", above=0.0, at_most=1.0)
    correct = _correctness("correct_TN", correct_TN)
    seen_T = (~np.isnan(correct)).sum(axis=1)
    reached = np.flatnonzero((seen_T > 0) & (np.nansum(correct, axis=1) >= share * seen_T * (1.0 - 1e-12)))
    return int(reached[0]) if reached.size else None


@dataclass(frozen=True, eq=False)
class Difficulty:
    """Whether examples differ in difficulty, from several runs.

    Attributes:
        error_rates_N: share of the runs in which each example is wrong; NaN if no run evaluated it.
        overdispersion: variance of the error rates over that of equally hard examples, Binomial(R, mean rate) / R: 1
            if they are, more if some are hard and others easy. NaN if all runs are right everywhere, or wrong
            everywhere.
        p_value: of Cochran's Q test that all examples are equally hard, whatever the accuracy of each run; NaN if
            every run is right on all examples or wrong on all of them, or if some run did not evaluate an example.
    """

    error_rates_N: FloatArray
    overdispersion: float
    p_value: float


def difficulty(correct_RN: ArrayLike) -> Difficulty:
    """How unevenly hard the examples are, over runs that differ in initialization and order.

    Args:
        correct_RN: (R, N) whether each example was right in each run, after one epoch, say.

    Raises:
        InputError: there are fewer than two runs or examples, or a value is not 0, 1 or NaN.

    Source: Arpit et al. 2017, section 3.1 and Figure 1, where the binomial is plotted for comparison; Cochran,
        Biometrika 37 (1950), for the test.

    Example (by hand: the rates 0, 1/2, 1/2, 1 have variance 1/8, that of a fair coin thrown twice):
        >>> found = difficulty([[1, 1, 0, 0], [1, 0, 1, 0]])
        >>> found.error_rates_N.tolist(), found.overdispersion
        ([0.0, 0.5, 0.5, 1.0], 1.0)
    """
    correct = _correctness("correct_RN", correct_RN)
    runs, examples = correct.shape
    if min(runs, examples) < 2:
        raise InputError("correct_RN", "must have two runs and two examples or more", correct.shape, "Train again.")
    rates_N = 1.0 - _mean(correct)
    known = ~np.isnan(rates_N)
    seen_N = (~np.isnan(correct)).sum(axis=0)[known]
    mean = float(rates_N[known].mean()) if known.any() else np.nan
    expected = float((mean * (1.0 - mean) / seen_N).mean()) if known.any() else 0.0
    ratio = float(rates_N[known].var()) / expected if expected > 0 else np.nan
    right_N, right_R = correct.sum(axis=0), correct.sum(axis=1)
    scale = float((right_R * (examples - right_R)).sum())
    if np.isnan(scale) or scale == 0.0:
        return Difficulty(rates_N, ratio, np.nan)
    q = (examples - 1.0) * examples * float(((right_N - right_N.mean()) ** 2).sum()) / scale
    return Difficulty(rates_N, ratio, float(stats.chi2.sf(q, examples - 1)))


def exact_memorization_curve(correct_TN: ArrayLike, memorable_N: ArrayLike | None = None) -> FloatArray:
    """(T,) share of the contexts whose next token is the likeliest one, in each row.

    A context is one token of a text with everything before it. The share is the accuracy, as the survey remarks; the
    same share for texts that the model was not trained on shows how much of it is not memorization.

    Args:
        correct_TN: (T, N) whether each token was the likeliest; NaN where it was not evaluated.
        memorable_N: (N,) which tokens count, such as those of secrets; all by default.

    Source: Tirumala et al., "Memorization Without Overfitting", NeurIPS 2022, definition 1.

    Example (by hand):
        >>> exact_memorization_curve([[1, 0, 0], [1, 1, 0]], [True, True, False]).tolist()
        [0.5, 1.0]
    """
    correct = _correctness("correct_TN", correct_TN)
    if memorable_N is not None:
        correct = correct[:, checked_flags("memorable_N", memorable_N, correct.shape[1], "Pass one bool for each.")]
    return _mean(correct.T)


def by_example(values_TN: ArrayLike, example_N: ArrayLike) -> FloatArray:
    """(T, E) mean over the tokens of each example, for records of language models, whose columns are tokens.

    Args:
        values_TN: (T, N) figures of tokens; NaN where one was not evaluated.
        example_N: (N,) the example of each token, whole numbers from 0 on.

    Example (by hand):
        >>> by_example([[1.0, 3.0, 5.0]], [0, 0, 1]).tolist()
        [[2.0, 5.0]]
    """
    values, example = _record("values_TN", values_TN), np.asarray(example_N)
    if example.shape != values.shape[1:] or example.dtype.kind not in "iu" or (example.size and example.min() < 0):
        raise InputError("example_N", f"must be {values.shape[1]} whole numbers", example.shape, "Pass their rows.")
    count = int(example.max()) + 1 if example.size else 0
    known = ~np.isnan(values)
    sums, seen = np.zeros((2, len(values), count))
    for row in range(len(values)):
        sums[row] = np.bincount(example, weights=np.where(known[row], values[row], 0.0), minlength=count)
        seen[row] = np.bincount(example, weights=known[row], minlength=count)
    return np.where(seen > 0, sums / np.maximum(seen, 1.0), np.nan)


def _record(argument: str, values: ArrayLike) -> FloatArray:
    """(T, N) numbers, of at least one row; NaN is allowed and infinity is not."""
    array = number_array(argument, values)
    if array.ndim != 2 or not array.shape[0]:
        rule = "must have one row for each time and one column for each example"
        raise InputError(argument, rule, f"an array of shape {array.shape}", "Stack the times on axis 0.")
    if np.isinf(array).any():
        rule = "must be finite, or NaN where an example was not evaluated"
        raise InputError(argument, rule, "inf", "Find out why the model returned it.")
    return array


def _correctness(argument: str, values: ArrayLike) -> FloatArray:
    array = _record(argument, values)
    if not (np.isin(array, (0.0, 1.0)) | np.isnan(array)).all():
        raise InputError(argument, "must be 0, 1 or NaN", "others", "Pass whether each example was right.")
    return array


def _carried(correct_TN: FloatArray) -> Flags:
    """The last known value of each example in each row; False before the first."""
    known = ~np.isnan(correct_TN)
    rows_TN = np.maximum.accumulate(np.where(known, np.arange(len(correct_TN))[:, None], -1), axis=0)
    last = np.take_along_axis(np.where(known, correct_TN, 0.0), np.maximum(rows_TN, 0), axis=0)
    right: Flags = last == 1.0
    return right


def _settled_N(holds_TN: Flags) -> Integers:
    """The first row from which on a condition holds in all rows; T if it does not hold in the last one."""
    from_here_on_TN = np.logical_and.accumulate(holds_TN[::-1], axis=0)[::-1]
    found: Integers = np.where(holds_TN[-1], from_here_on_TN.argmax(axis=0), len(holds_TN)).astype(np.int64)
    return found


def _mean(values_TN: FloatArray) -> FloatArray:
    """The mean over the rows, ignoring NaN; NaN if there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about columns without any value
        found: FloatArray = np.nanmean(values_TN, axis=0)
    return found


def _shares(correct_TN: FloatArray, level: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    seen_T, right_T = (~np.isnan(correct_TN)).sum(axis=1), np.nansum(correct_TN, axis=1)
    share_T, low_T, high_T = np.full((3, len(correct_TN)), np.nan)
    known = seen_T > 0
    if known.any():
        share_T[known] = right_T[known] / seen_T[known]
        low_T[known], high_T[known] = clopper_pearson(right_T[known], seen_T[known], level)
    return share_T, low_T, high_T
