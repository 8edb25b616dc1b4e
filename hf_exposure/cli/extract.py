"""`hf-exposure extract`: prints the secrets of a template that are most likely under a model.

With `--discoverable` it samples from the model instead, as an attacker who knows the prefix would, and prints no
secret.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    EndpointOption,
    KeyVariableOption,
    MessagesOption,
    ModelOption,
    PromptOption,
    RevisionOption,
    SourceOption,
    TokenizerOption,
    TrustOption,
    context_of,
    load_canaries,
    parse_template,
)
from hf_exposure.cli.sampling import sample
from hf_exposure.cli.secrets import extract_secrets, natural_secrets
from hf_exposure.errors import InputError
from hf_exposure.loading import ModelSource, base_source, model_source
from hf_exposure.runtime.progress import calls_shown

if TYPE_CHECKING:
    from hf_exposure.canaries import CanarySet, CanaryTemplate
    from hf_exposure.context import CanaryContext

_ASKING = "Asking instead of searching"
_SAMPLING = "Sampling instead of searching"


def extract(
    model: ModelOption,
    template: Annotated[str | None, typer.Option(help='The text with its holes: "My PIN is {pin}".')] = None,
    space: Annotated[list[str], typer.Option(metavar="NAME=KIND:SIZE", help="The space of a hole, as for draw.")] = [],  # noqa: B006
    canaries: Annotated[
        Path | None,
        typer.Option(help="A canary file, which gives the template; its canaries are marked in the output."),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Number of likeliest secrets to find.")] = 1,
    max_expansions: Annotated[
        int | None, typer.Option(help="Stop after this many expansions. Default: search until the result is certain.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Maximum number of prefixes per model call.")] = 256,
    prompt: PromptOption = None,
    messages: MessagesOption = None,
    source: SourceOption = None,
    end_token: Annotated[bool, typer.Option("--end-token", help="Texts end with the end-of-text token.")] = False,
    discoverable: Annotated[
        bool,
        typer.Option(
            "--discoverable",
            help="Do not search: compute how likely an attacker who knows the prefix is to obtain each canary.",
        ),
    ] = False,
    by_sampling: Annotated[
        bool,
        typer.Option(
            "--by-sampling",
            help="Do not search: sample texts from the model, rank them, and look them up in --dataset.",
        ),
    ] = False,
    dataset: Annotated[
        str | None, typer.Option(help="The training data in which samples are looked up.", rich_help_panel=_SAMPLING)
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the data set; default: all texts.", rich_help_panel=_SAMPLING)
    ] = None,
    rank_by: Annotated[
        str, typer.Option(help="Membership statistic that ranks the samples.", rich_help_panel=_SAMPLING)
    ] = "zlib",
    base_model: Annotated[
        str | None, typer.Option(help="Base model, for statistics that need one.", rich_help_panel=_SAMPLING)
    ] = None,
    length: Annotated[int, typer.Option(help="Length of a sample, in tokens.", rich_help_panel=_SAMPLING)] = 64,
    least_characters: Annotated[
        int, typer.Option(help="Shortest match between a sample and the data.", rich_help_panel=_SAMPLING)
    ] = 50,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File for the samples and their matches, which only you may read.", rich_help_panel=_SAMPLING
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Number of continuations that the attacker samples.", rich_help_panel=_ASKING)
    ] = 256,
    probability: Annotated[
        float,
        typer.Option(
            help="Report how many samples contain the canary with this probability.", rich_help_panel=_ASKING
        ),
    ] = 0.5,
    near_edits: Annotated[
        int,
        typer.Option(
            help="Continuations with up to this many wrong characters count as near.", rich_help_panel=_ASKING
        ),
    ] = 1,
    temperature: Annotated[float, typer.Option(help="Temperature of sampling.", rich_help_panel=_ASKING)] = 1.0,
    sample_top_k: Annotated[
        int | None, typer.Option(help="Sample from this many of the likeliest tokens.", rich_help_panel=_ASKING)
    ] = None,
    sample_top_p: Annotated[
        float | None,
        typer.Option(help="Sample from the likeliest tokens with this much probability.", rich_help_panel=_ASKING),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.", rich_help_panel=_ASKING)] = 0,
    tokenizer: TokenizerOption = None,
    endpoint: EndpointOption = None,
    key_variable: KeyVariableOption = None,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Search for the most likely secrets of a template under a model, and certify that none was missed."""
    origin = model_source(
        endpoint, key_variable, name=model, tokenizer=tokenizer, dtype=dtype.value, device=device, revision=revision,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    if endpoint is not None and (by_sampling or discoverable):
        rule = "does not go with --by-sampling and --discoverable, which need the model's own logits"
        raise InputError("--endpoint", rule, endpoint, "Load the model instead: --model FOLDER_OR_ID.")
    if by_sampling:
        base = base_source(
            base_model, tokenizer=tokenizer or model, dtype=dtype.value, device=device,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        drawing = {
            "samples": samples, "length": length, "temperature": temperature, "top_k": sample_top_k,
            "top_p": sample_top_p, "rank_by": rank_by, "least_characters": least_characters, "seed": seed,
            "text_column": text_column, "prompts": [] if prompt is None else [prompt],
        }  # fmt: skip
        sample(origin, base, dataset, canaries, drawing, out, as_json=as_json)
        return
    without = {"--template": template, "--space": space, "--prompt": prompt, "--messages": messages,
               "--source": source, "--discoverable": discoverable}  # fmt: skip
    natural = natural_secrets(canaries, without)
    if natural is not None:
        extract_secrets(natural, origin, top_k, max_expansions, batch_size, as_json=as_json)
        return
    known = None if canaries is None else load_canaries(canaries)
    searched = _template(template, space, known)
    context = context_of(prompt, messages)
    if discoverable:
        known = _askable(known, context, source)
    origin.check()
    if discoverable and known is not None:
        asking = {"temperature": temperature, "top_k": sample_top_k, "top_p": sample_top_p, "samples": samples}
        _ask(origin, known, {**asking, "near_edits": near_edits, "seed": seed}, probability, as_json=as_json)
        return
    from hf_exposure.extraction import extract as search

    loaded, its_tokenizer = origin.load()
    with calls_shown(loaded, "searching"):
        found = search(
            loaded, its_tokenizer, searched, top_k, batch_size, max_expansions, end_token=end_token, source=source,
            context=context,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"template": searched.text, "model": origin.full_name, **asdict(found)}, indent=1))
        return
    from hf_exposure.report.table import describe_extraction

    typer.echo(describe_extraction(found, known))


