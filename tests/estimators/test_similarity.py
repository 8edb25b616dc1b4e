"""Neighbors, likeness and geometry against brute force, closed forms and other libraries."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators.similarity import (
    cka_of_batches,
    intrinsic_dimension,
    knn_agreement,
    knn_decisions,
    linear_cka,
    memorization_dilation,
    probe_change,
    svcca,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def decisions_by_hand(features: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int) -> list[int]:
    found = []
    for query in queries:
        order = sorted(range(len(features)), key=lambda row: (((features[row] - query) ** 2).sum(), row))[:k]
        votes = Counter(int(labels[row]) for row in order)
        most = max(votes.values())
        found.append(next(int(labels[row]) for row in order if votes[int(labels[row])] == most))
    return found


@pytest.mark.parametrize(("k", "classes"), [(1, 3), (4, 2), (10, 5), (40, 3)])
def test_decisions_are_those_of_brute_force(k: int, classes: int) -> None:
    rng = np.random.default_rng(k)
    labels = rng.integers(classes, size=40)
    for features, queries in (
        (rng.normal(size=(40, 7)), rng.normal(size=(25, 7))),
        (rng.integers(3, size=(40, 2)), rng.integers(3, size=(25, 2))),  # distances and votes tie
    ):
        assert knn_decisions(features, labels, queries, k).tolist() == decisions_by_hand(features, labels, queries, k)


def test_decisions_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    features, queries = normal(300, 12), normal(80, 12, seed=1)
    labels = (features[:, 0] > 0).astype(int)  # two classes and an odd k: no ties
    oracle = neighbors.KNeighborsClassifier(9).fit(features, labels).predict(queries)
    assert knn_decisions(features, labels, queries, 9).tolist() == oracle.tolist()


def test_agreement_is_a_share() -> None:
    features, queries, labels = normal(50, 3), normal(30, 3, seed=1), np.arange(50) % 4
    found = knn_decisions(features, labels, queries, 5)
    changed = found.copy()
    changed[:6] = 7
    assert knn_agreement(features, labels, queries, found, k=5) == 1.0
    assert knn_agreement(features, labels, queries, changed, k=5) == pytest.approx(0.8)


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    """Song et al., equation 4: the unbiased estimate as a sum over quadruples of different examples."""
    k, m = first @ first.T, second @ second.T
    n = len(k)
    total = 0.0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * m[i, j] + k[i, j] * m[q, r] - 2 * k[i, j] * m[i, q]
    return total / (n * (n - 1) * (n - 2) * (n - 3))


def test_debiased_cka_is_the_ratio_of_unbiased_estimates() -> None:
    a, b = normal(7, 3), normal(7, 5, seed=1) + 2.0
    b[:, :3] += a
    expected = hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b))
    assert linear_cka(a, b) == pytest.approx(expected, rel=1e-9)


def test_batches_average_hsic_before_they_divide() -> None:
    a, b = normal(20, 4), normal(20, 4) @ normal(4, 4, seed=5) + normal(20, 4, seed=6)
    parts = [slice(0, 6), slice(6, 12), slice(12, 20)]
    means = [
        sum(len(range(20)[part]) * hsic(x[part], y[part]) for part in parts) / 20 for x, y in ((a, b), (a, a), (b, b))
    ]
    found = cka_of_batches([(a[part], b[part]) for part in parts])
    assert found == pytest.approx(means[0] / math.sqrt(means[1] * means[2]), rel=1e-9)


def test_plain_cka_is_the_published_form() -> None:
    """Kornblith et al., equation 4: ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of centered features."""
    a, b = normal(30, 6), normal(30, 3, seed=2)
    x, y = a - a.mean(0), b - b.mean(0)
    norm = np.linalg.norm
    expected = norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))
    assert linear_cka(a, b, debiased=False) == pytest.approx(expected)


def test_cka_of_nothing_in_common() -> None:
    a, b = normal(60, 500), normal(60, 500, seed=1)
    assert linear_cka(a, b, debiased=False) > 0.8 and abs(linear_cka(a, b)) < 0.1
    assert math.isnan(linear_cka(np.full((9, 3), 0.1), normal(9, 3)))
    assert math.isnan(linear_cka(normal(9, 3), np.ones((9, 1)), debiased=False))


def test_svcca_is_cca_of_the_strongest_directions() -> None:
    a = normal(200, 5) * [10.0, 5.0, 3.0, 0.01, 0.01]
    b = normal(200, 3, seed=1)
    b[:, 0] += 2 * normal(200, 5)[:, 1]

    def cca(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Computed from the eigenvalues of Sxx^-1 Sxy Syy^-1 Syx."""
        x, y = x - x.mean(0), y - y.mean(0)
        product = np.linalg.solve(x.T @ x, x.T @ y) @ np.linalg.solve(y.T @ y, y.T @ x)
        return np.sqrt(np.sort(np.linalg.eigvals(product).real.clip(0))[::-1])

    whole = cca(a, b)[: min(a.shape[1], b.shape[1])]
    assert svcca(a, b, variance=1.0) == pytest.approx(whole.mean(), rel=1e-6)
    # The two weak directions of `a` have less than a millionth of its variance.
    centered = a - a.mean(0)
    directions = np.linalg.eigh(centered.T @ centered)[1][:, -3:]
    assert svcca(a, b, variance=0.999) == pytest.approx(cca(centered @ directions, b)[:3].mean(), rel=1e-3)
    assert math.isnan(svcca(np.ones((9, 2)), normal(9, 2)))
    assert svcca(normal(9, 2), np.ones((9, 1)) * normal(9, 1)) <= 1.0


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_intrinsic_dimension_of_flat_pieces(dimension: int) -> None:
    flat = np.random.default_rng(3).random((1500, dimension)) @ normal(dimension, 20)
    found = intrinsic_dimension(flat)
    assert found.dimension == pytest.approx(dimension, rel=0.15)
    assert intrinsic_dimension(7.0 * flat + 1.0).dimension == pytest.approx(found.dimension)
    assert intrinsic_dimension(np.concatenate([flat, flat[:100]])) == found  # copies carry no information


