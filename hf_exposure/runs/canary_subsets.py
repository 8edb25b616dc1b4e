"""Many training runs over a set of canaries: each canary is included in some runs and held out of the others.

A run inserts the canaries that were assigned to it into the data, trains, and measures the exposure of all canaries.
Every canary is therefore its own control, and the exposure caused by its inclusion is a difference of means, without
assumptions about what a model knows of the template otherwise. The rows of the store are the canaries. The data that
all runs share is not scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray

from hf_exposure.canaries import CanarySet
from hf_exposure.checks import instance_of, path_of
from hf_exposure.data import insert_canaries
from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    CounterfactualExposure,
    OneRunAgreement,
    OneRunReliability,
    counterfactual_exposure,
    one_run_agreement,
    one_run_reliability,
)
from hf_exposure.estimators.arrays import number_array
from hf_exposure.measures import measure_exposure
from hf_exposure.runs.subset_data import hash_rows
from hf_exposure.runs.subset_store import Flags, Floats, SubsetRuns, SubsetStore
from hf_exposure.runs.subsets import draw_subsets, run_subsets

Exposures = Callable[[Any, CanarySet], ArrayLike]


@dataclass(frozen=True, eq=False, kw_only=True)
class CanaryRuns:
    """The finished runs of `run_canary_subsets`.

    Attributes:
        runs: the store's runs, with one row per canary: first the inserted ones, then the controls, which no run had.
        canaries: the canary set.
    """

    runs: SubsetRuns
    canaries: CanarySet

    @property
    def exposures_MC(self) -> Floats:
        """Exposure in bits of each inserted canary under the model of each run."""
        return self.runs.scores_MN[:, : len(self.canaries.inserted)]

    @property
    def included_MC(self) -> Flags:
        """Whether the run had the canary."""
        return self.runs.included_MN[:, : len(self.canaries.inserted)]

    @property
    def control_exposures_MK(self) -> Floats:
        """Exposure in bits of the controls, which no run had."""
        return self.runs.scores_MN[:, len(self.canaries.inserted) :]

    @property
    def repetitions_C(self) -> NDArray[np.int64]:
        """How often each canary is inserted into the runs that have it."""
        return np.array([canary.repetitions for canary in self.canaries.inserted], dtype=np.int64)

    def counterfactual(self, confidence_level: float = 0.95) -> CounterfactualExposure:
        """`counterfactual_exposure` of the canaries."""
        return counterfactual_exposure(self.exposures_MC, self.included_MC, confidence_level)

    def agreement(self) -> OneRunAgreement:
        """`one_run_agreement` over all canaries."""
        return one_run_agreement(self.exposures_MC, self.included_MC)

    def reliability(self, repetitions: int | None = None) -> OneRunReliability:
        """`one_run_reliability` over all canaries, or over those with one repetition count."""
        chosen = np.full(len(self.repetitions_C), True) if repetitions is None else self.repetitions_C == repetitions
        if not chosen.any():
            rule = f"must be one of {', '.join(map(str, self.canaries.repetition_counts))}"
            raise InputError("repetitions", rule, repetitions, "Omit it to use all canaries.")
        return one_run_reliability(self.exposures_MC[:, chosen], self.included_MC[:, chosen])


def run_canary_subsets(
    train: Callable[[Dataset], Any],
    dataset: Dataset,
    canaries: CanarySet,
    num_models: int,
    *,
    store: str | Path,
    tokenizer: Any = None,
    exposures: Exposures | None = None,
    share: float = 0.5,
    masks: ArrayLike | None = None,
    seed: int = 0,
    index: int | Iterable[int] | None = None,
    n_jobs: int = 1,
    backend: str | None = None,
    data_id: str | None = None,
    progress: bool = True,
    insertion: dict[str, Any] | None = None,
    measurement: dict[str, Any] | None = None,
) -> CanaryRuns:
    """Trains one model on each subset of canaries, and measures the exposure of all canaries under each model.

    Args:
        train: function train(data set with canaries) -> model, such as a `TrainerRecipe`.
        dataset: the data that all runs share.
        canaries: the inserted ones are assigned to runs, and each is repeated `repetitions` times in its runs; the
            controls are never inserted. Save the set and load it to continue a store: a set that is drawn again, even
            with the same seed, has another salt and is refused.
        num_models: M, the number of runs.
        store, seed, index, n_jobs, backend, progress: as for `run_subsets`; each run draws its own insertion
            positions.
        tokenizer: the models' tokenizer, for `measure_exposure`.
        exposures: function exposures(model, canaries) -> exposures in bits in the order of the set, used instead of
            `measure_exposure`.
        share: the share of inserted canaries in each run, drawn by `draw_subsets`: the numbers of runs per canary
            differ by at most one.
        masks: (M, C) bools, which canaries each run includes, with one column per inserted canary, to use instead of
            drawing them. A run needs at least one canary.
        data_id: a text that names the data; by default its contents are hashed. The canaries are always part of the
            identity.
        insertion: arguments of `insert_canaries`, such as `{"text_column": "content"}`.
        measurement: arguments of `measure_exposure`, such as `{"method": "bounded"}`.

    Returns:
        `CanaryRuns`: `.exposures_MC`, `.included_MC`, `.counterfactual()`, `.agreement()`, `.reliability()`.

    Raises:
        InputError: an argument is of the wrong kind, there are fewer than two inserted canaries, the store belongs to
            other canaries, data or masks, or an exposure is undefined.
        RunFailedError: as for `run_subsets`.

    Source: the intervention is from Zhang et al., "Counterfactual Memorization in Neural Language Models" (2021),
        definition 3.1, the canaries are from Carlini et al., "The Secret Sharer" (2019).

    Example (the "model" is the data set itself, and a canary's exposure is its number of occurrences there):
        >>> import tempfile
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(4)), {1: 2, 4: 2}, controls=1, seed=0)
        >>> rows = Dataset.from_dict({"text": ["a"] * 20})
        >>> runs = run_canary_subsets(lambda rows: rows["text"][:], rows, canaries, 4,
        ...     store=tempfile.mkdtemp(), progress=False,
        ...     exposures=lambda texts, canaries: [texts.count(canary.text) for canary in canaries])
        >>> runs.counterfactual().caused.memorization_N.tolist()
        [1.0, 1.0, 4.0, 4.0]
    """
    instance_of("dataset", dataset, Dataset, "Load a datasets.Dataset: a stream cannot be hashed.")
    instance_of("canaries", canaries, CanarySet, "Draw them with draw_canaries.")
    if not callable(train) or not (exposures is None or callable(exposures)):
        rule, wrong = "must be functions", train if not callable(train) else exposures
        raise InputError("train, exposures", rule, type(wrong).__name__, "Pass train(data set) -> model.")
    if exposures is None and tokenizer is None:
        raise InputError("tokenizer", "must be given", None, "Pass the models' tokenizer, or exposures=.")
    count = len(canaries.inserted)
    if masks is None:
        if count < 2:
            raise InputError("canaries", "must have at least two inserted canaries", count, "Draw more.")
        masks = draw_subsets(count, num_models, share, seed)
    dealt_MC = number_array("masks", masks, "Pass draw_subsets(len(canaries.inserted), num_models).")
    if dealt_MC.shape != (num_models, count):
        rule = f"must be ({num_models}, {count}): (num_models, inserted canaries)"
        raise InputError("masks", rule, f"an array of shape {dealt_MC.shape}", "Omit it.")
    masks_MN = np.concatenate([dealt_MC, np.zeros((len(dealt_MC), len(canaries.controls)))], axis=1)
    if data_id is not None and not isinstance(data_id, str):
        raise InputError("data_id", "must be a text", type(data_id).__name__, "Pass a name for the data, or omit it.")
    _check_begun_with(canaries, store)
    runs = run_subsets(
        _Train(train, dataset, canaries, dict(insertion or {})),
        [canary.id for canary in canaries],
        masks_MN,
        store=store,
        score=_Score(exposures, canaries, tokenizer, dict(measurement or {})),
        index=index,
        n_jobs=n_jobs,
        backend=backend,
        seed=seed,
        data_id=f"{canaries.manifest_hash} {hash_rows('dataset', dataset) if data_id is None else data_id}",
        progress=progress,
    )
    return CanaryRuns(runs=runs, canaries=canaries)


def _check_begun_with(canaries: CanarySet, store: str | Path) -> None:
    """Checks that an existing store was begun with these canaries."""
    if not (path_of("store", store) / "store.json").exists():
        return
    if not str(SubsetStore(store).manifest.get("data")).startswith(f"id:{canaries.manifest_hash} "):
        rule, remedy = (
            "must be those that the store was begun with",
            "Load the saved set, or use another store.",
        )
        raise InputError("canaries", rule, str(store), remedy)


@dataclass(frozen=True)
class _Train:
    train: Callable[[Dataset], Any]
    dataset: Dataset
    canaries: CanarySet
    options: dict[str, Any]

    def __call__(self, ids: Sequence[str]) -> Any:
        dealt = {*ids}
        own = tuple(canary for canary in self.canaries.inserted if canary.id in dealt)
        # `run_subsets` has seeded numpy, so the positions differ between runs.
        seed = int(np.random.randint(2**31))
        hand = replace(self.canaries, inserted=own)
        with _without_bars():  # one for each run would be too many
            rows = insert_canaries(self.dataset, hand, seed=seed, **self.options)
        return self.train(rows)


@contextmanager
def _without_bars() -> Iterator[None]:
    """No progress bars of `datasets`."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@dataclass(frozen=True)
class _Score:
    exposures: Exposures | None
    canaries: CanarySet
    tokenizer: Any
    options: dict[str, Any]

    def __call__(self, model: Any, ids: Sequence[str]) -> ArrayLike:
        if self.exposures is not None:
            return self.exposures(model, self.canaries)
        report = measure_exposure(model, self.tokenizer, self.canaries, **self.options)
        bits_N = np.array([estimate.exposure_bits for estimate in report.estimates])
        if not np.isfinite(bits_N).all():
            rule, remedy = "must define the exposure of every canary", "Raise references, or use method='enumerate'."
            raise InputError("measurement", rule, f"{int((~np.isfinite(bits_N)).sum())} undefined ones", remedy)
        return bits_N
