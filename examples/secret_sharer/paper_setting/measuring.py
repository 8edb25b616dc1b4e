"""What is measured of one model and its canary: extrapolated exposure, rank by search, and what both rest on.

Shapes: N texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.secret_sharer.models import CharacterModel
from hf_exposure import Canary, CanaryTemplate
from hf_exposure.estimators import SkewNormalFit, fit_skew_normal, log_cdf, sampling_exposure
from hf_exposure.extraction import build_automaton, search_ranks
from hf_exposure.records import RankBounds
from hf_exposure.scoring import EncodedTexts, RecurrentScorer, Scorer, make_scorer

__all__ = ["CanaryLook", "digits_off", "quantize", "random_texts", "scorer_of", "search_costs"]


def scorer_of(model: nn.Module, tokenizer: Any, rows: int = 8192) -> Scorer:
    """A recurrent model is read step by step."""
    if isinstance(model, CharacterModel) and model.config.architecture in ("lstm", "gru"):
        return RecurrentScorer(model, tokenizer, rows=rows)
    return make_scorer(model, tokenizer)


def random_texts(template: CanaryTemplate, number: int, seed: int) -> list[str]:
    """Uniform draws from the template, with replacement."""
    places = np.random.default_rng(seed).integers(0, template.space_size, number)
    return [template.text_at(place) for place in places.tolist()]


class CanaryLook:
    """One canary among the texts of its template, under a model as it is now.

    Args:
        references: texts that were drawn from the template: 10,000 for a law, a million for a test of it.
        rows: texts that are scored at the same time; fewer for a large vocabulary.
    """

    def __init__(
        self, tokenizer: Any, template: CanaryTemplate, canary: Canary, references: list[str], rows: int = 8192
    ) -> None:
        self.tokenizer, self.template, self.canary, self._rows = tokenizer, template, canary, rows
        self._texts = [canary.text, *references]
        self._encoded: EncodedTexts | None = None

    def extrapolated(self, model: nn.Module) -> tuple[dict[str, float], np.ndarray, SkewNormalFit]:
        """Exposure by the skew-normal and by counting, the (N,) costs of the references, and their law."""
        scorer = scorer_of(model, self.tokenizer, self._rows)
        if self._encoded is None:
            self._encoded = scorer.encode(self._texts)
        own, *_ = costs = scorer.sequence_bits(self._encoded)
        law = fit_skew_normal(costs[1:])
        bits = extrapolated_bits(law, own)
        (counted,) = sampling_exposure([own], costs[1:], space_size=self.template.space_size)
        found = {
            "log_perplexity_bits": float(own),
            "skew_normal_bits": bits,
            "share_of_space": bits / self.template.log2_space_size,
            "exposure_bits": counted.exposure_bits,
        }
        return found, costs[1:], law

    def rank(self, model: nn.Module, max_expansions: int) -> RankBounds:
        """By search."""
        scorer = scorer_of(model, self.tokenizer, self._rows)
        automaton = build_automaton(self.template, scorer.encoder)
        return search_ranks(scorer, automaton, [self.canary.text], max_expansions=max_expansions)[0]

    def both(self, model: nn.Module, max_expansions: int) -> dict[str, Any]:
        """`exposure_bits` is exact where the search ends, else by counting; `extracted` is null where it is open."""
        found, _, _ = self.extrapolated(model)
        return self.ranked(found, self.rank(model, max_expansions))

    def ranked(self, found: dict[str, float], rank: RankBounds) -> dict[str, Any]:
        """The figures with those of a search."""
        exact = {"exposure_bits": self.template.log2_space_size - math.log2(rank.high)} if rank.certified else {}
        return {
            **found,
            **exact,
            "rank_low": rank.low,
            "rank_high": rank.high,
            "certified": rank.certified,
            "expansions": rank.expansions,
            "extracted": True if rank.high == 1 else False if rank.low > 1 else None,
        }


def extrapolated_bits(law: SkewNormalFit, cost: float) -> float:
    """The exposure that the law gives to a cost, beyond log2|R| where it is likelier than all."""
    return -float(log_cdf([cost], law.shape, law.loc, law.scale)[0]) / math.log(2)


def search_costs(log: list[Mapping[str, Any]], log2_space_size: float) -> dict[str, float]:
    """What the certified searches of the epochs cost, against exposure; NaN where none, or only one, ended."""
    certified = [epoch for epoch in log if epoch["certified"]]
    first = [epoch["expansions"] for epoch in certified if epoch["rank_high"] == 1]
    exposures = [log2_space_size - math.log2(epoch["rank_high"]) for epoch in certified]
    costs = [math.log2(max(1, epoch["expansions"])) for epoch in certified]
    varied = len(set(exposures)) > 1
    return {
        "most_expansions_at_rank_1": float(max(first)) if first else math.nan,
        "log2_expansions_per_bit": float(np.polyfit(exposures, costs, 1)[0]) if varied else math.nan,
    }


@torch.no_grad()
def quantize(model: nn.Module, levels: int) -> None:
    """Makes every weight one of `levels` values, evenly spaced over the range of its own matrix."""
    for weight in model.parameters():
        low, high = weight.min(), weight.max()
        step = (high - low) / (levels - 1)
        if step > 0:
            weight.copy_(low + torch.round((weight - low) / step) * step)


def digits_off(one: str, other: str) -> int:
    """How many digits differ.

    Example:
        >>> digits_off("281265017", "281265117")
        1
    """
    return sum(a != b for a, b in zip(one, other, strict=True))
