"""Table 6: training with differential privacy: exposure, test loss, extraction, and guaranteed and refuted epsilon.

python -m examples.secret_sharer.table6_dp_sgd --text-file my.txt

For every canary, a separate fair coin decides whether it is inserted once. From the number of coins guessed correctly,
`epsilon_lower_bound` computes which values of epsilon are refuted. The result is compared with the guarantee of Opacus
for the same neighbors (one row more or less) and the same delta.

A second bound, `epsilon_from_ranks`, needs no coins. A search that has certainly found the k most likely secrets,
where k is the number of inserted canaries, certifies that canaries among them rank at most k. This bound applies to
replacing one canary's secret, at the same delta; for adding or removing a row, epsilon is at least half of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.private_training import Privacy, noise_for, train_privately, with_private_layers
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, loss_bits, train
from hf_exposure import CanarySet, draw_canaries, extract, measure_exposure, presets
from hf_exposure.estimators import epsilon_from_ranks

# With m coins the bound loses a probability of up to 2 m delta, so delta is far below 1 - confidence.
DELTA, CONFIDENCE = 1e-6, 0.999
HUGE = 1e6  # a larger epsilon is no guarantee
# The paper's rows; None is training without privacy. The paper's accountant returned an infinite epsilon for SGD, and
# the paper does not state the noise. Here, inf means clipping without noise.
ROWS: tuple[tuple[str, float | None], ...] = (
    ("rmsprop", 0.65),
    ("rmsprop", 1.21),
    ("rmsprop", 5.26),
    ("rmsprop", 89.0),
    ("rmsprop", 2e8),
    ("rmsprop", 1e9),
    ("sgd", math.inf),
    ("sgd", None),
    ("rmsprop", None),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """The training and the measurement."""

    characters: int
    row_characters: int
    parameters: int
    layers: int
    epochs: int
    batch_size: int
    coins: int
    rows: tuple[int, ...]  # the first rows of ROWS
    references: int
    max_expansions: int
    seeds: int
    digits: int = 9


SIZES = {
    "smallest": Size(
        characters=4_000,
        row_characters=80,
        parameters=6_000,
        layers=1,
        epochs=1,
        batch_size=32,
        coins=16,
        rows=(2, 8),
        references=1000,
        max_expansions=20,
        seeds=1,
        digits=3,
    ),
    "small": Size(
        characters=36_000,
        row_characters=40,
        parameters=46_000,
        layers=1,
        epochs=60,
        batch_size=128,
        coins=80,
        rows=tuple(range(len(ROWS))),
        references=4096,
        max_expansions=5000,
        seeds=2,
    ),
    # The paper's model has two layers and about 620,000 weights, trained for 100 epochs.
    "full": Size(
        characters=400_000,
        row_characters=80,
        parameters=620_000,
        layers=2,
        epochs=100,
        batch_size=64,
        coins=256,
        rows=tuple(range(len(ROWS))),
        references=4096,
        max_expansions=100_000,
        seeds=3,
    ),
}
LEARNING_RATES = {"rmsprop": 6e-3, "sgd": 3.0}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(size.characters, size.row_characters)
    runs = []
    for seed in range(size.seeds):
        canaries = draw_canaries(presets.random_number(size.digits), {}, controls=0, seed=seed, coin_flips=size.coins)
        rows_NT = corpus.train_with(canaries, seed)
        for optimizer, epsilon in (ROWS[row] for row in size.rows):
            torch.manual_seed(seed)
            model = make_model("lstm", len(corpus.tokenizer), parameters=size.parameters, layers=size.layers)
            trained, how = _train(model, rows_NT, size, optimizer, epsilon, seed)
            run = {"seed": seed, **how, **_measure(trained, corpus, canaries, size, seed)}
            runs.append(run)
            print({key: value for key, value in run.items() if key != "exposures"}, flush=True)
    _report(options, size, corpus, runs, watch.read())


def _train(
    model: nn.Module, rows_NT: torch.Tensor, size: Size, optimizer: str, epsilon: float | None, seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The trained model and its privacy."""
    how = {"optimizer": optimizer, "private": epsilon is not None}
    rate = LEARNING_RATES[optimizer]
    if epsilon is None:
        training = Training(
            epochs=size.epochs, batch_size=size.batch_size, learning_rate=rate, optimizer=optimizer, seed=seed
        )
        train(model, rows_NT, training)
        return model, how | {"asked_epsilon": None, "epsilon": None, "noise": None}
    privacy = Privacy(
        epochs=size.epochs, batch_size=size.batch_size, learning_rate=rate, optimizer=optimizer, noise=0.0, seed=seed
    )
    if not math.isinf(epsilon):
        privacy = Privacy(**vars(privacy) | {"noise": noise_for(epsilon, len(rows_NT), DELTA, privacy)})
    model = with_private_layers(model)
    booked = train_privately(model, rows_NT, privacy, DELTA)
    return model, how | {"asked_epsilon": epsilon, "epsilon": booked, "noise": privacy.noise}


