"""Figure 8: exposure after every minibatch for three epochs, with the canary near the start of each epoch.

Rows are not shuffled, so the canary occurs once per epoch, in a known batch: exposure jumps there, and then falls.
Exposure is the skew-normal extrapolation, which needs only a sample of references at every step. The paper does not
state which of its two methods it uses to estimate exposure here.
"""

from __future__ import annotations

from typing import Any

import torch
from datasets import concatenate_datasets

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, encode_rows, train
from hf_exposure import ExposureMeter, draw_canaries, insert_canaries, presets

TEMPLATE = presets.random_number(9)
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 6_000, "width": 16, "epochs": 2, "references": 50, "seeds": [0]},
    "small": {"characters": 60_000, "width": 128, "epochs": 3, "references": 200, "seeds": [0, 1, 2, 3, 4]},
    "full": {"characters": 400_000, "width": 268, "epochs": 3, "references": 4096, "seeds": [0, 1, 2, 3, 4]},
}
BATCH_ROWS, FIRST_ROWS = 8, 48
# Without momentum, a batch has its whole effect at once.
TRAINING: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 5.0, "batch_size": BATCH_ROWS, "shuffle": False}


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    canaries = draw_canaries(TEMPLATE, {1: 1}, controls=0, seed=seed)
    # At a random position among the first rows.
    first = insert_canaries(corpus.train.select(range(FIRST_ROWS)), canaries, seed=seed)
    rows = concatenate_datasets([first, corpus.train.select(range(FIRST_ROWS, len(corpus.train)))])["text"]
    canary_batch = list(rows).index(canaries.inserted[0].text) // BATCH_ROWS
    torch.manual_seed(seed)
    model, exposures = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), []
    meter = ExposureMeter(
        canaries,
        corpus.tokenizer,
        method="skew_normal",
        references=settings["references"],
        seed=seed,
        accept_bad_fit=True,
    )

    def look(step: int) -> None:
        exposures.append(meter.measure(model).estimates[0].exposure_bits)

    training = Training(epochs=settings["epochs"], seed=seed, **TRAINING)
    train(model, encode_rows(corpus.tokenizer, rows), training, after_batch=look)
    return {
        "seed": seed,
        "canary_batch": canary_batch,
        "exposures": exposures,
        **jumps(exposures, settings["epochs"], canary_batch),
    }


def jumps(exposures: list[float], epochs: int, canary_batch: int) -> dict[str, Any]:
    """How exposure changes at the canary's batch of each epoch (from 0), and at the others.

    From the second epoch on: in the first the model has not yet learned what a number is.
    """
    batches = len(exposures) // epochs
    at = [epoch * batches + canary_batch for epoch in range(1, epochs)]
    changes = [after - before for before, after in zip(exposures, exposures[1:], strict=False)]
    spikes = [changes[place - 1] for place in at]
    others = [change for place, change in enumerate(changes, 1) if place >= batches and place not in at]
    return {
        "batches_in_an_epoch": batches,
        "spikes": spikes,
        "mean_spike": sum(spikes) / len(spikes),
        "mean_other_change": sum(others) / len(others),
        "spike_over_largest_other": min(spikes) - sorted(others)[int(0.95 * len(others))],
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    figures = {"runs": runs}
    write_result(
        options,
        "figure8_every_batch",
        corpus=corpus,
        settings=settings | {"architecture": "lstm"} | TRAINING,
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs),
        plots=[page_plot(runs[0])],
        cost=watch.read(),
    )


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        [
            run["seed"],
            ", ".join(f"{spike:+.1f}" for spike in run["spikes"]),
            f"{run['mean_other_change']:+.3f}",
            f"{max(run['exposures']):.1f}",
            f"{run['exposures'][-1]:.1f}",
        ]
        for run in runs
    ]
    columns = [
        "seed",
        "changes at the canary's batch, from epoch 2",
        "mean change at other batches",
        "highest exposure",
        "last exposure",
    ]
    return {"columns": columns, "rows": rows}


def page_plot(run: dict[str, Any]) -> dict[str, Any]:
    steps = list(range(1, len(run["exposures"]) + 1))
    at = range(run["canary_batch"] + 1, len(steps) + 1, run["batches_in_an_epoch"])
    return {
        "title": "Exposure after every minibatch, rows in order (seed 0)",
        "x": "minibatches",
        "y": "exposure (bits, skew-normal)",
        "series": [
            {"name": "after every minibatch", "x": steps, "y": run["exposures"]},
            {
                "name": "after the canary's",
                "kind": "points",
                "x": list(at),
                "y": [run["exposures"][place - 1] for place in at],
            },
        ],
        "lines": [{"y": 1.4427, "label": "chance level (1.44 bits)"}],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
