"""The steps of any search: a batch of open nodes is fed to the model, which yields leaves and children, until a limit
is reached.

`extract` and `rank_bounds` are the same search with different goals. Both have a `Search` and request one batch after
another; each decides which nodes are still relevant (`limit_bits`) and which leaves to keep. Between two batches the
set of open nodes is complete: a user's limit or Ctrl-C can end the search there, with the results so far.

Shapes: C children of a state.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from hf_exposure.checks import flag, whole_number
from hf_exposure.extraction.frontier import MOST_OPEN_NODES, Frontier, Node
from hf_exposure.extraction.token_automaton import ForcedTokens, TokenAutomaton
from hf_exposure.scoring import PathQuery, Scorer


class SearchProgress:
    """Shows the progress of a search, and lets Ctrl-C stop it between two batches.

    As a context manager it handles Ctrl-C, in the main thread only: the first one asks the search to stop, and a
    second one interrupts at once, as usual.

    Args:
        progress: True shows a bar, False shows none, None shows it if stderr is a terminal.

    Attributes:
        interrupted: whether Ctrl-C asked the search to stop.
    """

    def __init__(self, progress: bool | None = False) -> None:
        self.interrupted = False
        self._disable = None if progress is None else not flag("progress", progress)
        self._bar, self._before = None, None  # type: Any, Any

    def __enter__(self) -> SearchProgress:
        self._bar = tqdm(desc="Searching", unit=" expansions", disable=self._disable)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask_to_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._bar.close()

    def should_continue(self, expansions: int, open_nodes: int, best_bits: float, certain_bits: float) -> bool:
        """Shows the progress of a search; returns False once Ctrl-C has asked it to stop.

        Args:
            expansions: the number of expansions so far.
            open_nodes: the number of states not yet expanded.
            best_bits: bits of the likeliest text found, after the prefix; inf for none.
            certain_bits: no text that may still be found costs less than this.
        """
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(
                f"{open_nodes} open, best {best_bits:.2f} bits, certain up to {certain_bits:.2f}"
            )
            self._bar.update(expansions - self._bar.n)
        return not self.interrupted

    def _ask_to_stop(self, signum: int, frame: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._before)


@dataclass(frozen=True)
class SearchLimits:
    """The limits that end a search early, and the batch size.

    Attributes:
        max_expansions: maximum number of expanded states with a choice; None for no limit.
        batch_size: maximum number of open nodes per call of the model.
        max_open_nodes: number of open nodes at which to stop.

    Raises:
        InputError: a limit is no whole number of at least 1.
    """

    max_expansions: int | None
    batch_size: int = 256
    max_open_nodes: int = MOST_OPEN_NODES

    def __post_init__(self) -> None:
        whole_number("batch_size", self.batch_size, 1)
        whole_number("max_open_nodes", self.max_open_nodes, 1)
        if self.max_expansions is not None:
            whole_number("max_expansions", self.max_expansions, 1)


@dataclass
class SearchCost:
    """The cost of a search.

    Attributes:
        expansions: expanded states with more than one child; forced tokens do not count.
        forward_passes: calls of the scorer's model side (one per batch of nodes).
        model_rows: nodes that needed the model.
    """

    expansions: int = 0
    forward_passes: int = 0
    model_rows: int = 0


@dataclass(frozen=True)
class Expansion:
    """A node after its forced tokens: its leaves, with exact costs, and the children still open.

    Attributes:
        node: the node after its forced tokens; its cost includes them.
        leaves: nodes that are whole texts.
        children_C: indices of the state's transitions that do not lead to a leaf.
        costs_C: the bits of these children.
    """

    node: Node
    leaves: tuple[Node, ...]
    children_C: npt.NDArray[np.int64]
    costs_C: npt.NDArray[np.float64]


class Search:
    """A search in progress: its open nodes, its cost, and the limit that ended it.

    Attributes:
        frontier: the open nodes; the caller pushes the relevant children.
        spent: the cost so far.
    """

    def __init__(
        self, scorer: Scorer, automaton: TokenAutomaton, limits: SearchLimits, progress: SearchProgress | None
    ) -> None:
        self._scorer, self._automaton, self._limits, self._progress = scorer, automaton, limits, progress
        self._started = time.perf_counter()
        self.frontier, self.spent = Frontier(automaton), SearchCost()
        self._lacks_budget = False

    def expand_next(self, batch_size: int, limit_bits: float, best_bits: float) -> list[Expansion]:
        """Expands the open nodes with the lowest cost, up to `limit_bits`; [] if the search ends.

        Args:
            batch_size: the maximum number of nodes.
            limit_bits: nodes that cost more are irrelevant.
            best_bits: bits of the likeliest text found so far, for display.
        """
        frontier, spent, limits = self.frontier, self.spent, self._limits
        if len(frontier) > limits.max_open_nodes:
            return []
        if self._progress and not self._progress.should_continue(
            spent.expansions, len(frontier), best_bits, frontier.cheapest_bits
        ):
            return []
        budget = float("inf") if limits.max_expansions is None else limits.max_expansions
        nodes = next_nodes(frontier, self._automaton, batch_size, limit_bits, budget - spent.expansions)
        return expand(self._scorer, self._automaton, nodes, spent) if nodes else []

    def lacks_budget(self, limit_bits: float) -> bool:
        """Whether the budget is too small to expand all open nodes that cost at most `limit_bits`.

        Each that has several texts below it takes one expansion at least. One below which all encodings prove not to
        be canonical would take none, which is not known before.
        """
        most = self._limits.max_expansions
        self._lacks_budget = (
            most is not None and self.frontier.branches_within(limit_bits) > most - self.spent.expansions
        )
        return self._lacks_budget

    def account(self) -> dict[str, Any]:
        """The fields of a `SearchResult`, except its certificate and note."""
        return {
            **asdict(self.spent),
            "seconds": time.perf_counter() - self._started,
            "backend": self._automaton.name,
            "exactness": self._automaton.exactness,
            "mode": self._scorer.mode or "",
        }

    @property
    def stopped_by(self) -> str:
        """The limit that ended a search before its completion."""
        if self._progress and self._progress.interrupted:
            return "interrupted"
        if self._lacks_budget:
            spent, most = self.spent.expansions, self._limits.max_expansions
            return f"stopped after {spent} expansions, since max_expansions={most} would not be enough"
        if len(self.frontier) > self._limits.max_open_nodes:
            return f"stopped at max_open_nodes={self._limits.max_open_nodes}"
        return f"stopped at max_expansions={self._limits.max_expansions}"


def next_nodes(
    frontier: Frontier, automaton: TokenAutomaton, batch_size: int, limit_bits: float, expansions_left: float
) -> list[tuple[Node, ForcedTokens]]:
    """The next batch of a search: the open nodes with the lowest cost that its budget can still expand, with their
    forced tokens.

    Nodes that lead to no canonical encoding are dropped. If the budget is used up, the batch contains only nodes whose
    forced tokens end a text: they cost no expansion, so that a budget that is just enough ends with a certificate. An
    empty batch ends the search.
    """
    if expansions_left <= 0:
        return _next_leaves(frontier, automaton, batch_size, limit_bits)
    while nodes := frontier.pop(int(min(batch_size, expansions_left)), limit_bits):
        forced = _forced_tokens(automaton, nodes)
        found = [(node, one) for node, one in zip(nodes, forced, strict=True) if one is not None]
        if found:
            return found
    return []


def _next_leaves(
    frontier: Frontier, automaton: TokenAutomaton, batch_size: int, limit_bits: float
) -> list[tuple[Node, ForcedTokens]]:
    found: list[tuple[Node, ForcedTokens]] = []
    while len(found) < batch_size and (node := frontier.peek(limit_bits)) is not None:
        (forced,) = _forced_tokens(automaton, [node])
        if forced is not None and len(forced.transitions):
            break
        frontier.pop(1, limit_bits)
        if forced is not None:
            found.append((node, forced))
    return found


def _forced_tokens(automaton: TokenAutomaton, nodes: list[Node]) -> list[ForcedTokens | None]:
    return automaton.forced_tokens(
        [node.path for node in nodes], [node.text for node in nodes], [node.state for node in nodes]
    )


def expand(
    scorer: Scorer, automaton: TokenAutomaton, nodes: list[tuple[Node, ForcedTokens]], spent: SearchCost
) -> list[Expansion]:
    """Feeds the nodes in one batch. A last token's cost is read from its parent, so a leaf is never fed."""
    queries = [
        PathQuery((*node.path, *forced.tokens), len(forced.tokens), forced.transitions.tokens_C)
        for node, forced in nodes
    ]
    answers = scorer.path_bits(automaton.prefix, queries)
    spent.forward_passes += 1
    spent.model_rows += len(nodes)
    expansions = []
    for (node, forced), query, answer in zip(nodes, queries, answers, strict=True):
        cost_bits, text = node.cost_bits + answer.run_bits, node.text + forced.text
        reached = Node(cost_bits, query.tokens, text, forced.state, node.parent)
        if len(forced.transitions):
            spent.expansions += 1
            expansions.append(_split_leaves(automaton, reached, cost_bits + answer.children_bits))
        else:
            expansions.append(Expansion(reached, (reached,), np.zeros(0, dtype=np.int64), np.zeros(0)))
    return _without_other_paths(automaton, expansions)


def _split_leaves(automaton: TokenAutomaton, node: Node, costs_C: npt.NDArray[np.float64]) -> Expansion:
    transitions = automaton.transitions(node.state)
    leaves = [
        Node(
            float(costs_C[child]),
            (*node.path, int(transitions.tokens_C[child])),
            node.text + transitions.pieces[child],
            transitions.states[child],
        )
        for child in transitions.leaves_C.tolist()
    ]
    return Expansion(node, tuple(leaves), transitions.inner_C, costs_C[transitions.inner_C])


def _without_other_paths(automaton: TokenAutomaton, expansions: list[Expansion]) -> list[Expansion]:
    """Removes leaves that are not the canonical encodings of their texts, judged in one batch."""
    leaves = [leaf for expansion in expansions for leaf in expansion.leaves]
    verdicts = iter(
        automaton.canonical([leaf.path for leaf in leaves], [leaf.text for leaf in leaves], [True] * len(leaves))
    )
    return [
        replace(expansion, leaves=tuple(leaf for leaf in expansion.leaves if next(verdicts)))
        for expansion in expansions
    ]
