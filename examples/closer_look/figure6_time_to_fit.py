"""Figure 6: noise takes longer to fit, and longer still if there is more of it; this is hardly so for real data.

python -m examples.closer_look.figure6_time_to_fit --mnist FOLDER

The script counts the epochs until the training accuracy is 100 %, by width at one size of the data, and by size at one
width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from examples.closer_look import RESULTS
from examples.closer_look.images import Options, noisy, parse_options
from examples.closer_look.resumed import each_run
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import band, write_result
from hf_exposure.estimators import time_to_fit

KINDS: dict[str, dict[str, float]] = {"real": {}, "randX": {"inputs": 1.0}, "randY": {"labels": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Size:
    """All `widths` are run with the middle one of `images`, and all `images` with the middle one of `widths`."""

    kinds: tuple[str, ...] = ("real", "randX", "randY")
    images: tuple[int, int, int]
    widths: tuple[int, int, int]
    epochs: int
    seeds: int


SIZES = {
    "smallest": Size(images=(20, 40, 80), widths=(32, 64, 128), epochs=150, seeds=2),
    "small": Size(images=(125, 250, 1_000), widths=(32, 128, 512), epochs=200, seeds=3),
    # In pilots on seeds 100 and 101, 64 units took 33 epochs for 7,500 random inputs, 15 for as many images, and more
    # than 200 for 10,000 random inputs; 128 units took 21 for 12,500 random inputs and 19 for as many images.
    "second": Size(kinds=("real", "randX"), images=(2_500, 5_000, 7_500), widths=(48, 64, 256), epochs=300, seeds=6),
    "full": Size(images=(10_000, 50_000, 60_000), widths=(1024, 4096, 8192), epochs=1000, seeds=3),
}


def run(options: Options) -> None:
    size = SIZES[options.size]
    settings = [(count, size.widths[1]) for count in size.images]
    settings += [(size.images[1], width) for width in size.widths if width != size.widths[1]]
    keys = [
        (kind, count, width, seed)
        for seed in options.seeds(size.seeds)
        for kind in size.kinds
        for count, width in settings
    ]
    runs, cost = each_run(
        options, options.named("figure6_time_to_fit"), replace(size, seeds=0), keys, partial(_run_of, options, size)
    )

    def epochs(kind: str, count: int, width: int) -> list[float]:
        return [run["epochs"] for run in runs if (run["kind"], run["images"], run["width"]) == (kind, count, width)]

    def ratios(above: list[float], below: list[float]) -> list[float]:
        return [a / b for a, b in zip(above, below, strict=True)]

    middle = size.widths[1]
    growth = {
        kind: ratios(epochs(kind, size.images[-1], middle), epochs(kind, size.images[0], middle))
        for kind in size.kinds
    }
    speed_up = {
        kind: ratios(
            epochs(kind, size.images[1], size.widths[0]),
            epochs(kind, size.images[1], size.widths[-1]),
        )
        for kind in size.kinds
    }
    figures: dict[str, Any] = {"runs": runs, "growth": growth, "speed_up": speed_up}
    noises = [kind for kind in size.kinds if kind != "real"]
    for name, values in (("growth_over_real", growth), ("speed_up_over_real", speed_up)):
        figures[name] = {kind: ratios(values[kind], values["real"]) for kind in noises}
    figures["slower"] = {
        kind: ratios(epochs(kind, size.images[-1], middle), epochs("real", size.images[-1], middle)) for kind in noises
    }
    table = {
        "columns": ["data", *(f"{count:,} images, {width} units" for count, width in settings)],
        "rows": [
            [kind, *(", ".join(f"{value:g}" for value in epochs(kind, *setting)) for setting in settings)]
            for kind in size.kinds
        ],
    }
    plots = [
        {
            "title": f"Epochs to 100 % training accuracy, {middle} units",
            "x": "training images",
            "y": "epochs",
            "log_x": 2,
            "log_y": 2,
            "series": [
                band(kind, list(size.images), [epochs(kind, count, middle) for count in size.images])  # type: ignore[arg-type]
                for kind in size.kinds
            ],
        },
        {
            "title": f"Epochs to 100 % training accuracy, {size.images[1]:,} images",
            "x": "units of each of two hidden layers",
            "y": "epochs",
            "log_x": 2,
            "log_y": 2,
            "series": [
                band(kind, list(size.widths), [epochs(kind, size.images[1], width) for width in size.widths])  # type: ignore[arg-type]
                for kind in size.kinds
            ],
        },
    ]
    write_result(
        options,
        options.named("figure6_time_to_fit"),
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9"},
        seeds=options.seeds(size.seeds),
        figures=figures,
        table=table,
        plots=plots,
        cost=cost,
    )


def _run_of(options: Options, size: Size, kind: str, count: int, width: int, seed: int) -> dict[str, Any]:
    (images,) = options.draw(seed, count)
    images, _ = noisy(images, seed, **KINDS[kind])
    training = Training(width=width, epochs=size.epochs, seed=seed)
    model = network(images.pixels_NP.shape[1], training)
    correct: list[Any] = []

    def after_epoch(epoch: int) -> bool:
        correct.append(look(model, images).correct_N)
        return bool(correct[-1].all())

    train(model, images, training, after_epoch)
    reached = time_to_fit(np.array(correct))
    made = {
        "kind": kind,
        "images": count,
        "width": width,
        "seed": seed,
        "epochs": math.nan if reached is None else reached + 1,
    }
    print(made, flush=True)
    return made


if __name__ == "__main__":
    run(parse_options(__doc__ or "", sizes=SIZES))
