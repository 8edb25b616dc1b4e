"""Memorization dissection: networks trained on true labels and on random labels, with several seeds, compared in
pairs.

python -m examples.many_trainings.dissection --data FOLDER_OF_MNIST --store FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from examples.many_trainings.pretraining import epoch, half_size, network, sgd
from examples.many_trainings.study import Options, draw_images, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure.estimators import (
    PairMean,
    disagreement,
    gradient_coherence,
    linear_cka,
    mean_over_pairs,
    pair_figures,
)
from hf_exposure.signals import example_gradients


@dataclass(frozen=True, kw_only=True)
class Size:
    rows: int
    tests: int
    seeds: int
    epochs: int
    gradients: int
    width: int = 256


SIZES = {
    "smallest": Size(rows=100, tests=40, seeds=3, epochs=3, gradients=20, width=32),
    "small": Size(rows=1000, tests=400, seeds=8, epochs=60, gradients=100),
}
KINDS = ("true", "random")


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = each_seed(options, size.seeds, lambda seed: _one_seed(options, size, seed))
    figures: dict[str, Any] = {}
    for kind in KINDS:
        own = [one[kind] for one in runs]
        figures[kind] = {
            "disagreement": _shown(mean_over_pairs(disagreement([one["decisions"] for one in own]))),
            "cka_first": _shown(mean_over_pairs(pair_figures([np.array(one["first"]) for one in own], linear_cka))),
            "cka_second": _shown(mean_over_pairs(pair_figures([np.array(one["second"]) for one in own], linear_cka))),
            "coherence_start": [one["coherence"][0] for one in own],
            "coherence_early": [one["coherence"][1] for one in own],
            "fitted": [one["fitted"] for one in own],
        }
    settings = {"rows": size.rows, "seeds": size.seeds, "epochs": size.epochs, "width": size.width}
    settings |= {"tests": size.tests, "gradients": size.gradients}
    data = "made up" if options.data is None else "MNIST, 14 by 14"
    write_result(options, "dissection", data=data, settings=settings, figures=figures, cost=watch.read())


def _one_seed(options: Options, size: Size, seed: int) -> dict[str, Any]:
    raw, classes, _ = draw_images(options.data, size.rows + size.tests, 80)  # all seeds use the same images and labels
    pixels, labels = torch.as_tensor(half_size(raw)), torch.as_tensor(classes)
    rows, test = pixels[: size.rows], pixels[size.rows :]
    random = torch.as_tensor(np.random.default_rng(81).integers(10, size=size.rows))
    found: dict[str, Any] = {}
    for kind, given in zip(KINDS, (labels[: size.rows], random), strict=True):
        torch.manual_seed(seed)
        model = network(pixels.shape[1], size.width)
        optimizer, coherence = sgd(model), []
        for done in range(size.epochs):
            if done < 2:
                gradients = example_gradients(
                    model, rows[: size.gradients], given[: size.gradients].numpy(), ["2", "4"]
                )
                coherence.append(gradient_coherence(gradients))
            epoch(model, rows, given, optimizer)
        with torch.no_grad():
            first = model[:2](test)
            second = model[2:4](first)
            decisions = model[4](second).argmax(1)
            fitted = float((model(rows).argmax(1) == given).float().mean())
        found[kind] = {
            "decisions": decisions.tolist(),
            "first": _rounded(first),
            "second": _rounded(second),
            "coherence": coherence,
            "fitted": fitted,
        }
    return found


def _rounded(features: torch.Tensor) -> list[list[float]]:
    values: list[list[float]] = features.double().numpy().round(4).tolist()
    return values


def _shown(found: PairMean) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
