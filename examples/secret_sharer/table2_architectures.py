"""Table 2: which architectures of about equal size memorize more, each trained to its lowest validation loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, interval, write_result
from examples.secret_sharer.training import Training
from examples.secret_sharer.trial import run_trial
from hf_exposure import draw_canaries, presets

TEMPLATE = presets.random_number(9)
RECURRENT, CONVOLUTIONAL = ("lstm", "gru"), ("cnn", "wavenet")
ONE_DEPTH = [("lstm", 1), ("gru", 1), ("cnn", 2), ("wavenet", 1), ("transformer", 2)]
ALL_DEPTHS = [("gru", 1), ("gru", 2), ("lstm", 1), ("lstm", 2), ("cnn", 1), ("cnn", 2), ("cnn", 4), ("wavenet", 2)]
ALL_DEPTHS += [("wavenet", 4), ("transformer", 2), ("transformer", 4)]
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        **{"characters": 6_000, "parameters": 6_000, "models": ONE_DEPTH, "epochs": 1, "each": 1, "references": 32},
        **{"seeds": [0]},
    },
    "small": {
        **{"characters": 40_000, "parameters": 620_000, "models": ONE_DEPTH, "epochs": 15, "each": 3},
        **{"references": 4096, "seeds": [0, 1, 2]},
    },
    "full": {
        **{"characters": 400_000, "parameters": 620_000, "models": ALL_DEPTHS, "epochs": 30, "each": 5},
        **{"references": 4096, "seeds": [0, 1, 2, 3, 4]},
    },
}
REPETITIONS, PATIENCE, BATCH_ROWS, LEARNING_RATE = (1, 2, 4), 2, 8, 3e-3


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = []
    for architecture, layers in settings["models"]:
        for seed in settings["seeds"]:
            trial = run_trial(
                corpus,
                {
                    "number": draw_canaries(
                        TEMPLATE, dict.fromkeys(REPETITIONS, settings["each"]), controls=0, seed=seed
                    )
                },
                Training(epochs=settings["epochs"], batch_size=BATCH_ROWS, learning_rate=LEARNING_RATE),
                seed=seed,
                patience=PATIENCE,
                references=settings["references"],
                architecture=architecture,
                layers=layers,
                parameters=settings["parameters"],
            )
            exposures = trial.pop("exposures")["number"]
            trial["exposure"] = float(np.mean(list(exposures.values())))
            runs.append({"architecture": architecture, "layers": layers, "exposures": exposures} | trial)
            print(runs[-1], flush=True)
    figures = {"runs": runs, "pairs": [pair(runs, seed) for seed in settings["seeds"]]}
    write_result(
        options,
        "table2_architectures",
        corpus=corpus,
        settings=settings | {"repetitions": REPETITIONS, "patience": PATIENCE, "batch_size": BATCH_ROWS},
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs, settings["models"]),
        plots=[page_plot(runs, settings["models"])],
        cost=watch.read(),
    )


def pair(runs: list[dict[str, Any]], seed: int) -> dict[str, float]:
    """Mean of recurrent minus mean of convolutional models at one seed, with the same canaries and positions."""
    loss, exposure = [], []
    for kinds in (RECURRENT, CONVOLUTIONAL):
        own = [run for run in runs if run["seed"] == seed and run["architecture"] in kinds]
        loss.append(float(np.mean([run["validation_bits"] for run in own])))
        exposure.append(float(np.mean([run["exposure"] for run in own])))
    return {"seed": seed, "loss_difference": loss[0] - loss[1], "exposure_difference": exposure[0] - exposure[1]}


def means(runs: list[dict[str, Any]], architecture: str, layers: int) -> dict[str, Any]:
    own = [run for run in runs if (run["architecture"], run["layers"]) == (architecture, layers)]
    return {
        "parameters": own[0]["parameters"],
        "epochs": float(np.mean([run["epochs"] for run in own])),
        "loss": interval([run["validation_bits"] for run in own]),
        "exposure": interval([run["exposure"] for run in own]),
    }


def page_table(runs: list[dict[str, Any]], models: list[tuple[str, int]]) -> dict[str, Any]:
    rows = []
    for architecture, layers in models:
        found = means(runs, architecture, layers)
        exposure = "{:.1f} ({:.1f} to {:.1f})".format(*found["exposure"])
        loss = f"{found['loss'][0]:.2f}"
        rows.append([architecture, layers, f"{found['parameters']:,}", f"{found['epochs']:.1f}", loss, exposure])
    columns = ["architecture", "layers", "parameters", "epochs", "validation loss (bits/character)", "exposure (bits)"]
    return {"columns": columns, "rows": rows}


def page_plot(runs: list[dict[str, Any]], models: list[tuple[str, int]]) -> dict[str, Any]:
    series = []
    for architecture, layers in models:
        own = [run for run in runs if (run["architecture"], run["layers"]) == (architecture, layers)]
        series.append(
            {
                "name": f"{architecture}, {layers} layer{'s' if layers > 1 else ''}",
                "kind": "points",
                "x": [run["validation_bits"] for run in own],
                "y": [run["exposure"] for run in own],
            }
        )
    return {
        "title": "Architectures of equal size, each at its lowest validation loss",
        "x": "validation loss (bits per character)",
        "y": "exposure (bits)",
        "series": series,
        "lines": [{"y": TEMPLATE.log2_space_size, "label": "log2|R|"}],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
