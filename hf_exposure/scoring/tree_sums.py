"""From what is asked to a token tree, and from its edges' bits back to what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_exposure.scoring.path_query import PathBits, PathQuery
from hf_exposure.scoring.token_tree import IdMatrix, IntArray, TokenTree, Vertices, grow_vertices, pad_sequences

__all__ = ["PathTree", "SequenceTree"]


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
