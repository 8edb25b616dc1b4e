"""Section 9.1: weight decay, dropout and 8-bit weights against exposure.

python -m examples.secret_sharer.section9_1_regularization --text-file my.txt

Each model is trained until its held-out loss equals that of the plain model with the same seed, so that differences in
exposure are not due to the length of training. The quantized model is the plain one with rounded weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from examples.secret_sharer.matched import exposure_figures, plot_at_equal_loss, train_to_loss
from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, interval, write_result
from examples.secret_sharer.training import Corpus, Training, loss_bits, train
from hf_exposure import CanarySet, draw_canaries, presets

PATIENCE = 3  # maximum number of epochs of the others, as a multiple of the plain model's
MARGIN = 1.5  # bits by which a defense must lower exposure to count as one
# name: (weight decay, dropout)
SETTINGS = {
    "plain": (0.0, 0.0),
    "weight decay 1e-5": (1e-5, 0.0),
    "weight decay 1e-4": (1e-4, 0.0),
    "dropout 10 %": (0.0, 0.1),
    "dropout 20 %": (0.0, 0.2),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """The training; `repetitions` maps insertions to numbers of canaries."""

    characters: int
    parameters: int
    layers: int
    epochs: int
    repetitions: dict[int, int]
    references: int
    seeds: int
    settings: int = len(SETTINGS)  # the first ones of the settings
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
        settings=2,
    ),
    "small": Size(
        characters=40_000, parameters=80_000, layers=1, epochs=8, repetitions={4: 8, 8: 8}, references=4096, seeds=3
    ),
    "full": Size(
        characters=400_000, parameters=620_000, layers=2, epochs=20, repetitions={1: 8, 4: 8}, references=4096, seeds=8
    ),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(size.characters, 80)
    runs = []
    for seed in range(size.seeds):
        runs += _runs_of(corpus, size, seed)
    _report(options, size, corpus, runs, watch.read())


def _runs_of(corpus: Corpus, size: Size, seed: int) -> list[dict[str, Any]]:
    """Trains the plain model, quantizes a copy, and trains the others to the plain model's loss."""
    canaries = draw_canaries(presets.random_number(size.digits), size.repetitions, controls=8, seed=seed)
    rows_NT = corpus.train_with(canaries, seed)
    runs: list[dict[str, Any]] = []
    for name, (decay, dropout) in list(SETTINGS.items())[: size.settings]:
        torch.manual_seed(seed)
        model = make_model(
            "lstm", len(corpus.tokenizer), parameters=size.parameters, layers=size.layers, dropout=dropout
        )
        if not runs:
            train(model, rows_NT, Training(epochs=size.epochs, weight_decay=decay, seed=seed))
            runs.append(_measured(name, model, corpus, canaries, size, seed))
            runs.append(_measured("8-bit weights", eight_bit(model), corpus, canaries, size, seed))
            continue
        training = Training(epochs=PATIENCE * size.epochs, weight_decay=decay, seed=seed)
        how = train_to_loss(model, rows_NT, training, corpus.held_out, runs[0]["test_loss"])
        runs.append(_measured(name, model, corpus, canaries, size, seed) | how)
    plain = runs[0]["exposures"]
    for run in runs:
        differences = [bits - base for bits, base in zip(run["exposures"], plain, strict=True)]
        run["over_plain"] = sum(differences) / len(differences)
        print({key: run[key] for key in ("name", "seed", "test_loss", "mean_exposure", "over_plain")}, flush=True)
    return runs


def eight_bit(model: nn.Module) -> nn.Module:
    """A copy whose weights are multiples, from -127 to 127, of one step size for each row of each matrix.

    Such weights can be stored in eight bits; the model still computes in float32.
    """
    rounded = copy.deepcopy(model)
    with torch.no_grad():
        for weight in rounded.parameters():
            rows = weight.view(len(weight), -1)
            step = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            rows.copy_((rows / step).round() * step)
    return rounded


def _measured(
    name: str, model: nn.Module, corpus: Corpus, canaries: CanarySet, size: Size, seed: int
) -> dict[str, Any]:
    return {
        "name": name,
        "seed": seed,
        "reached": True,
        "test_loss": loss_bits(model, corpus.held_out),
        **exposure_figures(model, corpus.tokenizer, canaries, references=size.references, seed=seed),
    }


def _report(options: Options, size: Size, corpus: Corpus, runs: list[dict[str, Any]], cost: dict[str, float]) -> None:
    names = list(dict.fromkeys(run["name"] for run in runs))
    by_name = {name: [run for run in runs if run["name"] == name] for name in names}
    figures = {"runs": runs, "over_plain": {name: [run["over_plain"] for run in by_name[name]] for name in names}}
    write_result(
        options,
        "section9_1_regularization",
        corpus=corpus,
        settings={**vars(size), "patience": PATIENCE, "row_characters": 80},
        seeds=list(range(size.seeds)),
        figures=figures,
        table=_table(by_name),
        plots=[plot_at_equal_loss("Regularized models: exposure at equal loss", by_name)],
        cost=cost,
    )


def _table(by_name: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    columns = ["defense", "held-out loss (bits)", "reached the loss", "exposure", "difference to plain, 95 % interval"]
    rows = []
    for name, chosen in by_name.items():
        mean, low, high = interval([run["over_plain"] for run in chosen])
        loss = interval([run["test_loss"] for run in chosen])[0]
        exposure = interval([run["mean_exposure"] for run in chosen])[0]
        reached = sum(run["reached"] for run in chosen)
        against = "" if name == "plain" else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        rows.append([name, round(loss, 2), f"{reached} of {len(chosen)}", round(exposure, 1), against])
    return {"columns": columns, "rows": rows}


if __name__ == "__main__":
    run(parse_options(__doc__))
