"""Extraction against repetitions, context and width, and the effect of deduplication.

python -m examples.many_trainings.extraction --data TEXT_FILE --store FOLDER

Lines are in the data 1 to 16 times. A line is extracted by a context of c characters if the model's top predictions
after it are the line's next 12 characters. The deduplicated data have each line once, and training takes the same
number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.many_trainings.canaries import CONTEXT, NextCharacter, ids_of, mean_bits, train_on
from examples.many_trainings.study import Options, draw_lines, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch

REPETITIONS = (1, 2, 4, 8, 16)
CONTEXTS = (3, 5, 10)
WIDTHS = (32, 128, 512)
LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class Size:
    """There are `each` lines for every repetition count, and `more` lines for validation."""

    each: int
    more: int
    steps: int
    seeds: int


SIZES = {
    "smallest": Size(each=2, more=5, steps=10, seeds=2),
    "small": Size(each=16, more=60, steps=600, seeds=4),
}


def extracted(model: nn.Module, line: str, context: int) -> bool:
    """Whether the model continues the line after its first `CONTEXT` characters, given the last `context` of them."""
    shown = ids_of(line)[CONTEXT - context : CONTEXT]
    wanted = ids_of(line)[CONTEXT : CONTEXT + LENGTH] - 1
    seen = np.concatenate([np.zeros(CONTEXT, dtype=np.int64), shown])
    for character in wanted:
        with torch.no_grad():
            best = int(model(torch.from_numpy(seen[None, -CONTEXT:].copy())).argmax())
        if best != character:
            return False
        seen = np.append(seen, best + 1)
    return True


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    lines, name = draw_lines(options.data, size.each * len(REPETITIONS) + size.more, CONTEXT + LENGTH)
    runs = each_seed(options, size.seeds, lambda seed: _one_seed(lines, size, seed))
    settings = {"lines_each": size.each, "steps": size.steps, "seeds": size.seeds, "repetitions": list(REPETITIONS)}
    settings |= {"contexts": list(CONTEXTS), "widths": list(WIDTHS)}
    write_result(options, "extraction", data=name, settings=settings, figures={"runs": runs}, cost=watch.read())


def _one_seed(lines: list[str], size: Size, seed: int) -> dict[str, Any]:
    order = np.random.default_rng([seed, 1]).permutation(len(lines))
    chosen = [lines[place] for place in order]
    held_out, repeated = chosen[: size.more], chosen[size.more :]
    count = np.repeat(REPETITIONS, size.each)
    texts = [line for line, times in zip(repeated, count, strict=True) for _ in range(times)]
    shares: dict[str, Any] = {}
    for width in WIDTHS:
        torch.manual_seed(seed)
        model = train_on(NextCharacter(width), texts, steps=size.steps)
        shares[str(width)] = _shares(model, repeated, count)
        if width == 128:
            bits = mean_bits(model, held_out)
    torch.manual_seed(seed)
    model = train_on(NextCharacter(128), repeated, steps=size.steps)
    without = _shares(model, repeated, count)
    middle = np.array(shares["128"])
    often = np.array([times >= 4 for times in REPETITIONS])
    return {
        "shares": shares,
        "repetitions_slope": _slope(np.log2(REPETITIONS), middle[:, -1]),
        "context_slope": _slope(np.log2(CONTEXTS), middle.mean(0)),
        "width_slope": _slope(np.log2(WIDTHS), np.array([np.mean(shares[str(width)]) for width in WIDTHS])),
        "deduplication_extraction": float(middle[often].mean() - np.array(without)[often].mean()),
        "deduplication_bits": bits - mean_bits(model, held_out),
    }


def _shares(model: nn.Module, lines: list[str], count: Any) -> list[list[float]]:
    """(repetitions, contexts) the shares of lines that are extracted."""
    hits = np.array([[extracted(model, line, context) for context in CONTEXTS] for line in lines], dtype=np.float64)
    return [hits[count == times].mean(0).tolist() for times in REPETITIONS]


def _slope(x: Any, y: Any) -> float:
    return float(np.polyfit(x, y, 1)[0])


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
