"""Measures of the survey on layers: location of memorization, benign memorization, dilation, example-tied dropout.

python -m examples.closer_look.survey_layers --mnist FOLDER
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
from hf_exposure.estimators import knn_decisions, memorization_dilation, probe_change
from hf_exposure.runs.example_tied import ExampleTied
from hf_exposure.runs.layers import retrain_layers, rewind_layers
from hf_exposure.signals import hidden_states

LAYERS = {"first": "2", "second": "5", "last": "8"}
HIDDEN = {"first": "3", "second": "6"}
NOISE, MORE_NOISE = 0.1, 0.5


@dataclass(frozen=True, kw_only=True)
class Size:
    """Networks are trained for `epochs` with noisy labels, and then others on random labels of moved images.

    Each image has 25 possible positions. Random labels of that many moved images are fit only by a wider network and
    in many epochs, as a pilot on another seed showed.
    """

    images: int
    held_out: int
    width: int
    epochs: int
    augmented_images: int
    augmented_width: int
    augmented_epochs: int
    retraining: int
    seeds: int


SIZES = {
    "smallest": Size(
        images=100, held_out=60, width=32, epochs=4, augmented_images=50, augmented_width=32, augmented_epochs=3,
        retraining=2, seeds=2,
    ),
    "small": Size(
        images=800, held_out=1_000, width=128, epochs=60, augmented_images=300, augmented_width=256,
        augmented_epochs=400, retraining=20, seeds=4,
    ),
    "full": Size(
        images=25_000, held_out=10_000, width=4096, epochs=400, augmented_images=25_000, augmented_width=4096,
        augmented_epochs=2000, retraining=100, seeds=5,
    ),
}  # fmt: skip


def run(options: Options) -> None:
    size = SIZES[options.size]
    keys = [(seed,) for seed in range(size.seeds)]
    runs, cost = each_run(
        options, "survey_layers", replace(size, seeds=0), keys, lambda seed: _run_of(options, size, seed)
    )
    figures: dict[str, Any] = {
        "runs": runs,
        "kept": {layer: [_share(run["rewound"][layer], run) for run in runs] for layer in LAYERS},
        "kept_at_worst": [_share(min(run["rewound"].values()), run) for run in runs],
        "first_probe": [run["probes"]["first"]["after"] - run["probes"]["first"]["before"] for run in runs],
        "more_dilation": [run["dilation_more"] - run["dilation"] for run in runs],
        "tied_lost": [run["tied_noisy_with_own"] - run["tied_noisy_without"] for run in runs],
        "tied_better": [run["tied_held_out"] - run["held_out"] for run in runs],
    }
    rows: list[list[str]] = [["noisy examples fit", *(f"{run['noisy']:.2f}" for run in runs)]]
    for layer in LAYERS:
        rows.append([f"after rewinding the {layer} layer to epoch 1", *(f"{r['rewound'][layer]:.2f}" for r in runs)])
    for layer in LAYERS:
        title = f"after retraining the {layer} layer on clean examples"
        rows.append([title, *(f"{r['retrained'][layer]:.2f}" for r in runs)])
    rows.append(["random labels, augmented: training accuracy", *(f"{run['augmented_fit']:.2f}" for run in runs)])
    for layer in HIDDEN:
        probes = [run["probes"][layer] for run in runs]
        title = f"probing the {layer} hidden layer, at initialization and after"
        rows.append([title, *(f"{p['before']:.2f}, {p['after']:.2f}: {p['kind']}" for p in probes)])
    for title, key in (
        (f"dilation, {NOISE:.0%} noise", "dilation"),
        (f"dilation, {MORE_NOISE:.0%} noise", "dilation_more"),
        ("example-tied dropout: noisy examples fit, with own units", "tied_noisy_with_own"),
        ("without own units", "tied_noisy_without"),
        ("held-out accuracy without own units", "tied_held_out"),
        ("held-out accuracy of the plain network", "held_out"),
    ):
        rows.append([title, *(f"{run[key]:.2f}" for run in runs)])
    write_result(
        options,
        "survey_layers",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "noise": [NOISE, MORE_NOISE]},
        seeds=list(range(size.seeds)),
        figures=figures,
        table={"columns": ["figure", *(f"seed {run['seed']}" for run in runs)], "rows": rows},
        plots=[],
        cost=cost,
    )


def _run_of(options: Options, size: Size, seed: int) -> dict[str, Any]:
    clean, held_out = options.draw(seed, size.images, size.held_out)
    images, noise = noisy(clean, seed, labels=NOISE)
    wrong, right = np.flatnonzero(noise.changed), np.flatnonzero(~noise.changed)
    training = Training(width=size.width, epochs=size.epochs, seed=seed)
    model = network(images.pixels_NP.shape[1], training)
    states = {"start": _state(model)}

    def after_epoch(epoch: int) -> None:
        if epoch == 1:
            states["epoch 1"] = _state(model)

    train(model, images, training, after_epoch)
    of_wrong = images.take(wrong)

    def fit(model: nn.Module) -> float:
        return float(look(model, of_wrong).correct_N.mean())

    rewound = rewind_layers(model, {"epoch 1": states["epoch 1"]}, fit, list(LAYERS.values()))
    few = replace(training, epochs=size.retraining)
    retrained = retrain_layers(
        model, states["start"], lambda model: train(model, images.take(right), few), fit, list(LAYERS.values())
    )
    dilations = [_dilation(model, clean, wrong, held_out)]
    more, noise = noisy(clean, seed, labels=MORE_NOISE)
    noisier = network(images.pixels_NP.shape[1], training)
    train(noisier, more, training)
    dilations.append(_dilation(noisier, clean, np.flatnonzero(noise.changed), held_out))
    made = {
        "seed": seed,
        "noisy": rewound.unchanged,
        "rewound": dict(zip(LAYERS, rewound.scores_SL[0].tolist(), strict=True)),
        "retrained": dict(zip(LAYERS, retrained.scores_SL[0].tolist(), strict=True)),
        "dilation": dilations[0],
        "dilation_more": dilations[1],
        "held_out": float(look(model, held_out).correct_N.mean()),
        **_tied(images, of_wrong, wrong, held_out, training),
        **_benign(
            clean.take(np.arange(size.augmented_images)),
            held_out,
            replace(training, width=size.augmented_width, epochs=size.augmented_epochs),
        ),
    }
    print(made, flush=True)
    return made


def _dilation(model: nn.Module, clean: Images, wrong: Any, held_out: Images) -> float:
    layer = HIDDEN["second"]
    corrupted = hidden_states(model, clean.pixels_NP[wrong], [layer])[layer]
    test = hidden_states(model, held_out.pixels_NP, [layer])[layer]
    return memorization_dilation(corrupted, clean.labels_N[wrong], test, held_out.labels_N).relative


def _tied(images: Images, of_wrong: Images, wrong: Any, held_out: Images, training: Training) -> dict[str, float]:
    """Repeats the training with example-tied dropout on both hidden layers."""
    plain = network(images.pixels_NP.shape[1], training)
    tied = ExampleTied(plain, list(HIDDEN.values()), len(images), seed=training.seed)
    pixels, labels = torch.as_tensor(images.pixels_NP), torch.as_tensor(images.labels_N)
    optimizer = torch.optim.SGD(tied.parameters(), lr=training.rate, momentum=training.momentum)
    generator = torch.Generator().manual_seed(training.seed)
    tied.train()
    for _ in range(training.epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(training.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(tied(pixels[rows], row_index=rows), labels[rows]).backward()
            optimizer.step()
    tied.eval()
    with torch.no_grad():
        own = tied(pixels[torch.as_tensor(wrong)], row_index=torch.as_tensor(wrong)).argmax(1).numpy()
    return {
        "tied_noisy_with_own": float((own == of_wrong.labels_N).mean()),
        "tied_noisy_without": float(look(tied, of_wrong).correct_N.mean()),
        "tied_held_out": float(look(tied, held_out).correct_N.mean()),
    }


def _benign(clean: Images, held_out: Images, training: Training) -> dict[str, Any]:
    """Trains on random labels, with each image moved by up to two pixels in every epoch, and probes the layers."""
    images, _ = noisy(clean, training.seed, labels=1.0)
    model = network(images.pixels_NP.shape[1], training)
    before = _probes(model, clean, held_out)
    generator = np.random.default_rng(training.seed)
    for epoch in range(training.epochs):
        moved = Images(_moved(images.pixels_NP, generator), images.labels_N, images.name)
        train(model, moved, replace(training, epochs=1, seed=training.seed + epoch))
    after = _probes(model, clean, held_out)
    return {
        "augmented_fit": float(look(model, images).correct_N.mean()),
        "probes": {layer: probe_change(before[layer], after[layer]).__dict__ for layer in HIDDEN},
    }


def _probes(model: nn.Module, clean: Images, held_out: Images) -> dict[str, Any]:
    known = hidden_states(model, clean.pixels_NP, list(HIDDEN.values()))
    asked = hidden_states(model, held_out.pixels_NP, list(HIDDEN.values()))
    return {
        layer: knn_decisions(known[name], clean.labels_N, asked[name]) == held_out.labels_N
        for layer, name in HIDDEN.items()
    }


def _moved(pixels_NP: Any, generator: np.random.Generator) -> Any:
    side = round(pixels_NP.shape[1] ** 0.5)
    whole = pixels_NP.reshape(-1, side, side)
    return np.stack([np.roll(image, generator.integers(-2, 3, size=2), axis=(0, 1)) for image in whole]).reshape(
        len(whole), -1
    )


def _share(kept: float, run: dict[str, Any]) -> float:
    """As a share of the noisy examples that were fit; NaN if there are none."""
    return kept / run["noisy"] if run["noisy"] else float("nan")


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
