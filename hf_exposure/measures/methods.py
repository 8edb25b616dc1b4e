"""The methods of measurement. Each is an object that holds its own settings, checks them, and measures by them.

A method names the texts that canaries are compared with, before there is a model (`compared`), and makes one estimate
for each canary from the costs under a model (`estimate`). What `Auto` does is decided by `choose` alone.

Shapes: K canaries, inserted ones first; N other texts of their template.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.space import distinct_indices
from hf_exposure.checks import flag, one_of, real_number, whole_number
from hf_exposure.errors import InputError, rows_named
from hf_exposure.estimators import (
    enumeration_exposure,
    exposure_from_rank,
    importance_exposure,
    sampling_exposure,
    skew_normal_exposure,
)
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.skew_normal import FEWEST_REFERENCES
from hf_exposure.extraction import (
    EXPONENTS,
    Proposals,
    TokenAutomaton,
    UniformPaths,
    build_automaton,
    draw_proposals,
    enumerate_texts,
    hole_bits,
    search_ranks,
)
from hf_exposure.extraction.expansion import SearchCost
from hf_exposure.extraction.sampled_encodings import AUDITED_ENCODINGS
from hf_exposure.limits import LARGEST_COUNT, MOST_ENUMERATED, MOST_REFERENCES
from hf_exposure.records import RankBounds, ReferenceCosts
from hf_exposure.scoring import EncodedTexts, Encoder, Scorer

FloatArray = NDArray[np.float64]
MethodName = Literal["auto", "enumerate", "sample", "skew_normal", "importance", "bounded"]

# The first weighted draws of an adaptive measurement; their intervals say how many more are likely to be needed.
_FIRST_DRAWS = 1024
# Canaries that share draws miss together, so drawing stops early only with this many effective hits.
_ENOUGH_HITS = 100


def seed_stream(purpose: str, seed: int) -> int:
    """A seed of its own for each purpose, so that equal seeds given to several parts are not equal streams."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:16], "big")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model at one step, with what a method estimates exposures from.

    Attributes:
        canaries: K of them, inserted ones first.
        scorer: the model's.
        costs_K: log-perplexities of the canaries in bits.
        compared_costs_N: those of the texts that `Method.compared` encoded.
        encoded: the canaries, then those texts.
        automaton, uniform: of the template, and uniform draws from it, for a method that searches.
        confidence_level: of all intervals.
        seed: of all draws.
    """

    canaries: CanarySet
    scorer: Scorer
    costs_K: FloatArray
    compared_costs_N: FloatArray
    encoded: EncodedTexts
    automaton: TokenAutomaton | None = None
    uniform: UniformPaths | None = None
    confidence_level: float = 0.95
    seed: int = 0

    @cached_property
    def is_inserted_K(self) -> NDArray[np.bool_]:
        """Whether each canary was inserted."""
        return np.arange(len(self.canaries)) < len(self.canaries.inserted)

    def groups(self) -> list[NDArray[np.int64]]:
        """Numbers of the inserted canaries and of the controls; neither is empty."""
        return [members for members in (np.flatnonzero(self.is_inserted_K), np.flatnonzero(~self.is_inserted_K))
                if members.size]  # fmt: skip

    def rivals_and_self(self, canary: int) -> int:
        """|R'|: the number of texts of the space without the other inserted canaries."""
        others = len(self.canaries.inserted) - int(self.is_inserted_K[canary])
        return self.canaries.template.space_size - others


Estimated = tuple[list[CostEstimate], ReferenceCosts | None]
"""One estimate for each canary, and the costs of the uniform texts that were scored for them, if any were."""


_SETTINGS: dict[str, Callable[[object], object]] = {
    "references": lambda value: whole_number("references", value, 1, MOST_REFERENCES, "Leave references out."),
    "max_expansions": lambda value: whole_number(
        "max_expansions", value, 1, LARGEST_COUNT, "Leave max_expansions out."
    ),
    "precision_bits": lambda value: real_number(
        "precision_bits", value, "must be above 0", "Leave it out for 0.25.", above=0.0, infinite=True
    ),
    "accept_bad_fit": lambda value: flag("accept_bad_fit", value),
}
"""What each setting of a method may be, whether an object holds it or it is a flat argument."""


