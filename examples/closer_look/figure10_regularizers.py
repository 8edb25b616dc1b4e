"""Figures 10 and 11, Section 5: dropout costs accuracy on noise and not on real data; regularizers side by side.

python -m examples.closer_look.figure10_regularizers --mnist FOLDER

Each regularizer at several strengths: the final training accuracy on random labels, and the best validation accuracy
on real data. Dropout also together with adversarial training, where half of the loss is that of images moved by LASS.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from examples.closer_look import RESULTS
from examples.closer_look.images import Options, noisy, parse_options
from examples.closer_look.resumed import each_run
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import write_result

REGULARIZERS: dict[str, tuple[float, ...]] = {
    "dropout": (0.25, 0.5, 0.75, 0.9),
    "input_dropout": (0.2, 0.5, 0.8, 0.9),
    "input_noise": (0.2, 0.5, 1.0, 2.0),
    "weight_decay": (1e-3, 1e-2, 3e-2, 1e-1),
    "dropout_adversarial": (0.5, 0.75, 0.85),
}
ADVERSARIAL_WEIGHT = 0.5
HALF = 0.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """`strengths` is how many of each regularizer's are run, from the last on."""

    images: int
    validation: int
    width: int
    epochs: int
    seeds: int
    strengths: int = 4


SIZES = {
    "smallest": Size(images=80, validation=80, width=16, epochs=2, seeds=2, strengths=1),
    "small": Size(images=250, validation=1_000, width=128, epochs=50, seeds=3),
    "full": Size(images=50_000, validation=10_000, width=4096, epochs=500, seeds=3),
}


def run(options: Options) -> None:
    size = SIZES[options.size]
    settings = [("none", 0.0)]
    settings += [(name, value) for name, values in REGULARIZERS.items() for value in values[-size.strengths :]]
    keys = [(name, value, seed) for seed in range(size.seeds) for name, value in settings]
    runs, cost = each_run(
        options, "figure10_regularizers", replace(size, seeds=0), keys, partial(_run_of, options, size)
    )

    def of(name: str, value: float, key: str) -> list[float]:
        return [run[key] for run in runs if (run["regularizer"], run["strength"]) == (name, value)]

    plain = {key: of("none", 0.0, key) for key in ("fit", "best")}
    figures: dict[str, Any] = {
        "runs": runs,
        "plain_fit": plain["fit"],
        # Of dropout at three quarters, or the strongest that was run below it.
        "kept_by_dropout": [a - b for a, b in zip(of("dropout", _strong(size), "best"), plain["best"], strict=True)],
        "lost_by_dropout": [b - a for a, b in zip(of("dropout", _strong(size), "fit"), plain["fit"], strict=True)],
        # Best validation accuracy on real data among strengths that halve the fit; 0 where none does.
        "best_at_half": {name: _best_at_half(runs, name, size) for name in REGULARIZERS},
    }
    own = figures["best_at_half"]["dropout"]
    figures["dropout_over_others"] = {
        name: [a - b for a, b in zip(own, figures["best_at_half"][name], strict=True)]
        for name in REGULARIZERS
        if name not in ("dropout", "dropout_adversarial")
    }
    both = figures["best_at_half"]["dropout_adversarial"]
    figures["adversarial_over_dropout"] = [a - b for a, b in zip(both, own, strict=True)]
    table = {
        "columns": ["regularizer", "strength", "training accuracy on randY", "best validation accuracy on real data"],
        "rows": [
            [
                name,
                f"{value:g}",
                ", ".join(f"{one:.2f}" for one in of(name, value, "fit")),
                ", ".join(f"{one:.3f}" for one in of(name, value, "best")),
            ]
            for name, value in settings
        ],
    }
    plot = {
        "title": "Memorization capped, and what it costs (seed 0)",
        "x": "final training accuracy on random labels",
        "y": "best validation accuracy on real data",
        "series": [
            {
                "name": name,
                "x": [of(*one, "fit")[0] for one in settings if one[0] in (name, "none")],
                "y": [of(*one, "best")[0] for one in settings if one[0] in (name, "none")],
            }
            for name in REGULARIZERS
        ],
    }
    write_result(
        options,
        "figure10_regularizers",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9"},
        seeds=list(range(size.seeds)),
        figures=figures,
        table=table,
        plots=[plot],
        cost=cost,
    )


def _strong(size: Size) -> float:
    return 0.75 if size.strengths > 1 else REGULARIZERS["dropout"][-1]


def _best_at_half(runs: list[dict[str, Any]], name: str, size: Size) -> list[float]:
    return [
        max(
            (run["best"] for run in runs if run["regularizer"] == name and run["seed"] == seed and run["fit"] <= HALF),
            default=0.0,
        )
        for seed in range(size.seeds)
    ]


def _run_of(options: Options, size: Size, name: str, value: float, seed: int) -> dict[str, Any]:
    images, validation = options.draw(seed, size.images, size.validation)
    random, _ = noisy(images, seed, labels=1.0)
    settings: dict[str, float] = {} if name == "none" else {name: value}
    if name == "dropout_adversarial":
        settings = {"dropout": value, "adversarial": ADVERSARIAL_WEIGHT}
    training = Training(width=size.width, epochs=size.epochs, seed=seed, **settings)  # type: ignore[arg-type]
    model = network(images.pixels_NP.shape[1], training)
    train(model, random, training)
    fit = float(look(model, random).correct_N.mean())
    model = network(images.pixels_NP.shape[1], training)
    accuracy: list[float] = []
    train(model, images, training, lambda epoch: accuracy.append(float(look(model, validation).correct_N.mean())))
    made = {"regularizer": name, "strength": value, "seed": seed, "fit": fit, "best": max(accuracy)}
    print(made, flush=True)
    return made


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
