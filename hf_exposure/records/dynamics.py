"""Training dynamics of each example: a folder of Arrow files, one for each measurement, and their arrays.

`_dynamics` in the output folder of a training has `examples.arrow` (number, label, whether the label is noise) and one
file for each measurement, `00000.arrow` and so on. A measurement adds its file and changes no other, so a killed run
loses none, and a resumed run removes the later ones. The log `_dynamics.jsonl` has the step of each measurement. Only
their owner may read these files.

Legend: T measurements, N examples (for a language model, tokens), C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hf_exposure.errors import InputError
from hf_exposure.fields import plain
from hf_exposure.files import make_private_folder, write_aside
from hf_exposure.presenting import Presented
from hf_exposure.records.run_log import PlainRecord, RunLog

FloatArray = NDArray[np.float64]

FORMAT = "hf_exposure dynamics"
VERSION = 1
FIGURES = ("loss_bits", "probability", "correct", "margin")
CLASS_PROBABILITY = "class_probability"
_EXAMPLES = "examples.arrow"


@dataclass(frozen=True, eq=False, repr=False)
class DynamicsRecord(Presented):
    """All measurements of one training. `print` shows the same as `hf-exposure dynamics`; `to_pandas` has the
    examples.

    Attributes:
        steps_T, epochs_T: steps and epochs of the training; NaN if the log has none.
        example_N, position_N: the example of each column, and the position of its token; -1 if the example has one
            label.
        loss_bits_TN, probability_TN, correct_TN, margin_TN: figures of the label; NaN where an example was not
            evaluated.
        label_N: the label that was trained on; -1 if it is not stored, as for tokens.
        noisy_N: whether the label is noise; None if that is unknown.
        class_probability_TNC: probabilities of all classes, if they were recorded.
        figures_T: the logged figures of each measurement, by key.
        about: settings of the measurement and of the noise, with its seed.
        name: the name of the measure.
    """

    steps_T: FloatArray
    epochs_T: FloatArray
    example_N: NDArray[np.int64]
    position_N: NDArray[np.int64]
    loss_bits_TN: FloatArray
    probability_TN: FloatArray
    correct_TN: FloatArray
    margin_TN: FloatArray
    label_N: NDArray[np.int64]
    noisy_N: NDArray[np.bool_] | None = None
    class_probability_TNC: FloatArray | None = None
    figures_T: Mapping[str, FloatArray] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    name: str = "dynamics"
    kind: ClassVar[str] = "dynamics"

    def __repr__(self) -> str:
        return f"DynamicsRecord({len(self.steps_T)} measurements of {len(self.example_N)} {self.unit})"

    @property
    def unit(self) -> str:
        """The kind of the columns: "examples", or "tokens" for a language model."""
        return "tokens" if (self.position_N >= 0).any() else "examples"

    @classmethod
    def load(cls, run: str | Path, name: str = "dynamics") -> DynamicsRecord:
        """Loads the record from a training's output folder.

        Args:
            run: the output folder.
            name: the name of the measure.

        Raises:
            InputError: there is no record, or a file is no record or from a newer version.
        """
        return _load(Path(run), name)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes the page, `examples.csv`, plots, and the arrays for cleanlab, like `hf-exposure dynamics --out`.

        Raises:
            InputError: the folder cannot be created or written to.
        """
        written: list[Path] = self.presented("save", folder)
        return written

    def push_to_hub(self, repo_id: str, **arguments: Any) -> str:
        """Writes the means, and no figure of a single example, into the card of a model on the Hub.

        Args:
            repo_id: "user/model".
            **arguments: the arguments of `hf_exposure.hub.push_card`: create_pr, token, revision, private.

        Returns:
            The address of the commit, or of the pull request.
        """
        return str(self.presented("push", repo_id, **arguments))

    def until(self, step: float) -> DynamicsRecord:
        """The record up to and including a step.

        Wrong labels are best found from measurements before the training fits them, so use the step of the best
        validation accuracy.

        Args:
            step: a step of the training.

        Raises:
            InputError: there is no measurement up to that step, or the log has no steps.
        """
        kept_T = self.steps_T <= step
        if not kept_T.any():
            first = "none" if np.isnan(self.steps_T).all() else f"{np.nanmin(self.steps_T):g}"
            raise InputError(
                "step", f"must not be before the first measurement, of step {first}", step, "Name a later one."
            )
        classes = self.class_probability_TNC
        return replace(
            self,
            steps_T=self.steps_T[kept_T],
            epochs_T=self.epochs_T[kept_T],
            loss_bits_TN=self.loss_bits_TN[kept_T],
            probability_TN=self.probability_TN[kept_T],
            correct_TN=self.correct_TN[kept_T],
            margin_TN=self.margin_TN[kept_T],
            class_probability_TNC=None if classes is None else classes[kept_T],
            figures_T={key: values_T[kept_T] for key, values_T in self.figures_T.items()},
        )


