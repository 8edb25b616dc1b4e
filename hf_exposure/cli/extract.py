"""`hf-exposure extract`: the likeliest secrets of a template under a model. They are what it prints."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.models import (
    DeviceOption,
    Dtype,
    DtypeOption,
    ModelOption,
    ModelSource,
    RevisionOption,
    TokenizerOption,
    TrustOption,
)
from hf_exposure.cli.progress import calls_shown
from hf_exposure.cli.values import load_canaries, parse_template
from hf_exposure.errors import InputError

if TYPE_CHECKING:
    from hf_exposure.canaries import CanarySet, CanaryTemplate

__all__ = ["extract"]


def extract(
    model: ModelOption,
    template: Annotated[str | None, typer.Option(help='The text with its holes: "My PIN is {pin}".')] = None,
    space: Annotated[list[str], typer.Option(metavar="NAME=KIND:SIZE", help="What fills a hole.")] = [],  # noqa: B006
    canaries: Annotated[
        Path | None, typer.Option(help="A canary file: brings the template, and marks what was inserted.")
    ] = None,
    top_k: Annotated[int, typer.Option(help="How many of the likeliest secrets.")] = 1,
    max_expansions: Annotated[
        int | None, typer.Option(help="Stop after so many; else the search ends by itself.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Most open prefixes in one call.")] = 256,
    source: Annotated[str | None, typer.Option(help="What an encoder-decoder model reads.")] = None,
    end_token: Annotated[bool, typer.Option("--end-token", help="Texts end with the end token.")] = False,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Search a model for the likeliest secrets of a template, with a certificate that none was missed."""
    known = None if canaries is None else load_canaries(canaries)
    searched = _template(template, space, known)
    from hf_exposure.extraction import extract as search

    loaded, its_tokenizer = ModelSource(
        name=model, tokenizer=tokenizer, dtype=dtype.value, device=device, revision=revision,
        trust_remote_code=trust_remote_code,
    ).load()  # fmt: skip
    with calls_shown(loaded, "searching"):
        found = search(
            loaded, its_tokenizer, searched, top_k, batch_size, max_expansions, end_token=end_token, source=source
        )
    if as_json:
        typer.echo(json.dumps({"template": searched.text, "model": model, **asdict(found)}, indent=1))
        return
    from hf_exposure.report.extraction_text import describe_extraction

    typer.echo(describe_extraction(found, known))


def _template(template: str | None, spaces: list[str], known: CanarySet | None) -> CanaryTemplate:
    if template is None:
        if known is None:
            raise InputError("--template", "must be given, or --canaries", None, 'Type --template "pin {pin}".')
        if spaces:
            raise InputError("--space", "goes with --template", spaces[0], "Leave it out: the canary file has it.")
        return known.template
    typed = parse_template(template, spaces)
    if known is not None and known.template != typed:
        rule = f"must be of the template {template!r} and its spaces"
        raise InputError("--canaries", rule, known.template.text, "Leave --template and --space out, or --canaries.")
    return typed
