"""Figure 1: how hard each example is after one epoch, over many trainings: real data, randX and randY.

python -m examples.closer_look.figure1_difficulty --mnist FOLDER

On each draw of the data, many networks are trained with different initializations and orders. For each example, the
share of trainings that misclassify it is compared with a binomial distribution, which holds if all examples are
equally hard. A second study, on other draws, compares examples of the same class: in the first study the networks had
learned little more than which classes to predict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from examples.closer_look import RESULTS
from examples.closer_look.images import CLASSES, Options, noisy, parse_options
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import Stopwatch, write_result
from hf_exposure.estimators import difficulty

KINDS: dict[str, dict[str, float]] = {"real": {}, "randX": {"inputs": 1.0}, "randY": {"labels": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Size:
    """`measured` of the `images` are evaluated in each of `runs` trainings, on each of `seeds` draws of the data."""

    images: int
    measured: int
    runs: int
    seeds: int
    width: int


SIZES = {
    "smallest": Size(images=100, measured=50, runs=4, seeds=2, width=16),
    "small": Size(images=2_000, measured=1_000, runs=100, seeds=3, width=256),
    "second": Size(images=2_000, measured=1_000, runs=100, seeds=3, width=256),
    "full": Size(images=50_000, measured=1_000, runs=100, seeds=3, width=4096),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = [_run_of(options, size, kind, seed) for seed in options.seeds(size.seeds) for kind in KINDS]
    by_kind = {kind: [run for run in runs if run["kind"] == kind] for kind in KINDS}
    ratio = {kind: [run["overdispersion"] for run in own] for kind, own in by_kind.items()}
    figures = {
        "runs": runs,
        "overdispersion": ratio,
        "within_class": {kind: [run["within_class"] for run in own] for kind, own in by_kind.items()},
        "real_over_randY": [a / b for a, b in zip(ratio["real"], ratio["randY"], strict=True)],
        "randY_over_randX": [a / b for a, b in zip(ratio["randY"], ratio["randX"], strict=True)],
    }
    table = {
        "columns": [
            "data",
            "mean error rate",
            "variance over that of a binomial",
            "p-value of equal difficulty",
            "variance ratio within a class",
        ],  # fmt: skip
        "rows": [
            [
                kind,
                ", ".join(f"{run['mean_error']:.3f}" for run in own),
                ", ".join(f"{run['overdispersion']:.2f}" for run in own),
                ", ".join(f"{run['p_value']:.2g}" for run in own),
                ", ".join(f"{run['within_class']:.2f}" for run in own),
            ]
            for kind, own in by_kind.items()
        ],
    }
    series = [
        {"name": kind, "x": list(range(size.measured)), "y": own[0]["error_rates"]} for kind, own in by_kind.items()
    ]
    binomial = np.random.default_rng(0).binomial(size.runs, by_kind["randX"][0]["mean_error"], size.measured)
    series.append(
        {
            "name": "binomial, at randX's mean",
            "x": list(range(size.measured)),
            "y": np.sort(binomial / size.runs).tolist(),
        }
    )
    plot = {
        "title": "Misclassification rate of each example after one epoch",
        "x": "examples, sorted by their rate",
        "y": f"share of {size.runs} trainings",
        "series": series,
    }
    write_result(
        options,
        options.named("figure1_difficulty"),
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "training": "SGD 0.05, momentum 0.9"},
        seeds=options.seeds(size.seeds),
        figures=figures,
        table=table,
        plots=[plot],
        cost=watch.read(),
    )


def _run_of(options: Options, size: Size, kind: str, seed: int) -> dict[str, Any]:
    (images,) = options.draw(seed, size.images)
    images, _ = noisy(images, seed, **KINDS[kind])
    measured, correct = images.take(np.arange(size.measured)), []
    for number in range(size.runs):
        training = Training(width=size.width, epochs=1, seed=1000 * seed + number)
        model = network(images.pixels_NP.shape[1], training)
        train(model, images, training)
        correct.append(look(model, measured).correct_N)
    found = difficulty(np.array(correct))
    members = [np.flatnonzero(measured.labels_N == label) for label in range(CLASSES)]
    within = [difficulty(np.array(correct)[:, own]).overdispersion for own in members if len(own) > 1]
    made = {
        "kind": kind,
        "seed": seed,
        "mean_error": float(found.error_rates_N.mean()),
        "overdispersion": found.overdispersion,
        "p_value": found.p_value,
        "within_class": float(np.nanmean(within)),
        "error_rates": np.sort(found.error_rates_N).round(4).tolist(),
    }
    print({name: made[name] for name in ("kind", "seed", "mean_error", "overdispersion", "within_class")}, flush=True)
    return made


if __name__ == "__main__":
    run(parse_options(__doc__ or "", sizes=SIZES))