def _measure(model: nn.Module, corpus: Corpus, canaries: CanarySet, size: Size, seed: int) -> dict[str, Any]:
    measured = measure_exposure(
        model,
        corpus.tokenizer,
        canaries,
        references=size.references,
        max_expansions=size.max_expansions,
        seed=seed,
        confidence_level=CONFIDENCE,
        delta=DELTA,
    )
    found = extract(
        model,
        corpus.tokenizer,
        canaries.template,
        top_k=len(canaries.inserted),
        max_expansions=size.max_expansions,
    )
    secrets = {canary.text for canary in canaries.inserted}
    exposures = [one.exposure_bits for one in measured.inserted]
    held_out = [one.exposure_bits for one in measured.controls]
    bound = measured.epsilon
    out = sum(candidate.text in secrets for candidate in found.candidates)
    proven = found.certified and found.exactness == "proven"
    return {
        "test_loss": loss_bits(model, corpus.held_out),
        "mean_exposure": sum(exposures) / len(exposures),
        "mean_control": sum(held_out) / len(held_out),
        "auc": measured.auc,
        "extracted": out,
        "certified": found.certified,
        "rank_epsilon": rank_epsilon(out if proven else 0, len(exposures), size.coins, size.digits),
        "audited_epsilon": bound["epsilon"] if bound else math.nan,
        "guesses": bound["guesses"] if bound else 0,
        "correct": bound["correct"] if bound else 0,
        "exposures": exposures,
    }


def rank_epsilon(certified: int, inserted: int, coins: int, digits: int) -> float:
    """The epsilon refuted by the canaries whose certified rank among all texts is at most `inserted`."""
    ranks = [inserted] * certified + [None] * (inserted - certified)
    # The other canaries, inserted or not, were drawn from the same space without replacement.
    bound = epsilon_from_ranks(ranks, 10**digits, inserted, CONFIDENCE, DELTA, other_secrets=coins - 1)
    return bound.epsilon


def _report(options: Options, size: Size, corpus: Corpus, runs: list[dict[str, Any]], cost: dict[str, float]) -> None:
    figures = figures_of(runs)
    write_result(
        options,
        "table6_dp_sgd",
        corpus=corpus,
        settings={**vars(size), "delta": DELTA, "confidence_level": CONFIDENCE, "learning_rates": LEARNING_RATES},
        seeds=sorted({run["seed"] for run in runs}),
        figures=figures,
        table=_table(runs),
        plots=[_plot(runs)],
        cost=cost,
    )


def figures_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """All runs, and separately those with a meaningful epsilon, with a huge one, and without privacy."""
    noisy = [run for run in runs if run["noise"]]
    groups = {
        "private": [run for run in noisy if run["epsilon"] < HUGE],
        "huge_epsilon": [run for run in noisy if run["epsilon"] >= HUGE],
        "bare": [run for run in runs if not run["private"] and run["optimizer"] == "rmsprop"],
    }
    return {
        "runs": runs,
        **{
            name: [{key: run[key] for key in ("mean_exposure", "extracted")} for run in chosen]
            for name, chosen in groups.items()
        },
        "saved_bits": [
            other["mean_exposure"] - run["mean_exposure"]
            for run in groups["private"]
            for other in groups["bare"]
            if other["seed"] == run["seed"]
        ],
        "booked_over_refuted": [run["epsilon"] - run["audited_epsilon"] for run in noisy],
        "booked_over_half_of_rank_epsilon": [run["epsilon"] - run["rank_epsilon"] / 2 for run in noisy],
        "bare_rank_epsilon": [run["rank_epsilon"] for run in groups["bare"]],
    }


def _name(run: dict[str, Any]) -> str:
    if not run["private"]:
        return "none"
    return "inf (clipped, no noise)" if math.isinf(run["asked_epsilon"]) else f"{run['epsilon']:.3g}"


def _table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = [
        "optimizer",
        "epsilon (Opacus)",
        "epsilon refuted by coins",
        "correct guesses",
        "epsilon refuted by ranks",
        "test loss (bits)",
        "exposure",
        "controls",
        "extracted",
    ]
    rows = [
        [
            run["optimizer"],
            _name(run),
            f"{run['audited_epsilon']:.2f}",
            f"{run['correct']} of {run['guesses']}",
            f"{run['rank_epsilon']:.1f}",
            round(run["test_loss"], 2),
            round(run["mean_exposure"], 1),
            round(run["mean_control"], 1),
            f"{run['extracted']} of {len(run['exposures'])}",
        ]
        for run in runs
    ]
    return {"columns": columns, "rows": rows}


def _plot(runs: list[dict[str, Any]]) -> dict[str, Any]:
    series = []
    for name, chosen in (
        ("epsilon up to 89", [run for run in runs if run["private"] and run["epsilon"] < HUGE]),
        ("huge epsilon, or clipping only", [run for run in runs if run["private"] and run["epsilon"] >= HUGE]),
        ("no privacy", [run for run in runs if not run["private"]]),
    ):
        x, y = [run["test_loss"] for run in chosen], [run["mean_exposure"] for run in chosen]
        series.append({"name": name, "kind": "points", "x": x, "y": y})
    return {
        "title": "Exposure and test loss, with and without privacy",
        "x": "test loss (bits per character)",
        "y": "mean exposure (bits)",
        "series": series,
        "lines": [{"y": 1.44, "label": "chance level (1.44 bits)"}],
    }


if __name__ == "__main__":
    run(parse_options(__doc__))
