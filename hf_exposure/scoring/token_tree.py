"""Token sequences as one tree: what they share is scored once.

Shapes: N sequences, V vertices, M fed vertices, E edges, P tokens of prefix. Vertices are numbered in preorder
(a parent before its children, siblings by token id); -1 stands for the end of the shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["IdMatrix", "TokenTree", "Vertices", "pad_sequences", "grow_vertices"]

IntArray = npt.NDArray[np.int64]
# Token ids as they are stored: half the size.
IdMatrix = npt.NDArray[np.int32] | npt.NDArray[np.int64]
_ABSENT = -1


@dataclass(frozen=True)
class Vertices:
    """All vertices below the shared prefix, in preorder.

    Attributes:
        prefix: (P,) tokens shared by all sequences.
        token, parent, depth: (V,) token id; parent vertex or -1; 1 for a child of the prefix.
        last_of_sequence: (N,) vertex at which each sequence ends; -1 where it ends with the prefix.
    """

    prefix: IntArray
    token: IntArray
    parent: IntArray
    depth: IntArray
    last_of_sequence: IntArray


@dataclass(frozen=True)
class TokenTree:
    """What a model is asked: feed these vertices after the prefix, read these next-token edges.

    Attributes:
        prefix: (P,) tokens shared by all.
        token, parent, depth: (M,) of the fed vertices, in preorder.
        end: (M,) one past the last fed descendant, so that `a` is `b` or above it iff `a <= b < end[a]`.
        edge_parent: (E,) ascending; the fed vertex after which a token is read, or -1 for the prefix's end.
        edge_token: (E,) the token read there.
    """

    prefix: IntArray
    token: IntArray
    parent: IntArray
    depth: IntArray
    end: IntArray
    edge_parent: IntArray
    edge_token: IntArray

    @property
    def size(self) -> int:
        return len(self.token)

    @classmethod
    def build(
        cls, prefix: IntArray, token: IntArray, parent: IntArray, depth: IntArray, edges: tuple[IntArray, IntArray]
    ) -> TokenTree:
        """From fed vertices in preorder and (edge_parent, edge_token) with ascending parents."""
        return cls(prefix, token, parent, depth, _subtree_ends(parent, depth), *edges)


def pad_sequences(sequences: Sequence[Sequence[int]]) -> IntArray:
    """(N, L) matrix of token ids, padded on the right with -1."""
    lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
    matrix = np.full((len(sequences), int(lengths.max(initial=0))), _ABSENT, dtype=np.int64)
    flat = np.fromiter((t for s in sequences for t in s), dtype=np.int64, count=int(lengths.sum()))
    matrix[np.arange(matrix.shape[1])[None, :] < lengths[:, None]] = flat
    return matrix


def grow_vertices(matrix_NL: IdMatrix, prefix_length: int | None = None) -> Vertices:
    """The tree of the padded sequences in `matrix_NL`; equal sequences end at one vertex.

    Args:
        matrix_NL: (N, L) token ids of any integer type, -1 after a sequence's end.
        prefix_length: how many leading tokens to treat as the shared prefix; all that are shared by default.
    """
    shared = _shared_length(matrix_NL) if prefix_length is None else prefix_length
    prefix, body = matrix_NL[0, :shared].astype(np.int64), matrix_NL[:, shared:]
    order = np.lexsort(body.T[::-1]) if body.shape[1] else np.arange(len(body))
    body = body[order]
    is_new = np.ones(body.shape, dtype=bool)
    is_new[1:] = np.logical_or.accumulate(body[1:] != body[:-1], axis=1)
    is_new &= body != _ABSENT
    number = np.cumsum(is_new, dtype=np.int64).reshape(body.shape) - 1
    vertex_at = np.maximum.accumulate(np.where(is_new, number, _ABSENT), axis=0)
    row, column = np.nonzero(is_new)
    parent = np.where(column == 0, _ABSENT, vertex_at[row, np.maximum(column - 1, 0)])
    lengths = (body != _ABSENT).sum(axis=1)
    last = np.full(len(body), _ABSENT, dtype=np.int64)
    ends_below = lengths > 0
    last[order[ends_below]] = vertex_at[np.flatnonzero(ends_below), lengths[ends_below] - 1]
    return Vertices(prefix, body[row, column].astype(np.int64), parent, column.astype(np.int64) + 1, last)


def _shared_length(matrix_NL: IdMatrix) -> int:
    """How many leading tokens all sequences share."""
    same = (matrix_NL == matrix_NL[0]).all(axis=0) & (matrix_NL[0] != _ABSENT)
    return int(np.logical_and.accumulate(same).sum())


def _subtree_ends(parent: IntArray, depth: IntArray) -> IntArray:
    end = np.arange(1, len(parent) + 1, dtype=np.int64)
    # Deepest first, so that a vertex's end is final before its parent reads it.
    for level in range(int(depth.max(initial=0)), 1, -1):
        at_level = np.flatnonzero(depth == level)
        np.maximum.at(end, parent[at_level], end[at_level])
    return end
