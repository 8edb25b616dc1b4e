"""The open nodes of a search: the one with the lowest cost, and bounds on the number of texts below them.

**The order.** `Frontier` is a lazy two-level heap. The first level is a heap of bounded size with the nodes of lowest
cost. The second level is a plain, unsorted array of all other nodes; it is only used when the heap runs empty, and its
part with the lowest costs then becomes the next heap. Most searches end before that, so most nodes are never sorted.

    heap      costs 3, 4, 4, 5        all at most the limit 5
    unsorted  costs 9, 5, 7, 6, ...   all at least 5, and those of 5 were found later than those in the heap

A node takes 16 bytes in flat arrays: its cost, its expanded parent, and its index among that parent's children. Paths
and texts are not stored but reconstructed by following the parents to the root. An open node takes 8 more bytes, and
an expanded parent 50 to 200, including its state. 10^7 open nodes take 0.4 GB if ten share a parent and up to 2 GB if
two do; if a limit leaves most parents with one child or none, `max_expansions` bounds the memory.

**The bound.** A search that stops early leaves nodes open. Two numbers bound the texts below a node of cost c that
cost at most C bits: the exact number of competing texts below the node (`TextsBelow`), and 2^(C - c), since the
probabilities of the node's texts sum to at most 1 (`FrontierBounds`). For C = 21 bits, a node of 1 bit with ten texts
below it and nine nodes of 20 bits with ten texts each leave at most min(10, 2^20) + 9 min(10, 2^1) = 28 texts.

Shapes: M open nodes; C children of a state.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_exposure.extraction.token_automaton import Path, State, TokenAutomaton

MOST_OPEN_NODES = 10**7
"""The number of open nodes at which a search stops with the results so far; they take at most 2 GB."""

# A heap of a few thousand nodes is fast. If many nodes are open, it is larger, so that it is refilled less often.
_SMALLEST_HEAP, _LARGEST_HEAP, _SHARE_IN_HEAP = 2**12, 2**17, 1 / 32
_ROOT = -1


@dataclass(frozen=True)
class Node:
    """A node of a search.

    Attributes:
        cost_bits: the cost of its path.
        path: its tokens after the automaton's prefix.
        text: the text from its first character on.
        state: the state of the automaton.
        parent: the number of its expanded parent; -1 for the root.
    """

    cost_bits: float
    path: Path
    text: str
    state: State
    parent: int = _ROOT


@dataclass(frozen=True)
class OpenNodes:
    """M open nodes.

    Attributes:
        costs_M: costs in bits.
        parents_M: number of the expanded parent; -1 for the root.
        children_M: index among that parent's children.
    """

    costs_M: npt.NDArray[np.float64]
    parents_M: npt.NDArray[np.int32]
    children_M: npt.NDArray[np.int32]


class Frontier:
    """Open nodes in ascending order of cost; equal costs in the order of discovery, so that a search is exactly
    reproducible.
    """

    def __init__(self, automaton: TokenAutomaton) -> None:
        self._automaton = automaton
        # Expanded nodes, each with the tokens and text that it adds to its parent.
        self._parent, self._depth, self._length = array("i"), array("i"), array("i")
        self._text: list[str] = []
        self._state: list[State] = []
        self._tokens, self._first_token = array("i"), array("q")
        # All nodes that were ever opened, by number.
        self._cost, self._owner, self._child = array("d", [0.0]), array("i", [_ROOT]), array("i", [0])
        # The heap holds the first open nodes by (cost, number). All others are unsorted, and cost at least the limit.
        self._heap: list[tuple[float, int]] = [(0.0, 0)]
        self._limit_bits = float("inf")
        self._unsorted = array("q")
        self._heap_size = self._fitting_heap()

    def __len__(self) -> int:
        return len(self._heap) + len(self._unsorted)

    @property
    def cheapest_bits(self) -> float:
        """The lowest cost of an open node; inf if none is open."""
        if not self._heap:
            self._refill()
        return self._heap[0][0] if self._heap else float("inf")

    def push_children(self, parent: Node, children_C: np.ndarray, costs_C: np.ndarray, limit_bits: float) -> None:
        """Opens the children of an expanded node that cost at most `limit_bits`.

        `parent` is the node after its forced tokens; `children_C` are the indices of its transitions.
        """
        kept = np.flatnonzero(costs_C <= limit_bits)
        if not len(kept):
            return
        owner, first = self._add_parent(parent), len(self._cost)
        costs = costs_C[kept].astype(np.float64)
        self._cost.frombytes(costs.tobytes())
        self._owner.extend(array("i", [owner]) * len(kept))
        self._child.frombytes(children_C[kept].astype(np.int32).tobytes())
        is_near = costs < self._limit_bits
        for at in np.flatnonzero(is_near).tolist():
            heapq.heappush(self._heap, (float(costs[at]), first + at))
        if not is_near.all():
            self._unsorted.frombytes((first + np.flatnonzero(~is_near)).tobytes())
        if len(self._heap) > 2 * self._heap_size:
            self._spill()

    def peek(self, limit_bits: float) -> Node | None:
        """The open node with the lowest cost, if it costs at most `limit_bits`."""
        return self._node(self._heap[0][1]) if self.cheapest_bits <= limit_bits and self._heap else None

    def pop(self, most: int, limit_bits: float) -> list[Node]:
        """Up to `most` open nodes that cost at most `limit_bits`, in ascending order of cost."""
        nodes: list[Node] = []
        while len(nodes) < most and self.cheapest_bits <= limit_bits and self._heap:
            nodes.append(self._node(heapq.heappop(self._heap)[1]))
        return nodes

    def open_nodes(self) -> OpenNodes:
        """Every open node, in no particular order."""
        in_heap = np.array([number for _, number in self._heap], dtype=np.int64)
        numbers = np.concatenate([in_heap, np.frombuffer(self._unsorted, "i8")])
        columns = (np.frombuffer(self._cost), np.frombuffer(self._owner, "i4"), np.frombuffer(self._child, "i4"))
        return OpenNodes(*(column[numbers] for column in columns))

    def branches_within(self, limit_bits: float) -> int:
        """How many open nodes that cost at most `limit_bits` have several texts below them."""
        nodes = self.open_nodes()
        within = np.flatnonzero(nodes.costs_M <= limit_bits)
        order = within[np.argsort(nodes.parents_M[within], kind="stable")]
        parents, starts = np.unique(nodes.parents_M[order], return_index=True)
        branches = 0
        for parent, siblings in zip(parents.tolist(), np.split(order, starts[1:]), strict=True):
            if parent == _ROOT:
                branches += self._automaton.count(self._automaton.root) > 1
            else:
                counts = self._automaton.transitions(self._state[parent]).counts
                branches += sum(counts[child] > 1 for child in nodes.children_M[siblings].tolist())
        return branches

    @property
    def parents(self) -> list[State]:
        """The states of the expanded nodes after their forced tokens, by number."""
        return self._state

    def path_of(self, parent: int) -> Path:
        """The tokens of an expanded node, including forced ones."""
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
        transitions = self._automaton.transitions(self._state[owner])
        path = (*self.path_of(owner), int(transitions.tokens_C[child]))
        text = self._text_of(owner) + transitions.pieces[child]
        return Node(self._cost[number], path, text, transitions.states[child], owner)

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

    def _fitting_heap(self) -> int:
        """The number of nodes in the heap after it was filled, or cut back from twice as many."""
        share = int(len(self._unsorted) * _SHARE_IN_HEAP)
        return max(1, min(_LARGEST_HEAP // 2, max(_SMALLEST_HEAP, share)))

    def _spill(self) -> None:
        """Moves the costlier part of a full heap out."""
        self._heap.sort()  # a sorted list is a heap too
        self._unsorted.extend(number for _, number in self._heap[self._heap_size :])
        del self._heap[self._heap_size :]
        self._limit_bits = self._heap[-1][0]

    def _refill(self) -> None:
        """Moves the first unsorted nodes by (cost, number) into the empty heap."""
        numbers = np.array(self._unsorted, dtype=np.int64)
        costs, self._heap_size = np.frombuffer(self._cost)[numbers], self._fitting_heap()
        size = self._heap_size
        if len(numbers) <= size:
            is_chosen, self._limit_bits = np.full(len(numbers), True), float("inf")
        else:
            self._limit_bits = float(np.partition(costs, size - 1)[size - 1])
            is_chosen, ties = costs < self._limit_bits, np.flatnonzero(costs == self._limit_bits)
            is_chosen[ties[np.argsort(numbers[ties])][: size - is_chosen.sum()]] = True
        self._unsorted = array("q", numbers[~is_chosen].tobytes())
        costs, numbers = costs[is_chosen], numbers[is_chosen]
        order = np.lexsort((numbers, costs))
        self._heap = list(zip(costs[order].tolist(), numbers[order].tolist(), strict=True))


@dataclass(frozen=True)
class TextsBelow:
    """The exact number of competing texts, of any cost, below each of M open nodes.

    Attributes:
        counts: the distinct numbers, which are few and may be too large for an array.
        which_M: for each node, the index of its number in `counts`.
        node_at: the open node at a path, for the paths of the texts to rank.
    """

    counts: Sequence[int]
    which_M: npt.NDArray[np.int64]
    node_at: dict[Path, int]

    @classmethod
    def of(
        cls,
        nodes: OpenNodes,
        frontier: Frontier,
        automaton: TokenAutomaton,
        ranked: Iterable[Path],
        excluded: Iterable[Path],
    ) -> TextsBelow:
        """Counts texts below the open `nodes` of a search; texts at `excluded` paths do not compete, and `ranked`
        ones are ranked.
        """
        excluded_below = Counter(beginning for path in excluded for beginning in _beginnings(path))
        of_interest = excluded_below.keys() | {beginning for path in ranked for beginning in _beginnings(path)}
        numbers = _NumberedCounts(automaton)
        which_M = np.empty(len(nodes.costs_M), dtype=np.int64)
        node_at: dict[Path, int] = {}
        order = np.argsort(nodes.parents_M, kind="stable")
        cuts = np.flatnonzero(np.diff(nodes.parents_M[order])) + 1
        for siblings in np.split(order, cuts) if len(order) else ():
            parent, children = int(nodes.parents_M[siblings[0]]), nodes.children_M[siblings]
            if parent == _ROOT:
                which_M[siblings] = numbers.number_of(automaton.count(automaton.root) - excluded_below[()])
                node_at[()] = int(siblings[0])
                continue
            state, path = frontier.parents[parent], frontier.path_of(parent)
            which_M[siblings] = numbers.below(state)[children]
            if path not in of_interest:
                continue
            tokens = automaton.transitions(state).tokens_C[children].tolist()
            for at, token in zip(siblings.tolist(), tokens, strict=True):
                if (own := (*path, token)) in of_interest:
                    node_at[own] = at
                    which_M[at] = numbers.number_of(numbers.counts[which_M[at]] - excluded_below[own])
        return cls(numbers.counts, which_M, node_at)

    def node_above(self, path: Path) -> int | None:
        """The open node above the text at a ranked path; None if the search has passed it."""
        return next((self.node_at[beginning] for beginning in _beginnings(path) if beginning in self.node_at), None)


class _NumberedCounts:
    """The distinct counts of texts, numbered in order of occurrence."""

    def __init__(self, automaton: TokenAutomaton) -> None:
        self.counts: list[int] = []
        self._automaton = automaton
        self._number_of: dict[int, int] = {}
        self._below: dict[State, npt.NDArray[np.int64]] = {}

    def number_of(self, count: int) -> int:
        if count not in self._number_of:
            self._number_of[count] = len(self.counts)
            self.counts.append(count)
        return self._number_of[count]

    def below(self, state: State) -> npt.NDArray[np.int64]:
        """(C,) the number of each child's count."""
        if state not in self._below:
            self._below[state] = np.array(list(map(self.number_of, self._automaton.transitions(state).counts)))
        return self._below[state]


