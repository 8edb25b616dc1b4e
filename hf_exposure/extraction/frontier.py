"""The open nodes of a search, in arrays.

A node is 16 bytes: its cost, its expanded parent, and which child of that it is. Paths and texts are not kept but
followed back to the root, over the parents. The cheapest nodes stand in a small heap; all dearer ones lie unsorted
until the heap runs empty.

Memory: 16 bytes a node that was ever opened, 8 more while it is open, and 50 to 200 an expanded parent, its state
included. 10^7 open nodes take 0.4 GB where ten share a parent and up to 2 GB where two do; where a limit leaves most
parents with one child or none, it is `max_expansions` that bounds the memory.
"""

from __future__ import annotations

import heapq
from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_exposure.extraction.token_automaton import State, TokenAutomaton

__all__ = ["MOST_OPEN_NODES", "Frontier", "Node", "OpenNodes"]

MOST_OPEN_NODES = 10**7
"""At which a search stops, with what is certain by then; at most 2 GB."""

_LARGEST_HEAP = 2**17
_ROOT = -1


@dataclass(frozen=True)
class Node:
    """A node of a search: `path` is its tokens below the automaton's prefix, `cost_bits` those of the path.

    `parent` is the number of the expanded node that it is a child of; -1 for the root.
    """

    cost_bits: float
    path: tuple[int, ...]
    text: str
    state: State
    parent: int = _ROOT


@dataclass(frozen=True)
class OpenNodes:
    """M open nodes.

    Attributes:
        costs_M: bits.
        parents_M: number of the expanded parent; -1 for the root.
        children_M: which child of it.
    """

    costs_M: npt.NDArray[np.float64]
    parents_M: npt.NDArray[np.int32]
    children_M: npt.NDArray[np.int32]


