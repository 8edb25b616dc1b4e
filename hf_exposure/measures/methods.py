"""The methods of measurement: each takes the canaries' costs and gives one estimate for each canary."""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hf_exposure.canaries import CanarySet
from hf_exposure.errors import rows_named
from hf_exposure.estimators import (
    enumeration_exposure,
    epsilon_lower_bound,
    exposure_from_rank,
    importance_exposure,
    sampling_exposure,
    skew_normal_exposure,
)
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.extraction import (
    EXPONENTS,
    Proposals,
    TokenAutomaton,
    UniformPaths,
    draw_proposals,
    hole_bits,
    search_ranks,
)
from hf_exposure.extraction.expansion import SearchCost
from hf_exposure.measures.settings import MeasureSettings
from hf_exposure.records import RankBounds
from hf_exposure.scoring import Scorer

# What the coins of a canary set say of the run's differential privacy.


def epsilon_of(canaries: CanarySet, costs: np.ndarray, settings: MeasureSettings) -> dict[str, Any] | None:
    """What the coins refute; None without coins on both sides, since fixed controls bound no epsilon.

    `costs` (K,) are the canaries' log-perplexities in bits, in the set's order.
    """
    coins = [canary.coin for canary in canaries]
    flipped = np.array([coin is not None for coin in coins])
    included = np.array([bool(coin) for coin in coins])[flipped]
    if not included.any() or included.all():
        return None
    bound = epsilon_lower_bound(
        costs[flipped], included, delta=settings.delta, confidence_level=settings.confidence_level
    )
    return asdict(bound)


# The first weighted draws of an adaptive measurement; their intervals say how many more are likely to be needed.
_FIRST_DRAWS = 1024
# Canaries that share draws miss together, so drawing stops early only with this many effective hits.
_ENOUGH_HITS = 100


