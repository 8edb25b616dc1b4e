"""Statistics of the features of examples: their neighbors, the similarity of two representations, and their dimension.

Features are the hidden states of one layer, one row for each example. Everything here is a function of such arrays.

- *Neighbors.* The k-nearest-neighbor decision among a layer's features, how often a network agrees with it, and
  whether training improved it (benign memorization) or not (malign).
- *Similarity.* Linear CKA and SVCCA compare two representations of the same examples up to rotation and scale.
- *Geometry.* The intrinsic dimension, from the distances to the two nearest neighbors, and how far corrupted examples
  lie from their class.

Shapes: N examples; D features, A and B of two representations; Q queries; M further examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.special import gammaincinv
from scipy.stats import binomtest

from hf_exposure.checks import flag, real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.estimators.neighbors import nearest_examples

_REMEDY = "Pass an array with a row of features for each example."

# Neighbors.


def knn_decisions(
    features_ND: ArrayLike, labels_N: ArrayLike, queries_QD: ArrayLike, k: int = 10
) -> NDArray[np.int64]:
    """The label that most of the k nearest examples of each query have.

    If labels have equally many votes, that of the nearest example is returned. If examples are at equal distance, the
    earlier one counts as nearer. Distances are Euclidean; divide features by their norms first for cosines. A tree
    finds the neighbors, or, with equal results, faiss (the extra "faiss") if it is installed and there are more than
    10^5 examples.

    Args:
        features_ND: features of at least k examples.
        labels_N: whole numbers.
        queries_QD: features of the queries. A query that is among the examples is its own neighbor.
        k: the number of neighbors that vote.

    Returns:
        (Q,) labels.

    Raises:
        InputError: the features are not finite matrices of equal width, the labels are not one whole number for each
            example, or k is outside 1..N.

    Example:
        >>> knn_decisions([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1], [[0.4], [5.2]], k=3).tolist()
        [0, 1]
    """
    features = _features("features_ND", features_ND)
    queries = _features("queries_QD", queries_QD)
    if features.shape[1] != queries.shape[1]:
        raise InputError("queries_QD", f"must be {features.shape[1]} wide", queries.shape[1], _REMEDY)
    labels = _labels("labels_N", labels_N, len(features))
    number = whole_number("k", k, 1, len(features))
    neighbors_QK = nearest_examples(features, queries, number)
    return np.array([_vote(labels[row]) for row in neighbors_QK], dtype=np.int64)


def knn_agreement(
    features_ND: ArrayLike, labels_N: ArrayLike, queries_QD: ArrayLike, decisions_Q: ArrayLike, k: int = 10
) -> float:
    """The share of queries for which a network decides as the k nearest examples among its features do.

    Args:
        features_ND, labels_N, queries_QD, k: as for `knn_decisions`; the labels are those that were trained on.
        decisions_Q: the network's classes for the queries. With true labels instead, the result is the accuracy of the
            nearest-neighbor classifier.

    Returns:
        A share from 0 to 1; `clopper_pearson(share * Q, Q)` computes its interval.

    Raises:
        InputError: as for `knn_decisions`.

    Source: Cohen, Sapiro and Giryes, "DNN or k-NN: That is the Generalize vs. Memorize Question" (2018), who compare
        the two decisions layer by layer.

    Example:
        >>> knn_agreement([[0.0], [1.0], [5.0], [6.0]], [0, 0, 1, 1], [[0.4], [5.2]], [0, 0], k=3)
        0.5
    """
    found_Q = knn_decisions(features_ND, labels_N, queries_QD, k)
    return float((found_Q == _labels("decisions_Q", decisions_Q, len(found_Q))).mean())


@dataclass(frozen=True)
class ProbeChange:
    """Whether training improved nearest-neighbor probing of a layer.

    Attributes:
        before, after: accuracy of the probe.
        gained, lost: numbers of queries that only the probe after training, and only the one before it, classifies
            correctly.
        p_value: the p-value of the exact two-sided sign test of these numbers.
        kind: "benign" if the probe is better after training, "malign" if it is worse, "undecided" if the test shows
            neither. By definition, memorization without improvement is malign too, but a test cannot show that nothing
            changed.
    """

    before: float
    after: float
    gained: int
    lost: int
    p_value: float
    kind: Literal["benign", "malign", "undecided"]


def probe_change(
    correct_before_Q: ArrayLike, correct_after_Q: ArrayLike, confidence_level: float = 0.95
) -> ProbeChange:
    """Compares nearest-neighbor probes of a layer at initialization and after training on random labels.

    A network that fits random labels memorizes. The memorization is benign if the layer predicts the true labels of
    held-out examples better than at initialization: `knn_decisions(...) == true_labels` on features of both.

    Args:
        correct_before_Q, correct_after_Q: whether each query's decision was its true label, in the same order.
        confidence_level: 1 minus the largest p-value at which the kind is "benign" or "malign".

    Raises:
        InputError: there are no queries, a value is neither 0 nor 1, or the lengths differ.

    Source: Anagnostidis et al., "The Curious Case of Benign Memorization", ICLR 2023, definition 3.1.

    Example:
        >>> probe_change([0] * 10, [1] * 10).kind, probe_change([0, 1], [1, 0]).kind
        ('benign', 'undecided')
    """
    level = checked_confidence(confidence_level)
    before, after = (
        _correct(name, values)
        for name, values in (("correct_before_Q", correct_before_Q), ("correct_after_Q", correct_after_Q))
    )
    if before.shape != after.shape:
        raise InputError("correct_after_Q", f"must be {len(before)}, as before", len(after), "Use the same queries.")
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    kind: Literal["benign", "malign", "undecided"] = "benign" if gained > lost else "malign"
    return ProbeChange(
        float(before.mean()), float(after.mean()), gained, lost, p_value, kind if p_value <= 1 - level else "undecided"
    )


# Similarity.


def linear_cka(features_NA: ArrayLike, features_NB: ArrayLike, debiased: bool = True) -> float:
    """Linear centered kernel alignment of two representations of the same examples.

    1 for representations that differ by rotation, scale and shift. The debiased form is near 0 (above or below) for
    unrelated representations, however many features they have, whereas the plain form then tends to 1.

    Args:
        features_NA, features_NB: a row for each of the same N examples; at least 4 of them, or 2 if not debiased.
        debiased: whether to use unbiased estimates of HSIC, which leave out the diagonals of the kernels.

    Returns:
        At most 1; NaN if a representation has the same features for all examples, or the estimate of its own HSIC is
        not above 0.

    Raises:
        InputError: the features are not matrices with N rows, or there are too few rows.

    Source: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; debiased: Song et
        al., JMLR 13 (2012), equation 5.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(50, 8))
        >>> rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
        >>> round(linear_cka(features, 3.0 * features @ rotation + 1.0), 6)
        1.0
    """
    return cka_of_batches([(features_NA, features_NB)], debiased=debiased)


def cka_of_batches(batches: Iterable[tuple[ArrayLike, ArrayLike]], debiased: bool = True) -> float:
    """`linear_cka` for examples that do not fit into memory: HSIC is averaged over batches first, then divided.

    With `debiased`, each batch's HSIC is an unbiased estimate, and so is the mean over batches of equal size. The
    plain form is biased in each batch, the more so the smaller the batches are.

    Args:
        batches: pairs of features of the same rows, of any sizes that `linear_cka` accepts; each is weighted by its
            number of rows.
        debiased: as for `linear_cka`.

    Source: Nguyen, Raghu and Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, section 3.1.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(60, 8))
        >>> round(cka_of_batches([(features[:30], features[:30]), (features[30:], features[30:])]), 6)
        1.0
    """
    flag("debiased", debiased)
    sums, rows = np.zeros(3), 0
    for first, second in batches:
        a, b = _features("features_NA", first), _features("features_NB", second)
        least = 4 if debiased else 2
        if len(a) != len(b) or len(a) < least:
            rule = f"must be features of the same {least} or more examples"
            raise InputError("features_NA, features_NB", rule, f"{len(a)} and {len(b)} rows", _REMEDY)
        kernels = [_centered_kernel(features, debiased) for features in (a, b)]
        scale = len(a) / (len(a) * (len(a) - 3) if debiased else (len(a) - 1) ** 2)
        sums += [
            scale * float((x * y).sum()) for x, y in ((kernels[0], kernels[1]), *zip(kernels, kernels, strict=True))
        ]
        rows += len(a)
    if not rows:
        raise InputError("batches", "must have at least one batch", 0, "Pass pairs of features.")
    own = sums[1:]
    return float(sums[0] / math.sqrt(own[0] * own[1])) if (own > 0.0).all() else math.nan


def svcca(features_NA: ArrayLike, features_NB: ArrayLike, variance: float = 0.99) -> float:
    """The mean canonical correlation of two representations, each reduced to its strongest directions first.

    Args:
        features_NA, features_NB: a row for each of the same N examples, more of them than features.
        variance: the smallest share of each representation's variance in the kept directions; 1 keeps all, which is
            plain CCA.

    Returns:
        From 0 to 1, over as many correlations as the smaller of the two has directions; NaN if a representation has
        the same features for all examples. With few examples it is biased upward: with no more examples than
        directions it is 1, whatever the features are.

    Raises:
        InputError: the features are not matrices with equally many rows, or the variance is outside (0, 1].

    Source: Raghu et al., "SVCCA", NeurIPS 2017, section 2.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(50, 4))
        >>> round(svcca(features, features[:, ::-1] * 3.0 - 1.0), 6)
        1.0
    """
    a, b = _features("features_NA", features_NA), _features("features_NB", features_NB)
    if len(a) != len(b):
        rule = "must be features of the same examples"
        raise InputError("features_NA, features_NB", rule, f"{len(a)} and {len(b)} rows", _REMEDY)
    rule = "must be above 0 and at most 1"
    share = real_number("variance", variance, rule, "Write 0.99.", above=0.0, at_most=1.0)
    bases = [_strongest_directions(features, share) for features in (a, b)]
    if not all(basis.shape[1] for basis in bases):
        return math.nan
    correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return float(np.clip(correlations, 0.0, 1.0).mean())


# Geometry.


@dataclass(frozen=True)
class IntrinsicDimension:
    """The dimension of the surface on which examples lie.

    Attributes:
        dimension: the maximum likelihood estimate; NaN if all ratios are 1.
        low, high: ends of its interval, which assumes that the ratios of examples are independent; those of neighbors
            are only nearly so.
        rows: the number of examples used; of examples with equal features only one is used.
    """

    dimension: float
    low: float
    high: float
    rows: int


def intrinsic_dimension(
    features_ND: ArrayLike, discard: float = 0.1, confidence_level: float = 0.95
) -> IntrinsicDimension:
    """Intrinsic dimension from the distances to the two nearest neighbors of each example.

    If examples are spread evenly around each of them, over a piece of dimension d, the ratio r2 / r1 of the distances
    has the Pareto law P(ratio <= x) = 1 - x^-d, so that the logarithms of the ratios are exponential with rate d. The
    largest ratios, which come from examples at the edges, are censored, that is, only known to be large: the estimate
    is `m / (sum of the m smallest + (N - m) times the m-th)`, and its law a Gamma law.

    Args:
        features_ND: at least 3 different examples.
        discard: the share of ratios that are censored.
        confidence_level: the level of the interval.

    Raises:
        InputError: the features are not a finite matrix or have fewer than 3 different rows, or the share is
            outside [0, 1).

    Source: Facco et al., Scientific Reports 7 (2017), who fit a line to the law of the ratios that are kept; used on
        networks by Ansuini et al., NeurIPS 2019.

    Example:
        >>> square = np.random.default_rng(0).random((2000, 2)) @ np.random.default_rng(1).normal(size=(2, 30))
        >>> found = intrinsic_dimension(square)
        >>> bool(found.low < 2.0 < found.high), found.rows
        (True, 2000)
    """
    level = checked_confidence(confidence_level)
    rule = "must be a share from 0 to below 1"
    share = real_number("discard", discard, rule, "Write 0.1.", at_least=0.0, below=1.0)
    features = np.unique(_features("features_ND", features_ND), axis=0)
    if len(features) < 3:
        rule = "must have at least 3 different rows"
        raise InputError("features_ND", rule, len(features), "Pass the features of more examples.")
    distances, _ = KDTree(features).query(features, k=3)
    logs = np.sort(np.log(distances[:, 2] / distances[:, 1]))
    kept = max(1, math.ceil(len(logs) * (1.0 - share)))
    total = float(logs[:kept].sum() + (len(logs) - kept) * logs[kept - 1])
    if total == 0.0:
        return IntrinsicDimension(math.nan, math.nan, math.nan, len(features))
    low, high = gammaincinv(kept, [(1.0 - level) / 2.0, (1.0 + level) / 2.0]) / total
    return IntrinsicDimension(kept / total, float(low), float(high), len(features))


@dataclass(frozen=True)
class Dilation:
    """How far corrupted examples lie from their true class.

    Attributes:
        total: the sum of their distances to the mean test features of their true classes (memorization-dilation).
        mean: `total` over the number of corrupted examples.
        relative: `mean` over the mean distance of test examples to the mean of their own class: 1 if corrupted
            examples lie as far as uncorrupted unseen ones, whatever the scale of the features. NaN if the latter is 0.
    """

    total: float
    mean: float
    relative: float


def memorization_dilation(
    features_ND: ArrayLike, true_labels_N: ArrayLike, test_features_MD: ArrayLike, test_labels_M: ArrayLike
) -> Dilation:
    """The dilation of corrupted training examples, in the features of one layer.

    Args:
        features_ND: features of the corrupted training examples alone.
        true_labels_N: their labels before corruption.
        test_features_MD, test_labels_M: features and labels of test examples, at least one of each true class.

    Raises:
        InputError: as for `knn_decisions`, or a class has no test examples.

    Source: Nguyen et al., "Memorization-Dilation: Modeling Neural Collapse Under Label Noise", ICLR 2023.

    Example (by hand: class means 0 and 4, distances 3 and 1; test distances 1, 1, 0):
        >>> memorization_dilation([[3.0], [5.0]], [0, 1], [[-1.0], [1.0], [4.0]], [0, 0, 1])
        Dilation(total=4.0, mean=2.0, relative=3.0)
    """
    features, test = _features("features_ND", features_ND), _features("test_features_MD", test_features_MD)
    labels = _labels("true_labels_N", true_labels_N, len(features))
    test_labels = _labels("test_labels_M", test_labels_M, len(test))
    if features.shape[1] != test.shape[1]:
        raise InputError("test_features_MD", f"must be {features.shape[1]} wide", test.shape[1], _REMEDY)
    means = {int(label): test[test_labels == label].mean(axis=0) for label in np.unique(test_labels)}
    missing = sorted(set(labels.tolist()) - set(means))
    if missing:
        raise InputError("test_labels_M", "must have examples of every true class", f"none of {missing[:8]}", _REMEDY)
    distances_N = np.linalg.norm(features - np.stack([means[int(label)] for label in labels]), axis=1)
    usual = float(np.linalg.norm(test - np.stack([means[int(label)] for label in test_labels]), axis=1).mean())
    total, mean = float(distances_N.sum()), float(distances_N.mean())
    return Dilation(total, mean, mean / usual if usual > 0.0 else math.nan)


def _features(argument: str, values: ArrayLike) -> FloatArray:
    features = number_array(argument, values, _REMEDY)
    if features.ndim != 2 or not features.size:
        raise InputError(argument, "must be a matrix with a row for each example", f"shape {features.shape}", _REMEDY)
    if not np.isfinite(features).all():
        raise InputError(argument, "must be finite", "NaN or infinity", "Find out where it comes from.")
    return features


def _labels(argument: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    labels = number_array(argument, values, "Pass class numbers.")
    if labels.shape != (count,) or not (np.isfinite(labels) & (labels == np.round(labels))).all():
        rule = f"must be ({count},) whole numbers"
        raise InputError(argument, rule, f"an array of shape {labels.shape}", "Pass class numbers.")
    return labels.astype(np.int64)


def _correct(argument: str, values: ArrayLike) -> NDArray[np.bool_]:
    correct = number_array(argument, values, "Compare decisions with labels.")
    if correct.ndim != 1 or not correct.size or not np.isin(correct, [0, 1]).all():
        rule = "must be True or False for each query"
        raise InputError(argument, rule, f"an array of shape {correct.shape}", "Compare decisions with labels.")
    return correct.astype(bool)


def _vote(labels_K: NDArray[np.int64]) -> int:
    """The label with the most votes; ties go to the label whose nearest vote is first."""
    found, first, counts = np.unique(labels_K, return_index=True, return_counts=True)
    best = np.lexsort((first, -counts))[0]
    return int(found[best])


def _centered_kernel(features: FloatArray, debiased: bool) -> FloatArray:
    """The (N, N) linear kernel, centered; with `debiased`, as in Song et al., with zeros on the diagonal."""
    centered = _centered(features)
    kernel: FloatArray = centered @ centered.T
    if not debiased:
        return kernel
    rows = len(kernel)
    np.fill_diagonal(kernel, 0.0)
    means = kernel.sum(axis=0) / (rows - 2)
    kernel -= means[:, None] + means[None, :] - means.sum() / (rows - 1)
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _centered(features: FloatArray) -> FloatArray:
    """Columns with mean 0. Constant features become exactly 0, which rounding would otherwise make small noise."""
    centered: FloatArray = features - features.mean(axis=0)
    centered[:, np.ptp(features, axis=0) == 0.0] = 0.0
    return centered


def _strongest_directions(features: FloatArray, share: float) -> FloatArray:
    """(N, d) orthonormal columns: the fewest principal directions with at least `share` of the variance."""
    left, singular, _ = np.linalg.svd(_centered(features), full_matrices=False)
    real = singular > singular[0] * max(features.shape) * np.finfo(float).eps if singular[0] > 0 else singular > 0
    powers = np.cumsum(np.square(singular[real]))
    if not powers.size:
        return left[:, :0]
    kept = int(np.searchsorted(powers, share * powers[-1] * (1 - 1e-12))) + 1
    return left[:, : min(kept, powers.size)]
