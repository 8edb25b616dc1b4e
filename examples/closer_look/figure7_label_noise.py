"""Figures 7 and 8, accuracy: networks learn the real data before they fit the noise.

python -m examples.closer_look.figure7_label_noise --mnist FOLDER

A share of the training labels, or of the inputs, is noise. After each epoch the script measures the accuracy on the
clean part, on the noisy part by its noisy labels, and on clean validation images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.closer_look import RESULTS
from examples.closer_look.images import Options, noisy, parse_options
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import Stopwatch, band, write_result
from hf_exposure.estimators import noise_curves

LEVELS = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, kw_only=True)
class Size:
    """`levels` is the number of noise levels that are run."""

    images: int
    validation: int
    width: int
    epochs: int
    seeds: int
    levels: int = len(LEVELS)


SIZES = {
    "smallest": Size(images=100, validation=100, width=32, epochs=3, seeds=2, levels=2),
    "small": Size(images=3_000, validation=3_000, width=256, epochs=60, seeds=3),
    "full": Size(images=50_000, validation=10_000, width=4096, epochs=1000, seeds=5),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    settings = [("labels", 0.0), *((kind, level) for kind in ("labels", "inputs") for level in LEVELS[: size.levels])]
    runs = [_run_of(options, size, kind, level, seed) for seed in range(size.seeds) for kind, level in settings]
    by_setting = {
        f"{kind} {level:.0%}": [run for run in runs if (run["kind"], run["level"]) == (kind, level)]
        for kind, level in settings
    }
    figures: dict[str, Any] = {
        "runs": runs,
        "drop": {name: [run["best"] - run["last"] for run in own] for name, own in by_setting.items()},
        "noise_fit_at_best": {name: [run["noisy_at_best"] for run in own] for name, own in by_setting.items()},
        "noise_fit_at_end": {name: [run["noisy"][-1] for run in own] for name, own in by_setting.items()},
        "best": {name: [run["best"] for run in own] for name, own in by_setting.items()},
    }
    of_labels = [name for name in by_setting if name.startswith("labels") and name != "labels 0%"]
    high = [name for name in of_labels if name != "labels 20%"]
    figures["drop_of_labels"] = {name: figures["drop"][name] for name in high}
    figures["fit_at_best_of_labels"] = {name: figures["noise_fit_at_best"][name] for name in of_labels}
    figures["fit_after_best"] = {
        name: [run["noisy"][-1] - run["noisy_at_best"] for run in by_setting[name]] for name in of_labels
    }
    most = f"{LEVELS[size.levels - 1]:.0%}"
    figures["fall_of_best"] = {
        kind: [
            little - much
            for little, much in zip(figures["best"][f"{kind} 20%"], figures["best"][f"{kind} {most}"], strict=True)
        ]
        for kind in ("labels", "inputs")
    }
    table = {
        "columns": [
            "noise",
            "best validation accuracy",
            "best epoch",
            "last validation accuracy",
            "share of noise fit at the best epoch",
            "share of noise fit at the end",
        ],
        "rows": [
            [
                name,
                *(_joined(own, key) for key in ("best", "best_epoch", "last", "noisy_at_best")),
                ", ".join(f"{run['noisy'][-1]:.2f}" for run in own) if own[0]["level"] else "",
            ]
            for name, own in by_setting.items()
        ],
    }
    epochs = list(range(1, size.epochs + 1))
    shown = [name for name in ("labels 0%", "labels 40%", "labels 80%") if name in by_setting]
    plots = [
        {
            "title": "Validation accuracy with random labels",
            "x": "epochs",
            "y": "accuracy on clean validation images",
            "y_is_share": True,
            "series": [band(name, epochs, _by_epoch(by_setting[name], "validation")) for name in shown],
        },
        {
            "title": "40 % random labels: clean labels are learned first",
            "x": "epochs",
            "y": "accuracy",
            "y_is_share": True,
            "series": [
                band(title, epochs, _by_epoch(by_setting["labels 40%"], key))
                for title, key in (
                    ("training, clean labels", "clean"),
                    ("training, wrong labels", "noisy"),
                    ("validation", "validation"),
                )
            ],
        },
    ]
    write_result(
        options,
        "figure7_label_noise",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9"},
        seeds=list(range(size.seeds)),
        figures=figures,
        table=table,
        plots=plots,
        cost=watch.read(),
    )


def _run_of(options: Options, size: Size, kind: str, level: float, seed: int) -> dict[str, Any]:
    images, validation = options.draw(seed, size.images, size.validation)
    images, noise = noisy(images, seed, **{kind: level})
    training = Training(width=size.width, epochs=size.epochs, seed=seed)
    model = network(images.pixels_NP.shape[1], training)
    correct, accuracy = [], []

    def after_epoch(epoch: int) -> None:
        correct.append(look(model, images).correct_N)
        accuracy.append(float(look(model, validation).correct_N.mean()))

    train(model, images, training, after_epoch)
    curves = noise_curves(np.array(correct), noise.changed)
    best = int(np.argmax(accuracy))
    made = {
        "kind": kind,
        "level": level,
        "seed": seed,
        "best": accuracy[best],
        "best_epoch": best + 1,
        "last": accuracy[-1],
        "noisy_at_best": float(curves.noisy_T[best]) if level else 0.0,
        "clean": curves.clean_T.tolist(),
        "noisy": curves.noisy_T.tolist() if level else [0.0],
        "validation": accuracy,
    }
    print({name: made[name] for name in ("kind", "level", "seed", "best", "best_epoch", "last")}, flush=True)
    return made


def _joined(runs: list[dict[str, Any]], key: str) -> str:
    return ", ".join(f"{run[key]:.2f}" if isinstance(run[key], float) else str(run[key]) for run in runs)


def _by_epoch(runs: list[dict[str, Any]], key: str) -> list[list[float]]:
    return [list(values) for values in zip(*(run[key] for run in runs), strict=True)]


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
