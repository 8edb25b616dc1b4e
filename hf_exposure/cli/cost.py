"""`hf-exposure cost`: what a measurement will cost, from a model's configuration and tokenizer alone."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import (
    Dtype,
    DtypeOption,
    MessagesOption,
    PromptOption,
    RevisionOption,
    TokenizerOption,
    TrustOption,
    context_of,
    load_canaries,
    parse_repetitions,
    parse_template,
)
from hf_exposure.errors import InputError
from hf_exposure.loading import ModelSource

if TYPE_CHECKING:
    from hf_exposure.canaries import CanarySet
    from hf_exposure.measures import FurtherOptions, MethodName

_REPETITIONS = "1:4,8:4,64:4"


class ScoringMode(StrEnum):
    """How a model is scored: with a cache, or each batch as a whole."""

    packed = "packed"
    cached = "cached"
    plain = "plain"


def cost(
    model: Annotated[str, typer.Option(help="A folder, a Hub id, or a config.json file (with --tokenizer).")],
    template: Annotated[
        str | None, typer.Option(help='The text with its holes: "The random number is {number}".')
    ] = None,
    space: Annotated[
        list[str], typer.Option(metavar="NAME=KIND:SIZE", help="The space of a hole, as for draw.", show_default=False)
    ] = [],  # noqa: B006
    repetitions: Annotated[
        str, typer.Option(help="Number of canaries per repetition count, as for draw.")
    ] = _REPETITIONS,
    controls: Annotated[int, typer.Option(help="Number of held-out canaries.")] = 32,
    canaries: Annotated[
        Path | None, typer.Option(help="A canary file, instead of --template, --space, --repetitions, --controls.")
    ] = None,
    method: Annotated[str, typer.Option(help="auto, enumerate, sample, skew_normal, importance or bounded.")] = "auto",
    references: Annotated[int, typer.Option(help="Maximum number of reference texts.")] = 4096,
    max_expansions: Annotated[int, typer.Option(help="Budget of one search.")] = 100_000,
    precision_bits: Annotated[float, typer.Option(help="Stop drawing when the interval is this narrow.")] = 0.25,
    prompt: PromptOption = None,
    messages: MessagesOption = None,
    end_token: Annotated[bool, typer.Option("--end-token", help="Score the end of each text too.")] = False,
    max_batch_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens per batch; 65536 suits a large GPU.")
    ] = None,
    tokens_per_second: Annotated[
        float | None, typer.Option(help="Throughput of the device in large batches, from which times are computed.")
    ] = None,
    seconds_per_pass: Annotated[float, typer.Option(help="Overhead of each model call.")] = 0.0,
    scoring_mode: Annotated[
        ScoringMode | None, typer.Option(help="Scoring mode, as in a report; cached for ALiBi.")
    ] = None,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = Dtype.auto,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Plan a measurement: the tokens, model calls, memory and time that it will take. No weights are loaded."""
    measured = _canaries(canaries, template, space, repetitions, controls)
    context = context_of(prompt, messages)
    origin = ModelSource(name=model, tokenizer=tokenizer, revision=revision, trust_remote_code=trust_remote_code)
    its_config, its_tokenizer = origin.load_config()
    from hf_exposure.runs import plan_cost

    settings: FurtherOptions = {
        "max_expansions": max_expansions, "precision_bits": precision_bits, "end_token": end_token,
        "context": context, "max_batch_tokens": max_batch_tokens,
    }  # fmt: skip
    plan = plan_cost(
        its_config,
        its_tokenizer,
        measured,
        cast("MethodName", method),
        references,
        dtype=None if dtype is Dtype.auto else dtype.value,
        scoring_mode=None if scoring_mode is None else scoring_mode.value,
        tokens_per_second=tokens_per_second,
        seconds_per_pass=seconds_per_pass,
        **settings,
    )
    typer.echo(json.dumps({"model": model, **plan.to_dict()}, indent=1) if as_json else str(plan))


def _canaries(
    file: Path | None, template: str | None, spaces: list[str], repetitions: str, controls: int
) -> CanarySet:
    """The canaries of the file, or a draw from the template: the cost does not depend on the draw."""
    if file is not None:
        if template is not None or spaces:
            raise InputError("--template", "does not go with --canaries", template, "Leave one of them out.")
        return load_canaries(file)
    if template is None:
        raise InputError("--template", "must be given, or --canaries", None, 'Type --template "pin {pin}".')
    from hf_exposure.canaries import draw_canaries

    return draw_canaries(parse_template(template, spaces), parse_repetitions(repetitions), controls=controls, seed=0)
