"""The privacy onion by attacks: when the rows that LiRA attacks best are removed, are the others easier to attack?

python -m examples.many_trainings.onion_attack --data FOLDER_OF_MNIST --store FOLDER

For each of several draws of rows there are three sets of trainings on random halves: of all rows, of the rows without
the most vulnerable ones, and of the rows without the same number of random ones. Only rows that are in all three are
attacked. Of the models trained on all rows, one half determines which rows are vulnerable and the other half is
attacked. If the same models did both, the figures would be too high for the removed rows and too low for the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.many_trainings.images import Train
from examples.many_trainings.onion import train_all
from examples.many_trainings.study import Options, draw_images, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure.estimators import lira_leave_one_out, tpr_at_fpr

LEVELS = {"1": 0.01, "01": 0.001}


@dataclass(frozen=True, kw_only=True)
class Size:
    """`models` models are attacked in each set; `layer` rows are removed."""

    draws: int
    rows: int
    models: int
    layer: int
    epochs: int
    width: int = 64


SIZES = {
    "smallest": Size(draws=2, rows=240, models=12, layer=24, epochs=2),
    "small": Size(draws=10, rows=2000, models=100, layer=200, epochs=20),
}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    name, draws = "", []
    for draw in range(size.draws):
        pixels, labels, name = draw_images(options.data, size.rows, 700 + draw)
        draws.append(_one_draw(options, size, draw, (pixels, labels)))
    settings = {"draws": size.draws, "rows": size.rows, "models": size.models, "layer": size.layer}
    settings |= {"epochs": size.epochs, "width": size.width}
    write_result(options, "onion_attack", data=name, settings=settings, figures={"draws": draws}, cost=watch.read())


def _one_draw(
    options: Options, size: Size, draw: int, rows: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> dict[str, Any]:
    train, folder = Train(size.epochs, size.width), options.store / f"draw-{draw}"
    whole = train_all(options, folder / "whole", train, rows, 2 * size.models, 0)
    chosen_by, attacked = slice(None, size.models), slice(size.models, None)
    everything = np.arange(size.rows)
    vulnerable = _vulnerability(whole.scores_MN[chosen_by], whole.included_MN[chosen_by])
    order = np.argsort(-vulnerable, kind="stable")
    first, following = order[: size.layer], order[size.layer : 2 * size.layer]
    random = np.random.default_rng([701, draw]).permutation(everything)[: size.layer]
    common = np.setdiff1d(everything, np.union1d(first, random))
    following = np.intersect1d(following, common)
    sets = {"before": (everything, whole.scores_MN[attacked], whole.included_MN[attacked])}
    for seed, (kind, removed) in enumerate((("onion", first), ("random", random)), start=1):
        kept = np.setdiff1d(everything, removed)
        runs = train_all(options, folder / kind, train, (rows[0][kept], rows[1][kept]), size.models, seed)
        sets[kind] = (kept, runs.scores_MN, runs.included_MN)
    found: dict[str, Any] = {"all_rows": _attack(*sets["before"][1:])}
    for kind, (kept, scores, included) in sets.items():
        places, next_places = np.searchsorted(kept, common), np.searchsorted(kept, following)
        found[kind] = _attack(scores[:, places], included[:, places])
        found[kind]["next_layer"] = float(_vulnerability(scores[:, next_places], included[:, next_places]).mean())
    return found


def _attack(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """True-positive rates of online LiRA on each model, with one threshold for all models."""
    ratios = lira_leave_one_out(scores, included)
    defined = ~np.isnan(ratios)  # in the smallest size, rows that few models had are undefined
    members, controls = ratios[defined & included], ratios[defined & ~included]
    return {f"tpr_{tag}": tpr_at_fpr(members, controls, level).rate for tag, level in LEVELS.items()}


def _vulnerability(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The distance between the scores with and without each row, in standard deviations: |m1 - m0| / (s1 + s0)."""
    sides = [np.where(side, scores, np.nan) for side in (included, ~included)]
    (with_row, without_row), (s1, s0) = (np.nanmean(sides, axis=1), np.nanstd(sides, axis=1))
    distance: npt.NDArray[np.float64] = np.abs(with_row - without_row) / (s1 + s0)
    return distance


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
