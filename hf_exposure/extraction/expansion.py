"""One step of any search: a batch of open nodes through the model, leaves and children out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_exposure.extraction.frontier import Frontier, Node
from hf_exposure.extraction.token_automaton import Moves, TokenAutomaton, follow_forced_run
from hf_exposure.scoring import PathQuery, Scorer

__all__ = ["Expansion", "SearchCost", "expand", "next_nodes"]


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
        moves, costs_bits: the children that are no leaves yet, with their costs.
    """

    node: Node
    leaves: tuple[Node, ...]
    moves: Moves
    costs_bits: np.ndarray


def next_nodes(
    frontier: Frontier, automaton: TokenAutomaton, most: int, limit_bits: float, expansions_left: float
) -> list[Node]:
    """The next batch of a search: as many of the cheapest open nodes as its budget can still expand.

    With nothing left, those that a forced run leads to a whole text: they cost no expansion, so that a budget which is
    just enough ends with a certificate. None when the search is over.
    """
    if expansions_left > 0:
        return frontier.pop(int(min(most, expansions_left)), limit_bits)
    return frontier.pop(most, limit_bits, lambda node: not len(follow_forced_run(automaton, node.state)[3]))


def expand(scorer: Scorer, automaton: TokenAutomaton, nodes: list[Node], spent: SearchCost) -> Iterator[Expansion]:
    """Feeds the nodes in one batch. A last token's cost is read from its parent, so a leaf is never fed."""
    runs = [follow_forced_run(automaton, node.state) for node in nodes]
    queries = [
        PathQuery((*node.path, *tokens), len(tokens), moves.tokens)
        for node, (tokens, _, _, moves) in zip(nodes, runs, strict=True)
    ]
    answers = scorer.path_bits(automaton.prefix, queries)
    spent.forward_passes += 1
    spent.model_rows += len(nodes)
    for node, query, (_, text, state, moves), answer in zip(nodes, queries, runs, answers, strict=True):
        reached = Node(node.cost_bits + answer.run_bits, query.tokens, node.text + text, state)
        if not len(moves):
            yield Expansion(reached, (reached,), moves, np.zeros(0))
            continue
        spent.expansions += 1
        yield _split_leaves(automaton, reached, moves, reached.cost_bits + answer.children_bits)


def _split_leaves(automaton: TokenAutomaton, node: Node, moves: Moves, costs_bits: np.ndarray) -> Expansion:
    leaves, open_children = [], []
    for child, state in enumerate(moves.states):
        if len(automaton.moves(state)):
            open_children.append(child)
        else:
            path = (*node.path, int(moves.tokens[child]))
            leaves.append(Node(float(costs_bits[child]), path, node.text + moves.pieces[child], state))
    kept = Moves(
        moves.tokens[open_children],
        tuple(moves.pieces[c] for c in open_children),
        tuple(moves.states[c] for c in open_children),
    )
    return Expansion(node, tuple(leaves), kept, costs_bits[open_children])
