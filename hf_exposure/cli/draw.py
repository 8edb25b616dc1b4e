"""`hf-exposure draw`: draws canaries and writes them to a file that only its owner may read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import check_new, parse_repetitions, parse_template
from hf_exposure.errors import InputError


def draw(
    template: Annotated[str, typer.Option(help='The text with its holes: "The random number is {number}".')],
    space: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=KIND:SIZE",
            help="The space of a hole: number=digits:9, letters:5, luhn:16, words:3, choice:red|green. Once per hole.",
        ),
    ],
    repetitions: Annotated[
        str, typer.Option(help="Number of canaries per repetition count: REPETITIONS:CANARIES,...")
    ],
    out: Annotated[Path, typer.Option(help="The canary file to write. It contains the secrets.")] = Path(
        "canaries.json"
    ),
    controls: Annotated[int, typer.Option(help="Number of held-out canaries, which show the chance level.")] = 32,
    coin_flips: Annotated[
        int,
        typer.Option(help="Number of further canaries, each inserted or held out by a coin flip; they bound epsilon."),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Anyone who knows the seed can redraw the canaries; use it for tests only. Default: system entropy."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file, and lose its canaries.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Draw random canaries of a template. The secrets are written to the file and never printed."""
    from hf_exposure.canaries import draw_canaries

    if not out.parent.is_dir():
        raise InputError("--out", "must be in a folder that exists", str(out), f"Type mkdir -p {out.parent} first.")
    check_new(out, overwrite, is_file=True)
    canaries = draw_canaries(
        parse_template(template, space),
        parse_repetitions(repetitions),
        controls=controls,
        seed=seed,
        coin_flips=coin_flips,
    )
    canaries.save(out)
    values = {
        "out": str(out),
        "template": canaries.template.text,
        "space_size": canaries.template.space_size,
        "inserted": len(canaries.inserted),
        "controls": len(canaries.controls),
        "rows_to_insert": canaries.total_insertions,
        "manifest_hash": canaries.manifest_hash,
    }
    if as_json:
        typer.echo(json.dumps(values, indent=1))
        return
    typer.echo(
        f"{values['inserted']} canaries to insert into {values['rows_to_insert']} rows, {values['controls']} held "
        f"out, of {values['space_size']:,} texts {canaries.template.text!r}\n"
        f"Written to {out}. It contains the secrets, and only you may read it."
    )
