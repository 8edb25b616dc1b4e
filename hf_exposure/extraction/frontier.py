"""The open nodes of a search.

One entry per expanded parent holds its children sorted by cost, with a cursor: only the cheapest child not yet taken
stands in the heap, so the heap is as long as the number of expanded parents, not of their children.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hf_exposure.extraction.token_automaton import Moves, State

__all__ = ["Frontier", "Node"]


@dataclass(frozen=True)
class Node:
    """An open node: `path` is its tokens below the automaton's prefix, `cost_bits` those of the path."""

    cost_bits: float
    path: tuple[int, ...]
    text: str
    state: State


@dataclass
class _Entry:
    path: tuple[int, ...]
    text: str
    moves: Moves
    order: np.ndarray
    costs: np.ndarray
    cursor: int = 0

    def node(self, at: int) -> Node:
        child = int(self.order[at])
        path = (*self.path, int(self.moves.tokens[child]))
        return Node(float(self.costs[at]), path, self.text + self.moves.pieces[child], self.moves.states[child])


class Frontier:
    """Open nodes, cheapest first; equal costs in the order of discovery, so that a search repeats itself exactly."""

    def __init__(self, root: Node) -> None:
        self._heap: list[tuple[float, int, _Entry]] = []
        self._count = 0
        moves = Moves(np.zeros(1, dtype=np.int64), ("",), (root.state,))
        self._root = root
        self._push(_Entry(root.path, root.text, moves, np.zeros(1, dtype=np.int64), np.array([root.cost_bits])))

    def __bool__(self) -> bool:
        return bool(self._heap)

    @property
    def cheapest_bits(self) -> float:
        """Cost of the cheapest open node; inf when none is open."""
        return self._heap[0][0] if self._heap else float("inf")

    def push_children(self, parent: Node, moves: Moves, costs_bits: np.ndarray, limit_bits: float) -> None:
        """Opens the children of an expanded node that cost at most `limit_bits`."""
        order = np.argsort(costs_bits, kind="stable")
        costs = costs_bits[order]
        kept = int(np.searchsorted(costs, limit_bits, side="right"))
        if kept:
            self._push(_Entry(parent.path, parent.text, moves, order[:kept], costs[:kept]))

    def pop(self, most: int, limit_bits: float, only: Callable[[Node], bool] | None = None) -> list[Node]:
        """Up to `most` open nodes that cost at most `limit_bits`, cheapest first, up to one that `only` refuses."""
        nodes: list[Node] = []
        while self._heap and len(nodes) < most and self._heap[0][0] <= limit_bits:
            entry = self._heap[0][2]
            node = self._root if entry is self._root_entry else entry.node(entry.cursor)
            if only is not None and not only(node):
                break
            nodes.append(node)
            entry.cursor += 1
            if entry.cursor < len(entry.costs):
                # The counter breaks ties between equal costs; entries themselves have no order.
                heapq.heapreplace(self._heap, (float(entry.costs[entry.cursor]), self._next(), entry))
            else:
                heapq.heappop(self._heap)
        return nodes

    def open_nodes(self) -> Iterator[Node]:
        """Every open node, in no particular order."""
        for _, _, entry in self._heap:
            if entry is self._root_entry:
                yield self._root
            else:
                yield from (entry.node(at) for at in range(entry.cursor, len(entry.costs)))

    def _push(self, entry: _Entry) -> None:
        if not self._count:
            self._root_entry = entry
        heapq.heappush(self._heap, (float(entry.costs[0]), self._next(), entry))

    def _next(self) -> int:
        self._count += 1
        return self._count
