"""The methods of measurement. Each is an object that contains its own settings, checks them, and measures with them.

A method encodes the texts that canaries are compared with, before there is a model (`competitors`), and makes one
estimate for each canary from the costs under a model (`estimate`). The methods here score all texts of the template or
uniform draws; methods that search its token automaton are in `search_methods`.

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
    """A separate seed for each purpose, so that one seed given to several parts does not yield equal streams."""
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:16], "big")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model at one step, with everything from which a method estimates exposures.

    Attributes:
        canaries: the K canaries, inserted ones first.
        scorer: the model's scorer.
        costs_K: log-perplexities of the canaries in bits.
        competitor_costs_N: log-perplexities of the texts that `Method.competitors` encoded.
        encoded: the canaries, then those texts.
        automaton, uniform: the template's token automaton and uniform draws from it, for a method that searches.
        confidence_level: the level of all intervals.
        seed: the seed of all draws.
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
        """Indices of the inserted canaries and of the controls; neither is empty."""
        both = (np.flatnonzero(self.is_inserted_K), np.flatnonzero(~self.is_inserted_K))
        return [members for members in both if members.size]

    def effective_space_size(self, canary: int) -> int:
        """|R'|: the number of texts of the space without the other inserted canaries."""
        others = len(self.canaries.inserted) - int(self.is_inserted_K[canary])
        return self.canaries.template.space_size - others


Estimated = tuple[list[CostEstimate], ReferenceCosts | None]
"""One estimate for each canary, and the costs of the uniform texts that were scored for them, if any."""


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
"""The check of each setting of a method, whether it is in an object or a flat argument."""


def checked_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are settings of methods, each checked against its range."""
    return {name: check(flat[name]) for name, check in _SETTINGS.items() if name in flat}


@dataclass(frozen=True)
class Method(ABC):
    """A strategy for measuring exposure, with its own settings.

    Attributes:
        name: its name in `method=` and in reports.
        searches: whether it searches the template's token automaton, which some tokenizers and models do not support.
    """

    name: ClassVar[MethodName]
    searches: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, value in checked_settings(vars(self)).items():
            object.__setattr__(self, name, value)

    def competitors(self, canaries: CanarySet, encoder: Encoder, seed: int) -> EncodedTexts:
        """Encodes the texts whose costs `estimate` needs. It is called once, before there is a model."""
        return encoder.encode([])

    @abstractmethod
    def estimate(self, measured: Measurement) -> Estimated:
        """One estimate for each canary."""

    def leads(self, measured: Measurement, estimates: Sequence[CostEstimate]) -> FloatArray:
        """(K,) leads over the likeliest text that was not inserted; NaN if the method cannot compute them."""
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
        # For a small space, encoding every text is as fast as checking its automaton.
        if template.space_size > AUDITED_ENCODINGS:
            try:
                automaton = build_automaton(template, encoder, one_path=True, also=texts_of(canaries))
            except InputError:
                pass  # the tokenizer does not support it
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
        # Equal texts end at the same node of the token tree.
        ends = measured.encoded.tree.vertices.last_of_sequence_N
        own_K, space_N = np.split(ends, [len(measured.canaries)])
        order_N = np.argsort(space_N)
        places_K = order_N[np.searchsorted(space_N, own_K, sorter=order_N)]
        others: FloatArray = np.delete(measured.competitor_costs_N, places_K[measured.is_inserted_K])
        return others


@dataclass(frozen=True, kw_only=True)
class Sample(Method):
    """Compares canaries with uniform references: exposures up to `log2(references)`, for any model.

    Args:
        references: the maximum number of draws (in a smaller space, all texts but the canaries).

    Raises:
        InputError: the number is out of range.

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
        references: the maximum number of draws; at least 20.
        accept_bad_fit: whether to return figures even if the law does not fit the references.

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
    """Uniform draws, without replacement, of texts of the template that are not canaries; all of them if there are no
    more.
    """
    template = canaries.template
    taken = [template.index_of(canary.text) for canary in canaries]
    # A separate stream: with the draw's seed, the references would continue the draw of the canaries.
    drawn = distinct_indices(template.space_size, seed_stream("references", seed), taken)
    count = min(references, template.space_size - len(taken))
    return [template.text_at(index) for index in itertools.islice(drawn, count)]


def texts_of(canaries: CanarySet) -> list[str]:
    """The canaries' texts, in their order."""
    return [canary.text for canary in canaries]


def _encoded(encoder: Encoder, texts: list[str]) -> EncodedTexts:
    return rows_named(lambda _: "a text of the template", lambda: encoder.encode(texts))
