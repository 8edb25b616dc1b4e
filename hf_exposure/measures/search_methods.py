"""The methods that search a template's token automaton: bounded search, weighted draws, and `Auto`, which combines
both.

Some tokenizers, templates and models do not support this. `choose` alone decides what `Auto` then does.

Shapes: K canaries, inserted ones first; N draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_exposure.errors import InputError, rows_named
from hf_exposure.estimators import exposure_from_rank, importance_exposure
from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.importance import ENOUGH_HITS
from hf_exposure.extraction import (
    EXPONENTS,
    Proposals,
    draw_proposals,
    largest_weights,
    prefix_cost,
    search_ranks,
)
from hf_exposure.limits import MOST_ENUMERATED
from hf_exposure.measures.lead import leads_by_search
from hf_exposure.measures.methods import (
    Enumerate,
    Estimated,
    Measurement,
    Method,
    Sample,
    seed_stream,
    texts_of,
)
from hf_exposure.records import RankBounds, ReferenceCosts

# Number of the first weighted draws of an adaptive measurement; their intervals show how many more are likely to be
# needed.
_FIRST_DRAWS = 1280


@dataclass(frozen=True, kw_only=True)
class Bounded(Method):
    """Searches for the exact rank: certified bounds on it at any budget.

    Args:
        max_expansions: the budget of the search for all canaries, counted in states with more than one child.

    Raises:
        InputError: the number is out of range.

    Example:
        >>> Bounded(max_expansions=1000)
        Bounded(max_expansions=1000)
    """

    name = "bounded"
    searches = True
    max_expansions: int = 100_000

    def estimate(self, measured: Measurement) -> Estimated:
        return self.search(measured, range(len(measured.canaries))), None

    def leads(self, measured: Measurement, estimates: Sequence[CostEstimate]) -> FloatArray:
        return leads_by_search(measured, self.max_expansions, _ranked_first(measured, estimates))

    def search(
        self, measured: Measurement, canaries: Sequence[int], *, only_exact: bool = False
    ) -> list[CostEstimate]:
        """The ranks of the canaries with these indices, by one search; `only_exact` as for `search_ranks`."""
        assert measured.automaton is not None
        automaton, texts = measured.automaton, texts_of(measured.canaries)
        ids = [canary.id for canary in measured.canaries]
        found = rows_named(
            lambda row: f"canary {ids[canaries[row]]}",
            lambda: search_ranks(
                measured.scorer,
                automaton,
                [texts[canary] for canary in canaries],
                max_expansions=self.max_expansions,
                exclude=[other.text for other in measured.canaries.inserted],
                only_exact=only_exact,
            ),
        )
        return [
            _from_bounds(bounds, measured.effective_space_size(canary))
            for canary, bounds in zip(canaries, found, strict=True)
        ]


def _from_bounds(bounds: RankBounds, size: int) -> CostEstimate:
    low_bits = exposure_from_rank(bounds.high, size)
    return CostEstimate(
        exposure_bits=low_bits,
        low_bits=low_bits,
        high_bits=exposure_from_rank(bounds.low, size),
        rank_low=bounds.low,
        rank_high=bounds.high,
        method="bounded",
        bound="exact" if bounds.certified else "lower",
        note="" if bounds.certified else f"a lower bound: {bounds.note}",
    )


@dataclass(frozen=True, kw_only=True)
class Importance(Method):
    """Draws weighted references from the model itself: one set serves every canary, from 1 bit to log2|R|.

    Args:
        references: the maximum number of draws, rounded up to a multiple of 8, at least 16. Draws are spread evenly,
            and each counts all texts that it could have ended with, if nothing is scored after the secret. So fewer of
            them suffice: drawing stops when it is as precise, for nine in ten canaries, as this many independent draws
            of one text each.
        precision_bits: an interval this narrow is precise enough.

    Raises:
        InputError: a number is out of range.

    Source: multiple importance sampling, Veach and Guibas, SIGGRAPH 1995; see `importance_exposure`.

    Example:
        >>> Importance(references=1024)
        Importance(references=1024, precision_bits=0.25)
    """

    name = "importance"
    searches = True
    references: int = 4096
    precision_bits: float = 0.25

    def estimate(self, measured: Measurement) -> Estimated:
        return self.draw(measured, range(len(measured.canaries)))

    def draw(self, measured: Measurement, canaries: Sequence[int]) -> Estimated:
        """Estimates for all canaries from draws that continue until those of the canaries with these indices
        converge.
        """
        assert measured.automaton is not None and measured.uniform is not None
        prefix_bits = prefix_cost(measured.scorer, measured.automaton)
        generator = np.random.default_rng(seed_stream("proposals", measured.seed))
        draws: Proposals | None = None
        wanted, enough = min(_FIRST_DRAWS, self.references), self.references
        # The weights of canaries matter where they are rare, and cost little next to the draws.
        rare = sorted(canaries, key=measured.costs_K.__getitem__)[: wanted // 32]
        while True:
            is_first = draws is None
            watched = rare if is_first else []
            draws = draw_proposals(
                measured.scorer,
                measured.automaton,
                wanted,
                measured.uniform,
                generator,
                watched=[measured.encoded.ids[canary][len(measured.automaton.prefix) :] for canary in watched],
                beside=draws,
            )
            estimates = _weighed(measured, draws, measured.costs_K - prefix_bits, rare)
            asked = [estimates[canary] for canary in canaries]
            wide = [estimate for estimate in asked if not self.has_converged(estimate)]
            if wide and (is_first or draws.endings is None):
                enough = self.draws_needed(asked)
            missing = enough - len(draws.texts)
            if missing <= 0 or not wide:
                is_uniform = draws.is_text_N & (draws.strata_N == EXPONENTS.index(0.0))
                return estimates, ReferenceCosts.of(prefix_bits + draws.hole_bits_N[is_uniform])
            wanted = min(missing, max(map(self._draws_missing, wide, itertools.repeat(len(draws.texts)))))

    def draws_needed(self, estimates: Sequence[CostEstimate]) -> int:
        """The number of draws with which nine in ten canaries have converged, or are estimated as precisely as from
        `references` independent draws of one text each.
        """
        gains = [math.inf if self.has_converged(estimate) else estimate.draw_gain or 1.0 for estimate in estimates]
        return math.ceil(self.references / float(np.quantile(gains, 0.1, method="lower")))

    def has_converged(self, estimate: CostEstimate) -> bool:
        """Whether no more draws are needed for an estimate."""
        narrow = estimate.high_bits - estimate.low_bits <= self.precision_bits
        # The errors of canaries that share draws are dependent, so drawing stops early only with many effective hits.
        return narrow and (estimate.effective_hits or 0.0) >= ENOUGH_HITS

    def _draws_missing(self, estimate: CostEstimate, have: int) -> int:
        """How many more draws an estimate is likely to need: widths shrink with the square root of their number, and
        hits grow in proportion to it. At least as many as there are, and the maximum if nothing is known.
        """
        width, hits = estimate.high_bits - estimate.low_bits, estimate.effective_hits or 0.0
        times = max((width / self.precision_bits) ** 2, ENOUGH_HITS / max(hits, 1.0))
        return max(have, math.ceil(have * (times - 1.0))) if math.isfinite(times) else self.references


def _weighed(
    measured: Measurement, draws: Proposals, hole_bits_K: FloatArray, watched: Sequence[int]
) -> list[CostEstimate]:
    """Estimates for all canaries, whose bits after the prefix are `hole_bits_K`, from one weighted set, in which those
    with the indices `watched` were watched.
    """
    assert measured.automaton is not None
    inserted = {canary.text for canary in measured.canaries.inserted}
    # Inserted canaries do not compete with each other, so the space is that of all other texts.
    space_size = max(1, measured.canaries.template.space_size - len(inserted))
    bits_NC, weights_NC, shares_NC = draws.rows(space_size, inserted)
    limits_K = largest_weights(measured.automaton, hole_bits_K, space_size)
    own_K = np.full(len(hole_bits_K), np.nan)
    own_K[list(watched)] = draws.watched_weights(space_size)
    estimates: list[CostEstimate] = []
    for members in measured.groups():
        estimates += importance_exposure(
            # Draws that are the canary itself, or tie with it, may cost more by a rounding error.
            hole_bits_K[members] + measured.scorer.tolerance_bits,
            bits_NC,
            weights_NC,
            space_size=measured.effective_space_size(int(members[0])),
            confidence_level=measured.confidence_level,
            weight_limits=limits_K[members],
            own_weights=own_K[members],
            strata=draws.strata_N,
            shares=shares_NC,
            batches=draws.batches_N,
            includes_self=~measured.is_inserted_K[members],
        )
    return estimates


@dataclass(frozen=True, kw_only=True)
class Auto(Method):
    """Uses exact methods where they are cheap: it scores every text of a small space, searches for canaries that may
    rank high, and draws weighted references for the rest, or uniform ones if the tokenizer or the model does not
    support search (`choose`).

    Args:
        references: the maximum number of draws, as for `Importance`; a space with no more texts than this is
            enumerated.
        max_expansions: the budget of one search, at most `references`.
        precision_bits: as for `Importance`.

    Raises:
        InputError: a number out of range.

    Example:
        >>> Auto(references=512)
        Auto(references=512, max_expansions=100000, precision_bits=0.25)
    """

    name = "auto"
    searches = True
    references: int = 4096
    max_expansions: int = 100_000
    precision_bits: float = 0.25

    def estimate(self, measured: Measurement) -> Estimated:
        """Exact ranks if a search finds them with as many expansions as there are references, else weighted draws.

        A text of b bits (after the prefix) has a rank of at most 2^b, which bounds its search, so texts with few bits
        are searched for first. The others are estimated from draws, which also show which of them may rank high: few
        draws are as likely as a memorized canary.
        """
        assert measured.automaton is not None
        search = Bounded(max_expansions=min(self.max_expansions, self.references))
        draws = Importance(references=self.references, precision_bits=self.precision_bits)
        most_bits = math.log2(search.max_expansions)
        dearest = prefix_cost(measured.scorer, measured.automaton) + most_bits
        exact = _certified(search, measured, np.flatnonzero(measured.costs_K < dearest).tolist())
        rest = [canary for canary in range(len(measured.costs_K)) if canary not in exact]
        if not rest:
            return list(exact.values()), None
        drawn, references = draws.draw(measured, rest)

        def may_rank_high(canary: int, estimate: CostEstimate) -> bool:
            """Whether a search may help: the estimate has neither converged nor is it certainly out of reach of a
            search.
            """
            least_bits = math.log2(measured.effective_space_size(canary)) - most_bits
            return not draws.has_converged(estimate) and estimate.high_bits >= least_bits

        exact |= _certified(search, measured, [canary for canary in rest if may_rank_high(canary, drawn[canary])])
        return [exact.get(canary, estimate) for canary, estimate in enumerate(drawn)], references

    def leads(self, measured: Measurement, estimates: Sequence[CostEstimate]) -> FloatArray:
        return leads_by_search(measured, min(self.max_expansions, self.references), _ranked_first(measured, estimates))


def _ranked_first(measured: Measurement, estimates: Sequence[CostEstimate]) -> int:
    """The number of inserted canaries that certainly rank first."""
    return sum(one.rank_high == 1 for one, inserted in zip(estimates, measured.is_inserted_K, strict=True) if inserted)


def _certified(search: Bounded, measured: Measurement, canaries: list[int]) -> dict[int, CostEstimate]:
    """The estimates for those of the canaries whose ranks one search certifies."""
    found = search.search(measured, canaries, only_exact=True) if canaries else []
    return {canary: one for canary, one in zip(canaries, found, strict=True) if not one.is_lower_bound}


def choose(method: Method, space_size: int, why_no_search: str | InputError = "") -> tuple[Method, str]:
    """Returns the method to use, and a note for the report: "" if the method is the one asked for.

    Every method but `Auto` is used unchanged. `Auto` enumerates a space of at most `references` texts, which
    costs no more than references would, and is exact. In a larger space it searches and draws (`Auto.estimate`), for
    which a prefix of a text must have a score and the template an automaton. Otherwise it compares with uniform
    references, which any model can score.

    Args:
        method: the method that was asked for.
        space_size: |R|.
        why_no_search: why the tokenizer, the template or the model does not support search; "" if it does.

    Raises:
        InputError: the space is too large to enumerate, or the method searches and search is not supported.

    Example:
        >>> choose(Auto(references=512), 1000, "the model reads both ways")
        (Sample(references=512), 'no search, uniform references instead: the model reads both ways')
    """
    if isinstance(method, Auto):
        if space_size <= min(method.references, MOST_ENUMERATED):
            return Enumerate(), ""
        if why_no_search:
            return Sample(references=method.references), f"no search, uniform references instead: {why_no_search}"
    elif isinstance(method, Enumerate) and space_size > MOST_ENUMERATED:
        rule = f"'enumerate' takes spaces of at most {MOST_ENUMERATED} texts"
        raise InputError("method", rule, f"a space of {space_size}", "Use method='auto'.")
    elif method.searches and why_no_search:
        if isinstance(why_no_search, InputError):
            raise why_no_search
        rule = f"must be 'auto', 'enumerate', 'sample' or 'skew_normal' here, since {why_no_search}"
        raise InputError("method", rule, method.name, "Use method='auto'.")
    return method, ""
