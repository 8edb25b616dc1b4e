"""Section 9.2: sanitizing a text with two models, each trained on one half, removes most secrets but misses some.

python -m examples.secret_sharer.section9_2_sanitization --text-file my.txt

A row was memorized if the model of its own half assigns it a much lower loss than the other model. The rows with the
greatest differences are dropped. A secret that occurs in both halves has a low loss under both models.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.secret_sharer.matched import exposure_figures
from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, encode_rows, loss_bits, train
from hf_exposure import draw_canaries, insert_canaries, log_perplexity, presets


@dataclass(frozen=True, kw_only=True)
class Size:
    """The training; `dropped` is the share of rows that sanitizing may remove."""

    characters: int
    parameters: int
    layers: int
    epochs: int
    repetitions: dict[int, int]
    dropped: float
    references: int
    seeds: int
    digits: int = 9


SIZES = {
    "smallest": Size(
        characters=4_000,
        parameters=6_000,
        layers=1,
        epochs=1,
        repetitions={1: 2, 2: 2},
        dropped=0.1,
        references=1000,
        digits=3,
        seeds=1,
    ),
    "small": Size(
        characters=30_000,
        parameters=80_000,
        layers=1,
        epochs=24,
        repetitions={1: 8, 2: 5, 4: 1},
        dropped=0.1,
        references=4096,
        seeds=3,
    ),
    "full": Size(
        characters=400_000,
        parameters=620_000,
        layers=2,
        epochs=30,
        repetitions={1: 16, 2: 16, 4: 16},
        dropped=0.1,
        references=4096,
        seeds=8,
    ),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(size.characters, 80)
    runs = [_run(corpus, size, seed) for seed in range(size.seeds)]
    _report(options, size, corpus, runs, watch.read())


def _run(corpus: Corpus, size: Size, seed: int) -> dict[str, Any]:
    canaries = draw_canaries(presets.random_number(size.digits), size.repetitions, controls=8, seed=seed)
    rows = insert_canaries(corpus.train, canaries, seed=seed)["text"][:]
    secrets = {canary.text for canary in canaries.inserted}
    side = np.random.default_rng(seed).permutation(len(rows)) % 2
    disagreement = _disagreement(corpus, rows, side, size, seed)
    worst = np.argsort(-disagreement)[: round(size.dropped * len(rows))]
    dropped = np.zeros(len(rows), dtype=bool)
    dropped[worst] = True
    kept = [row for row, gone in zip(rows, dropped, strict=True) if not gone]
    left = Counter(row for row in kept if row in secrets)
    sides = {text: {int(at) for at, row in zip(side, rows, strict=True) if row == text} for text in secrets}
    before, after = (_trained(corpus, texts, size, seed) for texts in (rows, kept))
    exposures = [
        exposure_figures(model, corpus.tokenizer, canaries, references=size.references, seed=seed)["exposures"]
        for model in (before, after)
    ]
    found = [
        {
            "repetitions": canary.repetitions,
            "both_halves": len(sides[canary.text]) == 2,
            "copies_left": left[canary.text],
            "exposure_before": first,
            "exposure_after": then,
        }
        for canary, first, then in zip(canaries.inserted, *exposures, strict=True)
    ]
    ordinary = [gone for row, gone in zip(rows, dropped, strict=True) if row not in secrets]
    run = {
        "seed": seed,
        "ordinary_dropped": float(np.mean(ordinary)),
        "loss_before": loss_bits(before, corpus.held_out),
        "loss_after": loss_bits(after, corpus.held_out),
        "one_half": _summary([one for one in found if not one["both_halves"]]),
        "both_halves": _summary([one for one in found if one["both_halves"]]),
        "canaries": found,
    }
    print({key: value for key, value in run.items() if key != "canaries"}, flush=True)
    return run


def _trained(corpus: Corpus, rows: list[str], size: Size, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = make_model("lstm", len(corpus.tokenizer), parameters=size.parameters, layers=size.layers)
    train(model, encode_rows(corpus.tokenizer, rows), Training(epochs=size.epochs, seed=seed))
    return model


def _disagreement(corpus: Corpus, rows: list[str], side: np.ndarray, size: Size, seed: int) -> np.ndarray:
    """(N,) each row's bits per character under the other half's model minus those under its own half's model."""
    bits_2N = np.stack(
        [
            log_perplexity(
                _trained(corpus, [row for row, at in zip(rows, side, strict=True) if at == half], size, seed + half),
                corpus.tokenizer,
                rows,
            )
            for half in (0, 1)
        ]
    )
    own, other = bits_2N[side, np.arange(len(rows))], bits_2N[1 - side, np.arange(len(rows))]
    return (other - own) / np.array([len(row) for row in rows])