def test_intrinsic_dimension_by_hand() -> None:
    """Points on a line at 0, 1, 3, 7: the two nearest are at distances 1 and 3, 1 and 2, 2 and 3, 4 and 6."""
    logs = np.sort(np.log([3 / 1, 2 / 1, 3 / 2, 6 / 4]))
    found = intrinsic_dimension([[0.0], [1.0], [3.0], [7.0]], discard=0.0)
    assert found.dimension == pytest.approx(4 / logs.sum())
    low, high = stats.gamma(4).ppf([0.025, 0.975]) / logs.sum()
    assert (found.low, found.high) == pytest.approx((low, high))
    censored = intrinsic_dimension([[0.0], [1.0], [3.0], [7.0]], discard=0.25)
    assert censored.dimension == pytest.approx(3 / (logs[:3].sum() + logs[2]))


def test_dilation_by_hand_and_in_other_units() -> None:
    found = memorization_dilation([[3.0, 4.0], [5.0, 0.0]], [0, 1], [[0.0, 1.0], [0.0, -1.0], [5.0, 3.0]], [0, 0, 1])
    assert (found.total, found.mean, found.relative) == pytest.approx((8.0, 4.0, 4.0 / (2 / 3)))
    scaled = memorization_dilation(
        np.multiply([[3.0, 4.0]], 9), [0], np.multiply([[0.0, 1.0], [0.0, -1.0]], 9), [0, 0]
    )
    assert scaled.total == pytest.approx(45.0) and scaled.relative == pytest.approx(5.0)


def test_probes() -> None:
    before, after = np.zeros(40, dtype=int), np.zeros(40, dtype=int)
    before[:10] = after[5:30] = 1
    found = probe_change(before, after)
    assert (found.gained, found.lost, found.kind) == (20, 5, "benign")
    assert found.p_value == pytest.approx(2 * stats.binom(25, 0.5).cdf(5))
    assert probe_change(after, before).kind == "malign"
    assert probe_change(before, before).kind == "undecided"
    assert probe_change(before, after, confidence_level=0.999).kind == "undecided"


MATRIX = [[0.0, 1.0], [1.0, 2.0], [2.0, 0.5], [3.0, 0.1]]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: knn_decisions([1.0], [0], MATRIX), "features_ND"),
        (lambda: knn_decisions(MATRIX, [0, 1], MATRIX, 2), "labels_N"),
        (lambda: knn_decisions(MATRIX, [0, 1, 0, 0.5], MATRIX, 2), "labels_N"),
        (lambda: knn_decisions(MATRIX, [0] * 4, [[1.0]], 2), "queries_QD"),
        (lambda: knn_decisions(MATRIX, [0] * 4, MATRIX, 5), "k"),
        (lambda: knn_agreement(MATRIX, [0] * 4, MATRIX, [0], 2), "decisions_Q"),
        (lambda: linear_cka(MATRIX, MATRIX[:3]), "features_NA, features_NB"),
        (lambda: linear_cka(MATRIX[:3], MATRIX[:3]), "features_NA, features_NB"),
        (lambda: linear_cka(MATRIX, [[math.nan]] * 4), "features_NB"),
        (lambda: linear_cka(MATRIX, MATRIX, debiased="no"), "debiased"),  # type: ignore[arg-type]
        (lambda: cka_of_batches([]), "batches"),
        (lambda: svcca(MATRIX, MATRIX, variance=0.0), "variance"),
        (lambda: intrinsic_dimension([[1.0], [1.0], [2.0]]), "features_ND"),
        (lambda: intrinsic_dimension(MATRIX, discard=1.0), "discard"),
        (lambda: memorization_dilation(MATRIX, [0, 1, 2, 0], MATRIX, [0, 1, 1, 0]), "test_labels_M"),
        (lambda: probe_change([0, 1], [1]), "correct_after_Q"),
        (lambda: probe_change([0, 2], [1, 0]), "correct_before_Q"),
    ],
)
def test_refused(call: Any, named: str) -> None:
    with pytest.raises(InputError, match=rf"^{named}: "):
        call()
