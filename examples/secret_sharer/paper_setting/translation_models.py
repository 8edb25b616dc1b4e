"""Figure 7: a translation model of made-up pairs without digits, one of them a secret inserted once or four times.

Exposure is that of the target given its own source, which holds the same number: by the skew-normal, since no search
can be made where each text has another source. The rank is that of the target among all given the canary's source.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from examples.secret_sharer.figure7_translation import TEMPLATE
from examples.secret_sharer.paper_setting.store import Task, keep_state, kept_state
from examples.secret_sharer.translation import SOURCE, PairTraining, make_pairs, pair_model, pair_tokenizer
from hf_exposure import draw_canaries, insert_canaries, log_perplexity, rank_bounds
from hf_exposure.measures import ExposureMeter

SMALLEST = {
    **{"pairs": 100, "held_out_pairs": 20, "width": 16, "layers": 1, "epochs": 2, "references": 64},
    "max_expansions": 20,
}


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`; the text is not read."""
    del text
    tokenizer, seed = pair_tokenizer(), task.seed
    canaries = draw_canaries(TEMPLATE, {settings["inserted"]: 1}, controls=0, seed=seed)
    plain = make_pairs(settings["pairs"], seed, numbers=False)
    held_out = make_pairs(settings["held_out_pairs"], seed + 1000, numbers=False)
    pairs = insert_canaries(plain, canaries, "target", source=SOURCE, seed=seed)
    torch.manual_seed(seed)
    model = pair_model(tokenizer, settings["width"], settings["layers"])
    training = PairTraining(model, tokenizer, pairs, seed)
    losses: list[float] = []
    best: dict[str, torch.Tensor] = {}
    kept = kept_state(place)
    if kept is not None:
        training.load_state_dict(kept["training"])
        losses, best = kept["losses"], kept["best"]
    while not losses or (
        len(losses) < settings["epochs"] and len(losses) - _best_epoch(losses) < settings["patience"]
    ):
        training.epoch()
        bits = log_perplexity(model, tokenizer, held_out["target"][:], sources=held_out["source"][:], end_token=True)
        losses.append(float(bits.mean()))
        if _best_epoch(losses) == len(losses):
            best = copy.deepcopy(model.state_dict())
        print(task.cell, seed, losses[-1], flush=True)
        keep_state(place, {"training": training.state_dict(), "losses": losses, "best": best})
    model.load_state_dict(best)
    (canary,) = canaries.inserted
    how = {"references": settings["references"], "seed": seed, "source": SOURCE}
    fitted = ExposureMeter(canaries, tokenizer, method="skew_normal", accept_bad_fit=True, **how).measure(model)
    counted = ExposureMeter(canaries, tokenizer, method="sample", **how).measure(model)
    own_source = SOURCE.format(**TEMPLATE.parse(canary.text))
    rank = rank_bounds(
        model, tokenizer, canary.text, TEMPLATE, max_expansions=settings["max_expansions"], source=own_source
    )
    return {
        "held_out_bits_per_sentence": losses,
        "best_epoch": _best_epoch(losses),
        "exposure_bits": fitted.inserted[0].exposure_bits,
        "counted_bits": counted.inserted[0].exposure_bits,
        "rank_low": rank.low,
        "rank_high": rank.high,
        "certified": rank.certified,
    }


def _best_epoch(losses: list[float]) -> int:
    """Of the lowest loss, from 1."""
    return 1 + losses.index(min(losses))
