"""Table 3: whether batch size and model size raise exposure, each model trained to its lowest validation loss.

With larger batches, an epoch has fewer steps, so two settings are measured: one learning rate for all batch sizes, and
a learning rate proportional to the batch size, up to 0.01.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Training
from examples.secret_sharer.trial import run_trial
from hf_exposure import draw_canaries, presets

TEMPLATE = presets.random_number(9)
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        **{"characters": 6_000, "widths": [8, 16], "batches": [16, 32], "epochs": 1, "each": 1},
        **{"references": 32, "seeds": [0]},
    },
    "small": {
        **{"characters": 60_000, "widths": [32, 128], "batches": [8, 32], "epochs": 100, "each": 3},
        **{"references": 4096, "seeds": [0, 1, 2]},
    },
    "full": {
        **{"characters": 250_000, "widths": [50, 100, 150, 200, 250], "epochs": 200, "each": 3},
        **{"batches": [16, 32, 64, 128, 256, 512, 1024], "references": 4096, "seeds": [0, 1, 2, 3, 4]},
    },
}
REPETITIONS, PATIENCE = (1, 2, 4), 3
# Learning rate by rows in a batch.
RATES: dict[str, Callable[[int], float]] = {
    "one for all": lambda _: 3e-3,
    "in proportion": lambda rows: min(rows / 8_000, 1e-2),
}


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = []
    for seed, rate, width, batch_size in itertools.product(
        settings["seeds"], RATES, settings["widths"], settings["batches"]
    ):
        trial = run_trial(
            corpus,
            {"number": draw_canaries(TEMPLATE, dict.fromkeys(REPETITIONS, settings["each"]), controls=0, seed=seed)},
            Training(epochs=settings["epochs"], batch_size=batch_size, learning_rate=RATES[rate](batch_size)),
            seed=seed,
            patience=PATIENCE,
            references=settings["references"],
            architecture="lstm",
            width=width,
        )
        exposures = trial.pop("exposures")["number"]
        trial["exposure"] = float(np.mean(list(exposures.values())))
        runs.append({"rate": rate, "width": width, "batch_size": batch_size, "exposures": exposures} | trial)
        print(runs[-1], flush=True)
    figures = {
        "runs": runs,
        "slopes": {rate: [slopes(runs, rate, seed) for seed in settings["seeds"]] for rate in RATES},
    }
    write_result(
        options,
        "table3_batch_and_width",
        corpus=corpus,
        settings=settings
        | {"architecture": "lstm", "repetitions": REPETITIONS, "patience": PATIENCE}
        | {"learning_rates": {name: [rate(rows) for rows in settings["batches"]] for name, rate in RATES.items()}},
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs, settings),
        plots=[page_plot(runs, settings)],
        cost=watch.read(),
    )


def slopes(runs: list[dict[str, Any]], rate: str, seed: int) -> dict[str, float]:
    """Least-squares fit of exposure to log2 of the width and of the batch size, over one seed's grid."""
    own = [run for run in runs if (run["rate"], run["seed"]) == (rate, seed)]
    design = np.array([[1.0, math.log2(run["width"]), math.log2(run["batch_size"])] for run in own])
    _, per_width, per_batch = np.linalg.lstsq(design, np.array([run["exposure"] for run in own]), rcond=None)[0]
    return {"seed": seed, "per_width_doubling": float(per_width), "per_batch_doubling": float(per_batch)}


def cell(runs: list[dict[str, Any]], rate: str, width: int, batch_size: int, key: str) -> float:
    wanted = (rate, width, batch_size)
    return float(np.mean([run[key] for run in runs if (run["rate"], run["width"], run["batch_size"]) == wanted]))


def page_table(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for rate, batch in itertools.product(RATES, settings["batches"]):
        found = [
            [cell(runs, rate, w, batch, key) for key in ("exposure", "validation_bits")] for w in settings["widths"]
        ]
        rows.append([rate, batch, *(f"{exposure:.1f} ({loss:.2f})" for exposure, loss in found)])
    columns = ["learning rate", "batch size", *(f"width {width}: exposure (loss)" for width in settings["widths"])]
    return {"columns": columns, "rows": rows}


def page_plot(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    series = [
        {
            "name": f"width {width}, learning rate {rate}",
            "x": settings["batches"],
            "y": [cell(runs, rate, width, batch, "exposure") for batch in settings["batches"]],
        }
        for rate, width in itertools.product(RATES, settings["widths"])
    ]
    return {
        "title": "Exposure by batch size and width, each at its lowest validation loss",
        "x": "rows in a batch",
        "y": "exposure (bits)",
        "log_x": 2,
        "series": series,
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
