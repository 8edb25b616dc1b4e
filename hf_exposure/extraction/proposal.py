"""Random texts of a template, drawn token by token from the model itself, with the probability of each.

Uniform draws almost never meet a text that the model finds likely; draws from the model do, and are weighted back.
Several temperatures at once cover the whole range of costs, and a uniform part bounds the weights.

Shapes: N draws, A of them unfinished at a level; J junctions of a level, with C children (padded); S components of the
mixture.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.token_automaton import ForcedTokens, TokenAutomaton, Transitions
from hf_exposure.scoring import LockstepSampler, Scorer

# Exponents on the model's probabilities: 0 is uniform over texts, 1 is the model. See docs/design.
EXPONENTS = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class Proposals:
    """N weighted draws; one set serves every canary of the template.

    Attributes:
        texts: the N texts drawn.
        hole_bits_N: (N,) their bits after the automaton's prefix.
        log2_q_NS: (N, S) log2 of the probability that each component gives each draw.
        strata_N: (N,) the component that each was drawn from; all components draw equally often.
        is_text_N: (N,) whether the tokens drawn are the canonical ones of a text. Others weigh nothing, which leaves
            the weighted shares unbiased.
    """

    texts: tuple[str, ...] = field(repr=False)
    hole_bits_N: np.ndarray
    log2_q_NS: np.ndarray
    strata_N: np.ndarray
    is_text_N: np.ndarray

    def weights(self, space_size: int) -> np.ndarray:
        """(N,) balance-heuristic weights `1 / (|R| q_mix(r))`, of mean about 1 and at most S."""
        log2_mixture = np.logaddexp2.reduce(self.log2_q_NS, axis=1) - math.log2(self.log2_q_NS.shape[1])
        return np.where(self.is_text_N, np.exp2(-math.log2(space_size) - log2_mixture), 0.0)

    def join(self, other: Proposals) -> Proposals:
        """Both sets as one."""
        return Proposals(
            self.texts + other.texts,
            np.concatenate([self.hole_bits_N, other.hole_bits_N]),
            np.concatenate([self.log2_q_NS, other.log2_q_NS]),
            np.concatenate([self.strata_N, other.strata_N]),
            np.concatenate([self.is_text_N, other.is_text_N]),
        )


class UniformPaths:
    """Uniformly random texts of a template, with replacement, as token paths.

    Drawn and encoded once, and kept: a measurement with the same seed uses the same.
    """

    def __init__(self, template: CanaryTemplate, seed: int) -> None:
        self._template, self._generator = template, random.Random(seed)
        self._ids: list[tuple[int, ...]] = []

    def take(self, scorer: Scorer, automaton: TokenAutomaton, first: int, count: int) -> list[tuple[int, ...]]:
        """The tokens below the automaton's prefix of `count` texts from the one at `first` on."""
        missing = first + count - len(self._ids)
        if missing > 0:
            size = self._template.space_size
            texts = [self._template.text_at(self._generator.randrange(size)) for _ in range(missing)]
            self._ids += scorer.encode(texts).ids
        return [ids[len(automaton.prefix) :] for ids in self._ids[first : first + count]]


