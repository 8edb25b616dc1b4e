"""Measures of the survey within one training: forgetting events, second split, area under the margin, data map.

python -m examples.closer_look.survey_forgetting --mnist FOLDER

A network is trained on a first split, in which a fifth of the labels are random, and then on a second, clean split.
The typicality of an example is the probability that another network, which never saw it, gives to its true class. The
training images of that other network are held out from the first one: a second study computes the area under the
margin up to the epoch with the best accuracy on them, which requires no knowledge of the noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.closer_look import RESULTS
from examples.closer_look.images import Images, Options, noisy, parse_options
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import Stopwatch, write_result
from hf_exposure.estimators import (
    area_under_margin,
    data_map,
    first_split_learning_time,
    forgetting_events,
    second_split_forgetting_time,
)

NOISE = 0.2


@dataclass(frozen=True, kw_only=True)
class Size:
    """There are `images` images in each of the two splits, and as many for the network that scores typicality."""

    images: int
    width: int
    epochs: int
    second_epochs: int
    seeds: int


SIZES = {
    "smallest": Size(images=150, width=32, epochs=4, second_epochs=3, seeds=2),
    "small": Size(images=3_000, width=256, epochs=40, second_epochs=20, seeds=5),
    "second": Size(images=3_000, width=256, epochs=40, second_epochs=20, seeds=5),
    "full": Size(images=25_000, width=4096, epochs=200, second_epochs=100, seeds=5),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = [_run_of(options, size, seed) for seed in options.seeds(size.seeds)]
    figures: dict[str, Any] = {
        "runs": runs,
        "more_forgotten": [run["forgotten_noisy"] - run["forgotten_clean"] for run in runs],
        "learned_later": [run["learned_noisy"] - run["learned_clean"] for run in runs],
        "more_typical": [run["typical_unforgettable"] - run["typical_forgotten"] for run in runs],
        "forgotten_earlier": [run["second_split_typical"] - run["second_split_noisy"] for run in runs],
        "atypical_before_typical": [run["second_split_typical"] - run["second_split_atypical"] for run in runs],
        "noisy_before_atypical": [run["second_split_atypical"] - run["second_split_noisy"] for run in runs],
    }
    shown = (
        ("forgetting events, noisy", "forgotten_noisy"),
        ("forgetting events, clean", "forgotten_clean"),
        ("unforgettable share, noisy", "unforgettable_noisy"),
        ("unforgettable share, clean", "unforgettable_clean"),
        ("first-split learning time, noisy", "learned_noisy"),
        ("first-split learning time, clean", "learned_clean"),
        ("second-split forgetting time, noisy", "second_split_noisy"),
        ("second-split forgetting time, least typical tenth", "second_split_atypical"),
        ("second-split forgetting time, typical half", "second_split_typical"),
        ("precision and recall of the lowest areas under the margin", "precision_margin"),
        ("the same up to the best epoch", "precision_margin_early"),
        ("best epoch, on held-out images", "best_epoch"),
        ("precision and recall of the lowest confidence", "precision_confidence"),
        ("precision and recall of the most forgotten", "precision_forgetting"),
    )
    table = {
        "columns": ["figure", *(f"seed {run['seed']}" for run in runs)],
        "rows": [[title, *(f"{run[key]:.3g}" for run in runs)] for title, key in shown],
    }
    first = runs[0]
    plots = [
        {
            "title": "Forgetting events of clean and noisy examples",
            "x": "forgetting events in training (last bar: this many or more)",
            "y": "share of the examples",
            "series": [
                {
                    "name": name,
                    "kind": "bars",
                    "x": list(range(len(first[f"histogram_{name}"]))),
                    "y": first[f"histogram_{name}"],
                    "width": 0.9,
                }
                for name in ("clean", "noisy")
            ],
        },
        {
            "title": "Share of the first split still predicted correctly",
            "x": "epochs on the second split",
            "y": "share predicted as labeled in the first split",
            "series": [
                {"name": name, "x": list(range(1, size.second_epochs + 1)), "y": first[f"second_{name}"]}
                for name in ("typical", "atypical", "noisy")
            ],
        },
    ]
    write_result(
        options,
        options.named("survey_forgetting"),
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9"},
        seeds=options.seeds(size.seeds),
        figures=figures,
        table=table,
        plots=plots,
        cost=watch.read(),
    )


def _run_of(options: Options, size: Size, seed: int) -> dict[str, Any]:
    true, second, other = options.draw(seed, size.images, size.images, size.images)
    first, noise = noisy(true, seed, labels=NOISE)
    training = Training(width=size.width, epochs=size.epochs, seed=seed)
    judge = network(first.pixels_NP.shape[1], training)
    train(judge, other, training)
    typical_N = look(judge, true).probability_N
    model = network(first.pixels_NP.shape[1], training)
    on_first = _train_and_look(model, first, first, other, training)
    then = Training(width=size.width, epochs=size.second_epochs, seed=seed + 1)
    on_second = _train_and_look(model, second, first, other, then)
    return _summary(seed, noise.changed, typical_N, on_first, on_second)


def _train_and_look(
    model: Any, trained: Images, looked_at: Images, held_out: Images, training: Training
) -> dict[str, np.ndarray]:
    looks: list[Any] = []
    held_out_accuracy: list[float] = []

    def after_epoch(epoch: int) -> None:
        looks.append(look(model, looked_at))
        held_out_accuracy.append(float(look(model, held_out).correct_N.mean()))

    train(model, trained, training, after_epoch)
    return {
        "correct": np.array([one.correct_N for one in looks]),
        "probability": np.array([one.probability_N for one in looks]),
        "margin": np.array([one.margin_N for one in looks]),
        "held_out_accuracy": np.array(held_out_accuracy),
    }


def _summary(
    seed: int,
    noisy_N: np.ndarray,
    typical_N: np.ndarray,
    on_first: dict[str, np.ndarray],
    on_second: dict[str, np.ndarray],
) -> dict[str, Any]:
    clean_N = ~noisy_N
    ranked = typical_N[clean_N]
    typical, atypical = clean_N & (typical_N >= np.median(ranked)), clean_N & (typical_N <= np.quantile(ranked, 0.1))
    events = forgetting_events(on_first["correct"])
    learned_N = first_split_learning_time(on_first["correct"])
    forgotten_N = second_split_forgetting_time(on_second["correct"])
    count = int(noisy_N.sum())
    best_epoch = int(np.argmax(on_first["held_out_accuracy"])) + 1

    def precision(low_is_noisy_N: np.ndarray) -> float:
        # With as many candidates as there are wrong labels, precision equals recall.
        return float(noisy_N[np.argsort(low_is_noisy_N, kind="stable")[:count]].mean())

    most = 6
    made: dict[str, Any] = {
        "seed": seed,
        "noisy": count,
        "forgotten_noisy": float(events.counts_N[noisy_N].mean()),
        "forgotten_clean": float(events.counts_N[clean_N].mean()),
        "unforgettable_noisy": float(events.unforgettable_N[noisy_N].mean()),
        "unforgettable_clean": float(events.unforgettable_N[clean_N].mean()),
        "learned_noisy": float(learned_N[noisy_N].mean()),
        "learned_clean": float(learned_N[clean_N].mean()),
        "typical_unforgettable": float(typical_N[clean_N & events.unforgettable_N].mean()),
        "typical_forgotten": float(typical_N[clean_N & ~events.unforgettable_N].mean()),
        "second_split_noisy": float(forgotten_N[noisy_N].mean()),
        "second_split_typical": float(forgotten_N[typical].mean()),
        "second_split_atypical": float(forgotten_N[atypical].mean()),
        "never_forgotten_typical": float((forgotten_N[typical] == len(on_second["correct"])).mean()),
        "precision_margin": precision(area_under_margin(on_first["margin"])),
        "precision_margin_early": precision(area_under_margin(on_first["margin"][:best_epoch])),
        "best_epoch": float(best_epoch),
        "precision_confidence": precision(data_map(on_first["probability"]).confidence_N),
        "precision_forgetting": precision(-events.counts_N),
    }
    for name, chosen in (("clean", clean_N), ("noisy", noisy_N)):
        capped = np.minimum(events.counts_N[chosen], most)
        made[f"histogram_{name}"] = (np.bincount(capped, minlength=most + 1) / chosen.sum()).round(4).tolist()
    for name, chosen in (("typical", typical), ("atypical", atypical), ("noisy", noisy_N)):
        made[f"second_{name}"] = on_second["correct"][:, chosen].mean(axis=1).round(4).tolist()
    print({name: value for name, value in made.items() if isinstance(value, float)}, flush=True)
    return made


if __name__ == "__main__":
    run(parse_options(__doc__ or "", sizes=SIZES))
