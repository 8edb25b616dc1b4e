"""`hf-exposure scan`: finds the secrets that a data set already contains. It prints counts and never a secret."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import check_new
from hf_exposure.errors import InputError
from hf_exposure.limits import MOST_CANARIES
from hf_exposure.loading import check_data_set, is_saved_folder, load_data_set, parts_of, read_to_its_end


def scan(
    dataset: Annotated[
        str, typer.Option(help="A folder, a csv, jsonl, parquet or txt file, or a data set on the Hub.")
    ],
    out: Annotated[Path, typer.Option(help="File for the secrets, which only you may read.")],
    text_column: Annotated[str | None, typer.Option(help="Column to scan. Default: all texts.")] = None,
    split: Annotated[list[str], typer.Option(help="Splits to scan. Default: all.")] = [],  # noqa: B006
    kind: Annotated[
        list[str], typer.Option(help="card, ssn, iban, phone, email, api_key or number; all unless given.")
    ] = [],  # noqa: B006
    cue: Annotated[
        list[str],
        typer.Option(
            help="Word or sign that marks the six to twelve digits after it as a secret; replaces the default list."
        ),
    ] = [],  # noqa: B006
    region: Annotated[
        str, typer.Option(help="Country of phone numbers without a country code; none ignores them.")
    ] = "US",
    context_characters: Annotated[
        int, typer.Option(help="Number of characters kept before and after each secret.")
    ] = 100,
    most: Annotated[int, typer.Option(help="Maximum number of distinct secrets to keep.")] = MOST_CANARIES,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Find the secrets in a data set: each with its context, its number of occurrences and its format."""
    check_new(out, overwrite, is_file=True)
    check_data_set("--dataset", dataset)
    from hf_exposure.data import scan as find
    from hf_exposure.data.secret_scan import CUES

    if not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()
    # Files are streamed: loading them would leave a copy of the secrets in the cache of `datasets`.
    parts = parts_of(load_data_set(dataset, None, None, stream=not is_saved_folder(Path(dataset))))
    for name in split:
        if name not in parts:
            raise InputError("--split", f"must be one of {', '.join(parts)}", name, "Leave it out for all.")
    chosen = {name: parts[name] for name in split or parts}
    try:
        with read_to_its_end():
            found = find(
                chosen,
                text_column,
                kinds=kind or None,
                region=None if region.lower() == "none" else region,
                cues=cue or CUES,
                context_characters=context_characters,
                most=most,
                progress=True,
            )
    except InputError as error:
        option = _OPTIONS.get(error.argument, error.argument)
        raise InputError(option, error.rule, error.value, error.remedy) from None
    found.save(out)
    counts = {
        one.value: {
            "distinct": count,
            "occurrences": sum(secret.occurrences for secret in found if secret.kind is one),
            "in_one_row": sum(secret.examples == 1 for secret in found if secret.kind is one),
        }
        for one, count in found.counts.items()
    }
    if as_json:
        values = {"rows": found.rows, "left_out": found.left_out, "kinds": counts}
        typer.echo(json.dumps(values, indent=1))
        return
    typer.echo(_shown(found.rows, counts))
    if found.left_out:
        typer.echo(f"{found.left_out} occurrences of further secrets were left out: --most keeps {most}.")
    typer.echo(f"Written to {out}, which only you may read: hf-exposure measure --canaries {out}")


_OPTIONS = {"text_column": "--text-column", "kinds": "--kind", "region": "--region", "most": "--most"}


def _shown(rows: int, counts: dict[str, dict[str, int]]) -> str:
    from hf_exposure.report.table import aligned

    if not counts:
        return f"No secret was found in {rows:,} rows."
    heads = ["", "distinct", "occurrences", "in one row"]
    lines = [[kind, *(f"{value:,}" for value in one.values())] for kind, one in counts.items()]
    return f"Secrets in {rows:,} rows:\n\n{aligned([heads, *lines])}\n"
