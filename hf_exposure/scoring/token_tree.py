"""Token sequences as one tree: what they share is scored once.

Shapes: N sequences, V vertices, M fed vertices, E edges, P tokens of prefix. Vertices are numbered in preorder
(a parent before its children, siblings by token id); -1 stands for the end of the shared prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# What a search asks about one of its states, and the answer.


@dataclass(frozen=True)
class PathQuery:
    """One state of a search.

    Attributes:
        tokens: the path below the search's prefix.
        run: how many of its last tokens are forced, their bits not yet known.
        children: token ids whose bits after the path are wanted; may be empty.
    """

    tokens: tuple[int, ...]
    run: int
    children: np.ndarray


@dataclass(frozen=True)
class PathBits:
    """The answer: bits of the run summed, and (C,) bits of each child. Never renormalised over the children."""

    run_bits: float
    children_bits: np.ndarray

    @property
    def figures(self) -> np.ndarray:
        """(1 + C,) both as one array."""
        return np.concatenate([[self.run_bits], self.children_bits])


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


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all sequences share; 0 of no sequences.

    Example:
        >>> shared_length([[5, 6, 7], [5, 6], [5, 6, 8]]), shared_length([[5], [6]])
        (2, 0)
    """
    for place, tokens in enumerate(zip(*sequences, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, sequences), default=0)


def grow_vertices(matrix_NL: IdMatrix, prefix_length: int | None = None) -> Vertices:
    """The tree of the padded sequences in `matrix_NL`; equal sequences end at one vertex.

    Args:
        matrix_NL: (N, L) token ids of any integer type, -1 after a sequence's end.
        prefix_length: how many leading tokens to treat as the shared prefix; all that are shared by default.
    """
    shared = _shared_by_rows(matrix_NL) if prefix_length is None else prefix_length
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


def _shared_by_rows(matrix_NL: IdMatrix) -> int:
    """As `shared_length`, for the rows of a matrix."""
    same = (matrix_NL == matrix_NL[0]).all(axis=0) & (matrix_NL[0] != _ABSENT)
    return int(np.logical_and.accumulate(same).sum())


def _subtree_ends(parent: IntArray, depth: IntArray) -> IntArray:
    end = np.arange(1, len(parent) + 1, dtype=np.int64)
    # Deepest first, so that a vertex's end is final before its parent reads it.
    for level in range(int(depth.max(initial=0)), 1, -1):
        at_level = np.flatnonzero(depth == level)
        np.maximum.at(end, parent[at_level], end[at_level])
    return end


# From what is asked to a token tree, and from its edges' bits back to what was asked.


