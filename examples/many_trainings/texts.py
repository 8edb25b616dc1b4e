"""Counterfactual memorization of text: near-duplicates, ordinary lines and unusual rows.

python -m examples.many_trainings.texts --data TEXT_FILE --store FOLDER

The data are lines of text, groups of four near-duplicates that differ in one word, and rows of random characters. The
score is the share of characters that are the model's top prediction (Zhang et al.).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from examples.many_trainings.canaries import ALPHABET, Train, ids_of, windows
from examples.many_trainings.study import Options, draw_lines, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure import SubsetRuns, draw_subsets, run_subsets
from hf_exposure.estimators import split_half_reliability

WORDS = ("market", "price", "bank", "court", "paper", "plan", "river", "house")


@dataclass(frozen=True, kw_only=True)
class Size:
    lines: int
    families: int
    unusual: int
    models: int
    epochs: int


SIZES = {
    "smallest": Size(lines=20, families=2, unusual=4, models=6, epochs=2),
    "small": Size(lines=150, families=10, unusual=30, models=32, epochs=10),
}


def accuracy_of_rows(model: nn.Module, rows: list[tuple[str, int]]) -> npt.NDArray[np.float64]:
    found = []
    for text, _ in rows:
        contexts, following = windows(ids_of("\n" + text))
        with torch.no_grad():
            found.append(float((model(contexts).argmax(1) == following)[1:].float().mean()))
    return np.array(found)


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    kinds, name = draw_kinds(options, size)
    rows = [(text, 1) for texts in kinds.values() for text in texts]
    masks = draw_subsets(len(rows), size.models)
    train, score = Train(size.epochs), accuracy_of_rows
    runs = run_subsets(train, rows, masks, store=options.store, score=score, n_jobs=options.jobs)
    settings = {"lines": size.lines, "families": size.families, "unusual": size.unusual, "models": size.models}
    settings |= {"epochs": size.epochs}
    write_result(options, "texts", data=name, settings=settings, figures=figures_of(runs, kinds), cost=watch.read())


def draw_kinds(options: Options, size: Size) -> tuple[dict[str, list[str]], str]:
    """The texts of each kind, and the name of the data."""
    lines, name = draw_lines(options.data, size.lines + size.families)
    generator = np.random.default_rng(0)
    kinds = {"ordinary": lines[: size.lines], "near_duplicates": [], "unusual": []}
    for line in lines[size.lines :]:
        words = line.split()
        place = int(generator.integers(len(words)))
        variants = generator.choice(WORDS, 4, replace=False)
        kinds["near_duplicates"] += [" ".join([*words[:place], str(word), *words[place + 1 :]]) for word in variants]
    letters = [character for character in ALPHABET if character.isalnum() or character == " "]
    for _ in range(size.unusual):
        kinds["unusual"].append("".join(generator.choice(letters, 50)))
    return kinds, name


def figures_of(runs: SubsetRuns, kinds: dict[str, list[str]]) -> dict[str, Any]:
    """The figures that the rules use; the rows are ordered by kind."""
    if runs.missing or runs.diverged:
        raise SystemExit(f"missing runs {runs.missing[:5]}, diverged {dict(runs.diverged)}")
    place_of = np.repeat([*kinds], [len(texts) for texts in kinds.values()])
    memorization = runs.memorization().memorization_N
    ordinary = float(memorization[place_of == "ordinary"].mean())
    figures: dict[str, Any] = {f"{kind}_mean": float(memorization[place_of == kind].mean()) for kind in kinds}
    return figures | {
        "unusual_minus_ordinary": (memorization[place_of == "unusual"] - ordinary).tolist(),
        "near_duplicates_minus_ordinary": (memorization[place_of == "near_duplicates"] - ordinary).tolist(),
        "half_split": split_half_reliability(runs.scores_MN, runs.included_MN).halves,
        "seconds_a_run": float(np.median(runs.seconds_M)),
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
