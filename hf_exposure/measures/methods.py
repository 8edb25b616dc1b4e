"""The methods of measurement. Each is an object that holds its own settings, checks them, and measures by them.

A method encodes the texts that canaries are compared with, before there is a model (`competitors`), and makes one
estimate for each canary from the costs under a model (`estimate`). The methods here score texts of the template, all
of them or uniform draws; those that walk its token automaton are in `search_methods`.

Shapes: K canaries, inserted ones first; N other texts of their template.
"""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.space import distinct_indices
from hf_exposure.checks import flag, real_number, whole_number
from hf_exposure.errors import InputError, rows_named
from hf_exposure.estimators import (
    enumeration_exposure,
    lead_over_runner_up,
    sampling_exposure,
    skew_normal_exposure,
)
from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.estimators.estimate import CostEstimate
from hf_exposure.estimators.skew_normal import FEWEST_REFERENCES
from hf_exposure.extraction import TokenAutomaton, UniformPaths, build_automaton, enumerate_texts
from hf_exposure.extraction.sampled_encodings import AUDITED_ENCODINGS
from hf_exposure.limits import LARGEST_COUNT, MOST_REFERENCES
from hf_exposure.records import ReferenceCosts
from hf_exposure.scoring import EncodedTexts, Encoder, Scorer

MethodName = Literal["auto", "enumerate", "sample", "skew_normal", "importance", "bounded"]


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
        competitor_costs_N: those of the texts that `Method.competitors` encoded.
        encoded: the canaries, then those texts.
        automaton, uniform: of the template, and uniform draws from it, for a method that searches.
        confidence_level: of all intervals.
        seed: of all draws.
    """

    canaries: CanarySet
    scorer: Scorer
    costs_K: FloatArray
    competitor_costs_N: FloatArray
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
        both = (np.flatnonzero(self.is_inserted_K), np.flatnonzero(~self.is_inserted_K))
        return [members for members in both if members.size]

    def effective_space_size(self, canary: int) -> int:
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


def checked_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some arguments that are settings of methods, each within its range."""
    return {name: check(flat[name]) for name, check in _SETTINGS.items() if name in flat}


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

    def competitors(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        """The texts whose costs `estimate` needs, encoded. Made once, before there is a model."""
        return encoder.encode([])

    @abstractmethod
    def estimate(self, measured: Measurement) -> Estimated:
        """One estimate for each canary."""

    def leads(self, measured: Measurement, estimates: Sequence[CostEstimate]) -> FloatArray:
        """(K,) leads over the likeliest text that was not inserted; NaN by a method that cannot tell."""
        return np.full(len(measured.canaries), np.nan)


@dataclass(frozen=True, kw_only=True)
class Enumerate(Method):
    """Scores every text of the space and counts: exact ranks, for at most 1,000,000 candidate secrets.

    Example:
        >>> Enumerate().name
        'enumerate'
    """

    name = "enumerate"

    def competitors(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        template = canaries.template
        # A small space is encoded text by text as fast as its automaton is audited.
        if template.space_size > AUDITED_ENCODINGS:
            try:
                automaton = build_automaton(template, encoder, one_path=True, also=texts_of(canaries))
            except InputError:
                pass  # the tokenizer does not allow it
            else:
                return enumerate_texts(automaton, encoder.first_scored)
        return _encoded(encoder, [template.text_at(index) for index in range(template.space_size)])

    def estimate(self, measured: Measurement) -> Estimated:
        estimates = enumeration_exposure(
            measured.costs_K,
            self._costs_of_others(measured),
            includes_self=~measured.is_inserted_K,
            tolerance_bits=measured.scorer.tolerance_bits,
        )
        return estimates, ReferenceCosts.of(measured.competitor_costs_N, whole_space=True)

    def leads(self, measured: Measurement, estimates: Sequence[CostEstimate]) -> FloatArray:
        others = self._costs_of_others(measured)
        return lead_over_runner_up(measured.costs_K, others, is_rival=~measured.is_inserted_K)

    def _costs_of_others(self, measured: Measurement) -> FloatArray:
        """Costs of all texts of the space that were not inserted."""
        # Equal texts end at one vertex of the token tree.
        ends = measured.encoded.tree.vertices.last_of_sequence_N
        own_K, space_N = np.split(ends, [len(measured.canaries)])
        order_N = np.argsort(space_N)
        places_K = order_N[np.searchsorted(space_N, own_K, sorter=order_N)]
        others: FloatArray = np.delete(measured.competitor_costs_N, places_K[measured.is_inserted_K])
        return others


@dataclass(frozen=True, kw_only=True)
class Sample(Method):
    """Compares with uniform references that are no canaries: exposures up to `log2(references)`, for any model.

    Args:
        references: how many are drawn, at most (all others of the space, where it is smaller).

    Raises:
        InputError: a number out of range.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 4.2.

    Example:
        >>> Sample(references=512)
        Sample(references=512)
    """

    name = "sample"
    references: int = 4096

    def competitors(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        return _encoded(encoder, uniform_references(canaries, self.references, seed))

    def estimate(self, measured: Measurement) -> Estimated:
        estimates: list[CostEstimate] = []
        for members in measured.groups():
            estimates += sampling_exposure(
                measured.costs_K[members],
                measured.competitor_costs_N,
                space_size=measured.effective_space_size(int(members[0])),
                confidence_level=measured.confidence_level,
            )
        return estimates, ReferenceCosts.of(measured.competitor_costs_N)


@dataclass(frozen=True, kw_only=True)
class SkewNormal(Method):
    """Extrapolates from uniform references by a skew-normal law, as the paper does. It has no valid interval.

    Args:
        references: how many are drawn, at most; 20 or more.
        accept_bad_fit: give figures of a law that does not fit the references too.

    Raises:
        InputError: a number out of range.

    Source: Carlini et al. 2019, "The Secret Sharer", Section 4.2.

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

    def competitors(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        return _encoded(encoder, uniform_references(canaries, self.references, seed))

    def estimate(self, measured: Measurement) -> Estimated:
        estimates = skew_normal_exposure(
            measured.costs_K, measured.competitor_costs_N, accept_bad_fit=self.accept_bad_fit
        )
        return estimates, ReferenceCosts.of(measured.competitor_costs_N)


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


def texts_of(canaries: CanarySet) -> list[str]:
    """The canaries' texts, in their order."""
    return [canary.text for canary in canaries]


def _encoded(encoder: Encoder, texts: list[str]) -> EncodedTexts:
    return rows_named(lambda _: "a text of the template", lambda: encoder.encode(texts))
