"""Token sequences as one tree, so that common parts are scored once.

`PathQuery` is the query of a search about one of its states, and `PathBits` the answer. `Vertices` is the tree of
sequences, and `TokenTree` the part of it that is fed to a model, with the next-token edges to read. `SequenceTree` and
`PathTree` convert whole sequences or search states to a token tree, and its edges' bits to the answer.

Shapes: N sequences of at most L tokens, V vertices, M fed vertices, E edges, P tokens of prefix, C children. Vertices
are numbered in preorder (a parent before its children, siblings by token id); -1 means the end of the shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
# The type of stored token ids, of half the size.
IdMatrix = npt.NDArray[np.int32] | npt.NDArray[np.int64]
_ABSENT = -1


@dataclass(frozen=True)
class PathQuery:
    """One state of a search.

    Attributes:
        tokens: the path after the search's prefix.
        run: the number of its last tokens that are forced and whose bits are not yet known.
        children: token ids whose bits after the path are requested; may be empty.
    """

    tokens: tuple[int, ...]
    run: int
    children: np.ndarray


@dataclass(frozen=True)
class PathBits:
    """The answer: the sum of the run's bits, and (C,) bits of each child, which are not renormalized over the
    children.
    """

    run_bits: float
    children_bits: np.ndarray

    @property
    def figures(self) -> np.ndarray:
        """(1 + C,) both as one array."""
        return np.concatenate([[self.run_bits], self.children_bits])


@dataclass(frozen=True)
class Vertices:
    """All vertices after the shared prefix, in preorder.

    Attributes:
        prefix_P: tokens shared by all sequences.
        token_V, parent_V, depth_V: token id; parent vertex or -1; 1 for a child of the prefix.
        last_of_sequence_N: the vertex at which each sequence ends; -1 if it ends with the prefix.
    """

    prefix_P: IntArray
    token_V: IntArray
    parent_V: IntArray
    depth_V: IntArray
    last_of_sequence_N: IntArray


@dataclass(frozen=True)
class TokenTree:
    """The request to a model: feed these vertices after the prefix, and read these next-token edges.

    Attributes:
        prefix_P: tokens shared by all.
        token_M, parent_M, depth_M: token, parent and depth of the fed vertices, in preorder.
        end_M: one past the last fed descendant, so that `a` is `b` or above it iff `a <= b < end_M[a]`.
        edge_parent_E: the fed vertex after which a token is read, or -1 for the prefix's end; ascending.
        edge_token_E: the token read there.
    """

    prefix_P: IntArray
    token_M: IntArray
    parent_M: IntArray
    depth_M: IntArray
    end_M: IntArray
    edge_parent_E: IntArray
    edge_token_E: IntArray

    @property
    def size(self) -> int:
        """M."""
        return len(self.token_M)

    @classmethod
    def build(
        cls,
        prefix_P: IntArray,
        token_M: IntArray,
        parent_M: IntArray,
        depth_M: IntArray,
        edge_parent_E: IntArray,
        edge_token_E: IntArray,
    ) -> TokenTree:
        """Builds the tree from fed vertices in preorder and edges with ascending parents."""
        end_M = _subtree_ends(parent_M, depth_M)
        return cls(prefix_P, token_M, parent_M, depth_M, end_M, edge_parent_E, edge_token_E)


def pad_sequences(sequences: Sequence[Sequence[int]]) -> IntArray:
    """(N, L) matrix of token ids, padded on the right with -1."""
    length_N = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
    matrix_NL = np.full((len(sequences), int(length_N.max(initial=0))), _ABSENT, dtype=np.int64)
    flat = np.fromiter((t for s in sequences for t in s), dtype=np.int64, count=int(length_N.sum()))
    matrix_NL[np.arange(matrix_NL.shape[1]) < length_N[:, None]] = flat
    return matrix_NL


def grow_vertices(matrix_NL: IdMatrix, prefix_length: int | None = None) -> Vertices:
    """The tree of the padded sequences in `matrix_NL`; equal sequences end at the same vertex.

    Args:
        matrix_NL: (N, L) token ids of any integer type, -1 after a sequence's end.
        prefix_length: the number of leading tokens to treat as the shared prefix; by default all that are shared.
    """
    shared = _shared_by_rows(matrix_NL) if prefix_length is None else prefix_length
    prefix_P, body_NL = matrix_NL[0, :shared].astype(np.int64), matrix_NL[:, shared:]
    order_N = np.lexsort(body_NL.T[::-1]) if body_NL.shape[1] else np.arange(len(body_NL))
    body_NL = body_NL[order_N]
    is_new_NL = np.ones(body_NL.shape, dtype=bool)
    is_new_NL[1:] = np.logical_or.accumulate(body_NL[1:] != body_NL[:-1], axis=1)
    is_new_NL &= body_NL != _ABSENT
    number_NL = np.cumsum(is_new_NL, dtype=np.int64).reshape(body_NL.shape) - 1
    vertex_NL = np.maximum.accumulate(np.where(is_new_NL, number_NL, _ABSENT), axis=0)
    row_V, column_V = np.nonzero(is_new_NL)
    token_V = body_NL[row_V, column_V].astype(np.int64)
    parent_V = np.where(column_V == 0, _ABSENT, vertex_NL[row_V, np.maximum(column_V - 1, 0)])
    length_N = (body_NL != _ABSENT).sum(axis=1)
    last_N = np.full(len(body_NL), _ABSENT, dtype=np.int64)
    below = np.flatnonzero(length_N > 0)
    last_N[order_N[below]] = vertex_NL[below, length_N[below] - 1]
    return Vertices(prefix_P, token_V, parent_V, column_V.astype(np.int64) + 1, last_N)


def _shared_by_rows(matrix_NL: IdMatrix) -> int:
    """Like `shared_length`, for the rows of a matrix."""
    same_L = (matrix_NL == matrix_NL[0]).all(axis=0) & (matrix_NL[0] != _ABSENT)
    return int(np.logical_and.accumulate(same_L).sum())


def _subtree_ends(parent_M: IntArray, depth_M: IntArray) -> IntArray:
    end_M = np.arange(1, len(parent_M) + 1, dtype=np.int64)
    # The deepest come first, so that a vertex's end is final before its parent uses it.
    for level in range(int(depth_M.max(initial=0)), 1, -1):
        at_level = np.flatnonzero(depth_M == level)
        np.maximum.at(end_M, parent_M[at_level], end_M[at_level])
    return end_M


@dataclass(frozen=True)
class SequenceTree:
    """N whole sequences: inner vertices are fed, every vertex has an edge, and a sequence's bits are a sum along its
    path.

    Attributes:
        tree: the request to the model.
        vertices: all V vertices, including leaves.
        edge_of_vertex_V: the edge that reads each vertex.
        first_scored: position of the first scored token in every sequence.
    """

    tree: TokenTree
    vertices: Vertices
    edge_of_vertex_V: IntArray
    first_scored: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], first_scored: int) -> SequenceTree:
        """From N sequences of token ids."""
        return cls.of_matrix(pad_sequences(sequences), first_scored)

    @classmethod
    def of_matrix(cls, matrix_NL: IdMatrix, first_scored: int) -> SequenceTree:
        """From an (N, L) matrix of token ids, -1 after a sequence's end."""
        vertices = grow_vertices(matrix_NL)
        is_inner_V = np.zeros(len(vertices.token_V) + 1, dtype=bool)
        is_inner_V[vertices.parent_V] = True
        is_inner_V = is_inner_V[:-1]
        fed_number = np.append(np.cumsum(is_inner_V) - 1, -1)
        parent_V = fed_number[vertices.parent_V]
        order_E = np.argsort(parent_V, kind="stable")
        edge_of_vertex_V = np.empty_like(order_E)
        edge_of_vertex_V[order_E] = np.arange(len(order_E))
        tree = TokenTree.build(
            vertices.prefix_P,
            vertices.token_V[is_inner_V],
            parent_V[is_inner_V],
            vertices.depth_V[is_inner_V],
            parent_V[order_E],
            vertices.token_V[order_E],
        )
        return cls(tree, vertices, edge_of_vertex_V, first_scored)

    @property
    def read_after(self) -> IntArray:
        """(N,) the fed vertex after which each sequence's last token is read; -1 for the end of the prefix."""
        parents = np.append(self.tree.edge_parent_E[self.edge_of_vertex_V], -1)
        return parents[self.vertices.last_of_sequence_N]

    def totals(self, edge_bits_E: np.ndarray, prefix_bits_P: np.ndarray) -> np.ndarray:
        """(N,) float64 sums over the scored tokens of each sequence."""
        vertices, prefix = self.vertices, len(self.vertices.prefix_P)
        bits_V = edge_bits_E[self.edge_of_vertex_V]
        bits_V[prefix + vertices.depth_V - 1 < self.first_scored] = 0.0
        total = np.empty(len(bits_V) + 1)
        total[-1] = prefix_bits_P[self.first_scored :].sum()
        for level in range(1, int(vertices.depth_V.max(initial=0)) + 1):
            at_level = np.flatnonzero(vertices.depth_V == level)
            total[at_level] = total[vertices.parent_V[at_level]] + bits_V[at_level]
        return total[vertices.last_of_sequence_N]

    def bits_along(self, edge_bits_E: np.ndarray, prefix_bits_P: np.ndarray) -> list[np.ndarray]:
        """(L - 1,) bits of the tokens of each sequence, from the second on."""
        found = []
        for last in self.vertices.last_of_sequence_N.tolist():
            along: list[float] = []
            while last >= 0:
                along.append(float(edge_bits_E[self.edge_of_vertex_V[last]]))
                last = int(self.vertices.parent_V[last])
            found.append(np.concatenate([prefix_bits_P, along[::-1]])[1:])
        return found


