"""Random texts of a template, drawn token by token from the model itself, with the probability of each.

Uniform draws almost never yield a text that is likely under the model; draws from the model do, and are reweighted.
Several temperatures at once cover the whole range of costs, and a uniform part bounds the weights.

Draws of a component are made in batches, and those of a batch are spread evenly (array-RQMC). At each choice they are
sorted by their bits so far; neighbors, which have much the same choices, then take places far apart among the
children, which are also sorted by their bits. Each draw alone is as random as if it were independent, but the shares
found by a batch vary less. Batches are independent of each other.

The last token of a text is never fed, and at the last choice the model gives the bits of every token. So a draw is
kept with all texts that it could have ended with, and all of them count.

Shapes: N draws, K watched texts, A of all these unfinished at a level, B of those in a block, E of those that end at
it, O of one component, G on a given path; D different choices of a level, with C children (padded); S components of
the mixture.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.extraction.token_automaton import ForcedTokens, TokenAutomaton, Transitions
from hf_exposure.scoring import LockstepSampler, Scorer

# Exponents on the model's probabilities, and how many of 8 draws are by each: 0 is uniform over texts, 1 is the model.
# See docs/design.
EXPONENTS = (0.0, 0.5, 1.0, 1.5)
OF_EIGHT = (2, 1, 4, 1)
_LOG2_PARTS = np.log2(OF_EIGHT) - 3.0
_BLOCK = 2**16
# A component's draws are in as many batches as this, which their variance needs, and in more if these would be larger
# than `_BATCH_SIZE`.
_BATCHES, _BATCH_SIZE = 8, 16
# So many uniform texts show the length of a path, where the uniform draws are not given.
_TYPICAL = 64
# The order of draws and children is that of their bits rounded to so many decimals. So rounding errors do not change
# the draws of a model to which all texts are the same.
_DECIMALS = 2
# Short integers are sorted by radix, which takes a fifth of the time for a thousand children.
_MANY_CHILDREN = 64
# With more endings than this (their arrays take 100 MB), draws count the text drawn alone.
_MOST_ENDINGS = 2**22


@dataclass(frozen=True)
class Endings:
    """The texts that each of N draws could have ended with at its last choice; C of them, padded with shares of 0.

    Attributes:
        bits_NC: their bits after the automaton's prefix.
        log2_q_NC: log2 of the probability that the mixture gives each.
        shares_NC: the probability that the draw's own component gives each of them, given that the draw ends here.
        stems: the text of each draw up to that choice.
        pieces: what each ending adds to it.
    """

    bits_NC: np.ndarray
    log2_q_NC: np.ndarray
    shares_NC: np.ndarray
    stems: tuple[str, ...] = field(repr=False)
    pieces: tuple[Sequence[str], ...] = field(repr=False)

    @classmethod
    def together(cls, parts: Sequence[Endings]) -> Endings:
        """All parts, one after another."""
        width = max(part.bits_NC.shape[1] for part in parts)

        def joined(name: str, padding: float) -> np.ndarray:
            return np.concatenate([_widened(getattr(part, name), width, padding) for part in parts])

        return cls(
            joined("bits_NC", np.inf),
            joined("log2_q_NC", 0.0),
            joined("shares_NC", 0.0),
            tuple(itertools.chain.from_iterable(part.stems for part in parts)),
            tuple(itertools.chain.from_iterable(part.pieces for part in parts)),
        )

    @property
    def count(self) -> int:
        """N times C, which is what they take."""
        return self.bits_NC.size

    def in_order(self, order: np.ndarray) -> Endings:
        """Those of the draws with these numbers."""
        numbers = order.tolist()
        return Endings(
            self.bits_NC[order],
            self.log2_q_NC[order],
            self.shares_NC[order],
            tuple(self.stems[draw] for draw in numbers),
            tuple(self.pieces[draw] for draw in numbers),
        )

    def among(self, texts: set[str]) -> np.ndarray:
        """(N, C) whether each ending is one of these texts."""
        beginnings = {text[:length] for text in texts for length in range(len(text) + 1)}
        found_NC = np.zeros(self.bits_NC.shape, dtype=bool)
        for draw, (stem, pieces) in enumerate(zip(self.stems, self.pieces, strict=True)):
            if stem in beginnings:
                found_NC[draw, : len(pieces)] = [stem + piece in texts for piece in pieces]
        return found_NC


@dataclass(frozen=True)
class Proposals:
    """N weighted draws; one set serves every canary of the template.

    Attributes:
        texts: the N texts drawn.
        hole_bits_N: (N,) their bits after the automaton's prefix.
        log2_q_NS: (N, S) log2 of the probability that each component gives each draw.
        strata_N: (N,) the component that each was drawn from, in the proportions of `OF_EIGHT`.
        batches_N: (N,) the batch of each draw. Draws of different batches are independent.
        is_text_N: (N,) whether the drawn tokens are the canonical ones of a text. Others have weight 0, which leaves
            the weighted shares unbiased.
        endings: all texts that each could have ended with; None if a text has several paths, or there are too many.
        watched_log2_q_KS: (K, S) log2 of the probability that each component gives the texts that were watched; NaN
            for texts that the graph lacks.
    """

    texts: tuple[str, ...] = field(repr=False)
    hole_bits_N: np.ndarray
    log2_q_NS: np.ndarray
    strata_N: np.ndarray
    batches_N: np.ndarray
    is_text_N: np.ndarray
    endings: Endings | None = None
    watched_log2_q_KS: np.ndarray = field(default_factory=lambda: np.zeros((0, len(EXPONENTS))))

    def weights(self, space_size: int) -> np.ndarray:
        """(N,) balance-heuristic weights `1 / (|R| q_mix(r))`, with a mean of about 1 and at most 4."""
        return np.where(self.is_text_N, np.exp2(-math.log2(space_size) - _log2_mixture(self.log2_q_NS)), 0.0)

    def watched_weights(self, space_size: int) -> np.ndarray:
        """(K,) the weights of the watched texts; NaN where unknown."""
        weights_K = np.full(len(self.watched_log2_q_KS), np.nan)
        known_K = ~np.isnan(self.watched_log2_q_KS).any(axis=1)
        weights_K[known_K] = np.exp2(-math.log2(space_size) - _log2_mixture(self.watched_log2_q_KS[known_K]))
        return weights_K

    def rows(self, space_size: int, without: set[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, C) bits, weights and shares of the texts that each draw counts; the texts `without` have weight 0."""
        if self.endings is None:
            weights_N = self.weights(space_size) * np.array([text not in without for text in self.texts])
            return self.hole_bits_N[:, None], weights_N[:, None], np.ones((len(weights_N), 1))
        ends = self.endings
        counts_NC = (ends.shares_NC > 0.0) & ~ends.among(without)
        weights_NC = np.where(counts_NC, np.exp2(-math.log2(space_size) - ends.log2_q_NC), 0.0)
        return ends.bits_NC, weights_NC, ends.shares_NC

    def join(self, other: Proposals) -> Proposals:
        """Both sets, concatenated."""
        return Proposals(
            self.texts + other.texts,
            np.concatenate([self.hole_bits_N, other.hole_bits_N]),
            np.concatenate([self.log2_q_NS, other.log2_q_NS]),
            np.concatenate([self.strata_N, other.strata_N]),
            np.concatenate([self.batches_N, self.batches_N.max() + 1 + other.batches_N]),
            np.concatenate([self.is_text_N, other.is_text_N]),
            None if self.endings is None or other.endings is None else Endings.together([self.endings, other.endings]),
            np.concatenate([self.watched_log2_q_KS, other.watched_log2_q_KS]),
        )


