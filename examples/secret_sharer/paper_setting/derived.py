"""What claims need of all models of an experiment together, where a number of each model does not say it.

Shapes: S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import stats

from examples.secret_sharer.figure5_many_settings import pearson

__all__ = ["DERIVED"]

Cells = Mapping[str, list[dict[str, Any]]]
_EQUAL_UTILITY_BITS = 0.0144  # 1 % of perplexity
_RECURRENT, _CONVOLUTIONAL = ("gru", "lstm"), ("cnn", "wavenet")


def at_equal_loss(cells: Cells) -> dict[str, Any]:
    """Each optimizer at its first checkpoint that is as good as the best one of the worst optimizer of its seed."""
    found: dict[str, list[float]] = {cell: [] for cell in cells}
    for models in zip(*cells.values(), strict=True):
        worst = max(model["best_validation_bits"] for model in models)
        for cell, model in zip(cells, models, strict=True):
            good = (epoch for epoch in model["epochs"] if epoch["validation_bits"] <= worst)
            found[cell].append(next(good)["skew_normal_bits"])
    test = stats.friedmanchisquare(*found.values())
    return {"skew_normal_at_equal_loss": found, "friedman_p_value": float(test.pvalue)}


def losses_apart(cells: Cells) -> dict[str, Any]:
    """Bits per word between the mean losses of the two ways of training, by the number of insertions in both."""
    means = {cell: np.mean([model["validation_bits"] for model in models]) for cell, models in cells.items()}
    counts = [cell.split()[1] for cell in cells if cell.startswith("B ")]
    return {"loss_apart": {count: float(abs(means[f"A {count}"] - means[f"B {count}"])) for count in counts}}


def many_settings(cells: Cells) -> dict[str, Any]:
    """Pearson's r of perplexity and exposure, the best model's rank, and how far models of its utility are apart."""
    models = [
        {name: model[name] for name in ("validation_bits", "rank_high")} | {"exposure": model["skew_normal_bits"]}
        for model in cells["settings"]
    ]
    best = min(models, key=lambda model: model["validation_bits"])
    as_good = [
        model["exposure"]
        for model in models
        if model["validation_bits"] <= best["validation_bits"] + _EQUAL_UTILITY_BITS
    ]
    return {
        **pearson(models),
        "best_model_rank": best["rank_high"],
        "spread_at_equal_utility": max(as_good) - min(as_good),
    }


def numbers_in_front(cells: Cells) -> dict[str, Any]:
    """Over all changelogs: how many of their numbers rank first."""
    return {"rank_1_numbers": sum(model["rank_1_numbers"] for model in cells["changelog"])}


def recurrent_and_convolutional(cells: Cells) -> dict[str, Any]:
    """(S,) mean over the recurrent architectures less that over the convolutional ones, seed by seed."""

    def means_S(kinds: tuple[str, ...], figure: str) -> np.ndarray:
        own = [models for cell, models in cells.items() if cell.split()[0] in kinds]
        means: np.ndarray = np.array([[model[figure] for model in models] for models in own]).mean(axis=0)
        return means

    apart = {
        figure: means_S(_RECURRENT, figure) - means_S(_CONVOLUTIONAL, figure)
        for figure in ("skew_normal_bits", "validation_bits")
    }
    return {
        "recurrent_over_convolutional": apart["skew_normal_bits"].tolist(),
        "recurrent_loss_over_convolutional": apart["validation_bits"].tolist(),
    }


DERIVED: dict[str, Callable[[Cells], dict[str, Any]]] = {
    "optimizers": at_equal_loss,
    "words": losses_apart,
    "word_settings": many_settings,
    "changelogs": numbers_in_front,
    "architectures": recurrent_and_convolutional,
}