def _askable(known: CanarySet | None, context: CanaryContext | None, source: str | None) -> CanarySet:
    """Returns the canaries to look for among the samples. The model is prompted with the prefix alone."""
    if known is None:
        rule = "asks for the canaries of a file, so it needs --canaries"
        raise InputError("--discoverable", rule, None, "Type --canaries canaries.json, or leave --discoverable out.")
    if context is not None or source is not None:
        rule = "asks with the template's fixed beginning alone, without --prompt, --messages and --source"
        raise InputError("--discoverable", rule, True, "Leave them out, or search without --discoverable.")
    return known


def _ask(
    origin: ModelSource, canaries: CanarySet, asking: dict[str, Any], probability: float, *, as_json: bool
) -> None:
    from hf_exposure.canaries.secrecy import without_secrets

    if not 0 < probability < 1:
        raise InputError("--probability", "must lie between 0 and 1", probability, "Type --probability 0.5.")
    from hf_exposure.extraction import discoverable_extraction
    from hf_exposure.report.table import describe_discoverability, discoverability_values

    loaded, tokenizer = origin.load()
    with calls_shown(loaded, "asking"):
        texts = [canary.text for canary in canaries]
        found = without_secrets(
            canaries, lambda: discoverable_extraction(loaded, tokenizer, canaries.template, texts, **asking)
        )
    if as_json:
        values = discoverability_values(found, canaries, probability)
        head = {"template": canaries.template.text, "model": origin.name, "probability": probability, **asking}
        typer.echo(json.dumps({**head, "canaries": values}, indent=1, allow_nan=False))
        return
    typer.echo(describe_discoverability(found, canaries, probability))


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