def largest_weights(automaton: TokenAutomaton, hole_bits_K: np.ndarray, space_size: int) -> np.ndarray:
    """(K,) the largest weight that a text of at most so many bits after the prefix can have as a draw.

    With n texts in all, the component of exponent t gives a text of b bits at least `2^(-t b) n^-max(0, 1 - t)`: by
    Hoelder's inequality, the total over the children of a state is at most `count^max(0, 1 - t)` of that state. This
    needs counts that add up, so where a text has several paths, the components between 0 and 1 are left out. Without a
    prefix nothing scores the first token, and only the uniform component is sure to give a text anything.
    """
    log2_count = math.log2(automaton.count(automaton.root))
    log2_least_KS = np.full((len(hole_bits_K), len(EXPONENTS)), -np.inf)
    for component, exponent in enumerate(EXPONENTS):
        if exponent == 0.0:
            log2_least_KS[:, component] = -log2_count
        elif automaton.prefix and (exponent >= 1.0 or automaton.one_path):
            log2_least_KS[:, component] = -exponent * hole_bits_K - max(0.0, 1.0 - exponent) * log2_count
    return np.exp2(-math.log2(space_size) - _log2_mixture(log2_least_KS))


def _log2_mixture(log2_q_XS: np.ndarray) -> np.ndarray:
    """(X,) log2 of the probability that the mixture gives, from those of its components."""
    found: np.ndarray = np.logaddexp2.reduce(log2_q_XS + _LOG2_PARTS, axis=1)
    return found


