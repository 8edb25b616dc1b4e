"""Nearest examples by a tree and by faiss, against all distances."""

from __future__ import annotations

import numpy as np
import pytest

from hf_exposure.estimators import neighbors
from hf_exposure.estimators.neighbors import nearest_by_faiss, nearest_by_tree, nearest_examples


def by_hand(features: np.ndarray, queries: np.ndarray, k: int) -> list[list[int]]:
    squares = ((features[None] - queries[:, None]) ** 2).sum(axis=2)
    return [sorted(range(len(features)), key=lambda row: (line[row], row))[:k] for line in squares]


def samples() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    far = rng.normal(size=(400, 6))
    return {
        "normal": (rng.normal(size=(400, 12)), rng.normal(size=(30, 12))),
        "whole numbers, which tie": (rng.integers(3, size=(400, 3)) * 1.0, rng.integers(3, size=(30, 3)) * 1.0),
        "fewer than are proposed": (rng.normal(size=(15, 4)), rng.normal(size=(9, 4))),
        # In single precision all of these coincide unless they are centered.
        "apart by less than single precision": (1e4 + 1e-6 * far, 1e4 + 1e-6 * rng.normal(size=(30, 6))),
        # In single precision, the outlier makes all other points coincide.
        "with one far outlier": (np.vstack([1e-6 * far, np.full(6, 1e6)]), 1e-6 * rng.normal(size=(30, 6))),
        "all alike": (np.ones((60, 2)), np.ones((4, 2))),
    }


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("k", [1, 10])
def test_a_tree_finds_the_same_as_all_distances(kind: str, k: int) -> None:
    features, queries = samples()[kind]
    assert nearest_by_tree(features, queries, k).tolist() == by_hand(features, queries, k)


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("k", [1, 10])
def test_faiss_finds_the_same(kind: str, k: int) -> None:
    pytest.importorskip("faiss")
    features, queries = samples()[kind]
    found = nearest_by_faiss(features, queries, k)
    assert found.tolist() == by_hand(features, queries, k) == nearest_by_tree(features, queries, k).tolist()


def test_few_queries_are_left_to_all_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    left = []
    monkeypatch.setattr(neighbors, "_by_all_distances", lambda nearest, of, *more: left.append(len(list(of))))
    features, queries = samples()["normal"]
    nearest_by_faiss(features, queries, 5)
    assert left == [0]


def test_which_search_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    features, queries = samples()["normal"]
    monkeypatch.setattr(neighbors, "nearest_by_faiss", lambda *arguments: "faiss")
    monkeypatch.setattr(neighbors, "nearest_by_tree", lambda *arguments: "tree")
    monkeypatch.setattr(neighbors.importlib.util, "find_spec", lambda name: object())
    assert nearest_examples(features, queries, 3) == "tree"
    monkeypatch.setattr(neighbors, "MANY_EXAMPLES", 399)
    assert nearest_examples(features, queries, 3) == "faiss"
    monkeypatch.setattr(neighbors.importlib.util, "find_spec", lambda name: None)
    assert nearest_examples(features, queries, 3) == "tree"
