"""Figures 3 and 4: on real data a few examples matter much to the loss; on random data all matter about equally.

python -m examples.closer_look.figure3_loss_sensitivity --mnist FOLDER

As in the paper, networks with two layers of 16 units are trained with SGD on digits of half the height and width, but
on fewer digits and for fewer steps. Random data have random inputs and labels. Both kinds are also learned with as
many classes as examples. The formula for checkpoints is compared with the exact one on the same training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from examples.closer_look import RESULTS
from examples.closer_look.images import Images, Options, noisy, parse_options
from examples.closer_look.resumed import each_run
from examples.closer_look.training import Training, network
from examples.secret_sharer.results import band, write_result
from hf_exposure.signals import checkpoint_sensitivity, loss_sensitivity
from hf_exposure.signals.sensitivity import batch_order

RATE, BATCH = 0.1, 50


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The shares of random inputs and labels, or whether each example has its own class."""

    inputs: float = 0.0
    labels: float = 0.0
    own_classes: bool = False


KINDS = {
    "real": Kind(),
    "random": Kind(inputs=1.0, labels=1.0),
    "real, own classes": Kind(own_classes=True),
    "random, own classes": Kind(inputs=1.0, own_classes=True),
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """The loss is differentiated at `looks` steps, evenly spaced up to `steps`."""

    images: int
    steps: int
    looks: int
    seeds: int


SIZES = {
    "smallest": Size(images=60, steps=12, looks=3, seeds=2),
    "small": Size(images=200, steps=2_000, looks=8, seeds=5),
    "full": Size(images=1_000, steps=10_000, looks=20, seeds=5),
}


def run(options: Options) -> None:
    size = SIZES[options.size]
    keys = [(kind, seed) for seed in range(size.seeds) for kind in KINDS]
    runs, cost = each_run(
        options, "figure3", replace(size, seeds=0), keys, lambda kind, seed: _run_of(options, size, kind, seed)
    )
    of = {kind: [run for run in runs if run["kind"] == kind] for kind in KINDS}

    def differences(key: str, kinds: tuple[str, str] = ("real", "random")) -> list[float]:
        return [a[key] - b[key] for a, b in zip(*(of[kind] for kind in kinds), strict=True)]

    figures: dict[str, Any] = {
        "runs": runs,
        "gini_difference": differences("gini_last"),
        "gini_difference_own_classes": differences("gini_last", ("real, own classes", "random, own classes")),
        "spread_difference": differences("off_diagonal"),
        "diagonal": [run["diagonal_share"] for kind in ("real", "random") for run in of[kind]],
        "rank_correlation": [run["rank_correlation"] for run in runs],
    }
    shown = ("gini_first", "gini_last", "off_diagonal", "diagonal_share", "rank_correlation", "accuracy")
    table = {
        "columns": ["data", "Gini coefficient, first step measured", "Gini coefficient, last step",
                    "other classes against own", "highest on diagonal",
                    "rank correlation with the checkpoint formula", "training accuracy"],
        "rows": [[kind, *(_joined(run.get(key) for run in own) for key in shown)] for kind, own in of.items()],
    }  # fmt: skip
    steps = of["real"][0]["steps"]
    plots = [
        {
            "title": f"Gini coefficient of loss-sensitivity, {title}",
            "x": "SGD steps",
            "y": "Gini coefficient over examples",
            "series": [
                band(kind, steps, list(zip(*(run["gini"] for run in of[kind]), strict=True)))
                for kind in KINDS
                if KINDS[kind].own_classes == own_classes
            ],
        }
        for title, own_classes in (("classes of digits", False), ("each example its own class", True))
    ]
    plots.append(_class_plot(of))
    write_result(
        options,
        "figure3_loss_sensitivity",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": f"SGD {RATE}, batch {BATCH}"},
        seeds=list(range(size.seeds)),
        figures=figures,
        table=table,
        plots=plots,
        cost=cost,
    )


def _run_of(options: Options, size: Size, kind: str, seed: int) -> dict[str, Any]:
    (images,) = options.draw(seed, size.images)
    what = KINDS[kind]
    images, _ = noisy(_halved(images), seed, inputs=what.inputs, labels=what.labels)
    if what.own_classes:
        images = Images(images.pixels_NP, np.arange(len(images)), images.name)
    model = network(images.pixels_NP.shape[1], Training(width=16, epochs=1, seed=seed))
    if what.own_classes:
        model[-1] = nn.Linear(16, len(images))
    steps = [size.steps * (look + 1) // size.looks for look in range(size.looks)]
    found = loss_sensitivity(
        model,
        images.pixels_NP,
        images.labels_N,
        steps,
        RATE,
        batch_size=BATCH,
        seed=seed,
        by_class=not what.own_classes,
    )
    cheap, accuracy = _by_checkpoints(model, images, steps, seed)
    made = {
        "kind": kind,
        "seed": seed,
        "steps": steps,
        "gini": found.gini_T.tolist(),
        "gini_first": float(found.gini_T[0]),
        "gini_last": float(found.gini_T[-1]),
        **(_of_classes(found.class_matrix_CC) if not what.own_classes else {}),
        "rank_correlation": float(spearmanr(found.sensitivity_N, cheap).statistic),
        "accuracy": accuracy,
    }
    print({name: value for name, value in made.items() if name not in ("matrix", "steps")}, flush=True)
    return made


def _of_classes(matrix: Any) -> dict[str, Any]:
    """How the loss of each class depends on the examples of each class: the matrix and figures computed from it."""
    own = np.diag(matrix)
    return {
        "matrix": matrix.tolist(),
        "off_diagonal": float((matrix.sum() - own.sum()) / (len(own) - 1) / own.sum()),
        "diagonal_share": float((matrix.argmax(axis=1) == np.arange(len(own))).mean()),
    }


def _class_plot(of: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Figure 4 as a line: each row of the class matrix, sorted, as shares of its largest entry."""
    series = []
    for kind in ("real", "random"):
        rows_R = [np.sort(row)[::-1] / max(row) for run in of[kind] for row in np.array(run["matrix"])]
        mean = np.mean(rows_R, axis=0).tolist()
        series.append({"name": kind, "x": list(range(1, len(mean) + 1)), "y": mean})
    return {
        "title": "Sensitivity of a class's loss to the examples of each class",
        "x": "classes of examples, most important first",
        "y": "share of the highest sensitivity",
        "series": series,
    }


def _joined(numbers: Any) -> str:
    return ", ".join("" if number is None else f"{number:.2f}" for number in numbers).strip(", ")


def _by_checkpoints(model: nn.Sequential, images: Images, steps: list[int], seed: int) -> tuple[Any, float]:
    """The same training with an ordinary optimizer: about 24 checkpoints of it, and its final accuracy."""
    pixels, labels = torch.as_tensor(images.pixels_NP), torch.as_tensor(images.labels_N)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    states = []
    for step, rows in enumerate(batch_order(len(images), BATCH, steps[-1], seed)):
        if step % max(1, steps[-1] // 24) == 0:
            states.append({name: value.clone() for name, value in model.state_dict().items()})
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = float((model.eval()(pixels).argmax(1) == labels).float().mean())
    return checkpoint_sensitivity(model, states, images.pixels_NP, images.labels_N), accuracy


def _halved(images: Images) -> Images:
    """The images with each square of four pixels replaced by its mean."""
    side = round(images.pixels_NP.shape[1] ** 0.5)
    squares = images.pixels_NP.reshape(-1, side // 2, 2, side // 2, 2)
    return Images(squares.mean(axis=(2, 4)).reshape(len(images), -1), images.labels_N, images.name)


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
