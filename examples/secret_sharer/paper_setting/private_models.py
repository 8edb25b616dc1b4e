"""Table 6: DP-SGD and DP-RMSprop with one canary, in a row of its own text, and the same steps without noise.

Rows are fixed, since what is protected is a row; the canary is within one. A model without privacy is one whose clip
no gradient reaches: all else is equal.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.paper_setting.character_models import SMALLEST as CHARACTERS
from examples.secret_sharer.paper_setting.character_models import canaries_of
from examples.secret_sharer.paper_setting.measuring import CanaryLook, random_texts
from examples.secret_sharer.paper_setting.store import Task, keep_state, kept_state
from examples.secret_sharer.private_training import Privacy, PrivateTraining, noise_for, with_private_layers
from examples.secret_sharer.training import character_tokenizer, encode_rows, loss_bits
from hf_exposure.estimators import epsilon_from_ranks

SMALLEST = {**CHARACTERS, "epochs": 2}


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`."""
    text = text[: settings["characters"]]
    split, tokenizer = round(0.9 * len(text)), character_tokenizer(text)
    canaries = canaries_of(settings, task.seed)
    assert canaries is not None
    (canary,) = canaries.inserted
    rows, canary_row = rows_with(text[:split], canary.text, settings["row_tokens"], task.seed)
    rows_NT = encode_rows(tokenizer, rows)
    held_out_NT = encode_rows(tokenizer, rows_of(text[split:], settings["row_tokens"]))
    privacy = Privacy(
        **{name: settings[name] for name in ("epochs", "batch_size", "learning_rate", "optimizer", "clip")},
        noise=0.0,
        seed=task.seed,
    )
    if "epsilon" in settings:
        noise = noise_for(settings["epsilon"], len(rows_NT), settings["delta"], privacy)
        privacy = replace(privacy, noise=noise)
    torch.manual_seed(task.seed)
    sizes = {name: settings[name] for name in ("layers", "width")}
    private = with_private_layers(make_model("lstm", len(tokenizer), **sizes))
    training = PrivateTraining(private, rows_NT, privacy, canary_row)
    log: list[dict[str, float]] = []
    kept = kept_state(place)
    if kept is not None:
        training.load_state_dict(kept["training"])
        log = kept["log"]
    while len(log) < privacy.epochs:
        training.epoch()
        log.append({"validation_bits": loss_bits(training.model, held_out_NT)})
        print(log[-1], flush=True)
        keep_state(place, {"training": training.state_dict(), "log": log})
    training.close()
    plain = make_model("lstm", len(tokenizer), **sizes)
    weights = private.state_dict()  # by torch's names and by Opacus's
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    plain.eval()
    references = random_texts(canaries.template, settings["references"], task.seed + 1)
    found = CanaryLook(tokenizer, canaries.template, canary, references).both(plain, settings["max_expansions"])
    # One secret, so that the only threshold that can refute anything is rank 1.
    rank = found["rank_high"] if found["rank_high"] < canaries.template.space_size else None
    refuted = epsilon_from_ranks([rank], canaries.template.space_size, 1, delta=settings["delta"])
    norms = training.watched_norms
    return {
        "epochs": log,
        "rows": len(rows_NT),
        "test_bits": log[-1]["validation_bits"],
        "noise_multiplier": privacy.noise,
        "booked_epsilon": training.booked(settings["delta"]),
        "rank_epsilon": refuted.epsilon,
        "clipped_share": training.rows_clipped / training.rows_seen,
        "canary_gradient_norm": sum(norms) / len(norms) if norms else math.nan,
        **found,
    }


def rows_of(text: str, characters: int) -> list[str]:
    """The text cut into rows; what is left at its end is dropped."""
    return [text[at : at + characters] for at in range(0, len(text) - characters + 1, characters)]


def rows_with(text: str, canary: str, characters: int, seed: int) -> tuple[list[str], int]:
    """Rows of a text with a canary at a random place of it that no cut goes through, and the number of its row."""
    draw = random.Random(seed)
    row = draw.randrange(len(text) // characters)
    at = row * characters + draw.randrange(characters - len(canary) + 1)
    return rows_of(text[:at] + canary + text[at:], characters), row
