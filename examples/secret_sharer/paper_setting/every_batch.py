"""Figure 8: exposure by the skew-normal after every batch, the rows in order, the canary near the start."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.secret_sharer.figure8_every_batch import jumps
from examples.secret_sharer.paper_setting.character_models import SMALLEST as CHARACTERS
from examples.secret_sharer.paper_setting.character_models import canaries_of
from examples.secret_sharer.paper_setting.measuring import CanaryLook, random_texts
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from examples.secret_sharer.training import character_tokenizer

SMALLEST = {**CHARACTERS, "epochs": 3}


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`."""
    text = text[: settings["characters"]]
    canaries = canaries_of(settings, task.seed)
    assert canaries is not None
    parts, canary = parts_of(text, canaries, task.seed, place=settings["place"]), canaries.inserted[0]
    training = StreamTraining(settings, *parts, character_tokenizer(text), task.seed, whole=canary.text)
    references = random_texts(canaries.template, settings["references"], task.seed + 1)
    look = CanaryLook(training.tokenizer, canaries.template, canary, references)
    bits: list[float] = []

    def of_the_epoch() -> dict[str, Any]:
        found = {"after_batches": bits.copy()}
        bits.clear()
        return found

    training.run(place, of_the_epoch, lambda: bits.append(look.extrapolated(training.model)[0]["skew_normal_bits"]))
    exposures = [one for epoch in training.log for one in epoch["after_batches"]]
    at = training.whole_in_row // settings["batch_size"]
    return {
        "epochs": training.log,
        **training.summary(),
        **{f"after_epoch_{number}": epoch["after_batches"][-1] for number, epoch in enumerate(training.log, 1)},
        **jumps(exposures, settings["epochs"], at),
    }
