"""Figure 2: what the first layer learns from random labels is not noise, and is useful for the true labels too.

python -m examples.closer_look.figure2_filters --mnist FOLDER

One network is trained on true labels and one on random labels, from the same initial weights. For each unit of the
first layer, the changes of its weights are correlated between neighboring pixels; independent changes have a
correlation of 0. Then the first layer is frozen, the layers above it are trained from their initial weights on the
true labels of a few images, and their accuracy is measured on held-out images. The same is done with an untrained
first layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.closer_look import RESULTS
from examples.closer_look.images import Images, Options, noisy, parse_options
from examples.closer_look.resumed import each_run
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import write_result

FIRST = 2  # index of the first layer with weights among the modules of `network`
SHOWN = 8
KINDS = ("initialization", "true labels", "random labels")


@dataclass(frozen=True, kw_only=True)
class Size:
    """The layers above the frozen layer are trained on `few` images."""

    images: int
    few: int
    held_out: int
    width: int
    epochs: int
    few_epochs: int
    seeds: int


SIZES = {
    "smallest": Size(images=80, few=40, held_out=60, width=32, epochs=3, few_epochs=2, seeds=2),
    "small": Size(images=2_000, few=300, held_out=1_000, width=128, epochs=80, few_epochs=40, seeds=5),
    "full": Size(images=50_000, few=5_000, held_out=10_000, width=4096, epochs=1_000, few_epochs=200, seeds=5),
}


def run(options: Options) -> None:
    size = SIZES[options.size]
    keys = [(seed,) for seed in range(size.seeds)]
    runs, cost = each_run(
        options, "figure2_filters", replace(size, seeds=0), keys, lambda seed: _run_of(options, size, seed)
    )

    def above_start(key: str, kind: str) -> list[float]:
        return [run[key][kind] - run[key]["initialization"] for run in runs]

    figures: dict[str, Any] = {
        "runs": [{name: value for name, value in run.items() if name != "filters"} for run in runs],
        "smoother": above_start("neighbors", "random labels"),
        "useful": above_start("accuracy", "random labels"),
        "true_above_random": [run["accuracy"]["true labels"] - run["accuracy"]["random labels"] for run in runs],
    }
    titles = {
        "fit": "training accuracy",
        "neighbors": "correlation of neighboring pixels' weights",
        "accuracy": "held-out accuracy above the frozen layer",
    }
    rows = [
        [kind, title, *(f"{run[key][kind]:.2f}" for run in runs)]
        for key, title in titles.items()
        for kind in KINDS
        if kind in runs[0][key]
    ]
    plots = [
        {"title": f"First layer, {kind}: weights of {SHOWN} units", "pictures": runs[0]["filters"][kind]}
        for kind in KINDS
    ]
    write_result(
        options,
        "figure2_filters",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name},
        seeds=list(range(size.seeds)),
        figures=figures,
        table={"columns": ["first layer of", "figure", *(f"seed {run['seed']}" for run in runs)], "rows": rows},
        plots=plots,
        cost=cost,
    )


def _run_of(options: Options, size: Size, seed: int) -> dict[str, Any]:
    images, few, held_out = options.draw(seed, size.images, size.few, size.held_out)
    training = Training(width=size.width, epochs=size.epochs, seed=seed)
    start = network(images.pixels_NP.shape[1], training)
    made: dict[str, Any] = {"seed": seed, "fit": {}, "neighbors": {}, "accuracy": {}, "filters": {}}
    for kind in KINDS:
        model, labeled = network(images.pixels_NP.shape[1], training), images
        if kind == "random labels":
            labeled, _ = noisy(images, seed, labels=1.0)
        if kind != "initialization":
            train(model, labeled, training)
            made["fit"][kind] = float(look(model, labeled).correct_N.mean())
        weights_HP = _weights(model)
        learned_HP = weights_HP - _weights(start) if kind != "initialization" else weights_HP
        made["neighbors"][kind] = float(np.mean(neighbor_correlation(learned_HP)))
        strongest = np.argsort(-np.square(learned_HP).sum(axis=1), kind="stable")[:SHOWN]
        made["filters"][kind] = [_as_picture(learned_HP[unit]) for unit in strongest]
        made["accuracy"][kind] = _accuracy_above(model, few, held_out, replace(training, epochs=size.few_epochs))
    print({name: value for name, value in made.items() if name != "filters"}, flush=True)
    return made


def neighbor_correlation(weights_HP: Any) -> Any:
    """(H,) the correlation of each unit's weights with those one pixel to the right and below, for square images."""
    side = round(weights_HP.shape[1] ** 0.5)
    centered = (weights_HP - weights_HP.mean(axis=1, keepdims=True)).reshape(-1, side, side)
    right = (centered[:, :, 1:] * centered[:, :, :-1]).mean(axis=(1, 2))
    down = (centered[:, 1:] * centered[:, :-1]).mean(axis=(1, 2))
    power = np.square(centered).mean(axis=(1, 2))
    # A unit that is never active learns nothing.
    return np.divide((right + down) / 2, power, out=np.zeros_like(power), where=power > 0)


def _accuracy_above(model: nn.Module, few: Images, held_out: Images, training: Training) -> float:
    """Held-out accuracy after all layers but the first are trained from their initial weights."""
    fresh = network(few.pixels_NP.shape[1], training)
    fresh[FIRST].load_state_dict(model[FIRST].state_dict())
    fresh[FIRST].requires_grad_(False)
    train(fresh, few, training)
    return float(look(fresh, held_out).correct_N.mean())


def _weights(model: nn.Module) -> Any:
    found: torch.Tensor = model[FIRST].weight
    return found.detach().double().numpy().copy()


def _as_picture(weights_P: Any) -> list[str]:
    """Rows of hexadecimal digits: 8 is a weight of 0, and 1 and f are minus and plus the largest absolute weight."""
    side, most = round(len(weights_P) ** 0.5), np.abs(weights_P).max() or 1.0
    return ["".join(f"{round(8 + 7 * value / most):x}" for value in row) for row in weights_P.reshape(side, side)]


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
