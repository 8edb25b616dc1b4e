"""Deduplication among many unique lines: extraction of the repeated lines, and the loss on held-out lines.

python -m examples.many_trainings.deduplication --data TEXT_FILE --store FOLDER

Some lines are in the data 24 times, most lines once. The network is trained for the same number of steps on the
original data and on the deduplicated data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from examples.many_trainings.canaries import CONTEXT, NextCharacter, mean_bits, train_on
from examples.many_trainings.extraction import LENGTH, extracted
from examples.many_trainings.study import Options, draw_lines, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch

COPIES = 24


@dataclass(frozen=True, kw_only=True)
class Size:
    unique: int
    repeated: int
    held_out: int
    steps: int
    seeds: int


SIZES = {
    "smallest": Size(unique=20, repeated=4, held_out=5, steps=10, seeds=2),
    "small": Size(unique=800, repeated=20, held_out=200, steps=400, seeds=6),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    lines, name = draw_lines(options.data, size.unique + size.repeated + size.held_out, CONTEXT + LENGTH)
    runs = each_seed(options, size.seeds, lambda seed: _one_seed(lines, size, seed))
    settings = {"unique": size.unique, "repeated": size.repeated, "copies": COPIES, "steps": size.steps}
    settings |= {"seeds": size.seeds, "held_out": size.held_out}
    write_result(options, "deduplication", data=name, settings=settings, figures={"runs": runs}, cost=watch.read())


def _one_seed(lines: list[str], size: Size, seed: int) -> dict[str, Any]:
    chosen = [lines[place] for place in np.random.default_rng([seed, 3]).permutation(len(lines))]
    held_out, rest = chosen[: size.held_out], chosen[size.held_out :]
    repeated, unique = rest[: size.repeated], rest[size.repeated :]
    found: dict[str, Any] = {}
    for name, texts in (("as_they_are", unique + COPIES * repeated), ("deduplicated", unique + repeated)):
        torch.manual_seed(seed)
        model = train_on(NextCharacter(128), texts, steps=size.steps)
        hits = [extracted(model, line, CONTEXT) for line in repeated]
        found[name] = {"extracted": float(np.mean(hits)), "held_out_bits": mean_bits(model, held_out)}
    return found


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
