"""How many texts a stopped search may still have below its open nodes, at any cost.

A node of cost c has at most 2^(C - c) texts within C bits, since their probabilities sum to at most 1; and never more
than the graph counts below it, less those that do not compete.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hf_exposure.extraction.frontier import Frontier
from hf_exposure.extraction.token_automaton import State, TokenAutomaton

__all__ = ["OpenTexts", "Path"]

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
        exact = np.bincount(self.which_M[~is_near], minlength=len(self.counts)).tolist()
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