def seed_stream(purpose: str, seed: int) -> int:
    """A seed of its own for each purpose, so that equal seeds given to several parts are not equal streams."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:16], "big")


@dataclass(frozen=True)
class Occasion:
    """One model at one moment. K canaries, inserted ones first.

    Attributes:
        canaries, settings, automaton, uniform: as prepared by the meter; no automaton, and no uniform draws from it,
            where search is impossible.
        scorer: of the model.
        costs: (K,) log-perplexities of the canaries, bits.
        competitors: costs of the whole space, or of the uniform references, or none, as the method needs.
        places_in_space: (K,) index of each canary among the competitors, where those are the whole space.
        uniform_costs: filled by `importance`: what the uniform part of its draws cost, for the report's histogram.
    """

    canaries: CanarySet
    settings: MeasureSettings
    automaton: TokenAutomaton | None
    uniform: UniformPaths | None
    scorer: Scorer
    costs: np.ndarray
    competitors: np.ndarray
    places_in_space: np.ndarray
    uniform_costs: list[np.ndarray] = field(default_factory=list)

    @cached_property
    def is_inserted(self) -> np.ndarray:
        """(K,) whether each canary was inserted."""
        return np.arange(len(self.canaries)) < len(self.canaries.inserted)

    def rivals_and_self(self, canary: int) -> int:
        """|R'|: the texts of the space without the other inserted canaries."""
        others = len(self.canaries.inserted) - int(self.is_inserted[canary])
        return self.canaries.template.space_size - others

    def enumerate(self) -> list[CostEstimate]:
        """Exact ranks from the costs of the whole space."""
        return enumeration_exposure(
            self.costs,
            np.delete(self.competitors, self.places_in_space[self.is_inserted]),
            includes_self=~self.is_inserted,
            tolerance_bits=self.scorer.noise_bits,
        )

    def sample(self) -> list[CostEstimate]:
        """From uniform references that are no canaries."""
        estimates = []
        for group in (self.is_inserted, ~self.is_inserted):
            if group.any():
                size = self.rivals_and_self(int(np.flatnonzero(group)[0]))
                estimates += sampling_exposure(
                    self.costs[group],
                    self.competitors,
                    space_size=size,
                    confidence_level=self.settings.confidence_level,
                )
        return estimates

    def skew_normal(self) -> list[CostEstimate]:
        """The paper's extrapolation from uniform references."""
        return skew_normal_exposure(self.costs, self.competitors, accept_bad_fit=self.settings.accept_bad_fit)

    def bounded(self) -> list[CostEstimate]:
        """Certified ranks by one search."""
        return self.search(list(range(len(self.canaries))), self.settings.max_expansions)

    def search(self, canaries: list[int], max_expansions: int) -> list[CostEstimate]:
        """The ranks of some canaries by one bounded search."""
        assert self.automaton is not None
        texts = [canary.text for canary in self.canaries]
        automaton, ids = self.automaton, [canary.id for canary in self.canaries]
        found = rows_named(
            lambda row: f"canary {ids[canaries[row]]}",
            lambda: search_ranks(
                self.scorer,
                automaton,
                [texts[canary] for canary in canaries],
                max_expansions=max_expansions,
                exclude=[other.text for other in self.canaries.inserted],
            ),
        )
        return [self._from_bounds(canary, bounds) for canary, bounds in zip(canaries, found, strict=True)]

    def _from_bounds(self, canary: int, bounds: RankBounds) -> CostEstimate:
        size = self.rivals_and_self(canary)
        low = exposure_from_rank(bounds.high, size)
        return CostEstimate(
            exposure_bits=low,
            low_bits=low,
            high_bits=exposure_from_rank(bounds.low, size),
            rank_low=bounds.low,
            rank_high=bounds.high,
            method="bounded",
            bound="exact" if bounds.certified else "lower",
            note="" if bounds.certified else f"a lower bound: {bounds.note}",
        )

    def importance(self) -> list[CostEstimate]:
        """From weighted draws, until every interval is narrow enough or the references are spent."""
        assert self.automaton is not None and self.uniform is not None
        generator = np.random.default_rng(seed_stream("proposals", self.settings.seed))
        spent = SearchCost()
        draws: Proposals | None = None
        wanted = _FIRST_DRAWS
        while True:
            have = len(draws.texts) if draws else 0
            wanted = min(wanted, self.settings.references - have)
            uniform = self.uniform.take(
                self.scorer, self.automaton, have // len(EXPONENTS), -(-wanted // len(EXPONENTS))
            )
            new = draw_proposals(self.scorer, self.automaton, uniform, generator, spent)
            draws = new if draws is None else draws.join(new)
            estimates = self.weigh(draws)
            if len(draws.texts) >= self.settings.references or all(map(self._is_settled, estimates)):
                is_uniform = draws.is_text & (draws.strata == EXPONENTS.index(0.0))
                self.uniform_costs.append(self._prefix_bits() + draws.hole_bits[is_uniform])
                return estimates
            wanted = max(map(self._draws_missing, estimates, itertools.repeat(len(draws.texts))))

    def _draws_missing(self, estimate: CostEstimate, have: int) -> int:
        """How many more draws are likely to settle an estimate: widths shrink as the root of their number, hits grow
        with it. At least as many as there are, and all that may be where nothing is known.
        """
        width, hits = estimate.high_bits - estimate.low_bits, estimate.effective_hits or 0.0
        times = max((width / self.settings.precision_bits) ** 2, _ENOUGH_HITS / max(hits, 1.0))
        return max(have, math.ceil(have * (times - 1.0))) if math.isfinite(times) else self.settings.references

    def _prefix_bits(self) -> float:
        assert self.automaton is not None
        return float(np.nansum(self.scorer.prefix_bits(self.automaton.prefix)))

    def weigh(self, draws: Proposals) -> list[CostEstimate]:
        """Estimates of all canaries from one weighted set."""
        assert self.automaton is not None
        space_size = self.canaries.template.space_size
        inserted = {canary.text for canary in self.canaries.inserted}
        # An inserted canary competes with no other: draws that hit one count for nothing.
        weights = draws.weights(space_size) * np.array([text not in inserted for text in draws.texts])
        holes = self.costs - self._prefix_bits()
        # The model's own component gives a text of b bits a probability of at least 2^-b, so its weight is bounded.
        rarest = np.exp2(np.minimum(0.0, holes - math.log2(space_size))) if self.automaton.prefix else 1.0
        estimates: list[CostEstimate] = [None] * len(holes)  # type: ignore[list-item]
        for group in (self.is_inserted, ~self.is_inserted):
            members = np.flatnonzero(group)
            if not len(members):
                continue
            found = importance_exposure(
                # Draws that are the canary itself, or tie with it, may come out a rounding error dearer.
                holes[members] + self.scorer.noise_bits,
                draws.hole_bits,
                weights,
                space_size=self.rivals_and_self(int(members[0])),
                confidence_level=self.settings.confidence_level,
                weight_limits=len(EXPONENTS) * np.broadcast_to(rarest, holes.shape)[members],
                strata=draws.strata,
                includes_self=~self.is_inserted[members],
            )
            for canary, estimate in zip(members.tolist(), found, strict=True):
                estimates[canary] = estimate
        return estimates

    def auto(self) -> list[CostEstimate]:
        """Exact ranks where a search finds them with as many expansions as there are references; weighted draws for
        the rest. Where the tokenizer allows no search, uniform references.

        A text of b bits (after the prefix) ranks at most 2^b, which bounds its search. Where that does not promise an
        end for all, draws come first, and say which others may rank so high: few draws are as likely as a memorised
        canary.
        """
        if self.automaton is None:
            return self.sample()
        budget = min(self.settings.max_expansions, self.settings.references)
        holes = [hole_bits(self.scorer, self.automaton, cost) for cost in self.costs.tolist()]
        likely = [canary for canary, bits in enumerate(holes) if bits <= math.log2(budget)]
        if len(likely) == len(holes):
            exact = self._found(likely, budget)
            if len(exact) == len(holes):
                return list(exact.values())
        drawn = self.importance()
        hopeful = [
            canary
            for canary, estimate in enumerate(drawn)
            if canary in likely or self._may_rank_within(budget, canary, estimate)
        ]
        exact = self._found(hopeful, budget)
        return [exact.get(canary, estimate) for canary, estimate in enumerate(drawn)]

    def _may_rank_within(self, budget: int, canary: int, drawn: CostEstimate) -> bool:
        """Whether draws leave it open: neither settled nor surely beyond."""
        least_bits = math.log2(self.rivals_and_self(canary)) - math.log2(budget)
        return not self._is_settled(drawn) and drawn.high_bits >= least_bits

    def _found(self, canaries: list[int], budget: int) -> dict[int, CostEstimate]:
        """Those of the canaries whose ranks one search certifies."""
        found = zip(canaries, self.search(canaries, budget), strict=True) if canaries else ()
        return {canary: estimate for canary, estimate in found if not estimate.is_lower_bound}

    def _is_settled(self, estimate: CostEstimate) -> bool:
        narrow = estimate.high_bits - estimate.low_bits <= self.settings.precision_bits
        return narrow and (estimate.effective_hits or 0.0) >= _ENOUGH_HITS
