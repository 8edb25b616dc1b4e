"""The nearest examples of queries, in order, by a tree or, among many examples, by faiss (an extra).

Both return the same as all distances in double precision would; of equally near examples, the earlier one counts as
nearer. If a search cannot guarantee this for a query, all distances are computed, which takes one pass over the
examples.

- A tree may return any of the examples at the k-th distance.
- faiss uses single precision. It proposes more examples than requested, whose distances are computed again; the rest
  must be further away by more than its largest error.

Shapes: N examples, Q queries, D features, K neighbors.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from hf_exposure.estimators.arrays import FloatArray

MANY_EXAMPLES = 100_000
"""From this many examples on, faiss is used if it is installed."""
_SPARE = 32
_BATCH = 256


def nearest_examples(features_ND: FloatArray, queries_QD: FloatArray, k: int) -> NDArray[np.int64]:
    """(Q, K) indices of the k nearest examples by Euclidean distance, nearest first.

    Args:
        features_ND, queries_QD: finite.
        k: at most N.

    Example:
        >>> nearest_examples(np.array([[0.0], [4.0], [1.0], [4.0]]), np.array([[3.0]]), k=3).tolist()
        [[1, 3, 2]]
    """
    if len(features_ND) > MANY_EXAMPLES and importlib.util.find_spec("faiss") is not None:
        return nearest_by_faiss(features_ND, queries_QD, k)
    return nearest_by_tree(features_ND, queries_QD, k)


def nearest_by_tree(features_ND: FloatArray, queries_QD: FloatArray, k: int) -> NDArray[np.int64]:
    """Like `nearest_examples`, by scipy's tree, for up to some 10^5 examples or few dimensions."""
    more = min(k + 1, len(features_ND))
    distances_QM, found_QM = KDTree(features_ND).query(queries_QD, k=np.arange(1, more + 1))
    order_QM = np.lexsort((found_QM, distances_QM), axis=1)
    nearest_QK: NDArray[np.int64] = np.take_along_axis(found_QM, order_QM, axis=1)[:, :k].astype(np.int64)
    if more > k:
        # They are equal up to rounding, since the tree and all distances may round differently.
        is_tied_Q = distances_QM[:, k] - distances_QM[:, k - 1] <= 1e-12 * distances_QM[:, k]
        _by_all_distances(nearest_QK, np.flatnonzero(is_tied_Q), features_ND, queries_QD)
    return nearest_QK


def nearest_by_faiss(features_ND: FloatArray, queries_QD: FloatArray, k: int) -> NDArray[np.int64]:
    """Like `nearest_examples`, by the exact index of faiss.

    Raises:
        ImportError: faiss is not installed.
    """
    import faiss

    # Centered features keep more digits in single precision.
    mean_D = features_ND.mean(axis=0)
    centered_ND, centered_QD = features_ND - mean_D, queries_QD - mean_D
    scale = max(float(np.abs(centered_ND).max()), float(np.abs(centered_QD).max())) or 1.0
    index: Any = faiss.IndexFlatL2(features_ND.shape[1])
    index.add(np.ascontiguousarray(centered_ND / scale, dtype=np.float32))
    more = min(k + _SPARE, len(features_ND))
    proposed = index.search(np.ascontiguousarray(centered_QD / scale, dtype=np.float32), more)
    squares_QM, found_QM = proposed[0].astype(np.float64) * scale**2, proposed[1].astype(np.int64)
    nearest_QK = np.empty((len(queries_QD), k), dtype=np.int64)
    exact_QM = np.empty_like(squares_QM)
    for start in range(0, len(queries_QD), _BATCH):
        rows = slice(start, start + _BATCH)
        exact_QM[rows] = np.square(features_ND[found_QM[rows]] - queries_QD[rows, None]).sum(axis=2)
        order_qM = np.lexsort((found_QM[rows], exact_QM[rows]), axis=1)
        nearest_QK[rows] = np.take_along_axis(found_QM[rows], order_qM, axis=1)[:, :k]
    if more < len(features_ND):
        # The largest rounding error of a sum of D products and of two squared lengths.
        lengths_Q = np.linalg.norm(centered_QD, axis=1) + float(np.linalg.norm(centered_ND, axis=1).max())
        wrong_by_Q = (features_ND.shape[1] + 8) * np.finfo(np.float32).eps * np.square(lengths_Q)
        is_open_Q = np.sort(exact_QM, axis=1)[:, k - 1] >= squares_QM.max(axis=1) - wrong_by_Q
        _by_all_distances(nearest_QK, np.flatnonzero(is_open_Q), features_ND, queries_QD)
    return nearest_QK


def _by_all_distances(
    nearest_QK: NDArray[np.int64], of: Iterable[Any], features_ND: FloatArray, queries_QD: FloatArray
) -> None:
    for query in of:
        squares_N = np.square(features_ND - queries_QD[query]).sum(axis=1)
        nearest_QK[query] = np.argsort(squares_N, kind="stable")[: nearest_QK.shape[1]]
