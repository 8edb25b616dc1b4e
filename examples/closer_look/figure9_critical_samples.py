"""Figures 7 to 9, critical samples: networks that fit noise have decision boundaries close to almost all data.

python -m examples.closer_look.figure9_critical_samples --mnist FOLDER

Networks are trained on real images, on random inputs, on random labels and with 40 % random labels. The critical
sample ratio is computed on held-out inputs of the same kind. The box is 0.03 of the range of pixels, since small
networks have hardly any critical samples at the paper's 0.3 of 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.closer_look import RESULTS
from examples.closer_look.images import Options, noisy, parse_options
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import Stopwatch, band, write_result
from hf_exposure import critical_samples
from hf_exposure.estimators import clopper_pearson

RADIUS, OTHER_RADII = 0.03, (0.015, 0.06)
KINDS: dict[str, dict[str, float]] = {
    "real": {},
    "random inputs": {"inputs": 1.0},
    "random labels": {"labels": 1.0},
    "40 % random labels": {"labels": 0.4},
}


@dataclass(frozen=True, kw_only=True)
class Size:
    """`held_out` inputs are searched after each of the epochs `looks`."""

    images: int
    held_out: int
    width: int
    looks: tuple[int, ...]
    steps: int
    seeds: int


SIZES = {
    "smallest": Size(images=100, held_out=30, width=32, looks=(1, 4), steps=20, seeds=2),
    "small": Size(images=3_000, held_out=200, width=256, looks=(1, 10, 30), steps=60, seeds=3),
    "full": Size(images=50_000, held_out=1_000, width=4096, looks=(1, 3, 10, 30, 100, 300, 1000), steps=100, seeds=5),
}


class RandomSigns(torch.autograd.Function):
    """The identity with a gradient of random signs, to see what the search finds without information."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(gradient)


class Uninformed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.model(RandomSigns.apply(inputs))


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = [_run_of(options, size, kind, seed) for kind in KINDS for seed in range(size.seeds)]
    of = {kind: [run for run in runs if run["kind"] == kind] for kind in KINDS}
    ends = {kind: [run["ratios"][-1] for run in own] for kind, own in of.items()}
    figures: dict[str, Any] = {
        "runs": runs,
        "ends": ends,
        "above_real": {
            kind: [high - low for high, low in zip(ends[kind], ends["real"], strict=True)]
            for kind in ("random inputs", "random labels")
        },
        "rise": {kind: [run["ratios"][-1] - run["ratios"][0] for run in own] for kind, own in of.items()},
        "above_real_elsewhere": {
            kind: [
                min(high - low for high, low in zip(run["elsewhere"], real["elsewhere"], strict=True))
                for run, real in zip(of[kind], of["real"], strict=True)
            ]
            for kind in ("random inputs", "random labels")
        },
        "gradients_find_more": [run["ratios"][-1] - run["random_signs"] for run in of["40 % random labels"]],
    }
    table = {
        "columns": ["data", *(f"epoch {epoch}" for epoch in size.looks), "95 % interval, last (first seed)",
                    *(f"box {radius}, last" for radius in OTHER_RADII)],
        "rows": [
            [
                kind,
                *(_joined(run["ratios"][place] for run in own) for place in range(len(size.looks))),
                f"{own[0]['low']:.2f} to {own[0]['high']:.2f}",
                *(_joined(run["elsewhere"][place] for run in own) for place in range(len(OTHER_RADII))),
            ]
            for kind, own in of.items()
        ],
    }  # fmt: skip
    plots = [
        {
            "title": f"Critical samples in a box of {RADIUS}",
            "x": "epochs",
            "y": "share of held-out inputs",
            "y_is_share": True,
            "series": [
                band(kind, list(size.looks), list(zip(*(run["ratios"] for run in own), strict=True)))
                for kind, own in of.items()
            ],
        }
    ]
    write_result(
        options,
        "figure9_critical_samples",
        claims=RESULTS,
        settings={
            "size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9",
            "radius": RADIUS, "step": 0.25, "noise": 0.2,
        },
        seeds=list(range(size.seeds)),
        figures=figures,
        table=table,
        plots=plots,
        cost=watch.read(),
    )  # fmt: skip


def _run_of(options: Options, size: Size, kind: str, seed: int) -> dict[str, Any]:
    images, held_out = options.draw(seed, size.images, size.held_out)
    images, _ = noisy(images, seed, **KINDS[kind])
    if kind == "random inputs":
        held_out, _ = noisy(held_out, seed + 1000, inputs=1.0)
    training = Training(width=size.width, epochs=size.looks[-1], seed=seed)
    model = network(images.pixels_NP.shape[1], training)
    ratios: list[float] = []

    def found(model: nn.Module, radius: float) -> float:
        return float(critical_samples(model, held_out.pixels_NP, radius, max_steps=size.steps, seed=seed).mean())

    def after_epoch(epoch: int) -> None:
        if epoch in size.looks:
            ratios.append(found(model, RADIUS))

    train(model, images, training, after_epoch)
    low, high = clopper_pearson(round(ratios[-1] * size.held_out), size.held_out)
    made = {
        "kind": kind,
        "seed": seed,
        "ratios": ratios,
        "low": float(low),
        "high": float(high),
        "elsewhere": [found(model, radius) for radius in OTHER_RADII],
        "random_signs": found(Uninformed(model), RADIUS) if kind == "40 % random labels" else 0.0,
        "accuracy": float(look(model, images).correct_N.mean()),
    }
    print({**made, "ratios": np.round(ratios, 3).tolist()}, flush=True)
    return made


def _joined(numbers: Any) -> str:
    return ", ".join(f"{number:.2f}" for number in numbers)


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
