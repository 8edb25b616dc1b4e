"""Section 9.2: lines that two models, each trained on a half of them, find unequally surprising are dropped.

A secret that is in one half was memorized by that half's model alone. One that is in both halves surprises neither.

Shapes: N lines, 2 halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.secret_sharer.paper_setting.character_models import SMALLEST as CHARACTERS
from examples.secret_sharer.paper_setting.measuring import scorer_of
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from examples.secret_sharer.paper_setting.templates import TEMPLATES
from examples.secret_sharer.training import character_tokenizer
from hf_exposure import draw_canaries

SMALLEST = CHARACTERS


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`; both halves are one model of the queue."""
    text = text[: settings["characters"]]
    tokenizer = character_tokenizer(text)
    repetitions = {1: settings["inserted_once"], 2: settings["inserted_twice"]}
    canaries = draw_canaries(TEMPLATES["number"], repetitions, controls=0, seed=task.seed)
    read, held_out = parts_of(text, canaries, task.seed)
    lines = read.splitlines(keepends=True)
    half_N = np.random.default_rng(task.seed).permutation(len(lines)) % 2
    bits_2N, logs = np.empty((2, len(lines))), []
    for half in (0, 1):
        own = "".join(line for line, of in zip(lines, half_N, strict=True) if of == half)
        training = StreamTraining(settings, own, held_out, tokenizer, task.seed + half)
        (place / str(half)).mkdir(exist_ok=True)
        training.run(place / str(half))
        scorer = scorer_of(training.model, tokenizer)
        # One character with nothing before it has no bits.
        bits_2N[half] = scorer.sequence_bits(scorer.encode(["\n" + line for line in lines]))
        logs.append({**training.summary(), "epochs": training.log})
    places = np.arange(len(lines))
    disagreement_N = (bits_2N[1 - half_N, places] - bits_2N[half_N, places]) / [len(line) for line in lines]
    secrets = {canary.text: canary.repetitions for canary in canaries.inserted}
    found: dict[str, Any] = {"lines": len(lines), "halves": logs}
    for percent in settings["dropped_percent"]:
        left = left_of(secrets, lines, disagreement_N, percent / 100)
        for times, name in ((1, "once"), (2, "twice")):
            gone = [not left[text] for text, repetitions in secrets.items() if repetitions == times]
            found[f"removed_{name}_at_{percent}_percent"] = sum(gone) / len(gone)
        found[f"missed_at_{percent}_percent"] = sum(left.values())
    return found


def left_of(secrets: Mapping[str, int], lines: list[str], disagreement_N: np.ndarray, share: float) -> dict[str, bool]:
    """Whether a copy of each secret is left once the share of lines of greatest disagreement is dropped.

    Example:
        >>> left_of({"1": 1, "2": 1}, ["a 1", "b", "2 c"], np.array([5.0, 1.0, 2.0]), share=1 / 3)
        {'1': False, '2': True}
    """
    dropped = round(share * len(lines))
    kept = "".join(lines[place] for place in np.argsort(-disagreement_N)[dropped:])
    return {secret: secret in kept for secret in secrets}
