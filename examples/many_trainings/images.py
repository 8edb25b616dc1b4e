"""Label memorization, influence and membership on images, from one store of training runs on random halves.

python -m examples.many_trainings.images --data FOLDER_OF_MNIST --store FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import nn

from examples.many_trainings.study import Options, draw_images, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure import SubsetRuns, draw_subsets, run_subsets
from hf_exposure.estimators import (
    counterfactual_influence,
    label_memorization,
    lira,
    models_for_reliability,
    split_half_reliability,
    tpr_at_fpr,
)

Images = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Size:
    """`rows` training and `tests` test images; `targets` attacked models; `seeds` seeds for each removal of rows."""

    rows: int
    tests: int
    others: int
    models: int
    targets: int
    seeds: int
    removed: int
    epochs: int
    width: int = 64
    noise: float = 0.1


SIZES = {
    "smallest": Size(rows=120, tests=30, others=100, models=12, targets=2, seeds=2, removed=12, epochs=3),
    "small": Size(rows=2000, tests=1000, others=4000, models=400, targets=20, seeds=20, removed=200, epochs=20),
}


@dataclass(frozen=True)
class Train:
    """Trains one hidden layer by SGD with momentum. The seed is that of the run."""

    epochs: int
    width: int

    def __call__(self, images: Images) -> nn.Module:
        pixels, labels = map(torch.as_tensor, images)
        model = nn.Sequential(nn.Linear(pixels.shape[1], self.width), nn.ReLU(), nn.Linear(self.width, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(labels)).split(50):
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
                optimizer.step()
        return model


def logits_of_label(model: nn.Module, images: Images) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) of the probability p of each label: positive if p is above one half."""
    labels = torch.as_tensor(images[1])[:, None]
    with torch.no_grad():
        logits = model(torch.as_tensor(images[0])).double()
    others = logits.scatter(1, labels, -torch.inf).logsumexp(1)
    return (logits.gather(1, labels)[:, 0] - others).numpy()


@dataclass(frozen=True)
class Drawn:
    """The data of the study: rows with some wrong labels, a test set, and images that are in neither."""

    rows: Images
    test: Images
    other: Images
    wrong: npt.NDArray[np.bool_]
    name: str


def draw(options: Options) -> Drawn:
    size = SIZES[options.size]
    pixels, labels, name = draw_images(options.data, size.rows + size.tests + size.others, 0)
    generator = np.random.default_rng(1)
    noisy = np.zeros(size.rows, dtype=bool)
    noisy[generator.permutation(size.rows)[: round(size.noise * size.rows)]] = True
    given = labels[: size.rows].copy()
    given[noisy] = generator.integers(10, size=int(noisy.sum()))
    end = size.rows + size.tests
    return Drawn(
        rows=(pixels[: size.rows], given),
        test=(pixels[size.rows : end], labels[size.rows : end]),
        other=(pixels[end:], labels[end:]),
        wrong=given != labels[: size.rows],
        name=name,
    )


def train_store(options: Options, models: int | None = None) -> tuple[SubsetRuns, str]:
    """All runs of the study, or the first `models` runs, and the name of the data."""
    size, drawn = SIZES[options.size], draw(options)
    masks = draw_subsets(size.rows, size.models)
    train, score = Train(size.epochs, size.width), logits_of_label
    index = None if models is None else range(models)
    runs = run_subsets(
        train, drawn.rows, masks, store=options.store, score=score, test=drawn.test, index=index, n_jobs=options.jobs
    )
    if len(runs.runs_M) < (models or size.models) or runs.test_scores_MK is None:
        raise SystemExit(f"missing runs {runs.missing[:5]}, diverged {dict(runs.diverged)}")
    return runs, drawn.name