@dataclass(frozen=True)
class SequenceTree:
    """N whole sequences: inner vertices are fed, every vertex is an edge, a sequence is a sum along its path.

    Attributes:
        tree: what the model is asked.
        vertices: all V vertices, leaves too.
        edge_of_vertex: (V,) the edge that reads each vertex.
        first_scored: position of the first scored token in every sequence.
    """

    tree: TokenTree
    vertices: Vertices
    edge_of_vertex: IntArray
    first_scored: int

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], first_scored: int) -> SequenceTree:
        """From N sequences of token ids."""
        return cls.of_matrix(pad_sequences(sequences), first_scored)

    @classmethod
    def of_matrix(cls, matrix_NL: IdMatrix, first_scored: int) -> SequenceTree:
        """From an (N, L) matrix of token ids, -1 after a sequence's end."""
        vertices = grow_vertices(matrix_NL)
        is_inner = np.zeros(len(vertices.token) + 1, dtype=bool)
        is_inner[vertices.parent] = True
        is_inner = is_inner[:-1]
        fed_number = np.append(np.cumsum(is_inner) - 1, -1)
        edge_parent = fed_number[vertices.parent]
        order = np.argsort(edge_parent, kind="stable")
        edge_of_vertex = np.empty_like(order)
        edge_of_vertex[order] = np.arange(len(order))
        tree = TokenTree.build(
            vertices.prefix,
            vertices.token[is_inner],
            edge_parent[is_inner],
            vertices.depth[is_inner],
            (edge_parent[order], vertices.token[order]),
        )
        return cls(tree, vertices, edge_of_vertex, first_scored)

    @property
    def read_after(self) -> IntArray:
        """(N,) the fed vertex after which each sequence's last token is read; -1 for the end of the prefix."""
        parents = np.append(self.tree.edge_parent[self.edge_of_vertex], -1)
        return parents[self.vertices.last_of_sequence]

    def totals(self, edge_bits: np.ndarray, prefix_bits: np.ndarray) -> np.ndarray:
        """(N,) float64 sums over the scored tokens of each sequence."""
        vertices, prefix = self.vertices, len(self.vertices.prefix)
        bits = edge_bits[self.edge_of_vertex]
        bits[prefix + vertices.depth - 1 < self.first_scored] = 0.0
        total = np.empty(len(bits) + 1)
        total[-1] = prefix_bits[self.first_scored :].sum()
        for level in range(1, int(vertices.depth.max(initial=0)) + 1):
            at_level = np.flatnonzero(vertices.depth == level)
            total[at_level] = total[vertices.parent[at_level]] + bits[at_level]
        return total[vertices.last_of_sequence]

    def bits_along(self, edge_bits: np.ndarray, prefix_bits: np.ndarray) -> list[np.ndarray]:
        """Of each sequence, (L - 1,) the bits of its tokens from the second on."""
        found = []
        for last in self.vertices.last_of_sequence.tolist():
            along: list[float] = []
            while last >= 0:
                along.append(float(edge_bits[self.edge_of_vertex[last]]))
                last = int(self.vertices.parent[last])
            found.append(np.concatenate([prefix_bits, along[::-1]])[1:])
        return found


@dataclass(frozen=True)
class PathTree:
    """Search states after one prefix: every vertex of every path is fed; runs and children are read.

    Attributes:
        tree: what the model is asked. Its first V edges in `edge_order` are the vertices' own, then the children.
        vertices: all path vertices.
        edge_order: where each asked edge ended up in the tree's ascending order.
        queries: as asked.
    """

    tree: TokenTree
    vertices: Vertices
    edge_order: IntArray
    queries: tuple[PathQuery, ...]

    @classmethod
    def of(cls, prefix: Sequence[int], queries: Sequence[PathQuery]) -> PathTree:
        """From queries, in any order; equal paths share their vertices."""
        matrix = pad_sequences([(*prefix, *query.tokens) for query in queries])
        vertices = grow_vertices(matrix, prefix_length=len(prefix))
        child_counts = [len(query.children) for query in queries]
        asked_parent = np.concatenate([vertices.parent, np.repeat(vertices.last_of_sequence, child_counts)])
        asked_token = np.concatenate([vertices.token, *(query.children for query in queries)]).astype(np.int64)
        order = np.argsort(asked_parent, kind="stable")
        where = np.empty_like(order)
        where[order] = np.arange(len(order))
        edges = (asked_parent[order], asked_token[order])
        tree = TokenTree.build(vertices.prefix, vertices.token, vertices.parent, vertices.depth, edges)
        return cls(tree, vertices, where, tuple(queries))

    def answers(self, edge_bits: np.ndarray) -> list[PathBits]:
        """One answer per query, in the order asked. A first token with nothing before it is not predicted: 0 bits."""
        asked = edge_bits[self.edge_order]
        if not len(self.vertices.prefix):
            asked[self.tree.edge_parent[self.edge_order] < 0] = 0.0
        answers, child = [], len(self.vertices.token)
        for query, last in zip(self.queries, self.vertices.last_of_sequence.tolist(), strict=True):
            run_bits, vertex = 0.0, last
            for _ in range(query.run):
                run_bits += float(asked[vertex])
                vertex = int(self.vertices.parent[vertex])
            answers.append(PathBits(run_bits, asked[child : child + len(query.children)]))
            child += len(query.children)
        return answers
