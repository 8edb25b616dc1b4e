"""Random texts of a template, drawn token by token from the model itself, with the probability of each.

Uniform draws almost never meet a text that the model finds likely; draws from the model do, and are weighted back.
Several temperatures at once cover the whole range of costs, and a uniform part bounds the weights.

Legend: D draws, A of them alive at a level, C children (padded), S components of the mixture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from hf_exposure.extraction.expansion import SearchCost
from hf_exposure.extraction.token_automaton import Moves, TokenAutomaton, follow_forced_run
from hf_exposure.scoring import Descent, Scorer

__all__ = ["EXPONENTS", "Proposals", "UniformPaths", "draw_proposals"]

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


class UniformPaths:
    """Uniformly random texts of an automaton's template, with replacement, as token paths.

    Drawn and encoded once, and kept: a measurement with the same seed uses the same.
    """

    def __init__(self, automaton: TokenAutomaton, seed: int) -> None:
        self._automaton, self._generator = automaton, random.Random(seed)
        self._paths: list[tuple[int, ...]] = []

    def take(self, scorer: Scorer, first: int, count: int) -> list[tuple[int, ...]]:
        """The tokens below the prefix of `count` texts from the one at `first` on."""
        missing = first + count - len(self._paths)
        if missing > 0:
            template = self._automaton.template
            texts = [template.text_at(self._generator.randrange(template.space_size)) for _ in range(missing)]
            self._paths += [ids[len(self._automaton.prefix) :] for ids in scorer.encode(texts).ids]
        return self._paths[first : first + count]


def draw_proposals(
    scorer: Scorer,
    automaton: TokenAutomaton,
    uniform: Sequence[tuple[int, ...]],
    generator: np.random.Generator,
    spent: SearchCost,
) -> Proposals:
    """Draws texts, as many from each component of the mixture.

    Component 0 is uniform over texts: its draws are given, as token paths. The others are drawn here, as many each: at
    a state, component `t` takes child `j` with probability proportional to `count_j^max(0, 1 - t) 2^(-t bits_j)`, so
    that exponent 1 is the model restricted to the template.
    """
    length = max(map(len, uniform))
    most = getattr(scorer, "draws_at_once", lambda length: len(uniform) * len(EXPONENTS))(length)
    part = max(1, most // len(EXPONENTS))
    drawn: Proposals | None = None
    for first in range(0, len(uniform), part):
        more = _Walk(scorer, automaton, uniform[first : first + part], length, generator, spent).run()
        drawn = more if drawn is None else drawn.join(more)
    assert drawn is not None
    return drawn


@dataclass(frozen=True)
class _Junction:
    """A state after its forced run.

    Attributes:
        run, run_text: tokens and text passed.
        moves: what may come next; none at the end of a text.
        log2_counts: (C,) log2 of the number of texts below each child.
    """

    run: tuple[int, ...]
    run_text: str
    moves: Moves
    log2_counts: np.ndarray


class _Walk:
    """D draws on their way from the root to whole texts, a level at a time."""

    def __init__(
        self,
        scorer: Scorer,
        automaton: TokenAutomaton,
        uniform: Sequence[tuple[int, ...]],
        length: int,
        generator: np.random.Generator,
        spent: SearchCost,
    ) -> None:
        self._automaton, self._generator, self._spent = automaton, generator, spent
        self._uniform = uniform
        self._strata = np.repeat(np.arange(len(EXPONENTS)), len(uniform))
        draws = len(self._strata)
        self._descent = Descent(scorer, automaton.prefix, draws, length)
        self._states: list[Hashable] = [automaton.root] * draws
        self._texts = [automaton.prefix_text] * draws
        self._chosen: list[tuple[int, ...]] = [()] * draws
        self._depth = np.zeros(draws, dtype=np.int64)
        self._bits = np.zeros(draws)
        self._log2_q = np.zeros((draws, len(EXPONENTS)))
        self._junctions: dict[Hashable, _Junction] = {}

    def run(self) -> Proposals:
        """Until all are whole texts."""
        alive = np.arange(len(self._strata))
        while len(alive):
            alive = self._level(alive)
        # Whatever the graph's shape, the first component draws each text equally often.
        self._log2_q[:, 0] = -math.log2(self._automaton.template.space_size)
        return Proposals(tuple(self._texts), self._bits, self._log2_q, self._strata)

    def _level(self, alive: np.ndarray) -> np.ndarray:
        """Through the forced runs of the draws, and one choice each; returns those that go on."""
        numbers: dict[Hashable, int] = {}
        at = np.array([numbers.setdefault(self._states[draw], len(numbers)) for draw in alive.tolist()])
        junctions = [self._junction(state) for state in numbers]
        children, log2_counts = _padded(junctions)
        run = np.array([len(junction.run) for junction in junctions])
        width = np.array([len(junction.moves) for junction in junctions])
        here = list(zip(alive.tolist(), at.tolist(), strict=True))
        passed = [self._chosen[draw] + junctions[line].run for draw, line in here]
        run_bits, child_bits = self._descent.step(alive, passed, run[at], children[at])
        self._spent.forward_passes += 1
        self._spent.model_rows += len(alive)
        self._spent.expansions += int((width[at] > 1).sum())
        self._bits[alive] += run_bits
        self._depth[alive] += run[at]
        for draw, line in here:
            self._texts[draw] += junctions[line].run_text
        goes_on = width[at] > 0
        alive, at = alive[goes_on], at[goes_on]
        if not len(alive):
            return alive
        shares = _component_shares(child_bits[goes_on], log2_counts[at])
        child = self._choose(alive, shares, children[at])
        lines = np.arange(len(alive))
        self._bits[alive] += child_bits[goes_on][lines, child]
        self._log2_q[alive] += shares[lines, :, child]
        return self._go_to(alive, [junctions[line].moves for line in at.tolist()], child)

    def _go_to(self, alive: np.ndarray, moves: list[Moves], child: np.ndarray) -> np.ndarray:
        """Takes the chosen children; returns the draws that are no whole texts yet."""
        self._depth[alive] += 1
        is_open = np.zeros(len(alive), dtype=bool)
        for line, (draw, taken) in enumerate(zip(alive.tolist(), child.tolist(), strict=True)):
            state = moves[line].states[taken]
            self._states[draw], self._chosen[draw] = state, (int(moves[line].tokens[taken]),)
            self._texts[draw] += moves[line].pieces[taken]
            # The last token's bits are read already: a whole text is never fed.
            is_open[line] = len(self._automaton.moves(state)) > 0
        return alive[is_open]

    def _choose(self, alive: np.ndarray, log2_q_ASC: np.ndarray, children_AC: np.ndarray) -> np.ndarray:
        """A child for each draw: by its component's shares, or the one on its path for a uniform draw."""
        lines, strata = np.arange(len(alive)), self._strata[alive]
        cumulative = np.cumsum(np.exp2(log2_q_ASC[lines, strata]), axis=1)
        uniform = self._generator.random(len(alive)) * cumulative[:, -1]
        child = (cumulative <= uniform[:, None]).sum(axis=1)
        # Rounding may run past the last child that has any probability.
        child = np.minimum(child, (children_AC >= 0).sum(axis=1) - 1)
        given = np.flatnonzero(strata == 0)
        token = [
            self._uniform[draw][depth]
            for draw, depth in zip(alive[given].tolist(), self._depth[alive[given]].tolist(), strict=True)
        ]
        child[given] = (children_AC[given] == np.array(token, dtype=np.int64)[:, None]).argmax(axis=1)
        return child

    def _junction(self, state: Hashable) -> _Junction:
        if state not in self._junctions:
            run, text, _, moves = follow_forced_run(self._automaton, state)
            counts = np.array([math.log2(self._automaton.count(child)) for child in moves.states])
            self._junctions[state] = _Junction(run, text, moves, counts)
        return self._junctions[state]


def _padded(junctions: list[_Junction]) -> tuple[np.ndarray, np.ndarray]:
    """(J, C) tokens of the children, -1 for padding, and log2 of their counts, -inf there."""
    widest = max(len(junction.moves) for junction in junctions)
    children = np.full((len(junctions), widest), -1, dtype=np.int64)
    log2_counts = np.full((len(junctions), widest), -np.inf)
    for line, junction in enumerate(junctions):
        children[line, : len(junction.moves)] = junction.moves.tokens
        log2_counts[line, : len(junction.moves)] = junction.log2_counts
    return children, log2_counts


def _component_shares(child_bits_AC: np.ndarray, log2_counts_AC: np.ndarray) -> np.ndarray:
    """(A, S, C) log2 probabilities by component; -inf for padding."""
    is_child = np.isfinite(log2_counts_AC)
    counts = np.where(is_child, log2_counts_AC, 0.0)
    shares = []
    for exponent in EXPONENTS:
        score = max(0.0, 1.0 - exponent) * counts
        if exponent:
            score = score - exponent * np.where(is_child, child_bits_AC, 0.0)
        score[~is_child] = -np.inf
        shares.append(score - np.logaddexp2.reduce(score, axis=1, keepdims=True))
    return np.stack(shares, axis=1)
