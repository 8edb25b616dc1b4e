"""`hf-exposure measure`: measures the exposure of canaries under a saved model. With `--fail-above` it serves as a
test in a pipeline.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.insert import RECORD_FILE
from hf_exposure.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    EndpointOption,
    FormatOption,
    KeyVariableOption,
    MessagesOption,
    ModelOption,
    PromptOption,
    RevisionOption,
    SourceOption,
    TokenizerOption,
    TrustOption,
    check_formats,
    check_new,
    check_threshold,
    command_typed,
    context_of,
    load_canaries,
    recorded_or_typed,
)
from hf_exposure.cli.secrets import measure_secrets, natural_secrets
from hf_exposure.errors import InputError
from hf_exposure.files import files_sha256, read_json
from hf_exposure.loading import (
    ModelSource,
    base_source,
    is_saved_folder,
    load_data_set,
    model_source,
    parts_of,
    read_to_its_end,
)
from hf_exposure.runtime.progress import calls_shown

if TYPE_CHECKING:
    from hf_exposure.canaries import CanarySet
    from hf_exposure.context import CanaryContext
    from hf_exposure.measures import MeasureOptions, MethodName
    from hf_exposure.records import Delivery, ExposureReport

_CROSSED = 1


def measure(
    model: ModelOption,
    canaries: Annotated[Path, typer.Option(help="The canary file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for report.json, report.html and plots.")] = None,
    method: Annotated[str, typer.Option(help="auto, enumerate, sample, skew_normal, importance or bounded.")] = "auto",
    references: Annotated[int, typer.Option(help="Maximum number of reference texts.")] = 4096,
    max_expansions: Annotated[int, typer.Option(help="Budget of one search.")] = 100_000,
    precision_bits: Annotated[float, typer.Option(help="Stop drawing when the interval is this narrow.")] = 0.25,
    confidence_level: Annotated[float, typer.Option(help="Confidence level of all intervals.")] = 0.95,
    delta: Annotated[
        float,
        typer.Option(
            help="Delta of the (epsilon, delta) guarantee that is tested; use the delta of your privacy accountant."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the references, not of the canaries, which is secret.")] = 0,
    prompt: PromptOption = None,
    messages: MessagesOption = None,
    source: SourceOption = None,
    end_token: Annotated[bool, typer.Option("--end-token", help="Score the end of each text too.")] = False,
    max_batch_tokens: Annotated[int | None, typer.Option(help="Lower it to save memory.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="A model to compare with that saw no canaries, or without_adapter.")
    ] = None,
    lead: Annotated[
        bool,
        typer.Option("--lead", help="Report each canary's lead over the most likely secret that was not inserted."),
    ] = False,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Training data: a folder that insert wrote, a file, or a data set on the Hub. It is searched for the "
            "canaries; a run without them is INVALID, with status 1."
        ),
    ] = None,
    tokenizer: TokenizerOption = None,
    endpoint: EndpointOption = None,
    key_variable: KeyVariableOption = None,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="BITS", help="Exit with status 1 if the mean exposure of any repetition count is above this."
        ),
    ] = None,
    include_secrets: Annotated[
        bool, typer.Option("--include-secrets", help="Write the canaries' texts into report.json.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report in the folder.")] = False,
    further_formats: FormatOption = [],  # noqa: B006
    name: Annotated[
        str, typer.Option(help="Name of the run in the report. Default: the name of the --out folder.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a table.")] = False,
    config: ConfigOption = None,
) -> None:
    """Measure the exposure of canaries under a model."""
    check_threshold(fail_above)
    where = {"dtype": dtype.value, "device": device, "trust_remote_code": trust_remote_code}
    origin = model_source(endpoint, key_variable, name=model, tokenizer=tokenizer, revision=revision, **where)
    base = base_source(base_model, tokenizer=tokenizer or model, **where)
    settings: MeasureOptions = {
        "method": cast("MethodName", method), "references": references, "max_expansions": max_expansions,
        "precision_bits": precision_bits, "confidence_level": confidence_level, "seed": seed,
        "delta": delta, "end_token": end_token, "max_batch_tokens": max_batch_tokens,
        "lead": lead,
    }  # fmt: skip
    without = {
        "--prompt": prompt, "--messages": messages, "--source": source, "--dataset": dataset,
        "--include-secrets": include_secrets,
    }  # fmt: skip
    natural = natural_secrets(canaries, without)
    if natural is not None:
        if out is not None:
            check_new(out, overwrite)
        origin.check()
        measure_secrets(natural, origin, base, settings, out, fail_above, as_json=as_json)
        return
    check_formats(further_formats, out)
    drawn = load_canaries(canaries)
    trained_on = _described(dataset, drawn)
    context, source = recorded_or_typed(context_of(prompt, messages), source, trained_on)
    if out is not None:
        check_new(out, overwrite)
    origin.check()
    if isinstance(base, ModelSource):
        base.check()
    # An error about the data may quote it.
    training_data = None
    if dataset is not None:
        training_data = without_secrets(drawn, lambda: _training_data(dataset, trained_on))
    from hf_exposure.measures import MeasureSettings, measure_exposure

    settings |= {"source": source, "context": context}
    MeasureSettings.of(**settings)  # refused before a large model is loaded
    loaded, its_tokenizer = origin.load()
    base_module: Any = base.load()[0] if isinstance(base, ModelSource) else base
    delivery = None
    if training_data is not None:
        from hf_exposure.data.datasets import CountedRows

        read = [CountedRows(part) for part in training_data]
        delivery = without_secrets(drawn, lambda: _delivery(read, drawn, its_tokenizer, context, source))
        rows = sum(part.rows for part in read)
        trained_on = {"rows": rows, **_fingerprint(str(dataset), training_data), **trained_on}
    with calls_shown(loaded, "measuring"):
        found = measure_exposure(loaded, its_tokenizer, drawn, base_model=base_module, **settings)
    found = replace(
        found, dataset=trained_on, delivery=delivery, model={**found.model, "name": origin.full_name}
    ).with_run(name=name or (out.name if out is not None else ""), command=command_typed(), threshold_bits=fail_above)
    if out is not None:
        formats = [one.value for one in further_formats]
        found.save(out, include_secrets=include_secrets, canaries=drawn, formats=formats)
    _print(found, drawn, out, as_json=as_json, include_secrets=include_secrets)
    _gate(found)


def _described(dataset: str | None, canaries: CanarySet) -> Mapping[str, Any]:
    """What the report says about the training data: the record that `insert` wrote, if there is one."""
    if dataset is None:
        return {}
    record = Path(dataset) / RECORD_FILE
    if not record.exists():
        return {"name": dataset}
    try:
        values: dict[str, Any] = read_json(record)
        its_hash = values["manifest_hash"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError("--dataset", f"must have a complete {RECORD_FILE}", dataset, "Insert again.") from None
    if its_hash != canaries.manifest_hash:
        rule = "must hold the canaries of --canaries; others were inserted"
        raise InputError("--dataset", rule, dataset, "Name the canary file that insert was given.")
    return values


def _training_data(dataset: str, record: Mapping[str, Any]) -> list[Any]:
    """The splits that the canaries were inserted into if that is recorded, else the training splits."""
    if not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()
    # Files are streamed: loading them would leave a copy of the secrets in the cache of `datasets`.
    loaded = load_data_set(dataset, None, None, stream=not is_saved_folder(Path(dataset)))
    parts = parts_of(loaded)
    chosen = [name for name in record.get("splits", ["train"]) if name in parts]
    return [parts[name] for name in chosen or parts]


def _fingerprint(dataset: str, parts: list[Any]) -> dict[str, str]:
    """A hash of the files if they are on this machine, else the fingerprint that `datasets` gives the data."""
    from hf_exposure.data.datasets import dataset_facts

    if Path(dataset).exists():
        return {"fingerprint": f"SHA-256 {files_sha256(Path(dataset))}"}
    facts = dataset_facts(parts[0]) if len(parts) == 1 else {}
    return {"fingerprint": facts["fingerprint"]} if "fingerprint" in facts else {}


def _delivery(
    training_data: Sequence[Any],
    canaries: CanarySet,
    tokenizer: Any,
    context: CanaryContext | None,
    source: str | None,
) -> Delivery:
    from hf_exposure.data import delivery_in

    try:
        with read_to_its_end():
            return delivery_in(training_data, canaries, tokenizer, context=context, source=source)
    except InputError as error:
        raise InputError("--dataset", error.rule, error.value, error.remedy) from None


def _print(
    report: ExposureReport, canaries: CanarySet, out: Path | None, *, as_json: bool, include_secrets: bool
) -> None:
    if as_json:
        values = report.to_dict(include_secrets=include_secrets, canaries=canaries)
        typer.echo(json.dumps(values, indent=1, allow_nan=False))
        return
    typer.echo(str(report))
    if out is not None:
        typer.echo(f"\nWritten to {out}{os.sep}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _gate(report: ExposureReport) -> None:
    """Sets the exit status, and prints one line that explains it.

    The threshold is compared with means of groups, since one canary out of many exceeds any threshold by chance. An
    undefined mean counts as crossed, because nothing was measured that could pass. An invalid run fails with or
    without a threshold.
    """
    from hf_exposure.records import Outcome, Validity
    from hf_exposure.report.verdict import validity_line

    wrong = validity_line(report)
    if wrong:
        typer.echo(f"hf-exposure: {wrong}", err=True)
    if report.outcome is Outcome.INVALID:
        raise typer.Exit(_CROSSED)
    if report.outcome is Outcome.NO_THRESHOLD:
        return
    assert report.run is not None
    limit = f"the threshold of {report.run.threshold_bits:g} bits"
    groups = [group for group in report.groups if group.repetitions]
    if not groups:
        typer.echo("hf-exposure: no canary was inserted, so the threshold cannot be tested", err=True)
        raise typer.Exit(_CROSSED)
    top = max(groups, key=lambda group: math.inf if math.isnan(group.mean_bits) else group.mean_bits)
    about = f"mean exposure of canaries inserted {top.repetitions} times: {top.mean_bits:.1f} bits"
    if report.outcome is Outcome.FAIL:
        typer.echo(f"hf-exposure: above {limit}: {about}", err=True)
        raise typer.Exit(_CROSSED)
    if report.validity is Validity.UNCHECKED:
        doubt = "it was not checked that the canaries were trained on: name the training data with --dataset"
        typer.echo(f"hf-exposure: warning: {doubt}", err=True)
    if any(group.lower_bounds for group in groups):
        doubt = "some figures are lower bounds only, and may hide more: raise --max-expansions or --references"
        typer.echo(f"hf-exposure: warning: {doubt}", err=True)
    typer.echo(f"hf-exposure: within {limit}: {about}", err=True)
