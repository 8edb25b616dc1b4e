"""`hf-exposure membership`: can a saved model's training records be told from held-out ones?"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import (
    DeviceOption,
    Dtype,
    DtypeOption,
    ModelOption,
    RevisionOption,
    TokenizerOption,
    TrustOption,
    check_new,
    check_threshold,
)
from hf_exposure.errors import InputError
from hf_exposure.loading import ModelSource, base_source, check_data_set, is_saved_folder, load_data_set, parts_of
from hf_exposure.runtime.progress import calls_shown

if TYPE_CHECKING:
    from hf_exposure.records import MembershipReport

_CROSSED = 1


def membership(
    model: ModelOption,
    members: Annotated[str, typer.Option(help="Records the model was trained on: a file, folder or data set.")],
    held_out: Annotated[str, typer.Option(help="Records the model never saw, drawn in the same way.")],
    text_column: Annotated[str, typer.Option(help="Text column, if rows have neither messages nor pairs.")] = "text",
    base_model: Annotated[
        str | None,
        typer.Option(
            help="A model that saw neither kind of record, or without_adapter for the model without its adapters."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for membership.json, membership.html and the plot.")] = None,
    max_records: Annotated[
        int | None, typer.Option(help="Number of records of each kind to read, from the first.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Maximum length of a record. Default: the model's context.")
    ] = None,
    confidence_level: Annotated[float, typer.Option(help="Confidence level of all intervals.")] = 0.95,
    max_batch_tokens: Annotated[int | None, typer.Option(help="Lower it to save memory.")] = None,
    tokenizer: TokenizerOption = None,
    dtype: DtypeOption = Dtype.auto,
    device: DeviceOption = None,
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    fail_above: Annotated[
        float | None, typer.Option(metavar="AUC", help="Exit with status 1 if some statistic has a larger AUC.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print membership.json instead of tables.")] = False,
    config: ConfigOption = None,
) -> None:
    """Measure whether training records can be told from held-out ones."""
    check_threshold(fail_above)
    if out is not None:
        check_new(out, overwrite)
    where = {"dtype": dtype.value, "device": device, "trust_remote_code": trust_remote_code}
    origin = ModelSource(name=model, tokenizer=tokenizer, revision=revision, **where)  # type: ignore[arg-type]
    origin.check()
    base = base_source(base_model, tokenizer=tokenizer or model, **where)
    if isinstance(base, ModelSource):
        base.check()
    for option, name in (("--members", members), ("--held-out", held_out)):
        check_data_set(option, name)
    rows = [load_rows("--members", members, max_records), load_rows("--held-out", held_out, max_records)]
    from hf_exposure.measures import measure_membership

    loaded, its_tokenizer = origin.load()
    base_module: Any = base.load()[0] if isinstance(base, ModelSource) else base
    with calls_shown(loaded, "measuring"):
        found = measure_membership(
            loaded,
            its_tokenizer,
            rows[0],
            rows[1],
            base_module,
            text_column=text_column,
            max_tokens=max_tokens,
            confidence_level=confidence_level,
            max_batch_tokens=max_batch_tokens,
        )
    found = replace(found, model={**found.model, "name": model})
    if out is not None:
        found.save(out)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1, allow_nan=False))
    else:
        typer.echo(str(found))
        if out is not None:
            typer.echo(f"\nWritten to {out}{os.sep}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    _gate(found, fail_above)


def load_rows(option: str, name: str, most: int | None) -> list[Any]:
    """The rows of a data set: of its split "train" where it has one, else of all splits in order.

    Raises:
        InputError: the data set cannot be loaded; the error names `option`.
    """
    from itertools import islice

    if not sys.stderr.isatty():
        import datasets

        datasets.disable_progress_bars()
    from hf_exposure.loading import read_to_its_end

    if most is not None and most < 1:
        raise InputError("--max-records", "must be a whole number of at least 1", most, "Leave it out for all.")
    try:
        # Files are streamed: loading them would leave a copy of the records in the cache of `datasets`.
        loaded = load_data_set(name, None, None, stream=not is_saved_folder(Path(name)))
        parts = parts_of(loaded)
        chosen = [parts["train"]] if "train" in parts else list(parts.values())
        with read_to_its_end():
            return list(islice((row for part in chosen for row in part), most))
    except InputError as error:
        raise InputError(
            option if error.argument == "--dataset" else error.argument, error.rule, error.value, error.remedy
        ) from None


def _gate(report: MembershipReport, fail_above: float | None) -> None:
    """Sets the exit status. An undefined figure counts as crossed, since nothing was measured that could pass."""
    if fail_above is None:
        return
    from hf_exposure.records import MembershipVerdict

    known = {name: one.auc for name, one in report.statistics.items() if one.auc is not None}
    if not known:
        typer.echo("hf-exposure: no statistic is defined, so the threshold cannot be tested", err=True)
        raise typer.Exit(_CROSSED)
    name, auc = max(known.items(), key=lambda item: item[1])
    if report.verdict is MembershipVerdict.NOT_COMPARABLE:
        names = ", ".join(report.differences)
        typer.echo(f"hf-exposure: warning: members and held-out records differ before training: {names}", err=True)
    if auc > fail_above:
        typer.echo(f"hf-exposure: above the threshold of {fail_above:g}: AUC {auc:.3f} by {name}", err=True)
        raise typer.Exit(_CROSSED)
    typer.echo(f"hf-exposure: within the threshold of {fail_above:g}: AUC {auc:.3f} by {name}", err=True)
