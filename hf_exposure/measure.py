"""Canaries and a model in, a report out: the paper's measurement, step by step."""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.indices import distinct_indices
from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    control_test,
    enumeration_exposure,
    exposure_from_rank,
    sampling_exposure,
    skew_normal_exposure,
)
from hf_exposure.extraction import build_automaton, hole_bits, search_rank
from hf_exposure.extraction.bounded_rank import TIE_TOLERANCE_BITS
from hf_exposure.records import CostEstimate, ExposureEstimate, RankBounds
from hf_exposure.report import ExposureReport
from hf_exposure.scoring import CausalScorer, Encoder

__all__ = ["ExposureMeter", "Method", "measure_exposure"]

Method = Literal["auto", "enumerate", "sample", "skew_normal", "bounded"]

# Encoding and scoring every text of a larger space takes minutes and gigabytes on a CPU.
MOST_ENUMERATED = 10**6
_PACKAGES = ("hf-exposure", "torch", "transformers", "numpy", "scipy")


class ExposureMeter:
    """A measurement that is prepared once and taken at any moment of a training: the object under the callback.

    References are drawn and encoded on construction, so `measure` costs forward passes and little else.

    Args:
        canaries: the set whose exposure is measured.
        tokenizer: the model's tokenizer; never changed.
        method: "enumerate" scores every text of the space; "sample" compares with uniform references; "skew_normal"
            extrapolates from them, as the paper does; "bounded" searches for the exact rank; "auto" takes the exact
            answer where it is cheap: enumeration for a space no larger than `references`, search for a canary whose
            bits bound the search's cost by that of the references, sampling for the rest.
        references: how many uniform references are drawn (all others of the space, where it is smaller).
        seed: of that draw, in the report.
        max_expansions: budget of one search.
        precision_bits: width of the interval at which adaptive methods stop drawing.
        confidence_level: of every interval.
        end_token: whether the end of each text is scored.
        max_batch_tokens: as for `log_perplexity`.

    Raises:
        InputError: an unknown method, a number out of range, a space too large to enumerate, a tokenizer or template
            that search cannot handle with `method="bounded"`.
    """

    def __init__(
        self,
        canaries: CanarySet,
        tokenizer: Any,
        *,
        method: Method = "auto",
        references: int = 4096,
        seed: int = 0,
        max_expansions: int = 100_000,
        precision_bits: float = 0.25,
        confidence_level: float = 0.95,
        end_token: bool = False,
        max_batch_tokens: int | None = None,
    ) -> None:
        _check_settings(method, references, max_expansions, precision_bits, confidence_level)
        self.canaries, self.tokenizer = canaries, tokenizer
        self.settings = {
            "method": method,
            "references": references,
            "seed": seed,
            "max_expansions": max_expansions,
            "precision_bits": precision_bits,
            "confidence_level": confidence_level,
            "end_token": end_token,
        }
        self._end_token, self._max_batch_tokens = end_token, max_batch_tokens
        self.method: Method = method
        size = canaries.template.space_size
        if method == "auto" and size <= references:
            self.method = "enumerate"
        if self.method == "enumerate" and size > MOST_ENUMERATED:
            raise InputError(
                "method",
                f"'enumerate' takes spaces of at most {MOST_ENUMERATED} texts",
                f"a space of {size}",
                "Use method='auto'.",
            )
        encoder = Encoder(tokenizer, end_token=end_token)
        self._automaton, self._no_search = None, ""
        if self.method in ("auto", "bounded"):
            try:
                self._automaton = build_automaton(canaries.template, encoder)
            except InputError as error:
                if method == "bounded":
                    raise
                self._no_search = str(error)
        self._encoded = encoder.encode([canary.text for canary in canaries] + self._competitors(references, seed))

    def measure(self, model: nn.Module, *, base_model: nn.Module | None = None) -> ExposureReport:
        """The exposure of every canary under `model` as it is now. The model is left as it was found.

        Raises:
            NonFiniteScoreError: the model returned NaN.
        """
        started = time.perf_counter()
        costs, estimates, notes = self._estimate(model)
        base = [math.nan] * len(estimates)
        if base_model is not None:
            base = [estimate.exposure_bits for estimate in self._estimate(base_model)[1]]
        inserted = len(self.canaries.inserted)
        audit = control_test(costs[:inserted], costs[inserted:]) if self.canaries.controls else None
        template = self.canaries.template
        return ExposureReport(
            estimates=tuple(
                ExposureEstimate(
                    canary_id=canary.id,
                    repetitions=canary.repetitions,
                    log_perplexity_bits=float(cost),
                    exposure_bits=estimate.exposure_bits,
                    low_bits=estimate.low_bits,
                    high_bits=estimate.high_bits,
                    rank_low=estimate.rank_low,
                    rank_high=estimate.rank_high,
                    method=estimate.method,
                    note=estimate.note,
                    base_exposure_bits=base_bits,
                )
                for canary, cost, estimate, base_bits in zip(self.canaries, costs, estimates, base, strict=True)
            ),
            template=template.text,
            spaces={name: repr(space) for name, space in template.spaces.items()},
            space_size=template.space_size,
            manifest_hash=self.canaries.manifest_hash,
            settings=dict(self.settings),
            p_value=audit.p_value if audit else math.nan,
            auc=audit.auc if audit else math.nan,
            auc_low=audit.auc_low if audit else math.nan,
            auc_high=audit.auc_high if audit else math.nan,
            seconds=time.perf_counter() - started,
            model=_describe(model),
            versions=_versions(),
            notes=tuple(notes),
        )

    def _competitors(self, references: int, seed: int) -> list[str]:
        """The texts that canaries are compared with: the whole space, or uniform draws of what is no canary."""
        template, size = self.canaries.template, self.canaries.template.space_size
        if self.method == "enumerate":
            return [template.text_at(index) for index in range(size)]
        taken = [template.index_of(canary.text) for canary in self.canaries]
        # A stream of its own: with the draw's seed, the references would go on where the canaries ended.
        stream = int.from_bytes(hashlib.sha256(f"references {seed}".encode()).digest()[:16], "big")
        count = min(references, size - len(taken))
        return [template.text_at(i) for i in itertools.islice(distinct_indices(size, stream, taken), count)]

    def _estimate(self, model: nn.Module) -> tuple[np.ndarray, list[CostEstimate], list[str]]:
        """Costs (K,) of the canaries, one estimate for each, and notes that concern all."""
        scorer = CausalScorer(
            model, self.tokenizer, end_token=self._end_token, max_batch_tokens=self._max_batch_tokens
        )
        bits = scorer.sequence_bits(self._encoded)
        costs, competitors = bits[: len(self.canaries)], bits[len(self.canaries) :]
        if self.method == "enumerate":
            return costs, self._enumerate(costs, competitors), []
        if self.method == "skew_normal":
            return costs, skew_normal_exposure(costs, competitors), []
        if self.method == "bounded":
            bounds = [self._search(scorer, k, int(self.settings["max_expansions"])) for k in range(len(costs))]
            return costs, [self._from_bounds(k, found) for k, found in enumerate(bounds)], []
        sampled = self._sample(costs, competitors)
        if self.method == "sample":
            return costs, sampled, []
        notes = [f"no search: {self._no_search}"] if self._no_search else []
        return costs, self._search_where_cheap(scorer, costs, sampled), notes

    def _rivals_and_self(self, canary: int) -> int:
        """|R'|: the space without the other inserted canaries."""
        inserted = len(self.canaries.inserted)
        return self.canaries.template.space_size - inserted + (1 if canary < inserted else 0)

    def _enumerate(self, costs: np.ndarray, space_costs: np.ndarray) -> list[CostEstimate]:
        template, inserted = self.canaries.template, len(self.canaries.inserted)
        rivals = np.delete(space_costs, [template.index_of(canary.text) for canary in self.canaries.inserted])
        return enumeration_exposure(
            costs, rivals, includes_self=np.arange(len(costs)) >= inserted, tolerance_bits=TIE_TOLERANCE_BITS
        )

    def _sample(self, costs: np.ndarray, references: np.ndarray) -> list[CostEstimate]:
        level, inserted = float(self.settings["confidence_level"]), len(self.canaries.inserted)
        estimates = []
        for group, first in ((costs[:inserted], 0), (costs[inserted:], inserted)):
            if len(group):
                size = self._rivals_and_self(first)
                estimates += sampling_exposure(group, references, space_size=size, confidence_level=level)
        return estimates

    def _search(self, scorer: CausalScorer, canary: int, max_expansions: int) -> RankBounds:
        assert self._automaton is not None
        text = self.canaries.inserted[canary].text if canary < len(self.canaries.inserted) else None
        text = text or self.canaries.controls[canary - len(self.canaries.inserted)].text
        others = [c.text for c in self.canaries.inserted if c.text != text]
        return search_rank(scorer, self._automaton, text, max_expansions=max_expansions, exclude=others)

    def _from_bounds(self, canary: int, bounds: RankBounds) -> CostEstimate:
        size = self._rivals_and_self(canary)
        # An open search bounds the rank over the whole space; R' is smaller by the other inserted canaries.
        low, high = (exposure_from_rank(min(rank, size), size) for rank in (bounds.high, bounds.low))
        note = "" if bounds.certified else f"a lower bound: {bounds.note}"
        return CostEstimate(
            exposure_bits=low,
            low_bits=low,
            high_bits=high,
            rank_low=min(bounds.low, size),
            rank_high=min(bounds.high, size),
            method="bounded",
            note=note,
        )

    def _search_where_cheap(
        self, scorer: CausalScorer, costs: np.ndarray, sampled: list[CostEstimate]
    ) -> list[CostEstimate]:
        """Exact ranks where a search is sure to cost no more than the references did; the rest as sampled."""
        if self._automaton is None:
            return sampled
        budget = min(int(self.settings["max_expansions"]), int(self.settings["references"]))
        estimates = []
        for canary, (cost, estimate) in enumerate(zip(costs, sampled, strict=True)):
            if hole_bits(scorer, self._automaton, float(cost)) <= math.log2(budget):
                found = self._from_bounds(canary, self._search(scorer, canary, budget))
                # A search that had to stop still certifies its bounds, but the references say more.
                estimate = replace(found, note=found.note) if not found.note else estimate
            estimates.append(estimate)
        return estimates


