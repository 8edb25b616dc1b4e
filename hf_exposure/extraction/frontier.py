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
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_exposure.extraction.token_automaton import State, TokenAutomaton

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


# How many texts a stopped search may still have below its open nodes, at any cost.
#
# A node of cost c has at most 2^(C - c) texts within C bits, since their probabilities sum to at most 1; and never
# more than the graph counts below it, less those that do not compete.

Path = tuple[int, ...]
_EXACT_BITS = 62  # 2^slack is held in an int64 below this; above, only the exact count can be the smaller


@dataclass(frozen=True)
class OpenTexts:
    """M open nodes, read once for all the texts that are to be ranked.

    Attributes:
        cheapest_bits: cost of the cheapest; inf when none is open.
        costs_M: cost of each, in bits.
        bounded_M: whether the bits of its texts bound their number.
        which_M: for each, the place of its count among the distinct ones.
        counts: the distinct exact numbers of competing texts below a node.
        index: the place of each node that lies on a path of interest.
    """

    cheapest_bits: float
    costs_M: np.ndarray
    bounded_M: np.ndarray
    which_M: np.ndarray
    counts: list[int]
    index: dict[Path, int]

    @classmethod
    def of(
        cls, frontier: Frontier, automaton: TokenAutomaton, wanted: Iterable[Path], silent: Iterable[Path]
    ) -> OpenTexts:
        """From what a search left open; `silent` paths do not compete, `wanted` ones are ranked."""
        hidden = Counter(prefix for path in silent for prefix in _prefixes(path))
        interesting = hidden.keys() | {prefix for path in wanted for prefix in _prefixes(path)}
        nodes, counts = frontier.open_nodes(), _DistinctCounts(automaton)
        which = np.empty(len(nodes.costs_M), dtype=np.int64)
        index: dict[Path, int] = {}
        order = np.argsort(nodes.parents_M, kind="stable")
        cuts = np.flatnonzero(np.diff(nodes.parents_M[order])) + 1
        for group in np.split(order, cuts) if len(order) else ():
            parent, children = int(nodes.parents_M[group[0]]), nodes.children_M[group]
            if parent < 0:
                which[group] = counts.number_of(automaton.count(automaton.root) - hidden[()])
                index[()] = int(group[0])
                continue
            state = frontier.parents[parent]
            which[group] = counts.below(state)[children]
            path = frontier.path_of(parent)
            if path not in interesting:
                continue
            tokens = automaton.moves(state).tokens[children].tolist()
            for at, token in zip(group.tolist(), tokens, strict=True):
                if (*path, token) in interesting:
                    index[*path, token] = at
                    which[at] = counts.number_of(counts.values[which[at]] - hidden[*path, token])
        # With nothing before it a first token is not scored: bits bound the number of texts only below it.
        bounded = np.full(len(which), True) if automaton.prefix else nodes.parents_M >= 0
        return cls(frontier.cheapest_bits, nodes.costs_M, bounded, which, counts.values, index)

    def is_closed(self, limit_bits: float) -> bool:
        """Whether no node within `limit_bits` is open."""
        return not len(self.costs_M) or self.cheapest_bits > limit_bits

    def within(self, limit_bits: float, path: Path | None) -> int:
        """Most competing texts that can cost at most `limit_bits`, not counting the one at `path`."""
        with np.errstate(invalid="ignore"):  # inf less inf: nothing is known, so the count holds
            slack = limit_bits - self.costs_M
        is_near = self.bounded_M & (slack < _EXACT_BITS)
        exact: list[int] = np.bincount(self.which_M[~is_near], minlength=len(self.counts)).tolist()
        total = sum(count * number for count, number in zip(self.counts, exact, strict=True))
        capped = np.array([min(count, 2**_EXACT_BITS) for count in self.counts], dtype=np.int64)
        values = np.zeros(len(slack), dtype=np.int64)
        values[is_near] = np.minimum(capped[self.which_M[is_near]], np.exp2(slack[is_near]).astype(np.int64))
        # In two halves: the sum may be too large for 64 bits.
        total += (int((values >> 31).sum()) << 31) + int((values & (2**31 - 1)).sum())
        own = [self.index[prefix] for prefix in _prefixes(path) if prefix in self.index] if path is not None else []
        return total - sum(self._value(at, bool(is_near[at]), values) > 0 for at in own)

    def _value(self, at: int, is_near: bool, values: np.ndarray) -> int:
        return int(values[at]) if is_near else self.counts[int(self.which_M[at])]


class _DistinctCounts:
    """Counts of texts are few, and may be too large for an array: numbers stand for them."""

    def __init__(self, automaton: TokenAutomaton) -> None:
        self.values: list[int] = []
        self._automaton = automaton
        self._numbers: dict[int, int] = {}
        self._below: dict[State, np.ndarray] = {}

    def number_of(self, count: int) -> int:
        if count not in self._numbers:
            self._numbers[count] = len(self.values)
            self.values.append(count)
        return self._numbers[count]

    def below(self, state: State) -> np.ndarray:
        """The number that stands for each child's count."""
        if state not in self._below:
            children = self._automaton.moves(state).states
            self._below[state] = np.array([self.number_of(self._automaton.count(child)) for child in children])
        return self._below[state]


def _prefixes(path: Path) -> Iterable[Path]:
    return (path[:length] for length in range(len(path) + 1))
