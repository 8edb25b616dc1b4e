"""The store of many trainings: a folder with one small Arrow file for each finished run.

    store.json            what the runs have in common: shapes, masks, data, seed, each by value or by hash
    masks.npy             (models, rows) which rows each run is trained on
    run-000012.arrow      one row of the table (models, rows): the scores of run 12, with its seed and its seconds

Each file is written aside and renamed, so that a run is there whole or not at all, and any number of machines may
write into one folder at once without a lock. Together the files are one table: `SubsetStore.table()`, or
`pyarrow.dataset.dataset(files, format="arrow")`. Scores are exact figures about the training data: the folder is
readable by its owner alone.
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
    """The finished runs of a store, in the order of their numbers.

    Attributes:
        scores_MN: scores of all rows by each model.
        included_MN: which rows each model was trained on.
        test_scores_MK: scores of the test set; None without one.
        runs_M: the numbers of these runs.
        seconds_M: how long training and scoring took.
        diverged: {run: reason} of the runs whose scores were not finite. They are in none of the arrays.
        planned: how many runs the masks ask for.
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
        """The numbers of the runs that are not done yet."""
        done = {*self.runs_M.tolist(), *self.diverged}
        return [run for run in range(self.planned) if run not in done]

    @property
    def undefined(self) -> dict[int, Undefined]:
        """{row: reason} of the rows for which these runs define no memorization, or no limits on it."""
        return undefined_rows(self.included_MN.sum(0), (~self.included_MN).sum(0))

    def memorization(self, confidence_level: float = 0.95) -> CounterfactualMemorization:
        """`memorization_intervals` of the rows."""
        self._check_any()
        return memorization_intervals(self.scores_MN, self.included_MN, confidence_level)

    def influence(self) -> Floats:
        """(N, K) `counterfactual_influence` of the rows on the test set."""
        self._check_any()
        if self.test_scores_MK is None:
            raise InputError("test", "must have been given to run_subsets", None, "Begin another store with test=.")
        return counterfactual_influence(self.test_scores_MK, self.included_MN)

    def reliability(self, splits: int = 20, seed: int = 0) -> Reliability:
        """`split_half_reliability` of the memorization of the rows."""
        self._check_any()
        return split_half_reliability(self.scores_MN, self.included_MN, splits, seed)

    def _check_any(self) -> None:
        if not len(self.runs_M):
            rule = "must hold at least one finished run"
            raise InputError("store", rule, f"{len(self.diverged)} diverged ones", "Finish some runs first.")


class SubsetStore:
    """A folder of runs.

    Args:
        folder: the store, begun by `begin`.

    Raises:
        InputError: no store is there, or one of a newer version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = path_of("store", folder)
        try:
            self.manifest = read_json(self._manifest_path)
        except (OSError, ValueError) as error:
            rule = f"must be a folder that run_subsets wrote ({type(error).__name__})"
            raise InputError("store", rule, str(folder), "Name the folder of the runs.") from None
        if not isinstance(self.manifest, dict) or self.manifest.get("format_version") != _FORMAT_VERSION:
            rule = f"must have format version {_FORMAT_VERSION}"
            raise InputError("store", rule, str(folder), "Read it with the version of hf_exposure that wrote it.")

    @property
    def _manifest_path(self) -> Path:
        return self.folder / "store.json"

    @classmethod
    def begin(cls, folder: str | Path, masks_MN: Flags, facts: Mapping[str, Any]) -> SubsetStore:
        """The store at `folder`, which is made, or must be of the same masks and facts.

        Raises:
            InputError: the folder holds runs of other masks, data or seeds; the error names what differs.
        """
        place = path_of("store", folder)
        manifest = {"format_version": _FORMAT_VERSION, "models": len(masks_MN), "masks": _hash_of_array(masks_MN)}
        manifest |= facts
        try:
            make_private_folder(place)
            with one_writer(place):  # two commands that begin it at once, perhaps with different masks
                if not (place / "store.json").exists():
                    file = io.BytesIO()
                    np.save(file, masks_MN)
                    write_aside(place / "masks.npy", file.getvalue(), private=True)
                    write_aside(place / "store.json", json.dumps(manifest, indent=1) + "\n", private=True)
        except OSError as error:
            rule = f"must be a folder that can be written ({error.strerror})"
            raise InputError("store", rule, str(folder), "Name another folder.") from None
        # Read back: another process may have begun it.
        store = cls(place)
        for name, argument, what, remedy in _COMMON:
            begun_with, value = store.manifest.get(name), manifest[name]
            if begun_with != value:
                # Hashes say nothing to a person, numbers do.
                are_numbers = isinstance(begun_with, int) and isinstance(value, int)
                rule = f"must {what} that the store {str(folder)!r} was begun with"
                rule += f", {begun_with}" if are_numbers else ""
                raise InputError(
                    argument, rule, value if are_numbers else "another", f"{remedy}, or name another folder."
                )
        return store

    @cached_property
    def masks_MN(self) -> Flags:
        """(models, rows) of all planned runs."""
        try:
            masks = np.load(self.folder / "masks.npy", allow_pickle=False)
        except (OSError, ValueError):
            masks = np.zeros((0, 0), dtype=bool)
        if _hash_of_array(masks) != self.manifest.get("masks"):
            rule = "must hold the masks that it was begun with"
            raise InputError("store", rule, "a damaged masks.npy", "Restore the file, or begin another store.")
        return np.asarray(masks, dtype=bool)

    def done(self) -> set[int]:
        """Numbers of the runs that are in the store, diverged ones too."""
        return {int(found[1]) for entry in self.folder.iterdir() if (found := _RUN.fullmatch(entry.name))}

    def add(
        self, run: int, *, seed: int, seconds: float, scores_N: Floats, test_scores_K: Floats | None, reason: str
    ) -> None:
        """Writes the row of one run; `reason` says why it diverged, else "" ."""
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
        """All runs, in the order of their numbers: (models, rows) with columns run, seed, seconds, reason, scores."""
        return pa.concat_tables([self._row(run) for run in sorted(self.done())])

    def _row(self, run: int) -> pa.Table:
        path = self.folder / f"run-{run:06d}.arrow"
        try:
            return pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        except (OSError, pa.ArrowInvalid):
            raise InputError(
                "store", "must hold whole Arrow files", path.name, "Remove the file: the run is done again."
            ) from None

    def read(self) -> SubsetRuns:
        """The runs that are done.

        Raises:
            InputError: a file that is damaged, or of other rows.
        """
        planned, rows = self.masks_MN.shape
        table_rows = [self._row(run).to_pylist()[0] for run in sorted(self.done())]
        good = [row for row in table_rows if not row["reason"]]
        for row in table_rows:
            if not 0 <= row["run"] < planned or len(row["scores"]) != rows:
                rule = "must hold runs of its own masks"
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