class Frontier:
    """Open nodes, cheapest first; equal costs in the order of discovery, so that a search repeats itself exactly."""

    def __init__(self, automaton: TokenAutomaton) -> None:
        self._automaton = automaton
        # Expanded nodes, each with what it adds to its parent.
        self._parent, self._depth, self._length = array("i"), array("i"), array("i")
        self._text: list[str] = []
        self._state: list[State] = []
        self._tokens, self._first_token = array("i"), array("q")
        # Nodes ever opened, by number.
        self._cost, self._owner, self._child = array("d", [0.0]), array("i", [_ROOT]), array("i", [0])
        # In the heap: the first nodes by (cost, number). Behind it: all others, and their cost is at least the limit.
        self._heap: list[tuple[float, int]] = [(0.0, 0)]
        self._limit = float("inf")
        self._behind: list[npt.NDArray[np.int64]] = []
        self._latest = array("q")  # behind too, found after the others there
        self._open = 1

    def __len__(self) -> int:
        return self._open

    @property
    def cheapest_bits(self) -> float:
        """Cost of the cheapest open node; inf when none is open."""
        if not self._heap:
            self._refill()
        return self._heap[0][0] if self._heap else float("inf")

    def push_children(self, parent: Node, children: np.ndarray, costs_bits: np.ndarray, limit_bits: float) -> None:
        """Opens the children of an expanded node that cost at most `limit_bits`.

        `parent` is the node after its forced run; `children` says which of its moves they are.
        """
        kept = np.flatnonzero(costs_bits <= limit_bits)
        if not len(kept):
            return
        owner, first = self._add_parent(parent), len(self._cost)
        costs = costs_bits[kept].astype(np.float64)
        self._cost.frombytes(costs.tobytes())
        self._owner.extend([owner] * len(kept))
        self._child.frombytes(children[kept].astype(np.int32).tobytes())
        self._open += len(kept)
        near = costs < self._limit
        for at in np.flatnonzero(near).tolist():
            heapq.heappush(self._heap, (float(costs[at]), first + at))
        if not near.all():
            self._latest.frombytes((first + np.flatnonzero(~near)).tobytes())
        if len(self._heap) > _LARGEST_HEAP:
            self._spill()

    def peek(self, limit_bits: float) -> Node | None:
        """The cheapest open node, if it costs at most `limit_bits`."""
        return self._node(self._heap[0][1]) if self.cheapest_bits <= limit_bits and self._heap else None

    def pop(self, most: int, limit_bits: float) -> list[Node]:
        """Up to `most` open nodes that cost at most `limit_bits`, cheapest first."""
        nodes: list[Node] = []
        while len(nodes) < most and self.cheapest_bits <= limit_bits and self._heap:
            nodes.append(self._node(heapq.heappop(self._heap)[1]))
            self._open -= 1
        return nodes

    def open_nodes(self) -> OpenNodes:
        """Every open node, in no particular order."""
        inside = np.array([number for _, number in self._heap], dtype=np.int64)
        numbers = np.concatenate([inside, *self._behind, np.frombuffer(self._latest, "i8")])
        columns = (np.frombuffer(self._cost), np.frombuffer(self._owner, "i4"), np.frombuffer(self._child, "i4"))
        return OpenNodes(*(column[numbers] for column in columns))

    @property
    def parents(self) -> list[State]:
        """The states of the expanded nodes after their forced runs, by number."""
        return self._state

    def path_of(self, parent: int) -> tuple[int, ...]:
        """The tokens of an expanded node, forced run included."""
        pieces = []
        while parent != _ROOT:
            start = self._first_token[parent]
            stop = self._first_token[parent + 1] if parent + 1 < len(self._first_token) else len(self._tokens)
            pieces.append(self._tokens[start:stop])
            parent = self._parent[parent]
        return tuple(token for piece in reversed(pieces) for token in piece)

    def _text_of(self, parent: int) -> str:
        pieces = []
        while parent != _ROOT:
            pieces.append(self._text[parent])
            parent = self._parent[parent]
        return self._automaton.prefix_text + "".join(reversed(pieces))

    def _node(self, number: int) -> Node:
        owner, child = self._owner[number], self._child[number]
        if owner == _ROOT:
            return Node(0.0, (), self._automaton.prefix_text, self._automaton.root)
        moves = self._automaton.moves(self._state[owner])
        path = (*self.path_of(owner), int(moves.tokens[child]))
        return Node(self._cost[number], path, self._text_of(owner) + moves.pieces[child], moves.states[child], owner)

    def _add_parent(self, node: Node) -> int:
        above = node.parent
        depth = 0 if above == _ROOT else self._depth[above]
        length = len(self._automaton.prefix_text) if above == _ROOT else self._length[above]
        self._parent.append(above)
        self._depth.append(len(node.path))
        self._length.append(len(node.text))
        self._first_token.append(len(self._tokens))
        self._tokens.extend(node.path[depth:])
        self._text.append(node.text[length:])
        self._state.append(node.state)
        return len(self._parent) - 1

    def _refill(self) -> None:
        """The cheapest part of what lies behind moves into the empty heap."""
        if not self._behind and not self._latest:
            self._limit = float("inf")
            return
        numbers = np.concatenate([*self._behind, np.frombuffer(self._latest, "i8")])
        self._behind, self._latest = [], array("q")
        self._divide(
            numbers[np.argsort(np.frombuffer(self._cost)[numbers], kind="stable")], max(1, _LARGEST_HEAP // 2)
        )

    def _spill(self) -> None:
        """The dearer half of a full heap moves behind."""
        numbers = np.array([number for _, number in sorted(self._heap)], dtype=np.int64)
        self._divide(numbers, max(1, _LARGEST_HEAP // 2))

    def _divide(self, numbers: npt.NDArray[np.int64], size: int) -> None:
        """Sorted nodes, all of them before what lies behind already: `size` into the heap, the others behind."""
        costs = np.frombuffer(self._cost)[numbers[:size]].tolist()
        self._heap = list(zip(costs, numbers[:size].tolist(), strict=True))  # sorted, hence a heap
        self._limit = costs[-1]
        if len(numbers) > size:
            self._behind.insert(0, numbers[size:])