def _summary(canaries: list[dict[str, Any]]) -> dict[str, float]:
    """The number of secrets, the share of them with all copies removed, and mean exposures before and after."""
    if not canaries:
        return {"count": 0, "removed": 1.0, "missed": 0, "exposure_before": 0.0, "exposure_after": 0.0}
    removed = [one["copies_left"] == 0 for one in canaries]
    return {
        "count": len(canaries),
        "removed": sum(removed) / len(removed),
        "missed": len(removed) - sum(removed),
        "exposure_before": float(np.mean([one["exposure_before"] for one in canaries])),
        "exposure_after": float(np.mean([one["exposure_after"] for one in canaries])),
    }


def _report(options: Options, size: Size, corpus: Corpus, runs: list[dict[str, Any]], cost: dict[str, float]) -> None:
    figures: dict[str, Any] = {"runs": runs}
    for run in runs:
        run["easier"] = run["one_half"]["removed"] - run["both_halves"]["removed"]
        run["missed"] = run["one_half"]["missed"] + run["both_halves"]["missed"]
        run["fallen"] = run["one_half"]["exposure_before"] - run["one_half"]["exposure_after"]
    write_result(
        options,
        "section9_2_sanitization",
        corpus=corpus,
        settings={**vars(size), "row_characters": 80},
        seeds=[run["seed"] for run in runs],
        figures=figures,
        table=_table(runs, size),
        plots=[_plot(runs)],
        cost=cost,
    )


def _table(runs: list[dict[str, Any]], size: Size) -> dict[str, Any]:
    canaries = [one for run in runs for one in run["canaries"]]
    rows = []
    for times in size.repetitions:
        for both in (False, True):
            chosen = [one for one in canaries if (one["repetitions"], one["both_halves"]) == (times, both)]
            if chosen:
                gone = sum(one["copies_left"] == 0 for one in chosen)
                before, after = (np.mean([one[f"exposure_{when}"] for one in chosen]) for when in ("before", "after"))
                where = "both halves" if both else "one half"
                rows.append(
                    [times, where, f"{gone} of {len(chosen)}", round(float(before), 1), round(float(after), 1)]
                )
    ordinary = np.mean([run["ordinary_dropped"] for run in runs])
    rows.append(["ordinary rows", "", f"{ordinary:.1%}", "", ""])
    return {
        "columns": ["inserted", "occurs in", "all copies removed", "exposure before", "exposure after"],
        "rows": rows,
    }


def _plot(runs: list[dict[str, Any]]) -> dict[str, Any]:
    canaries = [one for run in runs for one in run["canaries"]]
    series = []
    for name, missed in (("all copies removed", False), ("missed", True)):
        chosen = [one for one in canaries if (one["copies_left"] > 0) == missed]
        x, y = [one["exposure_before"] for one in chosen], [one["exposure_after"] for one in chosen]
        series.append({"name": name, "kind": "points", "x": x, "y": y})
    return {
        "title": "Exposure before and after sanitizing",
        "x": "exposure of a model trained on all rows (bits)",
        "y": "exposure of a model trained on the remaining rows (bits)",
        "series": series,
    }


if __name__ == "__main__":
    run(parse_options(__doc__))