def draw_proposals(
    scorer: Scorer,
    automaton: TokenAutomaton,
    uniform: Sequence[tuple[int, ...]],
    generator: np.random.Generator,
) -> Proposals:
    """Draws texts, as many from each component of the mixture.

    Component 0 is uniform over texts: its draws are given, as token paths. The others are drawn here, as many each: at
    a state, component `t` takes child `j` with probability proportional to `count_j^max(0, 1 - t) 2^(-t bits_j)`, so
    that exponent 1 is the model restricted to the template.
    """
    length = max(map(len, uniform))
    part = max(1, scorer.samples_at_once(len(uniform) * len(EXPONENTS), length) // len(EXPONENTS))
    drawn: Proposals | None = None
    for first in range(0, len(uniform), part):
        more = _Walk(scorer, automaton, uniform[first : first + part], length, generator).run()
        drawn = more if drawn is None else drawn.join(more)
    assert drawn is not None
    return drawn


@dataclass(frozen=True)
class _Junction:
    """The next choice that a draw has: the state after its forced tokens.

    Attributes:
        forced: the tokens on the way, and the transitions to choose from; none at the end of a text.
        log2_counts_C: log2 of the number of texts below each child.
    """

    forced: ForcedTokens
    log2_counts_C: np.ndarray

    @classmethod
    def of(cls, forced: ForcedTokens, automaton: TokenAutomaton) -> _Junction:
        """With the counts of the automaton."""
        counts = [math.log2(automaton.count(child)) for child in forced.transitions.states]
        return cls(forced, np.array(counts))


class _Walk:
    """N draws on their way from the root to whole texts, a level at a time."""

    def __init__(
        self,
        scorer: Scorer,
        automaton: TokenAutomaton,
        uniform: Sequence[tuple[int, ...]],
        length: int,
        generator: np.random.Generator,
    ) -> None:
        self._automaton, self._generator, self._uniform = automaton, generator, uniform
        self._strata = np.repeat(np.arange(len(EXPONENTS)), len(uniform))
        draws = len(self._strata)
        self._sampler = LockstepSampler(scorer, automaton.prefix, draws, length)
        self._states: list[Hashable] = [automaton.root] * draws
        self._texts = [automaton.prefix_text] * draws
        self._paths: list[tuple[int, ...]] = [()] * draws
        self._is_text = np.ones(draws, dtype=bool)
        self._bits = np.zeros(draws)
        self._log2_q = np.zeros((draws, len(EXPONENTS)))
        self._junctions: dict[Hashable, _Junction | None] = {}

    def run(self) -> Proposals:
        """Until all draws are whole texts, or known to be none."""
        alive = np.arange(len(self._strata))
        while len(alive):
            alive = self._level(alive)
        whole = np.flatnonzero(self._is_text).tolist()
        self._is_text[whole] = self._automaton.canonical(
            [self._paths[draw] for draw in whole], [self._texts[draw] for draw in whole], [True] * len(whole)
        )
        # Whatever the graph's shape, the first component draws each text equally often.
        self._log2_q[:, 0] = -math.log2(self._automaton.count(self._automaton.root))
        return Proposals(tuple(self._texts), self._bits, self._log2_q, self._strata, self._is_text)

    def _level(self, alive: np.ndarray) -> np.ndarray:
        """Takes the forced tokens of the draws and one choice each; returns the draws that are not finished."""
        alive, at, junctions = self._reach(alive)
        if not len(alive):
            return alive
        children, log2_counts = _padded(junctions)
        run = np.array([len(junction.forced.tokens) for junction in junctions])
        width = np.array([len(junction.forced.transitions) for junction in junctions])
        for draw, line in zip(alive.tolist(), at.tolist(), strict=True):
            self._paths[draw] += junctions[line].forced.tokens
            self._texts[draw] += junctions[line].forced.text
        run_bits, child_bits = self._sampler.step(
            alive, [self._paths[draw] for draw in alive.tolist()], run[at], children[at]
        )
        self._bits[alive] += run_bits
        is_open = width[at] > 0
        alive, at, child_bits = alive[is_open], at[is_open], child_bits[is_open]
        if not len(alive):
            return alive
        shares = _component_shares(child_bits, log2_counts[at])
        child = self._choose(alive, shares, children[at])
        # A uniform text that an audited graph lacks has no place among the draws.
        self._is_text[alive[child < 0]] = False
        lines = np.flatnonzero(child >= 0)
        alive, at, child = alive[lines], at[lines], child[lines]
        self._bits[alive] += child_bits[lines, child]
        self._log2_q[alive] += shares[lines, :, child]
        return self._go_to(alive, [junctions[line].forced.transitions for line in at.tolist()], child)

    def _reach(self, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[_Junction]]:
        """The draws that may become texts, which junction each has reached, and the distinct junctions."""
        # Where a text is one path, what is forced depends on the state alone, and many draws share few states.
        of = self._states if self._automaton.one_path else self._paths
        new = {of[draw]: draw for draw in alive.tolist() if of[draw] not in self._junctions}
        draws = list(new.values())
        forced = self._automaton.forced_tokens(
            [self._paths[draw] for draw in draws],
            [self._texts[draw] for draw in draws],
            [self._states[draw] for draw in draws],
        )
        for key, one in zip(new, forced, strict=True):
            self._junctions[key] = None if one is None else _Junction.of(one, self._automaton)
        lives = np.array([self._junctions[of[draw]] is not None for draw in alive.tolist()], dtype=bool)
        self._is_text[alive[~lives]] = False
        alive = alive[lives]
        numbers: dict[Hashable, int] = {}
        at = np.array([numbers.setdefault(of[draw], len(numbers)) for draw in alive.tolist()], dtype=np.int64)
        return alive, at, [junction for key in numbers if (junction := self._junctions[key]) is not None]

    def _go_to(self, alive: np.ndarray, transitions: list[Transitions], child: np.ndarray) -> np.ndarray:
        """Takes the chosen children; returns the draws that are no whole texts yet."""
        is_open = np.zeros(len(alive), dtype=bool)
        for line, (draw, taken) in enumerate(zip(alive.tolist(), child.tolist(), strict=True)):
            state = transitions[line].states[taken]
            self._states[draw] = state
            self._paths[draw] += (int(transitions[line].tokens_C[taken]),)
            self._texts[draw] += transitions[line].pieces[taken]
            # The last token's bits are read already: a whole text is never fed.
            is_open[line] = not self._automaton.is_leaf(state)
        return alive[is_open]

    def _choose(self, alive: np.ndarray, log2_q_ASC: np.ndarray, children_AC: np.ndarray) -> np.ndarray:
        """A child for each draw: by its component's shares, or a uniform draw's own; -1 where that is none."""
        lines, strata = np.arange(len(alive)), self._strata[alive]
        cumulative = np.cumsum(np.exp2(log2_q_ASC[lines, strata]), axis=1)
        uniform = self._generator.random(len(alive)) * cumulative[:, -1]
        # Rounding may run past the last child that has any probability.
        last = (children_AC >= 0).sum(axis=1) - 1
        child: np.ndarray = np.minimum((cumulative <= uniform[:, None]).sum(axis=1), last)
        given = np.flatnonzero(strata == 0)
        token = [self._uniform[draw][len(self._paths[draw])] for draw in alive[given].tolist()]
        is_own = children_AC[given] == np.array(token, dtype=np.int64)[:, None]
        child[given] = np.where(is_own.any(axis=1), is_own.argmax(axis=1), -1)
        return child


def _padded(junctions: list[_Junction]) -> tuple[np.ndarray, np.ndarray]:
    """(J, C) tokens of the children, -1 for padding, and log2 of their counts, -inf there."""
    widest = max(len(junction.forced.transitions) for junction in junctions)
    tokens_JC = np.full((len(junctions), widest), -1, dtype=np.int64)
    log2_counts_JC = np.full((len(junctions), widest), -np.inf)
    for line, junction in enumerate(junctions):
        tokens_C = junction.forced.transitions.tokens_C
        tokens_JC[line, : len(tokens_C)] = tokens_C
        log2_counts_JC[line, : len(tokens_C)] = junction.log2_counts_C
    return tokens_JC, log2_counts_JC


def _component_shares(child_bits_AC: np.ndarray, log2_counts_AC: np.ndarray) -> np.ndarray:
    """(A, S, C) log2 probabilities by component; -inf for padding."""
    is_child_AC = np.isfinite(log2_counts_AC)
    counts_AC, bits_AC = np.where(is_child_AC, log2_counts_AC, 0.0), np.where(is_child_AC, child_bits_AC, 0.0)
    shares = []
    for exponent in EXPONENTS:
        score_AC = max(0.0, 1.0 - exponent) * counts_AC
        if exponent:
            score_AC = score_AC - exponent * bits_AC
        score_AC[~is_child_AC] = -np.inf
        shares.append(score_AC - np.logaddexp2.reduce(score_AC, axis=1, keepdims=True))
    return np.stack(shares, axis=1)
