"""Figure 1: two training strategies with nearly equal utility, and how much each memorizes.

Strategy A is Adam, strategy B gradient descent with momentum. Each stops at the first epoch whose validation loss is
at most a common target. Their utility is then equal, but their exposure against repetitions differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, band, write_result
from examples.secret_sharer.training import Corpus, Training, loss_bits, train
from hf_exposure import draw_canaries, measure_exposure, presets

TEMPLATE = presets.random_number(9)
STRATEGIES: dict[str, dict[str, Any]] = {
    "A": {"optimizer": "adam", "learning_rate": 6e-3, "batch_size": 16},
    "B": {"optimizer": "momentum", "learning_rate": 0.5, "batch_size": 16},
}
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 8_000, "width": 16, "most_epochs": 1, "each": 1, "repetitions": [1, 2]}
    | {"target_bits": 5.0, "seeds": [0]},
    "small": {
        "characters": 100_000,
        "width": 128,
        "most_epochs": 20,
        "target_bits": 2.5,
        "each": 5,
        "repetitions": [1, 2, 4, 8, 16],
        "seeds": [0, 1, 2, 3],
    },
    "full": {
        "characters": 400_000,
        "width": 268,
        "most_epochs": 40,
        "target_bits": 2.2,
        "each": 5,
        "repetitions": [1, 2, 4, 8, 16, 32],
        "seeds": [0, 1, 2, 3, 4],
    },
}


def one_run(corpus: Corpus, settings: dict[str, Any], name: str, seed: int) -> dict[str, Any]:
    """Trains by one strategy until the target loss, then measures every canary."""
    strategy = STRATEGIES[name]
    canaries = draw_canaries(TEMPLATE, dict.fromkeys(settings["repetitions"], settings["each"]), controls=8, seed=seed)
    torch.manual_seed(seed)
    model, held_out, losses = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), corpus.held_out, []

    def target_reached(epoch: int) -> bool:
        losses.append(loss_bits(model, held_out))
        return losses[-1] <= settings["target_bits"]

    training = Training(epochs=settings["most_epochs"], seed=seed, **strategy)
    train(model, corpus.train_with(canaries, seed), training, after_epoch=target_reached)
    report = measure_exposure(model, corpus.tokenizer, canaries, seed=seed)
    by_repetitions: dict[int, list[float]] = {count: [] for count in (0, *settings["repetitions"])}
    for estimate in report.estimates:
        by_repetitions[estimate.repetitions].append(estimate.exposure_bits)
    return {
        "seed": seed,
        "strategy": name,
        "epochs": len(losses),
        "validation_bits": losses[-1],
        "reached": int(losses[-1] <= settings["target_bits"]),
        "exposures": {str(count): values for count, values in by_repetitions.items()},
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, name, seed) for name in STRATEGIES for seed in settings["seeds"]]
    figures: dict[str, Any] = {"runs": runs, "pairs": [pair(runs, seed) for seed in settings["seeds"]]}
    write_result(
        options,
        "figure1_two_settings",
        corpus=corpus,
        settings=settings | {"architecture": "lstm", "strategies": STRATEGIES},
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs, settings["repetitions"]),
        plots=[page_plot(runs, settings["repetitions"])],
        cost=watch.read(),
    )


def pair(runs: list[dict[str, Any]], seed: int) -> dict[str, float]:
    """The two strategies at one seed, with the same canaries at the same positions."""
    first, second = (next(r for r in runs if r["strategy"] == name and r["seed"] == seed) for name in STRATEGIES)
    differences = []
    for each in (first, second):
        means = {count: float(np.mean(values)) for count, values in each["exposures"].items() if count != "0"}
        each["growth"] = list(means.values())[-1] - list(means.values())[0]
        differences.append(float(np.mean(list(means.values()))))
    return {
        "seed": seed,
        "loss_apart": abs(first["validation_bits"] - second["validation_bits"]),
        "mean_difference": differences[0] - differences[1],
    }


def over_seeds(runs: list[dict[str, Any]], name: str, repetitions: int) -> list[float]:
    return [float(np.mean(run["exposures"][str(repetitions)])) for run in runs if run["strategy"] == name]


def page_table(runs: list[dict[str, Any]], repetitions: list[int]) -> dict[str, Any]:
    rows = []
    for name in STRATEGIES:
        own = [r for r in runs if r["strategy"] == name]
        losses, epochs = [r["validation_bits"] for r in own], [r["epochs"] for r in own]
        means = [f"{np.mean(over_seeds(runs, name, count)):.1f}" for count in (0, *repetitions)]
        rows.append([name, f"{np.mean(losses):.2f}", f"{np.mean(epochs):.1f}", *means])
    columns = ["strategy", "validation loss (bits/character)", "epochs", "held out", *(f"{n}×" for n in repetitions)]
    return {"columns": columns, "rows": rows}


def page_plot(runs: list[dict[str, Any]], repetitions: list[int]) -> dict[str, Any]:
    series = []
    for name, strategy in STRATEGIES.items():
        label = f"{name}: {strategy['optimizer']}, learning rate {strategy['learning_rate']}"
        series.append(band(label, repetitions, [over_seeds(runs, name, count) for count in repetitions]))
    return {
        "title": "Two trainings of equal utility, and what they memorize",
        "x": "times the canary was inserted",
        "y": "exposure (bits)",
        "log_x": 2,
        "series": series,
        "lines": [{"y": TEMPLATE.log2_space_size, "label": "log2|R|: ranks first"}],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
