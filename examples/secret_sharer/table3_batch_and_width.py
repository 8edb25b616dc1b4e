"""Table 3: batch size against model size, each model trained to its lowest validation loss: both raise exposure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, claim, write_result
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


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = []
    for seed in settings["seeds"]:
        for width in settings["widths"]:
            for batch_size in settings["batches"]:
                trial = run_trial(
                    corpus,
                    {
                        "number": draw_canaries(
                            TEMPLATE, dict.fromkeys(REPETITIONS, settings["each"]), controls=0, seed=seed
                        )
                    },
                    Training(epochs=settings["epochs"], batch_size=batch_size),
                    seed=seed,
                    patience=PATIENCE,
                    references=settings["references"],
                    architecture="lstm",
                    width=width,
                )
                exposures = trial.pop("exposures")["number"]
                trial["exposure"] = float(np.mean(list(exposures.values())))
                runs.append({"width": width, "batch_size": batch_size, "exposures": exposures} | trial)
                print(runs[-1], flush=True)
    figures = {"runs": runs, "slopes": [slopes(runs, seed) for seed in settings["seeds"]]}
    write_result(
        options,
        "table3_batch_and_width",
        corpus=corpus,
        settings=settings | {"architecture": "lstm", "repetitions": REPETITIONS, "patience": PATIENCE},
        seeds=settings["seeds"],
        figures=figures,
        claims=claims_of(figures),
        table=page_table(runs, settings),
        plots=[page_plot(runs, settings)],
        cost=watch.read(),
    )


def claims_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        claim(
            figures,
            "Exposure grows with the model: bits per doubling of the width, at equal batch size.",
            "mean_above",
            "slopes.*.per_width_doubling",
            0.0,
        ),
        claim(
            figures,
            "Exposure grows with the batch: bits per doubling of the batch size, at equal width.",
            "mean_above",
            "slopes.*.per_batch_doubling",
            0.0,
        ),
    ]


def slopes(runs: list[dict[str, Any]], seed: int) -> dict[str, float]:
    """Least squares of exposure on log2 of the width and of the batch size together, over one seed's grid."""
    own = [run for run in runs if run["seed"] == seed]
    design = np.array([[1.0, math.log2(run["width"]), math.log2(run["batch_size"])] for run in own])
    _, per_width, per_batch = np.linalg.lstsq(design, np.array([run["exposure"] for run in own]), rcond=None)[0]
    return {"seed": seed, "per_width_doubling": float(per_width), "per_batch_doubling": float(per_batch)}


def cell(runs: list[dict[str, Any]], width: int, batch_size: int, key: str) -> float:
    return float(np.mean([run[key] for run in runs if (run["width"], run["batch_size"]) == (width, batch_size)]))


def page_table(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    rows = [
        [batch]
        + [f"{cell(runs, w, batch, 'exposure'):.1f} ({cell(runs, w, batch, 'validation_bits'):.2f})" for w in widths]
        for widths in [settings["widths"]]
        for batch in settings["batches"]
    ]
    columns = ["batch size", *(f"width {width}: exposure (loss)" for width in settings["widths"])]
    return {"columns": columns, "rows": rows}


def page_plot(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    series = [
        {
            "name": f"width {width}",
            "x": settings["batches"],
            "y": [cell(runs, width, batch, "exposure") for batch in settings["batches"]],
        }
        for width in settings["widths"]
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