@dataclass(frozen=True)
class Method(ABC):
    """How exposure is measured: a strategy with its own settings.

    Attributes:
        name: what `method=` calls it, in reports too.
        searches: whether it walks the template's token automaton, which not every tokenizer and model allow.
    """

    name: ClassVar[MethodName]
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in checked_settings(vars(self)).items():
            object.__setattr__(self, name, value)

    def compared(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        """The texts whose costs `estimate` needs, encoded. Made once, before there is a model."""
        return encoder.encode([])

    @abstractmethod
    def estimate(self, measured: Measurement) -> Estimated:
        """One estimate for each canary."""


@dataclass(frozen=True, kw_only=True)
class Enumerate(Method):
    """Scores every text of the space and counts: exact ranks, for at most 1,000,000 candidate secrets.

    Example:
        >>> Enumerate().name
        'enumerate'
    """

    name = "enumerate"

    def compared(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        template = canaries.template
        # A small space is encoded text by text as fast as its automaton is audited.
        if template.space_size > AUDITED_ENCODINGS:
            try:
                automaton = build_automaton(template, encoder, one_path=True, also=_texts(canaries))
            except InputError:
                pass  # the tokenizer does not allow it
            else:
                return enumerate_texts(automaton, encoder.first_scored)
        return _encoded(encoder, [template.text_at(index) for index in range(template.space_size)])

    def estimate(self, measured: Measurement) -> Estimated:
        # Equal texts end at one vertex of the token tree.
        ends = measured.encoded.tree.vertices.last_of_sequence
        own_K, space_N = np.split(ends, [len(measured.canaries)])
        order_N = np.argsort(space_N)
        places_K = order_N[np.searchsorted(space_N, own_K, sorter=order_N)]
        estimates = enumeration_exposure(
            measured.costs_K,
            np.delete(measured.compared_costs_N, places_K[measured.is_inserted_K]),
            includes_self=~measured.is_inserted_K,
            tolerance_bits=measured.scorer.noise_bits,
        )
        return estimates, ReferenceCosts.of(measured.compared_costs_N, whole_space=True)


@dataclass(frozen=True, kw_only=True)
class Sample(Method):
    """Compares with uniform references that are no canaries: exposures up to `log2(references)`, for any model.

    Args:
        references: how many are drawn, at most (all others of the space, where it is smaller).

    Raises:
        InputError: a number out of range.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 4.3.

    Example:
        >>> Sample(references=512)
        Sample(references=512)
    """

    name = "sample"
    references: int = 4096

    def compared(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        return _encoded(encoder, uniform_references(canaries, self.references, seed))

    def estimate(self, measured: Measurement) -> Estimated:
        estimates: list[CostEstimate] = []
        for members in measured.groups():
            estimates += sampling_exposure(
                measured.costs_K[members],
                measured.compared_costs_N,
                space_size=measured.rivals_and_self(int(members[0])),
                confidence_level=measured.confidence_level,
            )
        return estimates, ReferenceCosts.of(measured.compared_costs_N)


@dataclass(frozen=True, kw_only=True)
class SkewNormal(Method):
    """Extrapolates from uniform references by a skew-normal law, as the paper does. No interval vouches for it.

    Args:
        references: how many are drawn, at most; 20 or more.
        accept_bad_fit: give figures of a law that does not fit the references too.

    Raises:
        InputError: a number out of range.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 4.3.

    Example:
        >>> SkewNormal(accept_bad_fit=True)
        SkewNormal(references=4096, accept_bad_fit=True)
    """

    name = "skew_normal"
    references: int = 4096
    accept_bad_fit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.references < FEWEST_REFERENCES:
            rule = f"must be at least {FEWEST_REFERENCES} for a fit"
            raise InputError("references", rule, self.references, "Leave it out for 4096.")

    def compared(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        return _encoded(encoder, uniform_references(canaries, self.references, seed))

    def estimate(self, measured: Measurement) -> Estimated:
        estimates = skew_normal_exposure(
            measured.costs_K, measured.compared_costs_N, accept_bad_fit=self.accept_bad_fit
        )
        return estimates, ReferenceCosts.of(measured.compared_costs_N)


@dataclass(frozen=True, kw_only=True)
class Bounded(Method):
    """Searches for the exact rank: certified bounds on it at any budget.

    Args:
        max_expansions: budget of the one search for all canaries: states with more than one child.

    Raises:
        InputError: a number out of range.

    Example:
        >>> Bounded(max_expansions=1000)
        Bounded(max_expansions=1000)
    """

    name = "bounded"
    searches = True
    max_expansions: int = 100_000

    def estimate(self, measured: Measurement) -> Estimated:
        return self.search(measured, range(len(measured.canaries))), None

    def search(self, measured: Measurement, canaries: Sequence[int]) -> list[CostEstimate]:
        """The ranks of some canaries, given by their numbers, by one search."""
        assert measured.automaton is not None
        automaton, texts = measured.automaton, _texts(measured.canaries)
        ids = [canary.id for canary in measured.canaries]
        found = rows_named(
            lambda row: f"canary {ids[canaries[row]]}",
            lambda: search_ranks(
                measured.scorer,
                automaton,
                [texts[canary] for canary in canaries],
                max_expansions=self.max_expansions,
                exclude=[other.text for other in measured.canaries.inserted],
            ),
        )
        return [
            _from_bounds(bounds, measured.rivals_and_self(canary))
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
        references: how many are drawn, at most.
        precision_bits: drawing stops once every interval is this narrow.

    Raises:
        InputError: a number out of range.

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
        assert measured.automaton is not None and measured.uniform is not None
        prefix_bits = float(np.nansum(measured.scorer.prefix_bits(measured.automaton.prefix)))
        generator = np.random.default_rng(seed_stream("proposals", measured.seed))
        spent = SearchCost()
        draws: Proposals | None = None
        wanted = _FIRST_DRAWS
        while True:
            have = len(draws.texts) if draws else 0
            wanted = min(wanted, self.references - have)
            uniform = measured.uniform.take(
                measured.scorer, measured.automaton, have // len(EXPONENTS), -(-wanted // len(EXPONENTS))
            )
            new = draw_proposals(measured.scorer, measured.automaton, uniform, generator, spent)
            draws = new if draws is None else draws.join(new)
            estimates = _weighed(measured, draws, measured.costs_K - prefix_bits)
            if len(draws.texts) >= self.references or all(map(self.is_settled, estimates)):
                is_uniform = draws.is_text & (draws.strata == EXPONENTS.index(0.0))
                return estimates, ReferenceCosts.of(prefix_bits + draws.hole_bits[is_uniform])
            wanted = max(map(self._draws_missing, estimates, itertools.repeat(len(draws.texts))))

    def is_settled(self, estimate: CostEstimate) -> bool:
        """Whether no more draws are needed for an estimate."""
        narrow = estimate.high_bits - estimate.low_bits <= self.precision_bits
        return narrow and (estimate.effective_hits or 0.0) >= _ENOUGH_HITS

    def _draws_missing(self, estimate: CostEstimate, have: int) -> int:
        """How many more draws are likely to settle an estimate: widths shrink as the root of their number, hits grow
        with it. At least as many as there are, and all that may be where nothing is known.
        """
        width, hits = estimate.high_bits - estimate.low_bits, estimate.effective_hits or 0.0
        times = max((width / self.precision_bits) ** 2, _ENOUGH_HITS / max(hits, 1.0))
        return max(have, math.ceil(have * (times - 1.0))) if math.isfinite(times) else self.references


def _weighed(measured: Measurement, draws: Proposals, hole_bits_K: FloatArray) -> list[CostEstimate]:
    """Estimates of all canaries, whose bits after the prefix are `hole_bits_K`, from one weighted set."""
    assert measured.automaton is not None
    space_size = measured.canaries.template.space_size
    inserted = {canary.text for canary in measured.canaries.inserted}
    # An inserted canary competes with no other: draws that hit one count for nothing.
    weights_N = draws.weights(space_size) * np.array([text not in inserted for text in draws.texts])
    # The model's own component gives a text of b bits a probability of at least 2^-b, so its weight is bounded.
    rarest = np.exp2(np.minimum(0.0, hole_bits_K - math.log2(space_size))) if measured.automaton.prefix else 1.0
    limits_K = len(EXPONENTS) * np.broadcast_to(rarest, hole_bits_K.shape)
    estimates: list[CostEstimate] = []
    for members in measured.groups():
        estimates += importance_exposure(
            # Draws that are the canary itself, or tie with it, may come out a rounding error dearer.
            hole_bits_K[members] + measured.scorer.noise_bits,
            draws.hole_bits,
            weights_N,
            space_size=measured.rivals_and_self(int(members[0])),
            confidence_level=measured.confidence_level,
            weight_limits=limits_K[members],
            strata=draws.strata,
            includes_self=~measured.is_inserted_K[members],
        )
    return estimates


@dataclass(frozen=True, kw_only=True)
class Auto(Method):
    """Takes the exact answer where it is cheap: every text of a small space, a search for a canary that may rank high,
    weighted references for the rest; uniform ones where the tokenizer or the model allow no search (`choose`).

    Args:
        references: how many are drawn, at most; a space of no more texts is enumerated.
        max_expansions: budget of one search; `references` where they are fewer.
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
        """Exact ranks where a search finds them with as many expansions as there are references, else weighted draws.

        A text of b bits (after the prefix) ranks at most 2^b, which bounds its search. Where that does not promise an
        end for all, draws come first, and say which others may rank so high: few draws are as likely as a memorized
        canary.
        """
        assert measured.automaton is not None
        search = Bounded(max_expansions=min(self.max_expansions, self.references))
        draws = Importance(references=self.references, precision_bits=self.precision_bits)
        most_bits = math.log2(search.max_expansions)
        bits_K = [hole_bits(measured.scorer, measured.automaton, cost) for cost in measured.costs_K.tolist()]
        bounded = [canary for canary, bits in enumerate(bits_K) if bits <= most_bits]
        if len(bounded) == len(bits_K):
            exact = _certified(search, measured, bounded)
            if len(exact) == len(bits_K):
                return list(exact.values()), None
        drawn, references = draws.estimate(measured)

        def may_rank_high(canary: int, estimate: CostEstimate) -> bool:
            """Whether draws leave it open: neither settled nor surely beyond what a search reaches."""
            least_bits = math.log2(measured.rivals_and_self(canary)) - most_bits
            return not draws.is_settled(estimate) and estimate.high_bits >= least_bits

        candidates = [
            canary for canary, estimate in enumerate(drawn) if canary in bounded or may_rank_high(canary, estimate)
        ]
        exact = _certified(search, measured, candidates)
        return [exact.get(canary, estimate) for canary, estimate in enumerate(drawn)], references


def _certified(search: Bounded, measured: Measurement, canaries: list[int]) -> dict[int, CostEstimate]:
    """Those of some canaries whose ranks one search certifies."""
    found = search.search(measured, canaries) if canaries else []
    return {canary: one for canary, one in zip(canaries, found, strict=True) if not one.is_lower_bound}


def choose(method: Method, space_size: int, why_no_search: str | InputError = "") -> tuple[Method, str]:
    """The method that is carried out, and what a report says of the choice: "" where nothing was given up.

    Args:
        method: what was asked for. All but `Auto` is carried out as it is.
        space_size: |R|.
        why_no_search: why the tokenizer, the template or the model allow no search; "" where they may.

    Raises:
        InputError: the space is too large to enumerate; a method that searches where there is no search.

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


_METHODS: dict[str, type[Method]] = {
    kind.name: kind for kind in (Auto, Enumerate, Sample, SkewNormal, Importance, Bounded)
}


def method_of(method: Method | MethodName, flat: Mapping[str, Any]) -> Method:
    """The method that a name and flat arguments mean, or the object itself.

    Args:
        method: a name, or an object, which holds its own settings.
        flat: arguments by name, as `measure_exposure` takes them, or the `settings` of a report. Those that belong to
            other methods are checked and left out; those that belong to none are not looked at.

    Raises:
        InputError: an unknown name, a value out of range, or settings of methods next to an object.

    Example:
        >>> method_of("importance", {"references": 64, "max_expansions": 10, "seed": 3})
        Importance(references=64, precision_bits=0.25)
    """
    given = checked_settings(flat)
    if not isinstance(method, Method):
        kind = _METHODS[one_of("method", method, list(_METHODS), "Use method='auto'.")]
        return kind(**{setting.name: given[setting.name] for setting in fields(kind) if setting.name in given})
    for name, value in given.items():
        kind_name = type(method).__name__
        has_it = name in vars(method)
        remedy = f"Write method={kind_name}({name}={value!r})." if has_it else f"Leave it out: {kind_name} has none."
        raise InputError(name, f"must not be given next to method={kind_name}(...), an object", value, remedy)
    return method


def checked_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some arguments that are settings of methods, each within its range."""
    return {name: check(flat[name]) for name, check in _SETTINGS.items() if name in flat}


def flat_settings(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of all methods by name: the method's own, else as they were given, else as they are by default.

    Example:
        >>> flat_settings(Bounded(max_expansions=9), {"references": 64})
        {'references': 64, 'max_expansions': 9, 'precision_bits': 0.25, 'accept_bad_fit': False}
    """
    return {name: vars(method).get(name, given.get(name, default)) for name, default in _DEFAULTS.items()}


_DEFAULTS = {setting.name: setting.default for kind in (Auto, SkewNormal) for setting in fields(kind)}


def uniform_references(canaries: CanarySet, references: int, seed: int) -> list[str]:
    """Uniform draws of texts of the template that are no canaries, without replacement; all of them, where there are
    no more.
    """
    template = canaries.template
    taken = [template.index_of(canary.text) for canary in canaries]
    # A stream of its own: with the draw's seed, the references would go on where the canaries ended.
    drawn = distinct_indices(template.space_size, seed_stream("references", seed), taken)
    count = min(references, template.space_size - len(taken))
    return [template.text_at(index) for index in itertools.islice(drawn, count)]


def _texts(canaries: CanarySet) -> list[str]:
    return [canary.text for canary in canaries]


def _encoded(encoder: Encoder, texts: list[str]) -> EncodedTexts:
    return rows_named(lambda _: "a text of the template", lambda: encoder.encode(texts))
