"""Figure 9: when a canary is memorized during training far into overfitting, on a small part of the data.

The results are training and validation loss and the exposure of canaries that were inserted once, over the course of
training.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, band, write_result
from examples.secret_sharer.training import Corpus, Training, loss_bits, train
from hf_exposure import ExposureMeter, draw_canaries, presets

TEMPLATE = presets.random_number(9)
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 8_000, "width": 16, "epochs": 2, "every": 1, "canaries": 1, "seeds": [0]},
    "small": {"characters": 50_000, "width": 268, "epochs": 24, "every": 2, "canaries": 4, "seeds": [0, 1, 2, 3]},
    "full": {"characters": 250_000, "width": 268, "epochs": 80, "every": 1, "canaries": 1, "seeds": [0, 1, 2, 3, 4]},
}

TRAINING: dict[str, Any] = {"batch_size": 16, "learning_rate": 3e-3}


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    canaries = draw_canaries(TEMPLATE, {1: settings["canaries"]}, controls=0, seed=seed)
    torch.manual_seed(seed)
    model, held_out = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), corpus.held_out
    meter = ExposureMeter(canaries, corpus.tokenizer, seed=seed)
    validation, exposures, every = [], [], settings["every"]

    def look(epoch: int) -> None:
        if epoch % every == 0:
            validation.append(loss_bits(model, held_out))
            exposures.append(float(np.mean([e.exposure_bits for e in meter.measure(model).estimates])))

    rows = corpus.train_with(canaries, seed)
    losses = train(model, rows, Training(epochs=settings["epochs"], seed=seed, **TRAINING), after_epoch=look)
    best = int(np.argmin(validation))
    return {
        "seed": seed,
        "epochs": list(range(every, settings["epochs"] + 1, every)),
        "training_bits": losses[every - 1 :: every],
        "validation_bits": validation,
        "exposures": exposures,
        "best_epoch": every * (best + 1),
        "peak_epoch": every * (int(np.argmax(exposures)) + 1),
        "exposure_at_best": exposures[best],
        "last_exposure": exposures[-1],
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    for each in runs:
        each.update(compared(each, settings["epochs"]))
    figures = {"runs": runs}
    write_result(
        options,
        "figure9_overfitting",
        corpus=corpus,
        settings=settings | {"architecture": "lstm", "repetitions": 1} | TRAINING,
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs),
        plots=page_plots(runs),
        cost=watch.read(),
    )


def compared(run: dict[str, Any], epochs: int) -> dict[str, float]:
    """Exposure at the lowest validation loss compared with its maximum and the end; NaN if no epoch follows."""
    peak, at_best, best = max(run["exposures"]), run["exposure_at_best"], run["best_epoch"]
    after = (run["last_exposure"] - at_best) / (epochs - best) if best < epochs else math.nan
    return {
        "share_at_best": at_best / peak,
        "rise_after": run["last_exposure"] - at_best,
        "rise_before_over_after": at_best / best - after,
    }


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = [
        "seed",
        "lowest validation loss: epoch",
        "exposure there",
        "highest exposure",
        "at epoch",
        "last exposure",
    ]
    rows = [
        [
            run["seed"],
            run["best_epoch"],
            f"{run['exposure_at_best']:.1f}",
            f"{max(run['exposures']):.1f}",
            run["peak_epoch"],
            f"{run['last_exposure']:.1f}",
        ]
        for run in runs
    ]
    return {"columns": columns, "rows": rows}


def page_plots(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best = float(np.mean([run["best_epoch"] for run in runs]))
    line = [{"x": best, "label": "lowest validation loss (mean)"}]
    exposure = {
        "title": "Exposure of canaries inserted once, trained into overfitting",
        "x": "epochs",
        "y": "exposure (bits)",
        "series": [over_epochs(runs, "exposures", "exposure, mean of the seeds")],
        "lines": [*line, {"y": TEMPLATE.log2_space_size, "label": "log2|R|: ranks first"}],
    }
    losses = {
        "title": "Training and validation loss of the same models",
        "x": "epochs",
        "y": "loss (bits per character)",
        "series": [over_epochs(runs, "training_bits", "training"), over_epochs(runs, "validation_bits", "validation")],
        "lines": line,
    }
    return [exposure, losses]


def over_epochs(runs: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    return band(name, runs[0]["epochs"], zip(*(run[key] for run in runs), strict=True))


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
