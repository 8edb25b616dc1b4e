"""`hf-exposure insert`: canaries into a data set, which is written beside and then renamed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.values import check_new, load_canaries
from hf_exposure.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["RECORD_FILE", "insert"]

# What measure reads to say which data set a model was trained on. No secret is in it.
RECORD_FILE = "exposure_insertion.json"
_BUILDERS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip


def insert(
    dataset: Annotated[
        str,
        typer.Option(
            help="A folder saved by save_to_disk; a csv, jsonl, parquet or txt file, or a folder of them; a Hub name."
        ),
    ],
    canaries: Annotated[Path, typer.Option(help="The canary file.")],
    out: Annotated[Path, typer.Option(help="Folder for the new data set, written with save_to_disk.")],
    text_column: Annotated[str, typer.Option(help="Where the text goes.")] = "text",
    split: Annotated[list[str], typer.Option(help="Which splits get every canary.")] = ["train"],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a data set on the Hub.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the places.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Insert canaries into a data set at random places, before it is tokenised."""
    check_new(out, overwrite)
    drawn = load_canaries(canaries)
    import datasets

    from hf_exposure.insertion import insert_canaries

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    original = _load(dataset, name, revision)
    with _without_cache():
        changed = insert_canaries(original, drawn, text_column=text_column, seed=seed, splits=tuple(split))
    rows = {key: len(part) for key, part in _parts(changed).items()}
    record = {
        "name": dataset,
        "configuration": name,
        "revision": revision,
        "splits": list(split),
        "text_column": text_column,
        "rows_before": {key: len(part) for key, part in _parts(original).items()},
        "rows": rows,
        "seed": seed,
        "manifest_hash": drawn.manifest_hash,
    }
    with replaced_folder(out) as aside:
        changed.save_to_disk(aside)
        (aside / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"out": str(out), "inserted_rows": drawn.total_insertions, **record}, indent=1))
        return
    typer.echo(
        f"{drawn.total_insertions} canary rows inserted into {dataset}: "
        + ", ".join(f"{key} has {count} rows" for key, count in rows.items())
        + f"\nWritten to {out}{os.sep}: train on it, then type hf-exposure measure."
    )


@contextmanager
def replaced_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place once it is whole; on a failure it goes, and `out` is as it was."""
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}."))
    except OSError as error:
        rule = f"must be a folder that can be made ({error.strerror})"
        raise InputError("--out", rule, str(out), "Name another folder.") from None
    try:
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o777 & ~umask)
        yield aside
        old = Path(tempfile.mkdtemp(dir=out.absolute().parent, prefix=f".{out.name}.old."))
        if out.exists():
            os.replace(out, old / "was")
        try:
            os.replace(aside, out)
        except BaseException:
            if (old / "was").exists():
                os.replace(old / "was", out)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def _without_cache() -> Iterator[None]:
    """Else `datasets` leaves a copy with the secrets beside the original, or in a cache that others may read."""
    import datasets

    was_enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_caching()


def _load(dataset: str, name: str | None, revision: str | None) -> Dataset | DatasetDict:
    from datasets import load_dataset, load_from_disk

    path = Path(dataset)
    remedy = "Name a folder, a csv, jsonl, parquet or txt file, or a data set on the Hub."
    try:
        if path.is_file():
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise InputError("--dataset", f"must end in {', '.join(_BUILDERS)}", str(path), remedy)
            return load_dataset(builder, data_files={"train": str(path)})
        if path.is_dir():
            saved = (path / "dataset_dict.json").exists() or (path / "state.json").exists()
            return load_from_disk(str(path)) if saved else load_dataset(str(path))
        return load_dataset(dataset, name, revision=revision)
    except InputError:
        raise
    except Exception as error:
        # Of the library's own classes, the hub client's and pyarrow's: each says what is wrong in its first line.
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError("--dataset", f"must be a data set that loads ({said[0]})", dataset, remedy) from None


def _parts(dataset: Any) -> dict[str, Any]:
    return dict(dataset) if isinstance(dataset, dict) else {"train": dataset}
