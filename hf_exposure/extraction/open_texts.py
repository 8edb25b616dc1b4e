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
from hf_exposure.extraction.token_automaton import TokenAutomaton

__all__ = ["OpenTexts", "Path"]

Path = tuple[int, ...]
_EXACT_BITS = 62  # 2^slack is held in an int64 below this; above, only the exact count can be the smaller


@dataclass(frozen=True)
class OpenTexts:
    """M open nodes, read once for all the texts that are to be ranked.

    Attributes:
        cheapest_bits: cost of the cheapest; inf when none is open.
        costs_M: cost of each, in bits.
        counts: M exact numbers of competing texts below each.
        index: the place of each node that lies on a path of interest.
    """

    cheapest_bits: float
    costs_M: np.ndarray
    counts: list[int]
    index: dict[Path, int]

    @classmethod
    def of(
        cls, frontier: Frontier, automaton: TokenAutomaton, wanted: Iterable[Path], silent: Iterable[Path]
    ) -> OpenTexts:
        """From what a search left open; `silent` paths do not compete, `wanted` ones are ranked."""
        hidden = Counter(prefix for path in silent for prefix in _prefixes(path))
        interesting = {prefix for path in wanted for prefix in _prefixes(path)}
        costs, counts, index = [], [], {}
        for at, node in enumerate(frontier.open_nodes()):
            costs.append(node.cost_bits)
            counts.append(automaton.count(node.state) - hidden[node.path])
            if node.path in interesting:
                index[node.path] = at
        return cls(frontier.cheapest_bits, np.array(costs), counts, index)

    def is_closed(self, limit_bits: float) -> bool:
        """Whether no node within `limit_bits` is open."""
        return not self.counts or self.cheapest_bits > limit_bits

    def within(self, limit_bits: float, path: Path | None) -> int:
        """Most competing texts that can cost at most `limit_bits`, not counting the one at `path`."""
        with np.errstate(invalid="ignore"):  # inf less inf: nothing is known, so the count holds
            slack = limit_bits - self.costs_M
        near = np.flatnonzero(slack < _EXACT_BITS)
        values = list(self.counts)
        for at, most in zip(near.tolist(), np.exp2(slack[near]).astype(np.int64).tolist(), strict=True):
            values[at] = min(values[at], most)
        own = [self.index[prefix] for prefix in _prefixes(path) if prefix in self.index] if path else []
        return sum(values) - sum(values[at] > 0 for at in own)


def _prefixes(path: Path) -> Iterable[Path]:
    return (path[:length] for length in range(len(path) + 1))
