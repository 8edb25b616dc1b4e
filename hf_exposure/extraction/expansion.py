"""One step of any search: a batch of open nodes through the model, leaves and children out."""

from __future__ import annotations

import signal
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from hf_exposure.checks import flag, whole_number
from hf_exposure.extraction.frontier import Frontier, Node
from hf_exposure.extraction.token_automaton import Run, TokenAutomaton
from hf_exposure.scoring import PathQuery, Scorer

# Watching a long search: a bar on the terminal, and Ctrl-C that ends it with what is certain by then.


class SearchWatch:
    """Lets a search say how far it is, and be stopped between two batches, when its open nodes are whole.

    As a context manager it takes Ctrl-C for itself, in the main thread only: the first one asks the search to stop,
    a second one interrupts at once, as usual.

    Args:
        progress: True shows the bar, False shows none, None shows it where stderr is a terminal.
        description: what stands before the bar.
    """

    def __init__(self, progress: bool | None = False, description: str = "Searching") -> None:
        self.interrupted = False
        self._disable = None if progress is None else not flag("progress", progress)
        self._description, self._bar, self._before = description, None, None  # type: Any, Any, Any

    def __enter__(self) -> SearchWatch:
        self._bar = tqdm(desc=self._description, unit=" expansions", disable=self._disable)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask_to_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._bar.close()

    def goes_on(self, expansions: int, open_nodes: int, best_bits: float, certain_bits: float) -> bool:
        """Shows where a search stands; whether it may go on.

        Args:
            expansions: so far.
            open_nodes: states not yet expanded.
            best_bits: of the likeliest text found, after the prefix; inf for none.
            certain_bits: no text that is still to be found costs less.
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


def check_limits(**limits: Any) -> None:
    """Refuses a limit that is no whole number or below 1."""
    for name, value in limits.items():
        whole_number(name, value, 1)


def stopped_at(
    frontier: Frontier, max_open_nodes: int, max_expansions: int | None, watch: SearchWatch | None = None
) -> str:
    """What ended a search before its end."""
    if watch and watch.interrupted:
        return "interrupted"
    if len(frontier) > max_open_nodes:
        return f"stopped at max_open_nodes={max_open_nodes}"
    return f"stopped at max_expansions={max_expansions}"


@dataclass
class SearchCost:
    """What a search spent.

    Attributes:
        expansions: states with more than one child that were expanded; forced runs cost none.
        forward_passes: calls of the scorer's model side (one per batch of nodes).
        model_rows: nodes that needed the model.
    """

    expansions: int = 0
    forward_passes: int = 0
    model_rows: int = 0


@dataclass(frozen=True)
class Expansion:
    """A node after its forced run: its leaves, with exact costs, and the children still open.

    Attributes:
        node: the node at the end of its run; its cost includes the run.
        leaves: nodes that are whole texts.
        children: which of the state's moves are no leaves yet.
        costs_bits: of those.
    """

    node: Node
    leaves: tuple[Node, ...]
    children: np.ndarray
    costs_bits: np.ndarray


def next_nodes(
    frontier: Frontier, automaton: TokenAutomaton, most: int, limit_bits: float, expansions_left: float
) -> list[tuple[Node, Run]]:
    """The next batch of a search: as many of the cheapest open nodes as its budget can still expand, with their runs.

    What leads to no canonical encoding is dropped on the way. With nothing left of the budget, those that a forced run
    leads to a whole text: they cost no expansion, so that a budget which is just enough ends with a certificate. None
    when the search is over.
    """
    if expansions_left <= 0:
        return _next_leaves(frontier, automaton, most, limit_bits)
    while nodes := frontier.pop(int(min(most, expansions_left)), limit_bits):
        found = [(node, run) for node, run in zip(nodes, _runs(automaton, nodes), strict=True) if run is not None]
        if found:
            return found
    return []


def _next_leaves(
    frontier: Frontier, automaton: TokenAutomaton, most: int, limit_bits: float
) -> list[tuple[Node, Run]]:
    found: list[tuple[Node, Run]] = []
    while len(found) < most and (node := frontier.peek(limit_bits)) is not None:
        (run,) = _runs(automaton, [node])
        if run is not None and len(run[3]):
            break
        frontier.pop(1, limit_bits)
        if run is not None:
            found.append((node, run))
    return found


def _runs(automaton: TokenAutomaton, nodes: list[Node]) -> list[Run | None]:
    return automaton.runs([node.path for node in nodes], [node.text for node in nodes], [node.state for node in nodes])


def expand(
    scorer: Scorer, automaton: TokenAutomaton, nodes: list[tuple[Node, Run]], spent: SearchCost
) -> list[Expansion]:
    """Feeds the nodes in one batch. A last token's cost is read from its parent, so a leaf is never fed."""
    queries = [PathQuery((*node.path, *tokens), len(tokens), moves.tokens) for node, (tokens, _, _, moves) in nodes]
    answers = scorer.path_bits(automaton.prefix, queries)
    spent.forward_passes += 1
    spent.model_rows += len(nodes)
    expansions = []
    for (node, (_, text, state, moves)), query, answer in zip(nodes, queries, answers, strict=True):
        reached = Node(node.cost_bits + answer.run_bits, query.tokens, node.text + text, state, node.parent)
        if not len(moves):
            expansions.append(Expansion(reached, (reached,), np.zeros(0, dtype=np.int64), np.zeros(0)))
            continue
        spent.expansions += 1
        expansions.append(_split_leaves(automaton, reached, reached.cost_bits + answer.children_bits))
    return _without_other_paths(automaton, expansions)


def _split_leaves(automaton: TokenAutomaton, node: Node, costs_bits: np.ndarray) -> Expansion:
    moves = automaton.moves(node.state)
    ends = np.array([automaton.is_leaf(state) for state in moves.states])
    leaves = [
        Node(
            float(costs_bits[child]),
            (*node.path, int(moves.tokens[child])),
            node.text + moves.pieces[child],
            moves.states[child],
        )
        for child in np.flatnonzero(ends).tolist()
    ]
    return Expansion(node, tuple(leaves), np.flatnonzero(~ends), costs_bits[~ends])


def _without_other_paths(automaton: TokenAutomaton, expansions: list[Expansion]) -> list[Expansion]:
    """The same without leaves that are not the canonical encodings of their texts, judged in one batch."""
    leaves = [leaf for expansion in expansions for leaf in expansion.leaves]
    verdicts = iter(
        automaton.canonical([leaf.path for leaf in leaves], [leaf.text for leaf in leaves], [True] * len(leaves))
    )
    return [
        Expansion(one.node, tuple(leaf for leaf in one.leaves if next(verdicts)), one.children, one.costs_bits)
        for one in expansions
    ]
