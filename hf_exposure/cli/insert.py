"""`hf-exposure insert`: inserts canaries into a data set. The result is written to a temporary folder and then
renamed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import MessagesOption, PromptOption, as_recorded, check_new, context_of, load_canaries
from hf_exposure.errors import InputError
from hf_exposure.files import clean_up, replaced_folder
from hf_exposure.loading import (
    check_data_set,
    check_tokenizer_name,
    load_data_set,
    load_tokenizer,
    parts_of,
    read_to_its_end,
    without_cache,
    write_shards,
)

# `measure` reads this file to report which data set a model was trained on. It contains no secret.
RECORD_FILE = "exposure_insertion.json"
# Arguments whose remedy in the library is Python code: the option, and what to type instead.
_TYPED = {
    "num_rows": ("--num-rows", "Type --num-rows 1000000, or about as many rows as one pass has."),
    "text_column": ("--text-column", "Name one; for chats type --messages, for token ids --tokenizer."),
    "splits": ("--split", "Name one of them; --split may be repeated."),
    "tokenizer": ("--tokenizer", "Leave --tokenizer out: the text goes in as it is."),
    "context": ("--prompt or --messages", "For a column of texts type --prompt; with --source leave both out."),
    "source_column": ("--source-column", "Name the column that the model reads."),
    "other_columns": ("--other-column", "Give a value of the type of a column that is there."),
}


def insert(
    dataset: Annotated[
        str,
        typer.Option(
            help="A folder saved by save_to_disk; a csv, jsonl, parquet or txt file, or a folder of them; a Hub name."
        ),
    ],
    canaries: Annotated[Path, typer.Option(help="The canary file.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the new data set: save_to_disk format, or parquet files for a stream.")
    ],
    text_column: Annotated[
        str, typer.Option(help="Column that receives the text; with --source, the target column.")
    ] = "text",
    prompt: PromptOption = None,
    messages: MessagesOption = None,
    source: Annotated[
        str | None, typer.Option(help="Source text of an encoder-decoder model, with or without holes.")
    ] = None,
    source_column: Annotated[str, typer.Option(help="Column that receives the source.")] = "source",
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer of a data set that is tokenized already: a folder or Hub id.")
    ] = None,
    other_column: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE", help="Value of a column in canary rows. Default: the value of a neighboring row."
        ),
    ] = [],  # noqa: B006
    split: Annotated[list[str], typer.Option(help="Splits that receive every canary.")] = ["train"],  # noqa: B006
    name: Annotated[str | None, typer.Option(help="Configuration of a data set on the Hub.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a data set on the Hub.")] = None,
    stream: Annotated[
        bool,
        typer.Option("--stream", help="Read row by row and write parquet files, for data that is too large to load."),
    ] = False,
    num_rows: Annotated[
        int | None, typer.Option(help="Approximate number of rows of a stream, if the stream does not know it.")
    ] = None,
    num_proc: Annotated[int | None, typer.Option(help="Number of processes that insert; not for streams.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the insertion positions.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Insert canaries into a data set at random places: texts, chats, pairs, token ids, streams."""
    clean_up(out.absolute().parent)  # first, so that files of a killed run are restored before the checks
    check_new(out, overwrite)
    drawn = load_canaries(canaries)
    context = context_of(prompt, messages)
    if num_rows is not None and not stream:
        raise InputError("--num-rows", "goes with --stream", num_rows, "Leave it out: the rows are counted.")
    if num_proc is not None and stream:
        raise InputError("--num-proc", "does not go with --stream", num_proc, "Leave it out: one process writes.")
    check_data_set("--dataset", dataset)
    if tokenizer is not None:
        check_tokenizer_name("--tokenizer", tokenizer)
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # An error about the data may quote it.
    original = without_secrets(drawn, lambda: load_data_set(dataset, name, revision, stream=stream))
    others = _other_columns(other_column, original, split)
    its_tokenizer = None if tokenizer is None else load_tokenizer(tokenizer)
    from hf_exposure.data import insert_canaries

    def inserted() -> Any:
        # The first rows of a stream are read here.
        with _options_named(), without_cache(), read_to_its_end() if stream else nullcontext():
            return insert_canaries(
                original, drawn, text_column, seed, splits=tuple(split), other_columns=others, num_proc=num_proc,
                num_rows=num_rows, tokenizer=its_tokenizer, context=context, source=source,
                source_column=source_column,
            )  # fmt: skip

    changed = without_secrets(drawn, inserted)
    record = {
        "name": dataset,
        "configuration": name,
        "revision": revision,
        "splits": list(split),
        "text_column": text_column,
        **as_recorded(context, source),
        "seed": seed,
        "manifest_hash": drawn.manifest_hash,
    }
    with _folder_for(out) as aside:
        if stream:
            rows = without_secrets(drawn, lambda: _written(changed, aside))
        else:
            without_secrets(drawn, lambda: changed.save_to_disk(aside))
            rows = {key: len(part) for key, part in parts_of(changed).items()}
        chosen = split if isinstance(original, dict) else list(rows)
        added = {key: drawn.total_insertions if key in chosen else 0 for key in rows}
        record |= {"rows_before": {key: rows[key] - added[key] for key in rows}, "rows": rows}
        (aside / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"out": str(out), "inserted_rows": drawn.total_insertions, **record}, indent=1))
        return
    typer.echo(
        f"{drawn.total_insertions} canary rows inserted into {dataset}: "
        + ", ".join(f"{key} has {count} rows" for key, count in rows.items())
        + f"\nWritten to {out}{os.sep}: train on it, then type hf-exposure measure."
    )


def _written(streams: Any, folder: Path) -> dict[str, int]:
    with read_to_its_end():
        return write_shards(parts_of(streams), folder)


@contextmanager
def _options_named() -> Iterator[None]:
    """Turns an error about an argument into one about the option that was typed."""
    try:
        yield
    except InputError as error:
        option, remedy = _TYPED.get(error.argument, (error.argument, error.remedy))
        raise InputError(option, error.rule, error.value, remedy) from None


def _other_columns(typed: list[str], dataset: Any, splits: list[str]) -> dict[str, Any] | None:
    """`NAME=VALUE` as values: a text if the column contains texts, else JSON."""
    features = parts_of(dataset).get(splits[0] if splits else "", None)
    values: dict[str, Any] = {}
    for one in typed:
        column, equals, value = one.partition("=")
        if not equals or not column or column in values:
            raise InputError("--other-column", "must read NAME=VALUE, once for a column", one, "Type label=0, say.")
        feature = (getattr(features, "features", None) or {}).get(column)
        if getattr(feature, "dtype", None) in ("string", "large_string"):
            values[column] = value
            continue
        try:
            values[column] = json.loads(value)
        except ValueError:
            values[column] = value
    return values or None


@contextmanager
def _folder_for(out: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `out` once it is complete."""
    try:
        with replaced_folder(out) as aside:
            yield aside
    except OSError as error:
        rule = f"must be a folder that can be made ({error.strerror})"
        raise InputError("--out", rule, str(out), "Name another folder.") from None
