"""Random texts of a template, drawn token by token from the model itself, with the probability of each.

Uniform draws almost never meet a text that the model finds likely; draws from the model do, and are weighted back.
Several temperatures at once cover the whole range of costs, and a uniform part bounds the weights.

Legend: N draws, B states in a batch, C children (padded), S components of the mixture.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from hf_exposure.extraction.expansion import SearchCost
from hf_exposure.extraction.token_automaton import Moves, TokenAutomaton, follow_forced_run
from hf_exposure.scoring import PathQuery, Scorer

__all__ = ["EXPONENTS", "Proposals", "draw_proposals"]

# Exponents on the model's probabilities: 0 is uniform over texts, 1 is the model. See docs/design.
EXPONENTS = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Proposals:
    """N weighted draws; one set serves every canary of the template.

    Attributes:
        texts: the N texts drawn.
        hole_bits: (N,) their bits after the automaton's prefix.
        log2_q: (N, S) log2 of the probability that each component gives each draw.
        strata: (N,) the component that each was drawn from; all components draw equally often.
    """

    texts: tuple[str, ...]
    hole_bits: np.ndarray
    log2_q: np.ndarray
    strata: np.ndarray

    def weights(self, space_size: int) -> np.ndarray:
        """(N,) balance-heuristic weights `1 / (|R| q_mix(r))`, of mean about 1 and at most S."""
        log2_mixture = np.logaddexp2.reduce(self.log2_q, axis=1) - math.log2(self.log2_q.shape[1])
        return np.exp2(-math.log2(space_size) - log2_mixture)

    def join(self, other: Proposals) -> Proposals:
        """Both sets as one."""
        return Proposals(
            self.texts + other.texts,
            np.concatenate([self.hole_bits, other.hole_bits]),
            np.concatenate([self.log2_q, other.log2_q]),
            np.concatenate([self.strata, other.strata]),
        )


@dataclass
class _Walk:
    """B distinct states that some draws have reached."""

    paths: list[tuple[int, ...]]
    texts: list[str]
    states: list[Hashable]
    bits: np.ndarray
    log2_q: np.ndarray


@dataclass(frozen=True)
class _Step:
    """The children of B states after their forced runs, padded to C."""

    walk: _Walk
    moves: list[Moves]
    child_bits_BC: np.ndarray
    log2_counts_BC: np.ndarray


def draw_proposals(
    scorer: Scorer, automaton: TokenAutomaton, count: int, generator: np.random.Generator, spent: SearchCost
) -> Proposals:
    """Draws `count` texts (rounded up to a multiple of S), as many from each component.

    At a state, component `t` takes child `j` with probability proportional to `count_j^max(0, 1 - t) 2^(-t bits_j)`:
    exponent 0 is uniform over texts, whatever the shape of the graph, exponent 1 the model restricted to the template.
    """
    per_component = -(-count // len(EXPONENTS))
    strata = np.repeat(np.arange(len(EXPONENTS)), per_component)
    walk = _Walk([()], [automaton.prefix_text], [automaton.root], np.zeros(1), np.zeros((1, len(EXPONENTS))))
    at = np.zeros(len(strata), dtype=np.int64)
    active = np.arange(len(strata))
    texts = [""] * len(strata)
    bits = np.zeros(len(strata))
    log2_q = np.zeros((len(strata), len(EXPONENTS)))
    counts = _LogCounts(automaton)
    while len(active):
        step = _advance(scorer, automaton, walk, counts, spent)
        ended = np.array([not len(moves) for moves in step.moves])[at]
        for draw, row in zip(active[ended].tolist(), at[ended].tolist(), strict=True):
            texts[draw], bits[draw], log2_q[draw] = step.walk.texts[row], step.walk.bits[row], step.walk.log2_q[row]
        active, at = active[~ended], at[~ended]
        walk, at = _choose(step, at, strata[active], generator)
        if len(active):
            is_leaf = np.array([not len(automaton.moves(state)) for state in walk.states])
            for draw, row in zip(active[is_leaf[at]].tolist(), at[is_leaf[at]].tolist(), strict=True):
                texts[draw], bits[draw], log2_q[draw] = walk.texts[row], walk.bits[row], walk.log2_q[row]
            active, at = active[~is_leaf[at]], at[~is_leaf[at]]
            walk, at = _keep(walk, ~is_leaf, at)
    return Proposals(tuple(texts), bits, log2_q, strata)


class _LogCounts:
    """log2 of the number of texts below each child, computed once per distinct state."""

    def __init__(self, automaton: TokenAutomaton) -> None:
        self._automaton = automaton
        self._known: dict[Hashable, np.ndarray] = {}

    def of(self, state: Hashable, moves: Moves) -> np.ndarray:
        if state not in self._known:
            self._known[state] = np.array([math.log2(self._automaton.count(child)) for child in moves.states])
        return self._known[state]


def _advance(scorer: Scorer, automaton: TokenAutomaton, walk: _Walk, counts: _LogCounts, spent: SearchCost) -> _Step:
    """Follows forced runs and scores the children of every state, in one call."""
    runs = [follow_forced_run(automaton, state) for state in walk.states]
    paths = [(*path, *run[0]) for path, run in zip(walk.paths, runs, strict=True)]
    queries = [PathQuery(path, len(run[0]), run[3].tokens) for path, run in zip(paths, runs, strict=True)]
    answers = scorer.path_bits(automaton.prefix, queries)
    spent.forward_passes += 1
    spent.model_rows += len(queries)
    spent.expansions += sum(len(run[3]) > 1 for run in runs)
    widest = max(len(run[3]) for run in runs)
    child_bits = np.full((len(runs), max(widest, 1)), np.inf)
    log2_counts = np.full_like(child_bits, -np.inf)
    for row, ((_, _, state, moves), answer) in enumerate(zip(runs, answers, strict=True)):
        child_bits[row, : len(moves)] = answer.children_bits
        log2_counts[row, : len(moves)] = counts.of(state, moves)
    reached = _Walk(
        paths,
        [text + run[1] for text, run in zip(walk.texts, runs, strict=True)],
        [run[2] for run in runs],
        walk.bits + np.array([answer.run_bits for answer in answers]),
        walk.log2_q,
    )
    return _Step(reached, [run[3] for run in runs], child_bits, log2_counts)


def _choose(
    step: _Step, at: np.ndarray, strata: np.ndarray, generator: np.random.Generator
) -> tuple[_Walk, np.ndarray]:
    """One child for each draw; draws that took the same child share a state."""
    log2_q_BSC = np.stack([_component(step, exponent) for exponent in EXPONENTS], axis=1)
    cumulative = np.cumsum(np.exp2(log2_q_BSC), axis=2)
    uniform = generator.random(len(at)) * cumulative[at, strata, -1]
    child = (cumulative[at, strata] <= uniform[:, None]).sum(axis=1)
    # Rounding may run past the last child that has any probability.
    child = np.minimum(child, np.array([len(step.moves[row]) for row in at.tolist()], dtype=np.int64) - 1)
    width = step.child_bits_BC.shape[1]
    distinct, at_new = np.unique(at * width + child, return_inverse=True)
    rows, children = np.divmod(distinct, width)
    old = step.walk
    pairs = list(zip(rows.tolist(), children.tolist(), strict=True))
    walk = _Walk(
        [(*old.paths[row], int(step.moves[row].tokens[j])) for row, j in pairs],
        [old.texts[row] + step.moves[row].pieces[j] for row, j in pairs],
        [step.moves[row].states[j] for row, j in pairs],
        old.bits[rows] + step.child_bits_BC[rows, children],
        old.log2_q[rows] + log2_q_BSC[rows, :, children],
    )
    return walk, at_new


def _component(step: _Step, exponent: float) -> np.ndarray:
    """(B, C) log2 probabilities of one component; -inf for padding."""
    score = -exponent * step.child_bits_BC if exponent else np.zeros_like(step.child_bits_BC)
    score = score + max(0.0, 1.0 - exponent) * np.where(np.isfinite(step.log2_counts_BC), step.log2_counts_BC, 0.0)
    score[np.isneginf(step.log2_counts_BC)] = -np.inf
    with np.errstate(invalid="ignore"):
        return score - np.logaddexp2.reduce(score, axis=1, keepdims=True)


def _keep(walk: _Walk, kept: np.ndarray, at: np.ndarray) -> tuple[_Walk, np.ndarray]:
    """The states that are still open, and where each draw finds its own among them."""
    rows = np.flatnonzero(kept).tolist()
    renumbered = np.cumsum(kept) - 1
    states = _Walk(
        [walk.paths[row] for row in rows],
        [walk.texts[row] for row in rows],
        [walk.states[row] for row in rows],
        walk.bits[kept],
        walk.log2_q[kept],
    )
    return states, renumbered[at]