def run(options: Options) -> None:
    size, watch, drawn = SIZES[options.size], Stopwatch(), draw(options)
    rows, test, other, wrong, train = drawn.rows, drawn.test, drawn.other, drawn.wrong, Train(size.epochs, size.width)
    runs, name = train_store(options)
    assert runs.test_scores_MK is not None
    correct, included = runs.scores_MN > 0, runs.included_MN
    memorization = label_memorization(correct, included)
    reliability = split_half_reliability(correct, included)
    influence = counterfactual_influence(runs.test_scores_MK > 0, included)
    influential = np.nonzero(influence >= 0.25)[0]
    figures: dict[str, Any] = {
        "wrong_rows": int(wrong.sum()),
        "noisy_memorization": float(memorization[wrong].mean()),
        "clean_memorization": float(memorization[~wrong].mean()),
        "noisy_minus_clean": float(memorization[wrong].mean() - memorization[~wrong].mean()),
        "typicality_correlation": _typicality(train, other, rows, ~wrong, memorization, size.seeds),
        "half_split": reliability.halves,
        "half_split_low_high": [reliability.low, reliability.high],
        "models_needed": models_for_reliability(reliability),
        "influential_pairs": len(influential),
        "influential_from_memorized": float((memorization[influential] >= 0.25).mean()) if len(influential) else None,
        "memorized_share": float((memorization >= 0.25).mean()),
        "removal_costs": _removal(train, rows, wrong, memorization, test, size),
        "test_accuracy": float((runs.test_scores_MK > 0).mean()),
        "seconds_a_run": float(np.median(runs.seconds_M)),
    }
    figures |= _attacks(runs.scores_MN, included, size.targets)
    settings = {"rows": size.rows, "models": size.models, "share": 0.5, "noise": size.noise, "epochs": size.epochs}
    settings |= {"width": size.width, "tests": size.tests, "targets": size.targets, "seeds": size.seeds}
    write_result(options, "images", data=name, settings=settings, figures=figures, cost=watch.read())


def _typicality(
    train: Train, other: Images, rows: Images, clean: npt.NDArray[np.bool_], memorization: Any, seeds: int
) -> float:
    """Rank correlation, over clean rows, of memorization and the mean logit under networks trained on other images."""
    looks = []
    for seed in range(min(seeds, 5)):
        torch.manual_seed(10_000 + seed)
        looks.append(logits_of_label(train(other), rows))
    return float(stats.spearmanr(memorization[clean], np.mean(looks, 0)[clean]).statistic)


def _removal(
    train: Train, rows: Images, wrong: npt.NDArray[np.bool_], memorization: Any, test: Images, size: Size
) -> list[float]:
    """For each seed, accuracy without random clean rows minus accuracy without the most memorized clean rows."""
    clean = np.flatnonzero(~wrong)
    most = clean[np.argsort(-memorization[clean], kind="stable")[: size.removed]]
    costs = []
    for seed in range(size.seeds):
        any_rows = np.random.default_rng([seed, 2]).permutation(clean)[: size.removed]
        accuracies = []
        for removed in (any_rows, most):
            kept = np.setdiff1d(np.arange(len(wrong)), removed)
            torch.manual_seed(20_000 + seed)
            model = train((rows[0][kept], rows[1][kept]))
            accuracies.append(float((logits_of_label(model, test) > 0).mean()))
        costs.append(accuracies[0] - accuracies[1])
    return costs


def _attacks(scores: npt.NDArray[np.float64], included: npt.NDArray[np.bool_], targets: int) -> dict[str, Any]:
    """True-positive rates of attacks on each of the first models, with all other models as shadow models."""
    found: dict[str, list[float]] = {}
    coins = np.random.default_rng(3).random(included.shape) < 0.5
    for target in range(targets):
        others = np.arange(len(scores)) != target
        ratios = {
            "lira": (lira(scores[others], included[others], scores[target]), included[target]),
            "lira_offline_logcdf": (
                lira(scores[others], included[others], scores[target], offline=True),
                included[target],
            ),
            "lira_offline_logpdf": (
                lira(scores[others], included[others], scores[target], offline=True, density="logpdf"),
                included[target],
            ),
            "loss": (scores[target], included[target]),
            "null": (lira(scores[others], coins[others], scores[target]), coins[target]),
        }
        for name, (ratio, members) in ratios.items():
            defined = ~np.isnan(ratio)  # in the smallest size, rows that few models had are undefined
            ratio, members = ratio[defined], members[defined]
            for fpr, tag in ((0.01, "1"), (0.001, "01")):
                rate = tpr_at_fpr(ratio[members], ratio[~members], fpr).rate
                found.setdefault(f"{name}_tpr_{tag}", []).append(np.nan if rate is None else rate)
    return found | {
        f"lira_over_loss_{tag}": float(np.mean(found[f"lira_tpr_{tag}"]) / np.mean(found[f"loss_tpr_{tag}"]))
        if np.mean(found[f"loss_tpr_{tag}"]) > 0
        else None
        for tag in ("1", "01")
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
