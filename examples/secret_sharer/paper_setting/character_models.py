"""Models of characters with one canary in their text: by these settings most experiments differ, and by nothing else.

With `look_expansions` the canary is measured after every epoch; with `max_expansions` the model that the training ends
with is measured once more, by as long a search; with `law_samples` so is the law of all numbers, and a copy of the
model with 256 values a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from examples.secret_sharer.paper_setting.measuring import (
    CanaryLook,
    digits_off,
    quantize,
    random_texts,
    scorer_of,
    search_costs,
)
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from examples.secret_sharer.paper_setting.templates import TEMPLATES
from examples.secret_sharer.training import character_tokenizer, loss_bits
from hf_exposure import CanarySet, draw_canaries
from hf_exposure.estimators import log_cdf
from hf_exposure.extraction import build_automaton, search_likeliest

SMALLEST = {
    **{"characters": 6_000, "layers": 1, "width": 12, "parameters": 8_000, "row_tokens": 40, "batch_size": 16},
    **{"epochs": 2, "patience": 1, "references": 200, "law_samples": 500, "look_expansions": 50},
    **{"max_expansions": 50},
}


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """Trains one model, or goes on with it, and measures it.

    Args:
        settings: of `experiments.toml`.
        place: a folder for unfinished work.

    Returns:
        what claims point into, and the log of the epochs.
    """
    text = text[: settings["characters"]]
    canaries = canaries_of(settings, task.seed)
    training = StreamTraining(settings, *parts_of(text, canaries, task.seed), character_tokenizer(text), task.seed)
    if canaries is None:
        training.run(place)
        return {"epochs": training.log, **training.summary()}
    references = random_texts(canaries.template, settings["references"], task.seed + 1)
    look = CanaryLook(training.tokenizer, canaries.template, canaries.inserted[0], references)
    budget = settings.get("look_expansions")
    training.run(place, None if budget is None else lambda: look.both(training.model, budget))
    found = training.summary()
    if budget is not None:
        found |= over_epochs(training.log, training.best_epoch, canaries.template.log2_space_size)
    if "law_samples" in settings:
        found |= _measure_thoroughly(training, canaries, settings)
    elif "max_expansions" in settings:
        found |= look.both(training.model, settings["max_expansions"])
    return {"epochs": training.log, "insertions": canaries.total_insertions, **found}


def canaries_of(settings: Mapping[str, Any], seed: int) -> CanarySet | None:
    """One canary, inserted so often; a list of numbers goes round by seed. None where the number is 0."""
    inserted = settings["inserted"]
    if isinstance(inserted, list):
        inserted = inserted[seed % len(inserted)]
    return draw_canaries(TEMPLATES[settings["secret"]], {inserted: 1}, controls=0, seed=seed) if inserted else None


def over_epochs(log: list[dict[str, Any]], best_epoch: int, log2_space_size: float) -> dict[str, Any]:
    """When exposure was highest, what it was at the lowest loss and in the end, and what searches cost."""
    best, last = log[best_epoch - 1], log[-1]
    return {
        "peak_epoch": 1 + int(np.argmax([epoch["skew_normal_bits"] for epoch in log])),
        "skew_normal_at_best": best["skew_normal_bits"],
        "skew_normal_last": last["skew_normal_bits"],
        "worst_rank_after_best": max(epoch["rank_high"] for epoch in log[best_epoch - 1 :]),
        **search_costs(log, log2_space_size),
    }


def _measure_thoroughly(training: StreamTraining, canaries: CanarySet, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rank, near misses, the law of all numbers, and a copy of 256 values."""
    (canary,), template, model = canaries.inserted, canaries.template, training.model
    budget = settings["max_expansions"]
    look = CanaryLook(training.tokenizer, template, canary, random_texts(template, settings["law_samples"], 1))
    found, costs_N, law = look.extrapolated(model)
    rank = look.rank(model, budget)
    scorer = scorer_of(model, training.tokenizer)
    automaton = build_automaton(template, scorer.encoder)
    listed = search_likeliest(scorer, automaton, top_k=10, max_expansions=budget)
    others = [one for one in listed.candidates if one.text != canary.text] if listed.certified else []
    off = [digits_off(one.text[-9:], canary.text[-9:]) for one in others]
    tested = stats.kstest(costs_N, lambda bits_N: np.exp(log_cdf(bits_N, law.shape, law.loc, law.scale)))
    loss = loss_bits(model, training.held_out_NT)
    quantize(model, levels=256)
    return {
        **look.ranked(found, rank),
        "mean_digits_off": float(np.mean(off)) if off else math.nan,
        "lead_bits": others[0].log_perplexity_bits - rank.log_perplexity_bits if others else math.nan,
        "ks_p_value": float(tested.pvalue),
        "ks_distance": float(tested.statistic),
        "quantized_loss_ratio": loss_bits(model, training.held_out_NT) / loss,
        "quantized_rank_high": look.rank(model, budget).high,
    }
