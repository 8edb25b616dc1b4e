"""Data sets as they are named on the command line: loaded, streamed, and written as shards."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from hf_exposure.cli.values import check_data_set
from hf_exposure.errors import ExposureError, InputError
from hf_exposure.files import clean_up

_BUILDERS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
_BATCH = 1000
_HEAD_BYTES = 2**16
# A new file begins here, so that no shard of the input, however long, becomes one file that a worker cannot share.
_MOST_BYTES = 500 * 2**20


def load_data_set(dataset: str, name: str | None, revision: str | None, *, stream: bool = False) -> Any:
    """A folder saved by `save_to_disk`, a file or a folder of files, or a data set on the Hub.

    Raises:
        InputError: nothing that loads, or a saved folder that should be streamed.
    """
    check_data_set("--dataset", dataset)
    from datasets import load_dataset, load_from_disk, logging

    logging.set_verbosity(logging.CRITICAL)  # what is wrong is said once, below
    path = Path(dataset)
    if not path.exists():
        clean_up(path.absolute().parent)  # a killed insert may have been about to put it there
    remedy = "Name a folder, a csv, jsonl, parquet or txt file, or a data set on the Hub."
    saved = is_saved_folder(path)
    if saved and stream:
        rule = "is no stream: a folder written by save_to_disk is read from the disk as it is"
        raise InputError("--stream", rule, dataset, "Leave --stream out.")
    try:
        if path.is_file():
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise InputError("--dataset", f"must end in {', '.join(_BUILDERS)}", str(path), remedy)
            if builder == "json":
                _check_rows_of_json(path, remedy)
            return load_dataset(builder, data_files={"train": str(path)}, streaming=stream)
        if path.is_dir():
            return load_from_disk(str(path)) if saved else load_dataset(str(path), streaming=stream)
        return load_dataset(dataset, name, revision=revision, streaming=stream)
    except InputError:
        raise
    except Exception as error:
        raise InputError("--dataset", f"must be a data set that loads ({_said(error)})", dataset, remedy) from None


@contextmanager
def read_to_its_end() -> Iterator[None]:
    """For what reads a stream: rows that pyarrow, pandas, fsspec or the Hub's client cannot read are bad input.

    Their messages may quote a row: to be used within `without_secrets`.

    Raises:
        InputError: such rows.
    """
    try:
        yield
    except (ExposureError, OSError, MemoryError):
        raise
    except Exception as error:
        rule = f"must be a data set that can be read to its end ({_said(error)})"
        raise InputError("--dataset", rule, type(error).__name__, "Mend the data, or name others.") from None


def _said(error: Exception) -> str:
    """What is wrong, from the first line of an error of another library; `datasets` puts it into the cause."""
    if type(error).__name__ == "DatasetGenerationError" and isinstance(error.__cause__, Exception):
        return _said(error.__cause__)
    return next((line for line in str(error).strip().splitlines() if line.strip()), type(error).__name__)


def _check_rows_of_json(path: Path, remedy: str) -> None:
    """pyarrow ends the whole process on a file that begins with null instead of a row."""
    with path.open("rb") as file:
        begins = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not begins.startswith((b"{", b"[")):
        raise InputError("--dataset", "must begin with a row, which is a JSON object", str(path), remedy)


def is_saved_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote the folder: it is read as it is, without a copy."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def parts_of(dataset: Any) -> dict[str, Any]:
    """A data set's splits by name; one alone is called "train"."""
    return dict(dataset) if isinstance(dataset, dict) else {"train": dataset}


@contextmanager
def without_cache() -> Iterator[None]:
    """Else `datasets` leaves a copy with the secrets beside the original, or in a cache that others may read."""
    import datasets

    was_enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_caching()


def write_shards(streams: dict[str, Any], folder: Path) -> dict[str, int]:
    """Writes streams as `folder/data/{split}-{number}.parquet`, and returns their numbers of rows.

    As `load_dataset(folder, streaming=True)` reads them. At least one file for each shard of a stream, so that as many
    workers can share it; a batch at a time is in memory.

    Raises:
        InputError: rows whose types change along the stream.
    """
    (folder / "data").mkdir(parents=True)
    return {split: _write_split(stream, folder / "data", split) for split, stream in streams.items()}


def _write_split(stream: Any, folder: Path, split: str) -> int:
    import pyarrow.parquet as pq
    from tqdm import tqdm

    rows = files = 0
    schema = None if stream.features is None else stream.features.arrow_schema
    with tqdm(desc=f"writing {split}", unit=" rows", disable=None, file=sys.stderr, leave=False) as bar:
        for number in range(stream.num_shards):
            for tables in _files_of(stream.shard(stream.num_shards, number).with_format("arrow").iter(_BATCH)):
                first = next(tables)
                schema = schema or first.schema
                with pq.ParquetWriter(folder / f"{split}-{files:05d}.parquet", schema) as writer:
                    for table in chain([first], tables):
                        writer.write_table(_cast(table, schema))
                        rows += len(table)
                        bar.update(len(table))
                files += 1
    return rows


def _files_of(tables: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """The tables of each file; all of one file's are to be taken before the next file's."""
    for first in tables:
        yield _until_full(first, tables)


def _until_full(table: Any, tables: Iterator[Any]) -> Iterator[Any]:
    size = table.nbytes
    yield table
    while size < _MOST_BYTES and (table := next(tables, None)) is not None:
        size += table.nbytes
        yield table


def _cast(table: Any, schema: Any) -> Any:
    try:
        return table.select(schema.names).cast(schema)
    except (KeyError, ValueError, TypeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        rule = f"must have rows of one kind all along the stream ({said[0]})"
        remedy = "Write it as parquet with one schema first."
        raise InputError("--dataset", rule, ", ".join(schema.names), remedy) from None
