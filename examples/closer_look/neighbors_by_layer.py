"""DNN or k-NN: does a network decide as the nearest neighbors in its layers do? Are the layers of two networks alike?

python -m examples.closer_look.neighbors_by_layer --mnist FOLDER

Networks are trained on true and on random labels. For held-out images, the decision of the network is compared with
that of the 10 nearest training images, with the labels used in training, in pixel space and in each layer. Two
networks with different initial weights are compared by linear CKA and SVCCA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from examples.closer_look import RESULTS
from examples.closer_look.images import Options, noisy, parse_options
from examples.closer_look.training import Training, network, train
from examples.secret_sharer.results import Stopwatch, band, write_result
from hf_exposure.estimators import intrinsic_dimension, knn_agreement, linear_cka, svcca
from hf_exposure.signals import hidden_states

LAYERS = {"first hidden": "3", "second hidden": "6", "logits": "8"}
KINDS = {"true labels": 0.0, "random labels": 1.0}


@dataclass(frozen=True, kw_only=True)
class Size:
    images: int
    held_out: int
    width: int
    looks: tuple[int, ...]
    seeds: int


SIZES = {
    "smallest": Size(images=100, held_out=60, width=32, looks=(1, 4), seeds=2),
    "small": Size(images=2_000, held_out=800, width=128, looks=(1, 5, 20, 60), seeds=3),
    "full": Size(images=50_000, held_out=10_000, width=4096, looks=(1, 10, 100, 1000), seeds=5),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = [_run_of(options, size, kind, seed) for kind in KINDS for seed in range(size.seeds)]
    of = {kind: [run for run in runs if run["kind"] == kind] for kind in KINDS}
    true, random = of["true labels"], of["random labels"]
    figures: dict[str, Any] = {
        "runs": runs,
        "true_at_end": [run["agreement"]["second hidden"][-1] for run in true],
        "true_above_random": {
            layer: [a["agreement"][layer][-1] - b["agreement"][layer][-1] for a, b in zip(true, random, strict=True)]
            for layer in LAYERS
        },
        "above_pixels": [run["agreement"]["second hidden"][-1] - run["pixels"][-1] for run in runs],
        "alike": [a["cka"]["second hidden"] - b["cka"]["second hidden"] for a, b in zip(true, random, strict=True)],
        "dimension": [
            b["dimension"]["second hidden"] - a["dimension"]["second hidden"]
            for a, b in zip(true, random, strict=True)
        ],
    }
    table = {
        "columns": ["labels", "layer", *(f"agreement, epoch {epoch}" for epoch in size.looks), "CKA of two networks",
                    "SVCCA of two networks", "intrinsic dimension"],
        "rows": [
            [kind, layer, *(_joined(run["agreement"][layer][at] for run in own) for at in range(len(size.looks))),
             *(_joined(run[key][layer] for run in own) for key in ("cka", "svcca", "dimension"))]
            for kind, own in of.items() for layer in LAYERS
        ] + [
            [kind, "pixels", *(_joined(run["pixels"][place] for run in own) for place in range(len(size.looks))),
             "", "", ""]
            for kind, own in of.items()
        ],
    }  # fmt: skip
    plots = [
        {
            "title": "Agreement with the 10 nearest neighbors, second hidden layer",
            "x": "epochs",
            "y": "share of held-out images",
            "y_is_share": True,
            "series": [
                band(
                    kind, list(size.looks), list(zip(*(run["agreement"]["second hidden"] for run in own), strict=True))
                )
                for kind, own in of.items()
            ],
        }
    ]
    write_result(
        options,
        "neighbors_by_layer",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9"},
        seeds=list(range(size.seeds)),
        figures=figures,
        table=table,
        plots=plots,
        cost=watch.read(),
    )


def _run_of(options: Options, size: Size, kind: str, seed: int) -> dict[str, Any]:
    images, held_out = options.draw(seed, size.images, size.held_out)
    images, _ = noisy(images, seed, labels=KINDS[kind])
    agreement: dict[str, list[float]] = {layer: [] for layer in LAYERS}
    pixels: list[float] = []
    last = []
    for number in range(2):
        training = Training(width=size.width, epochs=size.looks[-1], seed=seed + 1000 * number)
        model = network(images.pixels_NP.shape[1], training)

        def after_epoch(epoch: int, model: Any = model, number: int = number) -> None:
            if number or epoch not in size.looks:
                return
            with torch.no_grad():
                decisions = model.eval()(torch.as_tensor(held_out.pixels_NP)).argmax(1).numpy()
            known = hidden_states(model, images.pixels_NP, list(LAYERS.values()))
            asked = hidden_states(model, held_out.pixels_NP, list(LAYERS.values()))
            for layer, name in LAYERS.items():
                agreement[layer].append(knn_agreement(known[name], images.labels_N, asked[name], decisions))
            pixels.append(knn_agreement(images.pixels_NP, images.labels_N, held_out.pixels_NP, decisions))

        train(model, images, training, after_epoch)
        last.append(hidden_states(model, held_out.pixels_NP, list(LAYERS.values())))
    one, other = last
    made = {
        "kind": kind,
        "seed": seed,
        "agreement": agreement,
        "pixels": pixels,
        "cka": {layer: linear_cka(one[name], other[name]) for layer, name in LAYERS.items()},
        "svcca": {layer: svcca(one[name], other[name]) for layer, name in LAYERS.items()},
        "dimension": {layer: intrinsic_dimension(one[name]).dimension for layer, name in LAYERS.items()},
    }
    print(made, flush=True)
    return made


def _joined(numbers: Any) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