class UniformPaths:
    """Uniformly random texts of a template, with replacement, as token paths.

    They are drawn and encoded once, and kept, so that a measurement with the same seed uses the same ones, if it uses
    them: where each text has one path, uniform draws are spread evenly like all others (`draw_proposals`).
    """

    def __init__(self, template: CanaryTemplate, seed: int) -> None:
        self._template, self._generator = template, random.Random(seed)
        self._ids: list[tuple[int, ...]] = []

    def take(self, scorer: Scorer, automaton: TokenAutomaton, first: int, count: int) -> list[tuple[int, ...]]:
        """The tokens after the automaton's prefix of `count` texts from index `first` on."""
        missing = first + count - len(self._ids)
        if missing > 0:
            size = self._template.space_size
            texts = [self._template.text_at(self._generator.randrange(size)) for _ in range(missing)]
            self._ids += scorer.encode(texts).ids
        return [ids[len(automaton.prefix) :] for ids in self._ids[first : first + count]]


def draw_proposals(
    scorer: Scorer,
    automaton: TokenAutomaton,
    draws: int,
    uniform: UniformPaths,
    generator: np.random.Generator,
    *,
    watched: Sequence[tuple[int, ...]] = (),
    beside: Proposals | None = None,
) -> Proposals:
    """Draws texts from all components of the mixture, and returns them after those of `beside`.

    Their number is rounded up to a multiple of 8, and is at least 16, since the variance needs two of each component.
    Where the memory holds few draws at once, batches are smaller, so that intervals are wider.

    At a state, component `t` takes child `j` with probability proportional to `count_j^max(0, 1 - t) 2^(-t bits_j)`,
    so that exponent 0 is uniform over texts and exponent 1 is the model restricted to the template. Where a text may
    have several paths, the counts are not those of texts, and component 0 takes the next texts of `uniform` instead.

    The paths `watched`, after the automaton's prefix, are followed too, for the probabilities of these texts as draws.

    Source: array-RQMC, L'Ecuyer, Lecot and Tuffin, "A randomized quasi-Monte Carlo simulation method for Markov
        chains", Operations Research 56, 2008; here with a random shift for each batch and choice.
    """
    eighth, uniforms = max(2, -(-draws // 8)), OF_EIGHT[0]
    have = 0 if beside is None else len(beside.texts) // 8
    if automaton.one_path:
        paths = uniform.take(scorer, automaton, 0, min(_TYPICAL, eighth * uniforms))
    else:
        paths = uniform.take(scorer, automaton, have * uniforms, eighth * uniforms)
    length = max(map(len, [*paths, *watched]))
    room_for = scorer.samples_at_once(8 * eighth + len(watched), length)
    part = max(1, (room_for - len(watched)) // 8)
    drawn = beside
    for first in range(0, eighth, part):
        # All draws keep their endings, or none do.
        room = _MOST_ENDINGS if drawn is None else 0 if drawn.endings is None else _MOST_ENDINGS - drawn.endings.count
        given = None if automaton.one_path else paths[first * uniforms : (first + part) * uniforms]
        followed = () if first else watched
        more = _Walk(scorer, automaton, min(part, eighth - first), given, followed, length, generator, room).run()
        drawn = more if drawn is None else drawn.join(more)
    assert drawn is not None
    return drawn


class _Walk:
    """N draws and then K watched texts that proceed from the root to whole texts, one level at a time.

    Args:
        scorer, automaton, generator: as for `draw_proposals`.
        eighth: an eighth of the number of draws.
        given: the paths of the draws of component 0; None if they are drawn too.
        watched: the paths of the watched texts.
        length: the expected number of tokens of a path.
        most_endings: the largest number of endings that are kept.
    """

    def __init__(
        self,
        scorer: Scorer,
        automaton: TokenAutomaton,
        eighth: int,
        given: Sequence[tuple[int, ...]] | None,
        watched: Sequence[tuple[int, ...]],
        length: int,
        generator: np.random.Generator,
        most_endings: int,
    ) -> None:
        self._automaton, self._generator, self._draws = automaton, generator, 8 * eighth
        counts_S, draws = eighth * np.array(OF_EIGHT), 8 * eighth
        strata_N = np.repeat(np.arange(len(EXPONENTS)), counts_S)
        # Watched texts belong to no component, and each is a batch.
        self._strata = np.append(strata_N, np.full(len(watched), -1))
        self._given = dict(enumerate(given or ())) | dict(enumerate(watched, start=draws))
        self._is_given = np.isin(np.arange(len(self._strata)), list(self._given))
        batches_S = np.minimum(counts_S, np.maximum(_BATCHES, -(-counts_S // _BATCH_SIZE)))
        if given is not None:
            batches_S[0] = counts_S[0]  # they are independent
        # The number of each draw among those of its component.
        number_N = np.arange(draws) - np.repeat(np.cumsum(counts_S) - counts_S, counts_S)
        before_S = np.cumsum(batches_S) - batches_S
        batches_N = (before_S + number_N[:, None] * batches_S // counts_S)[np.arange(draws), strata_N]
        self._batches = np.append(batches_N, batches_S.sum() + np.arange(len(watched)))
        walkers = len(self._strata)
        self._sampler = LockstepSampler(scorer, automaton.prefix, walkers, length)
        self._states: list[Hashable] = [automaton.root] * walkers
        self._texts = [automaton.prefix_text] * walkers
        self._paths: list[tuple[int, ...]] = [()] * walkers
        self._is_text = np.ones(walkers, dtype=bool)
        self._bits = np.zeros(walkers)
        self._log2_q = np.zeros((walkers, len(EXPONENTS)))
        self._forced: dict[Hashable, ForcedTokens | None] = {}
        # The first component draws each text with equal probability, whatever the shape of the graph.
        self._log2_uniform = -math.log2(automaton.count(automaton.root))
        # By draws; None where endings are not kept.
        self._ends: list[tuple[np.ndarray, Endings]] | None = [] if automaton.one_path else None
        self._most_endings = most_endings

    def run(self) -> Proposals:
        """Runs until all are whole texts, or known not to be texts."""
        alive = np.arange(len(self._strata))
        while len(alive):
            alive = self._level(alive)
        whole = np.flatnonzero(self._is_text).tolist()
        self._is_text[whole] = self._automaton.canonical(
            [self._paths[draw] for draw in whole], [self._texts[draw] for draw in whole], [True] * len(whole)
        )
        self._log2_q[:, 0] = self._log2_uniform
        endings = None if self._ends is None else self._endings(self._ends)
        drawn, watched = slice(self._draws), slice(self._draws, None)
        return Proposals(
            texts=tuple(self._texts[drawn]),
            hole_bits_N=self._bits[drawn],
            log2_q_NS=self._log2_q[drawn],
            strata_N=self._strata[drawn],
            batches_N=self._batches[drawn],
            is_text_N=self._is_text[drawn],
            endings=endings,
            watched_log2_q_KS=np.where(self._is_text[watched, None], self._log2_q[watched], np.nan),
        )

    def _level(self, alive: np.ndarray) -> np.ndarray:
        """Appends the forced tokens of the draws and one choice each; returns the unfinished draws."""
        alive, forced = self._reach(alive)
        if not len(alive):
            return alive
        for draw, one in zip(alive.tolist(), forced, strict=True):
            self._paths[draw] += one.tokens
            self._texts[draw] += one.text
        alive, forced = self._without_strays(alive, forced)
        if not len(alive):
            return alive
        choices = _Choices.of([one.transitions for one in forced])
        run = np.array([len(one.tokens) for one in forced])
        run_bits, child_bits = self._sampler.step(
            alive, [self._paths[draw] for draw in alive.tolist()], run, choices.tokens_DC[choices.at_A]
        )
        self._bits[alive] += run_bits
        is_open = choices.width_D[choices.at_A] > 0
        alive, at, child_bits = alive[is_open], choices.at_A[is_open], child_bits[is_open]
        if not len(alive):
            return alive
        child, log2_q, log2_totals = self._choose(alive, choices, at, child_bits)
        self._is_text[alive[child < 0]] = False
        lines = np.flatnonzero(child >= 0)
        alive, at, child, child_bits = alive[lines], at[lines], child[lines], child_bits[lines]
        transitions = [choices.transitions[line] for line in at.tolist()]
        states = [of_draw.states[taken] for of_draw, taken in zip(transitions, child.tolist(), strict=True)]
        is_leaf = np.array([self._automaton.is_leaf(state) for state in states], dtype=bool)
        if is_leaf.any():
            ends = np.flatnonzero(is_leaf & (alive < self._draws))
            self._keep_endings(alive[ends], choices, at[ends], child_bits[ends], log2_totals[lines[ends]])
        self._bits[alive] += child_bits[np.arange(len(alive)), child]
        self._log2_q[alive] += log2_q[lines]
        for draw, of_draw, state, taken in zip(alive.tolist(), transitions, states, child.tolist(), strict=True):
            self._states[draw] = state
            self._paths[draw] += (int(of_draw.tokens_C[taken]),)
            self._texts[draw] += of_draw.pieces[taken]
        # The last token's bits are already known, so a whole text is never fed.
        unfinished: np.ndarray = alive[~is_leaf]
        return unfinished

    def _keep_endings(
        self, draws: np.ndarray, choices: _Choices, at_E: np.ndarray, bits_EC: np.ndarray, log2_totals_ES: np.ndarray
    ) -> None:
        """Keeps all endings of draws that end with a choice, unless there are too many."""
        if self._ends is None or self._draws * bits_EC.shape[1] > self._most_endings:
            self._ends = None
            return
        block = max(1, _BLOCK // bits_EC.shape[1])
        for first in range(0, len(draws), block):
            part = slice(first, first + block)
            draws_B, at_B, counts_BC = draws[part], at_E[part], choices.log2_counts_DC[at_E[part]]
            is_leaf_BC, possible_BC = choices.is_leaf_DC[at_B], _some_possible(bits_EC[part], counts_BC)
            mixture_BC = np.full(counts_BC.shape, self._log2_uniform + _LOG2_PARTS[0])
            own_BC = np.empty(counts_BC.shape)
            for component, exponent in enumerate(EXPONENTS):
                scores_BC = _scores(possible_BC, counts_BC, exponent)
                is_own_B = self._strata[draws_B] == component
                own_BC[is_own_B] = scores_BC[is_own_B]
                if component:
                    before_B = self._log2_q[draws_B, component] - log2_totals_ES[part, component]
                    mixture_BC = np.logaddexp2(mixture_BC, (before_B + _LOG2_PARTS[component])[:, None] + scores_BC)
            own_BC[~is_leaf_BC] = -np.inf
            shares_BC = np.exp2(own_BC - own_BC.max(axis=1, keepdims=True))
            endings = Endings(
                self._bits[draws_B, None] + bits_EC[part],
                np.where(is_leaf_BC, mixture_BC, 0.0),
                shares_BC / shares_BC.sum(axis=1, keepdims=True),
                tuple(self._texts[draw] for draw in draws_B.tolist()),
                tuple(choices.transitions[line].pieces for line in at_B.tolist()),
            )
            self._ends.append((draws_B, endings))

    def _endings(self, ends: list[tuple[np.ndarray, Endings]]) -> Endings:
        """The endings of all draws; a draw whose last tokens are no choice has one."""
        parts = [of_part for _, of_part in ends]
        ended = np.concatenate([np.zeros(0, dtype=np.int64), *(draws for draws, _ in ends)])
        rest = np.setdiff1d(np.arange(self._draws), ended)
        if rest.size:
            parts.append(
                Endings(
                    self._bits[rest, None],
                    _log2_mixture(self._log2_q[rest])[:, None],
                    self._is_text[rest, None].astype(np.float64),
                    tuple(self._texts[draw] for draw in rest.tolist()),
                    (("",),) * len(rest),
                )
            )
        return Endings.together(parts).in_order(np.argsort(np.concatenate([ended, rest])))

    def _without_strays(self, alive: np.ndarray, forced: list[ForcedTokens]) -> tuple[np.ndarray, list[ForcedTokens]]:
        """Removes given texts that an audited graph lacks, without replacing them."""
        keeps = np.ones(len(alive), dtype=bool)
        for line in np.flatnonzero(self._is_given[alive]).tolist():
            path = self._paths[alive[line]]
            keeps[line] = self._given[alive[line]][: len(path)] == path
        self._is_text[alive[~keeps]] = False
        return alive[keeps], list(itertools.compress(forced, keeps))

    def _reach(self, alive: np.ndarray) -> tuple[np.ndarray, list[ForcedTokens]]:
        """The draws that may become texts, and the forced tokens of each up to its next choice."""
        # If each text has only one path, forced tokens depend on the state alone, and many draws share few states.
        of = self._states if self._automaton.one_path else self._paths
        new = {of[draw]: draw for draw in alive.tolist() if of[draw] not in self._forced}
        draws = list(new.values())
        forced = self._automaton.forced_tokens(
            [self._paths[draw] for draw in draws],
            [self._texts[draw] for draw in draws],
            [self._states[draw] for draw in draws],
        )
        self._forced.update(zip(new, forced, strict=True))
        reached = [self._forced[of[draw]] for draw in alive.tolist()]
        lives = np.array([one is not None for one in reached], dtype=bool)
        self._is_text[alive[~lives]] = False
        return alive[lives], [one for one in reached if one is not None]

    def _choose(
        self, alive: np.ndarray, choices: _Choices, at_A: np.ndarray, child_bits_AC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A child for each draw, by its component's shares, or the child of a given text (-1 if there is none); (A, S)
        log2 of the share that each component gives it, and of the component's total over all children.
        """
        child_A = np.empty(len(alive), dtype=np.int64)
        log2_q_AS, log2_totals_AS = np.empty((2, len(alive), len(EXPONENTS)))
        point_A = self._points(alive)
        block = max(1, _BLOCK // child_bits_AC.shape[1])  # stays in a processor's cache
        for first in range(0, len(alive), block):
            part = slice(first, first + block)
            counts_BC = choices.log2_counts_DC[at_A[part]]
            bits_BC = _some_possible(child_bits_AC[part], counts_BC)
            log2_totals_AS[part], child_B = self._share(alive[part], counts_BC, bits_BC, point_A[part])
            is_given_B = self._is_given[alive[part]]
            child_B[is_given_B] = self._on_path(alive[part][is_given_B], choices.tokens_DC[at_A[part][is_given_B]])
            lines = np.arange(len(child_B))
            scores_SB = [_scores(bits_BC[lines, child_B], counts_BC[lines, child_B], each) for each in EXPONENTS]
            child_A[part], log2_q_AS[part] = child_B, np.stack(scores_SB, axis=1) - log2_totals_AS[part]
        return child_A, log2_q_AS, log2_totals_AS

    def _points(self, alive: np.ndarray) -> np.ndarray:
        """(A,) a number in [0, 1) for each draw: each is uniform, and those of a batch are spread evenly.

        By their bits so far, 2, 4, 8, ... neighbors are in different halves, quarters, eighths, ... up to one shift of
        the whole batch.
        """
        batch_A = self._batches[alive]
        order_A = np.lexsort((np.round(self._bits[alive], _DECIMALS), batch_A))
        ordered_A = batch_A[order_A]
        number_A = np.arange(len(alive)) - np.searchsorted(ordered_A, ordered_A)
        shifts = self._generator.random(int(self._batches.max()) + 1)
        point_A = np.empty(len(alive))
        point_A[order_A] = (_radical_inverse(number_A) + shifts[ordered_A]) % 1.0
        return point_A

    def _share(
        self, draws_B: np.ndarray, counts_BC: np.ndarray, bits_BC: np.ndarray, point_B: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B, S) log2 of each component's total over the children, and (B,) a child by each draw's own component.

        A child is taken by a point in [0, 1) from the children in ascending order of their bits.
        """
        child_B = np.zeros(len(draws_B), dtype=np.int64)
        log2_totals = []
        for component, exponent in enumerate(EXPONENTS):
            scores_BC = _scores(bits_BC, counts_BC, exponent)
            top_B1 = scores_BC.max(axis=1, keepdims=True)
            weights_BC = np.exp2(scores_BC - top_B1)
            log2_totals.append(top_B1[:, 0] + np.log2(weights_BC.sum(axis=1)))
            own = np.flatnonzero((self._strata[draws_B] == component) & ~self._is_given[draws_B])
            order_OC = _by_bits(bits_BC[own])
            # Faster than `take_along_axis`.
            cumulative_OC = np.cumsum(np.take(weights_BC, order_OC + (own * weights_BC.shape[1])[:, None]), axis=1)
            reached_O1 = (point_B[own] * cumulative_OC[:, -1])[:, None]
            # Rounding may run past the last child.
            place_O = np.minimum((cumulative_OC <= reached_O1).sum(axis=1), np.isfinite(counts_BC[own]).sum(1) - 1)
            child_B[own] = order_OC[np.arange(len(own)), place_O]
        return np.stack(log2_totals, axis=1), child_B

    def _on_path(self, draws: np.ndarray, tokens_GC: np.ndarray) -> np.ndarray:
        """(G,) the child on the path of each given text; -1 if there is none."""
        token_G = np.array([self._given[draw][len(self._paths[draw])] for draw in draws.tolist()], dtype=np.int64)
        is_own_GC = tokens_GC == token_G[:, None]
        return np.where(is_own_GC.any(axis=1), is_own_GC.argmax(axis=1), -1)


@dataclass(frozen=True)
class _Choices:
    """The choices of the draws at one level: D different ones, with at most C children.

    Attributes:
        transitions: the D different transitions.
        at_A: the index of each draw's transitions.
        width_D: the number of children of each.
        tokens_DC: their tokens; -1 for padding.
        log2_counts_DC: log2 of the number of texts below each; -inf for padding.
    """

    transitions: list[Transitions]
    at_A: np.ndarray
    width_D: np.ndarray
    tokens_DC: np.ndarray
    log2_counts_DC: np.ndarray

    @cached_property
    def is_leaf_DC(self) -> np.ndarray:
        """Whether each child is the end of a text."""
        is_leaf_DC = np.zeros(self.tokens_DC.shape, dtype=bool)
        for number, each in enumerate(self.transitions):
            is_leaf_DC[number, each.leaves_C] = True
        return is_leaf_DC

    @classmethod
    def of(cls, transitions_A: list[Transitions]) -> _Choices:
        """The choices of the transitions that each draw has reached."""
        numbers: dict[int, int] = {}
        at_A = np.array([numbers.setdefault(id(each), len(numbers)) for each in transitions_A])
        transitions = [transitions_A[first] for first in np.unique(at_A, return_index=True)[1].tolist()]
        width_D = np.array(list(map(len, transitions)))
        tokens_DC = np.full((len(transitions), width_D.max()), -1, dtype=np.int64)
        log2_counts_DC = np.full(tokens_DC.shape, -np.inf)
        for number, (each, width) in enumerate(zip(transitions, width_D.tolist(), strict=True)):
            tokens_DC[number, :width], log2_counts_DC[number, :width] = each.tokens_C, each.log2_counts_C
        return cls(transitions, at_A, width_D, tokens_DC, log2_counts_DC)


def _by_bits(bits_OC: np.ndarray) -> np.ndarray:
    """(O, C) the numbers of the children in ascending order of their rounded bits; equal ones stay in order."""
    rounded_OC = bits_OC.astype(np.float32)
    np.rint(np.multiply(rounded_OC, 10**_DECIMALS, out=rounded_OC), out=rounded_OC)
    if bits_OC.shape[1] > _MANY_CHILDREN:
        rounded_OC = np.minimum(rounded_OC, 2**15 - 1, out=rounded_OC).astype(np.int16)
    return np.argsort(rounded_OC, axis=1, kind="stable")


def _radical_inverse(numbers: np.ndarray) -> np.ndarray:
    """The bits of whole numbers, read backwards behind the point: van der Corput's sequence in base 2.

    Example:
        >>> _radical_inverse(np.arange(6)).tolist()
        [0.0, 0.5, 0.25, 0.75, 0.125, 0.625]
    """
    found, rest, place = np.zeros(len(numbers)), numbers.copy(), 0.5
    while rest.any():
        found += place * (rest & 1)
        rest, place = rest >> 1, place / 2
    return found


def _widened(values_NC: np.ndarray, width: int, padding: float) -> np.ndarray:
    """The values with columns of padding added."""
    return np.pad(values_NC, ((0, 0), (0, width - values_NC.shape[1])), constant_values=padding)


def _some_possible(bits_BC: np.ndarray, counts_BC: np.ndarray) -> np.ndarray:
    """The bits of the children; if all are impossible under the model, all are equally likely."""
    is_dead_B1 = ~np.isfinite(bits_BC).any(axis=1, keepdims=True)
    return np.where(is_dead_B1 & np.isfinite(counts_BC), 0.0, bits_BC) if is_dead_B1.any() else bits_BC


def _scores(bits: np.ndarray, log2_counts: np.ndarray, exponent: float) -> np.ndarray:
    """log2 of a component's share of each child, up to a constant."""
    scores = np.zeros_like(bits) if exponent == 0.0 else -exponent * bits
    return scores + (1.0 - exponent) * log2_counts if exponent < 1.0 else scores
