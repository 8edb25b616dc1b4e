"""Section 7.4: whether the optimizer and the order of the rows affect exposure at equal loss.

python -m examples.secret_sharer.section7_4_optimizers --text-file my.txt

Adam is trained for some epochs with shuffling; all other settings with the same seed are trained until their held-out
loss is as low. A Friedman test over seeds tests whether any setting ranks above the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from examples.secret_sharer.matched import exposure_figures, plot_at_equal_loss, train_to_loss
from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, interval, write_result
from examples.secret_sharer.training import Corpus, Training, loss_bits, train
from hf_exposure import draw_canaries, presets

PATIENCE = 4  # maximum number of epochs of the others, as a multiple of Adam's
REFERENCE = "adam"
# name: (optimizer, learning rate, order of the rows)
WAYS = {
    REFERENCE: ("adam", 3e-3, "shuffle"),
    "sgd": ("sgd", 2.0, "shuffle"),
    "momentum": ("momentum", 0.2, "shuffle"),
    "rmsprop": ("rmsprop", 2e-3, "shuffle"),
    "adagrad": ("adagrad", 3e-2, "shuffle"),
    "adadelta": ("adadelta", 2.0, "shuffle"),
    "adam, no shuffling": ("adam", 3e-3, "as it stands"),
    "adam, bagging": ("adam", 3e-3, "bagging"),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """The training; the first `ways` settings in WAYS are used."""

    characters: int
    parameters: int
    layers: int
    epochs: int
    repetitions: dict[int, int]
    references: int
    seeds: int
    ways: int = len(WAYS)
    digits: int = 9


SIZES = {
    "smallest": Size(
        characters=4_000,
        parameters=6_000,
        layers=1,
        epochs=1,
        repetitions={4: 2},
        references=1000,
        digits=3,
        seeds=2,
        ways=3,
    ),
    "small": Size(
        characters=60_000,
        parameters=80_000,
        layers=1,
        epochs=12,
        repetitions={1: 4, 2: 4, 4: 4},
        references=4096,
        seeds=4,
    ),
    "full": Size(
        characters=400_000,
        parameters=620_000,
        layers=2,
        epochs=20,
        repetitions={1: 8, 4: 8},
        references=4096,
        seeds=10,
    ),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(size.characters, 80)
    runs: list[dict[str, Any]] = []
    for seed in range(size.seeds):
        runs += _runs_of(corpus, size, seed)
    _report(options, size, corpus, runs, watch.read())


def _runs_of(corpus: Corpus, size: Size, seed: int) -> list[dict[str, Any]]:
    canaries = draw_canaries(presets.random_number(size.digits), size.repetitions, controls=8, seed=seed)
    rows_NT = corpus.train_with(canaries, seed)
    runs: list[dict[str, Any]] = []
    for name, (optimizer, rate, order) in list(WAYS.items())[: size.ways]:
        torch.manual_seed(seed)
        model = make_model("lstm", len(corpus.tokenizer), parameters=size.parameters, layers=size.layers)
        training = Training(epochs=size.epochs, optimizer=optimizer, learning_rate=rate, seed=seed)
        if not runs:
            train(model, rows_NT, training)
            how = {"reached": True, "batches": size.epochs * -(-len(rows_NT) // training.batch_size)}
            how["test_loss"] = loss_bits(model, corpus.held_out)
        else:
            training = replace(training, epochs=PATIENCE * size.epochs, shuffle=order == "shuffle")
            fed_NT = rows_NT
            if order == "bagging":
                # Every batch is drawn with replacement, in one long epoch.
                picked = torch.randint(len(rows_NT), (training.epochs * len(rows_NT),))
                fed_NT, training = rows_NT[picked], replace(training, epochs=1)
            how = train_to_loss(model, fed_NT, training, corpus.held_out, runs[0]["test_loss"])
        figures = exposure_figures(model, corpus.tokenizer, canaries, references=size.references, seed=seed)
        run = {"name": name, "seed": seed, **how, **figures}
        run["over_adam"] = run["mean_exposure"] - (runs[0] if runs else run)["mean_exposure"]
        runs.append(run)
        print({key: value for key, value in run.items() if key != "exposures"}, flush=True)
    return runs


def over_adam_by_count(
    by_name: dict[str, list[dict[str, Any]]], name: str, repetitions: dict[int, int]
) -> dict[str, list[float]]:
    """By repetition count, one number per seed: the mean exposure minus that of Adam with the same seed."""
    found, first = {}, 0
    for count, canaries in repetitions.items():
        own = slice(first, first + canaries)
        first += canaries
        found[str(count)] = [
            float(np.mean(run["exposures"][own]) - np.mean(adam["exposures"][own]))
            for run, adam in zip(by_name[name], by_name["adam"], strict=True)
        ]
    return found


def _report(options: Options, size: Size, corpus: Corpus, runs: list[dict[str, Any]], cost: dict[str, float]) -> None:
    names = list(dict.fromkeys(run["name"] for run in runs))
    by_name = {name: [run for run in runs if run["name"] == name] for name in names}
    test = stats.friedmanchisquare(*([run["mean_exposure"] for run in by_name[name]] for name in names))
    figures: dict[str, Any] = {
        "runs": runs,
        "over_adam": {name: [run["over_adam"] for run in by_name[name]] for name in names},
        "over_adam_by_count": {name: over_adam_by_count(by_name, name, size.repetitions) for name in names},
        "friedman": {"statistic": float(test.statistic), "p_value": float(test.pvalue)},
    }
    write_result(
        options,
        "section7_4_optimizers",
        corpus=corpus,
        settings={
            **vars(size),
            "ways": {name: WAYS[name] for name in names},
            "patience": PATIENCE,
            "row_characters": 80,
        },
        seeds=list(range(size.seeds)),
        figures=figures,
        table=_table(by_name),
        plots=[plot_at_equal_loss("Optimizers: exposure at equal loss", by_name)],
        cost=cost,
    )


def _table(by_name: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    columns = [
        "trained by",
        "batches",
        "reached the loss",
        "held-out loss (bits)",
        "exposure",
        "difference to Adam, 95 % interval",
    ]
    rows = []
    for name, chosen in by_name.items():
        mean, low, high = interval([run["over_adam"] for run in chosen])
        means = [interval([run[key] for run in chosen])[0] for key in ("batches", "test_loss", "mean_exposure")]
        reached = f"{sum(run['reached'] for run in chosen)} of {len(chosen)}"
        against = "" if name == REFERENCE else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append([name, round(means[0]), reached, round(means[1], 2), round(means[2], 1), against])
    return {"columns": columns, "rows": rows}


if __name__ == "__main__":
    run(parse_options(__doc__))
