"""The store of many training runs: a folder with one small Arrow file per finished run.

    store.json            what the runs have in common: shapes, masks, data, seed, each by value or by hash
    masks.npy             (models, rows) which rows each run is trained on
    run-000012.arrow      one row of the table (models, rows): the scores of run 12, with its seed and its seconds

Each file is written under a temporary name and then renamed, so a run is stored completely or not at all, and any
number of machines may write into one folder at once without a lock. Together the files form one table:
`SubsetStore.table()`, or `pyarrow.dataset.dataset(files, format="arrow")`. Scores are exact values about the training
data, so only its owner can read the folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hf_exposure.checks import path_of
from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    CounterfactualMemorization,
    Reliability,
    Undefined,
    counterfactual_influence,
    memorization_intervals,
    split_half_reliability,
    undefined_rows,
)
from hf_exposure.files import make_private_folder, one_writer, read_json, write_aside

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

_FORMAT_VERSION = 1
_RUN = re.compile(r"run-(\d{6,})\.arrow")
_DATA = "Pass the original rows in their original order, with the same data_id if there was one"
_TEST = "Pass the original test set, or none if there was none"
_MASKS = "Pass the original masks (on the command line, the original --models, --share and --seed)"
# What all runs of a store have in common, as in its manifest: (name, argument, what it is, what to do).
_COMMON = (
    ("rows", "dataset", "have the number of rows", _DATA),
    ("data", "dataset", "be the one", _DATA),
    ("test_rows", "test", "have the number of rows", _TEST),
    ("test_data", "test", "be the one", _TEST),
    ("models", "masks", "have the number of models", _MASKS),
    ("seed", "seed", "be the one", "Pass the original seed"),
    ("masks", "masks", "be those", _MASKS),
)


@dataclass(frozen=True, eq=False, kw_only=True)
class SubsetRuns:
    """The finished runs of a store, in ascending order of their numbers.

    Attributes:
        scores_MN: scores of all rows under each model.
        included_MN: which rows each model was trained on.
        test_scores_MK: scores of the test set; None without a test set.
        runs_M: numbers of these runs.
        seconds_M: duration of training and scoring.
        diverged: {run: reason} for runs whose scores were not finite. They are not in the arrays.
        planned: number of runs in the masks.
    """

    scores_MN: Floats
    included_MN: Flags
    test_scores_MK: Floats | None
    runs_M: NDArray[np.int64]
    seconds_M: Floats
    diverged: Mapping[int, str]
    planned: int

    @property
    def missing(self) -> list[int]:
        """The numbers of the unfinished runs."""
        done = {*self.runs_M.tolist(), *self.diverged}
        return [run for run in range(self.planned) if run not in done]

    @property
    def undefined(self) -> dict[int, Undefined]:
        """{row: reason} for rows whose memorization, or its interval, is undefined with these runs."""
        return undefined_rows(self.included_MN.sum(0), (~self.included_MN).sum(0))

    def memorization(self, confidence_level: float = 0.95) -> CounterfactualMemorization:
        """`memorization_intervals` of the rows."""
        self._check_any()
        return memorization_intervals(self.scores_MN, self.included_MN, confidence_level)

    def influence(self) -> Floats:
        """(N, K) `counterfactual_influence` of the rows on the test set."""
        self._check_any()
        if self.test_scores_MK is None:
            raise InputError("test", "must have been passed to run_subsets", None, "Begin another store with test=.")
        return counterfactual_influence(self.test_scores_MK, self.included_MN)

    def reliability(self, splits: int = 20, seed: int = 0) -> Reliability:
        """`split_half_reliability` of the rows' memorization."""
        self._check_any()
        return split_half_reliability(self.scores_MN, self.included_MN, splits, seed)

    def _check_any(self) -> None:
        if not len(self.runs_M):
            rule = "must have at least one finished run"
            raise InputError("store", rule, f"{len(self.diverged)} diverged ones", "Finish some runs first.")


