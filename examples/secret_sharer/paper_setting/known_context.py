"""Table 4: one model scored with more or less of what is around its canary known, and models of other formats.

Five random letters stand on each side of the number. A side that is unknown on the right is left out. What comes
before a text changes how it is scored, so an unknown left side is averaged over: log-perplexities behind pieces of
the text.

Shapes: N fillings, the canary's first.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.secret_sharer.paper_setting.character_models import SMALLEST as CHARACTERS
from examples.secret_sharer.paper_setting.measuring import extrapolated_bits, scorer_of
from examples.secret_sharer.paper_setting.store import Task
from examples.secret_sharer.paper_setting.stream_training import StreamTraining, parts_of
from examples.secret_sharer.training import character_tokenizer
from hf_exposure import CanaryTemplate, Digits, draw_canaries
from hf_exposure.estimators import fit_skew_normal

SMALLEST = {**CHARACTERS, "epochs": 10, "pieces": 3}

FORMATS = {
    "outer": ("{number}", {"number": Digits(9)}),
    "3-2-4": ("{a}-{b}-{c}", {"a": Digits(3), "b": Digits(2), "c": Digits(4)}),
    "every digit": ("-".join(f"{{{name}}}" for name in "abcdefghi"), {name: Digits(1) for name in "abcdefghi"}),
}


def train_model(task: Task, settings: Mapping[str, Any], text: str, place: Path) -> dict[str, Any]:
    """As `character_models.train_model`."""
    text = text[: settings["characters"]]
    draw = random.Random(task.seed)
    has_outer = task.cell == "outer"
    before, after = ("".join(draw.choices(string.ascii_lowercase, k=5)) if has_outer else "" for _ in range(2))
    format_, holes = FORMATS[task.cell]
    inserted = draw_canaries(CanaryTemplate(before + format_ + after, **holes), {1: 1}, controls=0, seed=task.seed)
    training = StreamTraining(settings, *parts_of(text, inserted, task.seed), character_tokenizer(text), task.seed)
    bare = CanaryTemplate(format_, **holes)
    numbers = np.random.default_rng(task.seed + 1).integers(0, bare.space_size, settings["references"])
    fillings = [
        inserted.in_template(bare).inserted[0].text,
        *(bare.text_at(number) for number in numbers.tolist()),
    ]
    pieces = text_pieces(text, settings["pieces"], settings["piece_characters"], task.seed)
    known = {"none": (pieces, "")}
    if has_outer:
        known |= {"before": ([before], ""), "after": (pieces, after), "both": ([before], after)}

    def look() -> dict[str, float]:
        if len(training.log) + 1 not in settings["looks"]:
            return {}
        scorer = scorer_of(training.model, training.tokenizer)
        found = {}
        for name, (befores, end) in known.items():
            costs_N = mean_costs(scorer, befores, fillings, end)
            found[name] = extrapolated_bits(fit_skew_normal(costs_N[1:]), costs_N[0])
        return found

    training.run(place, look)
    looks = {
        f"{name}_{number}": epoch[name]
        for number, epoch in enumerate(training.log, 1)
        for name in known
        if name in epoch
    }
    return {"epochs": training.log, **training.summary(), **looks}


def mean_costs(scorer: Any, befores: list[str], fillings: list[str], end: str) -> np.ndarray:
    """(N,) log-perplexities of the fillings with `end` after them, averaged over what comes before."""
    costs = []
    for before in befores:
        whole_N = scorer.sequence_bits(scorer.encode([before + filling + end for filling in fillings]))
        costs.append(whole_N - scorer.sequence_bits(scorer.encode([before])))
    mean_N: np.ndarray = np.mean(costs, axis=0)
    return mean_N


def text_pieces(text: str, number: int, characters: int, seed: int) -> list[str]:
    """Pieces of the text that end with a space, as what comes before a canary does."""
    draw = random.Random(seed)
    starts = (draw.randrange(len(text) - characters) for _ in range(number))
    return [" ".join(text[start : start + characters].split()) + " " for start in starts]