def measure_exposure(
    model: nn.Module,
    tokenizer: Any,
    canaries: CanarySet,
    method: Method = "auto",
    references: int = 4096,
    seed: int = 0,
    max_expansions: int = 100_000,
    precision_bits: float = 0.25,
    confidence_level: float = 0.95,
    base_model: nn.Module | None = None,
    end_token: bool = False,
    max_batch_tokens: int | None = None,
) -> ExposureReport:
    """The exposure of every canary of a set under a model: how much likelier it is than chance made it.

    `exposure(s[r]) = log2|R'| - log2 rank(s[r])` in bits, where the rank counts texts of the same template that the
    model finds at least as likely (ties count against the canary) and R' leaves out the other inserted canaries. It
    lies in [0, log2|R'|]; of a canary that was not memorised it exceeds x bits with probability at most 2^-x.

    Source: Carlini et al. 2019, "The Secret Sharer", Definitions 2 to 4 and Section 4.3.

    Args:
        model: a causal language model; left as it was found.
        tokenizer: its tokenizer.
        canaries: inserted ones and held-out controls.
        base_model: a model that did not see the canaries: its exposures are reported beside.

    The other arguments are those of `ExposureMeter`, which prepares a measurement that is taken many times.

    Returns:
        `ExposureReport`, its estimates in the set's order, inserted canaries first.

    Raises:
        InputError: as `ExposureMeter`.
        NonFiniteScoreError: the model returned NaN.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(3)), {1: 2}, controls=2, seed=0)
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> report = measure_exposure(model, ByT5Tokenizer(), canaries)
        >>> [estimate.method for estimate in report.estimates]
        ['enumerate', 'enumerate', 'enumerate', 'enumerate']
    """
    meter = ExposureMeter(
        canaries,
        tokenizer,
        method=method,
        references=references,
        seed=seed,
        max_expansions=max_expansions,
        precision_bits=precision_bits,
        confidence_level=confidence_level,
        end_token=end_token,
        max_batch_tokens=max_batch_tokens,
    )
    return meter.measure(model, base_model=base_model)


def _check_settings(
    method: str, references: int, max_expansions: int, precision_bits: float, confidence_level: float
) -> None:
    if method not in get_args(Method):
        raise InputError("method", f"must be one of {', '.join(get_args(Method))}", method, "Use method='auto'.")
    for name, value in (("references", references), ("max_expansions", max_expansions)):
        if not isinstance(value, int) or value < 1:
            raise InputError(name, "must be a whole number of at least 1", value, f"Leave {name} out for the default.")
    if not precision_bits > 0:
        raise InputError("precision_bits", "must be above 0", precision_bits, "Leave it out for 0.25.")
    if not 0 < confidence_level < 1:
        raise InputError("confidence_level", "must lie between 0 and 1", confidence_level, "Leave it out for 0.95.")


def _describe(model: nn.Module) -> dict[str, Any]:
    """What the report says of the model: nothing that computing on it could change."""
    parameters = list(model.parameters())
    return {
        "class": type(model).__name__,
        "name": getattr(getattr(model, "config", None), "_name_or_path", "") or "",
        "parameters": sum(p.numel() for p in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch.") if parameters else "",
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
