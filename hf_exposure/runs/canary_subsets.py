"""Many trainings over a set of canaries: each is in some of the runs and held out of the others.

A run inserts the canaries that it was dealt into the data, trains, and measures the exposure of all of them. So every
canary is its own control, and the exposure that its inclusion caused is a difference of means: nothing need be assumed
of what a model knows of its template without it. The rows of the store are the canaries. The data that all runs have
in common is not scored.
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
        runs: the store's, with a row for each canary: inserted ones first, then the controls, which no run had.
        canaries: the set.
    """

    runs: SubsetRuns
    canaries: CanarySet

    @property
    def exposures_MC(self) -> Floats:
        """Exposure in bits of each canary that is inserted into some runs, under the model of each run."""
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
        """`one_run_reliability` over all canaries, or over those of one repetition count."""
        chosen = np.full(len(self.repetitions_C), True) if repetitions is None else self.repetitions_C == repetitions
        if not chosen.any():
            rule = f"must be one of {', '.join(map(str, self.canaries.repetition_counts))}"
            raise InputError("repetitions", rule, repetitions, "Leave it out for all canaries.")
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
    """Trains one model on each hand of canaries, and measures the exposure of all canaries with each.

    Args:
        train: train(data set with canaries) -> model, such as a `TrainerRecipe`.
        dataset: what all runs have in common.
        canaries: the inserted ones are dealt to the runs, each `repetitions` times where it is; the controls stay out.
            Save the set and load it when you go on: one that is drawn again, even by the same seed, has another salt
            and is refused.
        num_models: M.
        store, seed, index, n_jobs, backend, progress: as for `run_subsets`; places of insertion are the run's own.
        tokenizer: of the models, for `measure_exposure`.
        exposures: exposures(model, canaries) -> one number for each canary in the set's order, in bits, in the place
            of `measure_exposure`.
        share: of the inserted canaries in each run, by `draw_subsets`: each is in as many runs as any other, give or
            take one.
        masks: (M, C) coins of your own, one column for each inserted canary. A run needs at least one canary.
        data_id: a text that names the data; unless given its contents are hashed. The canaries always count.
        insertion: options of `insert_canaries`, such as `{"text_column": "content"}`.
        measurement: options of `measure_exposure`, such as `{"method": "bounded"}`.

    Returns:
        `CanaryRuns`: `.exposures_MC`, `.included_MC`, `.counterfactual()`, `.agreement()`, `.reliability()`.

    Raises:
        InputError: arguments of the wrong kind, fewer than two inserted canaries, a store of other canaries, data or
            masks, an exposure that is undefined.
        RunFailedError: as `run_subsets`.

    Source: the intervention of Zhang et al., "Counterfactual Memorization in Neural Language Models" (2021),
        definition 3.1, on the canaries of Carlini et al., "The Secret Sharer" (2019).

    Example (the "model" is the data set, and it has memorized a canary as often as it stands there):
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
            raise InputError("canaries", "must hold two inserted ones or more", count, "Draw more.")
        masks = draw_subsets(count, num_models, share, seed)
    dealt_MC = number_array("masks", masks, "Pass draw_subsets(len(canaries.inserted), num_models).")
    if dealt_MC.shape != (num_models, count):
        rule = f"must be ({num_models}, {count}): num_models, and the inserted canaries"
        raise InputError("masks", rule, f"an array of shape {dealt_MC.shape}", "Leave it out.")
    masks_MN = np.concatenate([dealt_MC, np.zeros((len(dealt_MC), len(canaries.controls)))], axis=1)
    if data_id is not None and not isinstance(data_id, str):
        raise InputError("data_id", "must be a text", type(data_id).__name__, "Name the data, or leave it out.")
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
    """That the store, where there is one, was begun with these canaries."""
    if not (path_of("store", store) / "store.json").exists():
        return
    if not str(SubsetStore(store).manifest.get("data")).startswith(f"id:{canaries.manifest_hash} "):
        rule, remedy = (
            "must be those that the store was begun with",
            "Load the set that was saved, or name another store.",
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
        # What `run_subsets` seeded numpy with: other places in each run.
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