@dataclass(frozen=True)
class PathTree:
    """Search states after one prefix: runs and children are read, and only tokens before one of them are fed.

    Attributes:
        tree: the request to the model.
        run_edges_NR: for each query, the edges of its run's tokens in the tree; -1 where a run is shorter.
        children_edges: for each query, the edges of its children, in their order.
        read_after_N: the fed vertex after which each query's last token is read; -1 for the end of the prefix.
        queries: the queries.
    """

    tree: TokenTree
    run_edges_NR: IntArray
    children_edges: tuple[IntArray, ...]
    read_after_N: IntArray
    queries: tuple[PathQuery, ...]

    @classmethod
    def of(cls, prefix: Sequence[int], queries: Sequence[PathQuery]) -> PathTree:
        """Builds the tree from queries in any order; equal paths share their vertices."""
        matrix_NL = pad_sequences([(*prefix, *query.tokens) for query in queries])
        vertices = grow_vertices(matrix_NL, prefix_length=len(prefix))
        children_N = np.array([len(query.children) for query in queries])
        run_N = np.array([query.run for query in queries])
        run_vertices_NR = _last_vertices(vertices, run_N)
        is_run_V = np.zeros(len(vertices.token_V) + 1, dtype=bool)
        is_run_V[run_vertices_NR] = True
        run_V = np.flatnonzero(is_run_V[:-1])
        parent_E = np.concatenate([vertices.parent_V[run_V], np.repeat(vertices.last_of_sequence_N, children_N)])
        token_E = np.concatenate([vertices.token_V[run_V], *(query.children for query in queries)]).astype(np.int64)
        is_fed_V = _with_ancestors(vertices, parent_E)
        number_V = np.append(np.cumsum(is_fed_V) - 1, _ABSENT)
        order_E = np.argsort(parent_E, kind="stable")
        where_E = np.append(np.empty_like(order_E), _ABSENT)
        where_E[order_E] = np.arange(len(order_E))
        edge_of_run_V = np.full(len(vertices.token_V) + 1, _ABSENT)
        edge_of_run_V[run_V] = where_E[: len(run_V)]
        tree = TokenTree.build(
            vertices.prefix_P,
            vertices.token_V[is_fed_V],
            number_V[vertices.parent_V[is_fed_V]],
            vertices.depth_V[is_fed_V],
            number_V[parent_E[order_E]],
            token_E[order_E],
        )
        children = np.split(where_E[len(run_V) : -1], np.cumsum(children_N)[:-1])
        last_N = vertices.last_of_sequence_N
        above_N = np.append(vertices.parent_V, _ABSENT)[last_N]
        read_after_N = number_V[np.where(children_N > 0, last_N, above_N)]
        return cls(tree, edge_of_run_V[run_vertices_NR], tuple(children), read_after_N, tuple(queries))

    def answers(self, edge_bits_E: np.ndarray) -> list[PathBits]:
        """One answer for each query, in order. A first token with nothing before it is not predicted: 0 bits."""
        bits_E = np.append(edge_bits_E, 0.0)
        if not len(self.tree.prefix_P):
            bits_E[:-1][self.tree.edge_parent_E < 0] = 0.0
        run_bits_N = bits_E[self.run_edges_NR].sum(axis=1)
        return [
            PathBits(float(run_bits), bits_E[edges])
            for run_bits, edges in zip(run_bits_N, self.children_edges, strict=True)
        ]


def _last_vertices(vertices: Vertices, run_N: IntArray) -> IntArray:
    """(N, R) the last `run_N` vertices of each sequence, from its end up; -1 where a run is shorter than R."""
    parents = np.append(vertices.parent_V, _ABSENT)
    found_NR = np.full((len(run_N), int(run_N.max(initial=0))), _ABSENT, dtype=np.int64)
    at_N = vertices.last_of_sequence_N
    for place in range(found_NR.shape[1]):
        found_NR[:, place] = np.where(place < run_N, at_N, _ABSENT)
        at_N = parents[at_N]
    return found_NR


def _with_ancestors(vertices: Vertices, chosen: IntArray) -> npt.NDArray[np.bool_]:
    """(V,) whether a vertex is one of `chosen` or above one; -1 means none."""
    is_in_V = np.zeros(len(vertices.token_V) + 1, dtype=bool)
    is_in_V[chosen] = True
    is_in_V = is_in_V[:-1]
    for level in range(int(vertices.depth_V.max(initial=0)), 1, -1):
        at_level = np.flatnonzero(is_in_V & (vertices.depth_V == level))
        is_in_V[vertices.parent_V[at_level]] = True
    return is_in_V