def _beginnings(path: Path) -> Iterable[Path]:
    return (path[:length] for length in range(len(path) + 1))


@dataclass(frozen=True)
class FrontierBounds:
    """Bounds on the number of texts below M open nodes that cost at most a given number of bits.

    Attributes:
        cheapest_bits: the lowest cost of a node; inf if none is open.
        costs_M: the cost of each, in bits; -inf if the bits of its texts do not bound their number.
        below: the number of texts below each.
    """

    cheapest_bits: float
    costs_M: npt.NDArray[np.float64]
    below: TextsBelow

    @classmethod
    def of(
        cls, frontier: Frontier, automaton: TokenAutomaton, ranked: Iterable[Path], excluded: Iterable[Path]
    ) -> FrontierBounds:
        """Like `TextsBelow.of`, for all open nodes of a search."""
        nodes = frontier.open_nodes()
        # Without a prefix the first token is not scored, so bits bound the number of texts only below it.
        is_bounded_M = nodes.parents_M != _ROOT if not automaton.prefix else True
        costs_M = np.where(is_bounded_M, nodes.costs_M, -np.inf)
        return cls(frontier.cheapest_bits, costs_M, TextsBelow.of(nodes, frontier, automaton, ranked, excluded))

    def is_closed(self, limit_bits: float) -> bool:
        """Whether no open node costs at most `limit_bits`."""
        return not len(self.costs_M) or self.cheapest_bits > limit_bits

    def most_texts(self, limit_bits: float, path: Path | None) -> int:
        """The largest number of competing texts within `limit_bits`, not counting the one at a ranked `path`."""
        with np.errstate(invalid="ignore"):  # inf - inf: nothing is known, so the count is used
            slack_M = limit_bits - self.costs_M
        most = most_texts_within(slack_M, self.below.which_M, self.below.counts)
        own = self.below.node_above(path) if path is not None else None
        if own is None:
            return most
        is_counted = most_texts_within(slack_M[[own]], self.below.which_M[[own]], self.below.counts) > 0
        return most - is_counted


