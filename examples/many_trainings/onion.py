"""The privacy onion: whether removing the most memorized rows increases the memorization of other rows.

python -m examples.many_trainings.onion --data FOLDER_OF_MNIST --store FOLDER

There are three stores of training runs on random halves. The first determines which rows are memorized most; the
second omits this layer, and the third omits the same number of random rows. The next layer's rows are in both, so
their memorization is compared between two stores that were not used to select them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from examples.many_trainings.images import Images, Train, logits_of_label
from examples.many_trainings.study import Options, draw_images, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure import SubsetRuns, draw_subsets, run_subsets
from hf_exposure.estimators import label_memorization


@dataclass(frozen=True, kw_only=True)
class Size:
    rows: int
    models: int
    layer: int
    epochs: int = 15


SIZES = {
    "smallest": Size(rows=100, models=8, layer=10, epochs=2),
    "small": Size(rows=1000, models=80, layer=100),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    pixels, labels, name = draw_images(options.data, size.rows, 90)
    everything = np.arange(size.rows)
    whole = _memorization(options, size, "whole", (pixels, labels))
    order = np.argsort(-whole, kind="stable")
    first, following = order[: size.layer], order[size.layer : 2 * size.layer]
    rest = np.setdiff1d(everything, following)
    random = np.random.default_rng(91).permutation(rest)[: size.layer]
    after = {}
    for kind, removed in (("onion", first), ("random", random)):
        kept = np.setdiff1d(everything, removed)
        found = _memorization(options, size, kind, (pixels[kept], labels[kept]))
        after[kind] = found[np.searchsorted(kept, following)]
    differences = after["onion"] - after["random"]
    figures = {
        "next_layer_change": differences.tolist(),
        "next_layer_onion": float(after["onion"].mean()),
        "next_layer_random": float(after["random"].mean()),
        "first_layer": float(whole[first].mean()),
        "next_layer_when_chosen": float(whole[following].mean()),
    }
    settings = {"rows": size.rows, "models": size.models, "layer": size.layer, "epochs": size.epochs}
    write_result(options, "onion", data=name, settings=settings, figures=figures, cost=watch.read())


def _memorization(options: Options, size: Size, kind: str, rows: Images) -> npt.NDArray[np.float64]:
    seed = {"whole": 0, "onion": 1, "random": 2}[kind]
    runs = train_all(options, options.store / kind, Train(size.epochs, 64), rows, size.models, seed)
    return label_memorization(runs.scores_MN > 0, runs.included_MN)


def train_all(options: Options, store: Path, train: Train, rows: Images, models: int, seed: int) -> SubsetRuns:
    """Trains `models` models on random halves of the rows, and returns the runs, all of them finished."""
    masks = draw_subsets(len(rows[1]), models)
    runs = run_subsets(train, rows, masks, store=store, score=logits_of_label, seed=seed, n_jobs=options.jobs)
    if runs.missing or runs.diverged:
        raise SystemExit(f"missing runs {runs.missing[:5]}, diverged {dict(runs.diverged)}")
    return runs


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