class SubsetStore:
    """A folder of runs.

    Args:
        folder: the store's folder, made by `begin`.

    Raises:
        InputError: the folder is not a store, or has a newer format.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = path_of("store", folder)
        try:
            self.manifest = read_json(self._manifest_path)
        except (OSError, ValueError) as error:
            rule = f"must be a folder that run_subsets wrote ({type(error).__name__})"
            raise InputError("store", rule, str(folder), "Pass the folder of the runs.") from None
        if not isinstance(self.manifest, dict) or self.manifest.get("format_version") != _FORMAT_VERSION:
            rule = f"must have format version {_FORMAT_VERSION}"
            raise InputError("store", rule, str(folder), "Read it with the version of hf_exposure that wrote it.")

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "store.json"

    @classmethod
    def begin(cls, folder: str | Path, masks_MN: Flags, facts: Mapping[str, Any]) -> SubsetStore:
        """Opens the store at `folder`, or makes it; an existing store must have the same masks and facts.

        Raises:
            InputError: the folder has runs with other masks, data or seeds; the error names what differs.
        """
        place = path_of("store", folder)
        manifest = {"format_version": _FORMAT_VERSION, "models": len(masks_MN), "masks": _hash_of_array(masks_MN)}
        manifest |= facts
        try:
            make_private_folder(place)
            with one_writer(place):  # two commands may begin it at once, with different masks
                if not (place / "store.json").exists():
                    file = io.BytesIO()
                    np.save(file, masks_MN)
                    write_aside(place / "masks.npy", file.getvalue(), private=True)
                    write_aside(place / "store.json", json.dumps(manifest, indent=1) + "\n", private=True)
        except OSError as error:
            rule = f"must be a writable folder ({error.strerror})"
            raise InputError("store", rule, str(folder), "Pass another folder.") from None
        # Read it back, since another process may have made it in the meantime.
        store = cls(place)
        for name, argument, what, remedy in _COMMON:
            begun_with, value = store.manifest.get(name), manifest[name]
            if begun_with != value:
                # Hashes say nothing to a person, numbers do.
                are_numbers = isinstance(begun_with, int) and isinstance(value, int)
                rule = f"must {what} that the store {str(folder)!r} was begun with"
                rule += f", {begun_with}" if are_numbers else ""
                raise InputError(
                    argument, rule, value if are_numbers else "another", f"{remedy}, or use another folder."
                )
        return store

    @cached_property
    def masks_MN(self) -> Flags:
        """(models, rows) masks of all planned runs."""
        try:
            masks = np.load(self.folder / "masks.npy", allow_pickle=False)
        except (OSError, ValueError):
            masks = np.zeros((0, 0), dtype=bool)
        if _hash_of_array(masks) != self.manifest.get("masks"):
            rule = "must have the masks that it was begun with"
            raise InputError("store", rule, "a damaged masks.npy", "Restore the file, or begin another store.")
        return np.asarray(masks, dtype=bool)

    def done(self) -> set[int]:
        """Returns the numbers of the runs in the store, including diverged ones."""
        return {int(found[1]) for entry in self.folder.iterdir() if (found := _RUN.fullmatch(entry.name))}

    def add(
        self, run: int, *, seed: int, seconds: float, scores_N: Floats, test_scores_K: Floats | None, reason: str
    ) -> None:
        """Writes the row of one run; `reason` is why it diverged, or an empty text."""
        test = [] if test_scores_K is None else [test_scores_K.tolist()]
        columns: dict[str, Any] = {
            "run": pa.array([run], pa.int64()),
            "seed": pa.array([seed], pa.int64()),
            "seconds": pa.array([seconds], pa.float64()),
            "reason": pa.array([reason], pa.string()),
            "scores": pa.array([scores_N.tolist()], pa.list_(pa.float64())),
            "test_scores": pa.array(test or [None], pa.list_(pa.float64())),
        }
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_aside(self.folder / f"run-{run:06d}.arrow", sink.getvalue().to_pybytes(), private=True)

    def table(self) -> pa.Table:
        """Returns all runs in ascending order of their numbers, with columns run, seed, seconds, reason and scores."""
        return pa.concat_tables([self._row(run) for run in sorted(self.done())])

    def _row(self, run: int) -> pa.Table:
        path = self.folder / f"run-{run:06d}.arrow"
        try:
            return pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        except (OSError, pa.ArrowInvalid):
            raise InputError(
                "store", "must have complete Arrow files", path.name, "Remove the file; the run will be repeated."
            ) from None

    def read(self) -> SubsetRuns:
        """Returns the finished runs.

        Raises:
            InputError: a file is damaged or has other rows.
        """
        planned, rows = self.masks_MN.shape
        table_rows = [self._row(run).to_pylist()[0] for run in sorted(self.done())]
        good = [row for row in table_rows if not row["reason"]]
        for row in table_rows:
            if not 0 <= row["run"] < planned or len(row["scores"]) != rows:
                rule = "must have only runs of its own masks"
                raise InputError("store", rule, f"run {row['run']} of others", "Remove the file of that run.")
        runs_M = np.array([row["run"] for row in good], dtype=np.int64)
        test = self.manifest.get("test_rows")
        return SubsetRuns(
            scores_MN=_matrix((row["scores"] for row in good), rows),
            included_MN=self.masks_MN[runs_M],
            test_scores_MK=None if test is None else _matrix((row["test_scores"] for row in good), test),
            runs_M=runs_M,
            seconds_M=np.array([row["seconds"] for row in good]),
            diverged={row["run"]: row["reason"] for row in table_rows if row["reason"]},
            planned=planned,
        )


def _matrix(rows: Iterable[Sequence[float]], width: int) -> Floats:
    return np.array(list(rows), dtype=np.float64).reshape(-1, width)


def _hash_of_array(values: NDArray[Any]) -> str:
    return hashlib.sha256(repr(values.shape).encode() + np.packbits(values).tobytes()).hexdigest()