_EXACT_BITS = 62  # below it 2^slack fits an int64; above it the exact count is always smaller
_ABOVE_ROUNDING = 1 + 2**-50  # four times the spacing of doubles; powers are rounded by about one


def most_texts_within(slack_M: npt.NDArray[np.float64], which_M: npt.NDArray[np.int64], counts: Sequence[int]) -> int:
    """At least `sum_i min(count_i, floor(2^slack_i))` over M nodes, in exact integers of any size.

    Powers are computed in double precision, whose last digit differs between machines and libraries. They are
    increased by one part in 2^50, so that a bound is never below the true one.

    Args:
        slack_M: bits between the cost of a node and the limit; inf or NaN if only the count is a bound.
        which_M: the index of each node's count in `counts`.
        counts: distinct numbers of texts.

    Example:
        >>> most_texts_within(np.array([20.0] + 9 * [1.0]), np.zeros(10, dtype=int), [10])
        28
    """
    is_near_M = slack_M < _EXACT_BITS
    nodes_with: list[int] = np.bincount(which_M[~is_near_M], minlength=len(counts)).tolist()
    total = sum(count * nodes for count, nodes in zip(counts, nodes_with, strict=True))
    capped = np.array([min(count, 2**_EXACT_BITS) for count in counts], dtype=np.int64)
    near = np.minimum(capped[which_M[is_near_M]], (np.exp2(slack_M[is_near_M]) * _ABOVE_ROUNDING).astype(np.int64))
    # In two halves, since the sum may be too large for 64 bits.
    return total + (int((near >> 31).sum()) << 31) + int((near & (2**31 - 1)).sum())
