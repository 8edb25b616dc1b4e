"""LiRA with random membership labels: its true-positive rate must be at chance level.

python -m examples.many_trainings.null --data FOLDER_OF_MNIST --store FOLDER

The models are the first ones of the study `images`, from its store. New coins are drawn for all models and passed to
LiRA as membership. Its rates then have a known distribution (`chance_tpr`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from examples.many_trainings.images import SIZES, train_store
from examples.many_trainings.study import Options, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure.estimators import chance_tpr, lira, tpr_at_fpr

DRAWS = {"smallest": (12, 2, 4), "small": (120, 20, 60)}
FIRST = 20


def run(options: Options) -> None:
    watch, (models, draws, targets) = Stopwatch(), DRAWS[options.size]
    size = SIZES[options.size]
    runs, name = train_store(options, models)
    figures: dict[str, Any] = {"excess_1": [], "excess_5": [], "inside": [], "first_20": [], "first_20_by_chance": []}
    for draw in range(draws):
        coins = np.random.default_rng([30, draw]).random(runs.included_MN.shape) < 0.5
        rates, means, sums = _rates(runs.scores_MN, coins, targets)
        for place, tag in enumerate(("1", "5")):
            figures[f"excess_{tag}"].append(float((rates[:, place] - means[:, place]).mean()))
        first, low, high = float(rates[:FIRST, 0].mean()), *_mean_range(sums[:FIRST])
        figures["inside"].append(int(low <= first <= high))
        figures["first_20"].append(first)
        figures["first_20_by_chance"].append([low, high])
    settings = {"rows": size.rows, "models": models, "draws": draws, "targets": targets}
    write_result(options, "null", data=name, settings=settings, figures=figures, cost=watch.read())


def _rates(
    scores: npt.NDArray[np.float64], coins: npt.NDArray[np.bool_], targets: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], list[tuple[int, int]]]:
    """(targets, 2) rates at 1 % and 5 %, their means at chance level, and the members and controls of each target."""
    rates, means, counts = [], [], []
    for target in range(targets):
        others = np.arange(len(scores)) != target
        ratio = lira(scores[others], coins[others], scores[target])
        defined = ~np.isnan(ratio)  # in the smallest size, rows that few models had are undefined
        members, controls = ratio[defined & coins[target]], ratio[defined & ~coins[target]]
        levels = (0.01, 0.05) if len(controls) >= 100 else (0.1, 0.2)
        rates.append([tpr_at_fpr(members, controls, level).rate for level in levels])
        means.append([chance_tpr(len(members), len(controls), level).mean for level in levels])
        counts.append((len(members), len(controls)))
    return np.array(rates, dtype=np.float64), np.array(means), counts


def _mean_range(counts: list[tuple[int, int]]) -> tuple[float, float]:
    """Central 95 % of the mean of independent rates at 1 %, each with its exact distribution, from 20,000 draws."""
    generator = np.random.default_rng(31)
    total = np.zeros(20_000)
    for members, controls in counts:
        allowed = int(0.01 * controls + 1e-9)
        # Among uniform scores, the first control that must be excluded has a beta distribution.
        above = generator.beta(allowed + 1, controls - allowed, size=len(total))
        total += generator.binomial(members, above) / members
    low, high = np.quantile(total / len(counts), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
