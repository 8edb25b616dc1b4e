"""Many training runs on random subsets: the basis of counterfactual memorization, influence and shadow models.

A run seeds all random generators by its number, selects its rows, trains, scores every row, and writes one file. It
depends only on its number. Any run can therefore be killed and restarted, runs can be executed in any order on any
machine, and a cluster's job array needs only one command with a number (`hf-exposure subsets --index I`). On one
machine, or on a cluster that joblib supports, `n_jobs` runs are executed in parallel.
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from hf_exposure.checks import flag, real_number, whole_number
from hf_exposure.errors import (
    ExposureError,
    InputError,
    MissingDependencyError,
    NonFiniteScoreError,
    described,
    kind_and_place,
)
from hf_exposure.estimators.arrays import number_array
from hf_exposure.launch import count_of_processes, is_launched
from hf_exposure.runs.subset_data import count_rows, hash_rows, take_rows
from hf_exposure.runs.subset_store import Flags, Floats, SubsetRuns, SubsetStore
from hf_exposure.runtime.model_state import random_states_kept

Train = Callable[[Any], Any]
Score = Callable[[Any, Any], ArrayLike]
# The run, its error if it failed, and the error's kind and place.
_Outcome = tuple[int, BaseException | None, str]

MOST_MODELS = 1_000_000
_SHOWN = 5
_LARGEST_RUN_SEED = 2**31 - 1
# Backends that return results one by one, so that progress is shown as runs finish.
_STREAMING = ("loky", "threading", "multiprocessing", "sequential")


class RunFailedError(ExposureError):
    """Some training runs raised errors; finished runs are in the store, and the next call retries the others.

    Attributes:
        failures: {run: kind of the error, and the file and line that raised it}. The first of these errors is this
            exception's cause.
    """

    def __init__(self, failures: dict[int, str]) -> None:
        shown = ", ".join(f"{run} ({name})" for run, name in list(failures.items())[:_SHOWN])
        more = f" and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        super().__init__(
            f"{len(failures)} run{'s' if len(failures) > 1 else ''} failed: {shown}{more}. "
            "Finished runs are kept; call again to retry these. For the traceback, retry one of them with index= "
            "(on the command line, --index with --debug)."
        )
        self.failures = failures

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.failures,)


def draw_subsets(num_rows: int, num_models: int, share: float = 0.5, seed: int = 0, *, balanced: bool = True) -> Flags:
    """Draws which rows each of many models is trained on: masks for `run_subsets`.

    Args:
        num_rows, num_models: numbers N of rows and M of models.
        share: share of rows in each subset. Each has exactly `round(share * num_rows)` rows, but at least one and at
            most N - 1.
        seed: seed of the draws.
        balanced: whether to deal the rows like cards: among the first m models, for any m, the numbers of models that
            include each row differ by at most one. At a share of 0.5, two models thus suffice for every row to be
            included once and left out once. False draws each subset independently, for theory that assumes independent
            models.

    Returns:
        (M, N) bool. With fewer models, the masks are the first rows of the masks of more models.

    Raises:
        InputError: there are fewer than two rows or no models, or the share is not strictly between 0 and 1.

    Source: Feldman and Zhang (2020), section 3 (subsets of one size); Carlini et al. (2022), section 4 (each row in
        half of the models).

    Example:
        >>> masks = draw_subsets(10, 4)
        >>> masks.sum(1).tolist(), masks.sum(0).tolist()
        ([5, 5, 5, 5], [2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    rows = whole_number("num_rows", num_rows, 2)
    models = whole_number("num_models", num_models, 1, MOST_MODELS)
    rule = "must lie strictly between 0 and 1"
    share = real_number("share", share, rule, "Type 0.5.", above=0.0, below=1.0)
    generator = np.random.default_rng(whole_number("seed", seed, 0))
    size = min(max(round(share * rows), 1), rows - 1)
    masks_MN = np.zeros((models, rows), dtype=bool)
    deck = np.array([], dtype=np.int64)
    for mask_N in masks_MN:
        if not balanced:
            mask_N[generator.choice(rows, size, replace=False)] = True
            continue
        taken, deck = deck[:size], deck[size:]
        mask_N[taken] = True
        if (missing := size - len(taken)) > 0:
            # A new deck begins: its first cards go to this model too, except for those that it already has.
            fresh = generator.permutation(np.flatnonzero(~mask_N))
            mask_N[fresh[:missing]] = True
            deck = generator.permutation(np.concatenate([fresh[missing:], taken]))
    return masks_MN


def run_subsets(
    train: Train,
    dataset: Any,
    masks: ArrayLike,
    *,
    store: str | Path,
    score: Score,
    test: Any = None,
    index: int | Iterable[int] | None = None,
    n_jobs: int = 1,
    backend: str | None = None,
    seed: int = 0,
    data_id: str | None = None,
    progress: bool = True,
) -> SubsetRuns:
    """Trains one model on each subset, scores all rows under each model, and keeps the scores in a store.

    Call it again with the same arguments to continue after an interruption, or call it in other processes and on other
    machines with a separate `index`: runs in the store are not repeated. A run is seeded by its number (`random`,
    numpy, torch), so it gives the same result wherever it is executed. The caller's random states are restored.

    Args:
        train: function train(subset) -> model, such as a `TrainerRecipe`. The subset is of the same kind as `dataset`:
            the result of `Dataset.select`, rows of an array, a list, or a `torch.utils.data.Subset`.
        dataset: the N rows.
        masks: (M, N) bool, which rows each model is trained on, such as those of `draw_subsets`. Rows may be in all
            subsets or in none; their estimates are undefined and listed in `.undefined`.
        store: folder of the runs, readable only by its owner.
        score: function score(model, rows) -> (N,) numbers, higher for rows that the model knows better. It is called
            with the whole `dataset`, and then with `test`.
        test: K more rows to score under each model, which are never trained on.
        index: the run or runs to execute now; by default all.
        n_jobs: number of parallel runs, by joblib; -1 for all cores. Set the number of threads per run yourself
            (`OMP_NUM_THREADS`): the total should not exceed the number of cores.
        backend: joblib's backend: "loky" (processes, the default), "threading", or a registered one such as "ray" or
            "dask".
        seed: the seed from which the runs' seeds are derived.
        data_id: a text that identifies the data and test set; by default their contents are hashed.
        progress: whether to show the finished runs and the remaining time on stderr.

    Returns:
        `SubsetRuns` of all finished runs in the store: `.scores_MN`, `.included_MN`, `.test_scores_MK`,
        `.memorization()`, `.diverged`, `.undefined`, `.missing`.

    Raises:
        InputError: an argument is of the wrong kind, the store has other masks, data or seed, or scores have the wrong
            shape.
        RunFailedError: some training runs raised errors. All other runs are finished first, except in a job of several
            processes, which stops at the first failure.
        MissingDependencyError: `n_jobs` is above 1 and joblib is not installed.

    Example (the "model" is the mean of its training rows):
        >>> import tempfile
        >>> import numpy as np
        >>> rows = np.array([0.0, 1.0, 2.0, 9.0])
        >>> runs = run_subsets(lambda subset: subset.mean(), rows, draw_subsets(4, 6), store=tempfile.mkdtemp(),
        ...     score=lambda model, rows: -abs(rows - model), progress=False)
        >>> runs.scores_MN.shape, runs.missing, runs.undefined
        ((6, 4), [], {})
    """
    for name, function in (("train", train), ("score", score)):
        if not callable(function):
            raise InputError(name, "must be a function", type(function).__name__, "Pass train(subset) -> model.")
    masks_MN = _checked_masks(masks, count_rows("dataset", dataset))
    n_jobs = whole_number("n_jobs", n_jobs, -1)
    if n_jobs == 0:
        raise InputError("n_jobs", "must be 1 or more, or -1 for all cores", 0, "Write n_jobs=1.")
    seed = whole_number("seed", seed, 0)
    if backend is not None and not isinstance(backend, str):
        raise InputError("backend", "must be the name of a joblib backend", type(backend).__name__, "Omit it.")
    runs = _checked_runs(index, len(masks_MN))
    facts = {"rows": masks_MN.shape[1], "data": _identity("dataset", dataset, data_id), "seed": seed}
    facts["test_rows"] = None if test is None else count_rows("test", test)
    facts["test_data"] = None if test is None else _identity("test", test, data_id)
    if n_jobs != 1 and is_launched():
        rule, remedy = "must be 1 in a job with several processes", "Start one job per run: --index."
        raise InputError("n_jobs", rule, n_jobs, remedy)
    kept = SubsetStore.begin(store, masks_MN, facts)
    done = kept.done()
    left = [run for run in runs if run not in done]
    tasks = [(run, masks_MN[run], train, score, dataset, test, kept, seed) for run in left]
    failures: dict[int, tuple[BaseException, str]] = {}
    shown = tqdm(
        total=len(runs),
        initial=len(runs) - len(left),
        unit="run",
        desc="trainings",
        disable=not flag("progress", progress),
        # A log file gets one line per minute, a terminal gets a bar.
        mininterval=0.5 if sys.stderr.isatty() else 60.0,
        file=sys.stderr,
    )
    with shown:
        for run, error, place in _side_by_side(tasks, n_jobs, backend):
            if isinstance(error, InputError):  # an argument is invalid, so every run would fail
                raise error
            if error is not None:
                failures[run] = error, place
                if count_of_processes() > 1:
                    break  # others of the job would wait for this process, or meet it in another run
            shown.update()
    if not failures and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()  # the first process has written by now
    if failures:
        places = {run: place for run, (_, place) in sorted(failures.items())}
        raise RunFailedError(places) from failures[min(failures)][0]
    return kept.read()


def load_subset_runs(store: str | Path) -> SubsetRuns:
    """Loads the finished runs of a store, even if others are unfinished.

    Raises:
        InputError: the folder is not a store, or is damaged.
    """
    return SubsetStore(store).read()


def _side_by_side(tasks: list[tuple[Any, ...]], n_jobs: int, backend: str | None) -> Iterator[_Outcome]:
    if (n_jobs == 1 and backend is None) or not tasks:
        return itertools.starmap(_one_run, tasks)
    try:
        import joblib
    except ImportError:
        what = "joblib, which executes runs in parallel, is not installed"
        raise MissingDependencyError(f"{what}: pip install 'hf-exposure[parallel]'") from None
    backend = backend or "loky"
    # joblib refuses `Parallel(backend="dask")`: only `parallel_config` registers dask automatically.
    with joblib.parallel_config(backend=backend):
        parallel = joblib.Parallel(
            n_jobs=n_jobs,
            return_as="generator_unordered" if backend in _STREAMING else "list",
            batch_size=1,
            # Large arrays are shared between processes; writes go to a private copy in each.
            mmap_mode="c",
        )
    return iter(parallel(joblib.delayed(_one_run)(*task) for task in tasks))


def _one_run(
    run: int, mask_N: Flags, train: Train, score: Score, dataset: Any, test: Any, store: SubsetStore, seed: int
) -> _Outcome:
    """Trains, scores and writes one run. An error is returned, so that other runs continue."""
    started = time.perf_counter()
    run_seed = seed_of_run(seed, run)
    try:
        with random_states_kept():
            random.seed(run_seed)
            np.random.seed(run_seed)
            torch.manual_seed(run_seed)
            model = train(take_rows(dataset, np.flatnonzero(mask_N)))
            scores_N, reason = _scored(score, model, dataset, "dataset")
            tests_K, reason_of_test = (None, "") if test is None else _scored(score, model, test, "test")
    except (Exception, SystemExit) as error:
        # A traceback cannot be sent between processes.
        return run, _that_travels(error), kind_and_place(error)
    # If `accelerate launch` started several processes for one run, only the first writes.
    if int(os.environ.get("RANK", "0")) == 0:
        store.add(
            run,
            seed=run_seed,
            seconds=time.perf_counter() - started,
            scores_N=scores_N,
            test_scores_K=tests_K,
            reason=reason or reason_of_test,
        )
    return run, None, ""


def _that_travels(error: BaseException) -> BaseException:
    """Returns the error, or one with its name if it cannot be sent between processes."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}, which cannot be sent from its process")
        sent.__cause__ = error  # seen where the run was in this process
        return sent
    return error


def seed_of_run(seed: int, run: int) -> int:
    """Returns the seed of one run: different for every run, equal in every process."""
    return int(np.random.SeedSequence([seed, run]).generate_state(1)[0]) & _LARGEST_RUN_SEED


def _scored(score: Score, model: Any, rows: Any, what: str) -> tuple[Floats, str]:
    """The scores, and how they say that the model diverged, else ""."""
    count = count_rows(what, rows)
    try:
        scores_N = _checked_scores(score(model, rows), count, what)
    except NonFiniteScoreError as error:  # scorers of ours return no NaN
        return np.full(count, np.nan), str(error)
    bad = int((~np.isfinite(scores_N)).sum())
    return scores_N, f"{bad} of {count} scores are not finite" if bad else ""


def _checked_scores(scores: ArrayLike, count: int, what: str) -> Floats:
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().float().cpu().numpy()
    found = number_array("score", scores, "Return one number for each row.")
    if found.shape != (count,):
        rule = f"must return one number for each of the {count} rows of {what}"
        raise InputError("score", rule, f"an array of shape {found.shape}", "Return a vector.")
    return found


def _checked_masks(masks: ArrayLike, rows: int) -> Flags:
    found = number_array("masks", masks, "Pass draw_subsets(len(dataset), num_models).")
    if found.ndim != 2 or not found.size or not np.isin(found, [0.0, 1.0]).all():
        rule = "must be bools of shape (models, rows)"
        raise InputError("masks", rule, f"an array of shape {found.shape}", "Pass what draw_subsets returns.")
    if found.shape[1] != rows:
        rule = f"must have one column for each of the {rows} rows of dataset"
        raise InputError("masks", rule, found.shape[1], "Draw them with num_rows=len(dataset).")
    if not found.any(1).all():
        empty = int(np.flatnonzero(~found.any(1))[0])
        raise InputError("masks", "must give each model at least one row", f"none for model {empty}", "Raise share.")
    return found.astype(bool)


def _checked_runs(index: int | Iterable[int] | None, models: int) -> list[int]:
    if index is None:
        return list(range(models))
    if isinstance(index, (str, bytes)) or (not isinstance(index, Iterable) and not hasattr(index, "__index__")):
        rule = "must be the number of a run, or several such numbers"
        raise InputError("index", rule, described(index), "Write index=0.")
    given = list(index) if isinstance(index, Iterable) else [index]
    remedy = f"The store has runs 0 to {models - 1}."
    return sorted({whole_number("index", each, 0, models - 1, remedy) for each in given})


def _identity(argument: str, data: Any, data_id: str | None) -> str:
    if data_id is None:
        return hash_rows(argument, data)
    if not isinstance(data_id, str):
        raise InputError("data_id", "must be a text", type(data_id).__name__, "Name the data, or leave it out.")
    return f"id:{data_id}"