class DynamicsStore:
    """The files of one training, written by one process.

    Args:
        folder: the folder `_dynamics` in the output folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def write_examples(self, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Writes the table of the examples, with the settings."""
        make_private_folder(self.folder)
        self._write(_EXAMPLES, columns, about)

    def append(self, number: int, columns: Mapping[str, Any]) -> None:
        """Writes measurement `number`, from 0 on, and removes files of later ones, which an interrupted run may
        have left.
        """
        self.cut(number)
        self._write(f"{number:05d}.arrow", columns, {"measurement": number})

    def cut(self, count: int) -> None:
        """Keeps the first `count` measurements."""
        for path in self.measurements():
            if int(path.stem) >= count:
                path.unlink(missing_ok=True)

    def measurements(self) -> list[Path]:
        """The files, oldest first."""
        return sorted(self.folder.glob("[0-9]" * 5 + ".arrow"))

    def _write(self, name: str, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        head = {"format": FORMAT, "version": VERSION, **dict(plain(about))}
        table = pa.table(dict(columns)).replace_schema_metadata({"hf_exposure": json.dumps(head)})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_aside(self.folder / name, sink.getvalue().to_pybytes(), private=True)


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Reads a file of the store, with its settings.

    Raises:
        InputError: the file is of another kind, or from a newer version.
    """
    try:
        table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
        about = json.loads((table.schema.metadata or {})[b"hf_exposure"])
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        remedy = "Remove the file, or train again."
        raise InputError(str(path), "must be a record of dynamics", type(error).__name__, remedy) from None
    if about.get("format") != FORMAT or about.get("version", VERSION + 1) > VERSION:
        remedy = "Upgrade: pip install --upgrade hf-exposure"
        raise InputError(str(path), f"must be of version {VERSION} or lower", about.get("version"), remedy)
    return table, about


def _load(run: Path, name: str) -> DynamicsRecord:
    store = DynamicsStore(run / f"_{name}")
    paths = store.measurements()
    if not paths or not (store.folder / _EXAMPLES).exists():
        rule = f"must be the output folder of a training with a DynamicsMeasure, which leaves _{name} there"
        raise InputError("run", rule, str(run), "Name that folder.")
    examples, about = read_table(store.folder / _EXAMPLES)
    tables = [read_table(path)[0] for path in paths]
    example_N, position_N = (_ints(examples, column) for column in ("example", "position"))
    stacked = {}
    for figure in FIGURES:
        rows = [table[figure].cast(pa.float64()).to_numpy() for table in tables]  # null is NaN
        if any(len(row) != len(example_N) for row in rows):
            rule, remedy = "must have as many rows as examples.arrow", "Remove the folder, and train again."
            raise InputError(str(store.folder), rule, [len(row) for row in rows][:8], remedy)
        stacked[figure] = np.stack(rows)
    classes = None
    if all(CLASS_PROBABILITY in table.column_names for table in tables):
        classes = np.stack([_matrix(table[CLASS_PROBABILITY]) for table in tables])
    steps_T, epochs_T, figures_T = _logged(run, name, len(paths))
    noisy = examples["noisy"].to_numpy() if "noisy" in examples.column_names else None
    return DynamicsRecord(
        steps_T=steps_T,
        epochs_T=epochs_T,
        example_N=example_N,
        position_N=position_N,
        loss_bits_TN=stacked["loss_bits"],
        probability_TN=stacked["probability"],
        correct_TN=stacked["correct"],
        margin_TN=stacked["margin"],
        label_N=_ints(examples, "label"),
        noisy_N=None if noisy is None else np.asarray(noisy, dtype=np.bool_),
        class_probability_TNC=classes,
        figures_T=figures_T,
        about={key: value for key, value in about.items() if key not in ("format", "version")},
        name=name,
    )


def _ints(table: pa.Table, column: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.asarray(table[column].to_numpy(), dtype=np.int64)
    return found


def _matrix(column: pa.ChunkedArray) -> FloatArray:
    whole = column.combine_chunks()
    flat: FloatArray = np.asarray(whole.flatten().to_numpy(), dtype=np.float64)
    return flat.reshape(len(whole), -1)


def _logged(run: Path, name: str, count: int) -> tuple[FloatArray, FloatArray, dict[str, FloatArray]]:
    """Steps, epochs and figures of each measurement, if the log has them."""
    steps_T, epochs_T = np.full((2, count), np.nan)
    figures: dict[str, FloatArray] = {}
    for line in RunLog(name, PlainRecord.from_dict).read(run):
        number = line.details.get("measurement")
        if not isinstance(number, int) or not 0 <= number < count:
            continue
        steps_T[number] = np.nan if line.step is None else line.step
        epochs_T[number] = np.nan if line.epoch is None else line.epoch
        for key, value in line.metrics().items():
            figures.setdefault(key, np.full(count, np.nan))[number] = value
    return steps_T, epochs_T, figures
