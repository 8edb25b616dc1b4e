"""Commands for a finished run.

`hf-exposure report` writes the page of a run, or of several side by side; `hf-exposure push` writes a run's figures
into a model card on the Hub; `hf-exposure verify` compares a report's files with their checksums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import FormatOption, check_formats, check_new, check_runs, load_canaries
from hf_exposure.errors import InputError

if TYPE_CHECKING:
    from hf_exposure.records import ExposureReport
    from hf_exposure.report.checkpoints import ExposureChange

_INVALID = 1


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that measure or a training wrote.")],
    repo_id: Annotated[str, typer.Option(help="The model on the Hub: me/model.")],
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of writing.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private if it does not exist.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to.")] = None,
    canaries: Annotated[
        Path | None, typer.Option(help="Canary file; push refuses to publish any of its texts.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Publish a run's figures, rounded to 0.1 bit, in a model's card. The token is that of `hf auth login`.

    For an invalid run the card only says that the run is invalid, and the exit status is 1.
    """
    check_runs([run])
    from hf_exposure.hub.push import push_to_hub
    from hf_exposure.records import Validity
    from hf_exposure.report.run import load_run
    from hf_exposure.report.verdict import validity_line

    loaded = load_run(run)
    wrong = validity_line(loaded.report)
    if wrong:
        typer.echo(f"hf-exposure: {wrong}", err=True)
    url = push_to_hub(
        loaded.report,
        repo_id,
        create_pr=create_pr,
        folder=run if run.is_dir() else run.parent,
        private=private or None,
        revision=revision,
        canaries=None if canaries is None else load_canaries(canaries),
    )
    typer.echo(json.dumps({"url": url}) if as_json else f"Published: {url}")
    if loaded.report.validity is Validity.INVALID:
        raise typer.Exit(_INVALID)


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that report.save or measure --out wrote.")],
    content_hash: Annotated[
        str, typer.Option("--hash", help="The expected content hash; a report with another hash is refused.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Compare a report's files with their checksums, and print one content hash of them all.

    The exit status is 2 if a file was changed, added or removed, and 1 if the run is invalid.
    """
    check_runs([run])
    from hf_exposure.records import ExposureReport, Outcome
    from hf_exposure.records.sums import verify_files
    from hf_exposure.report.outcome import outcome_text

    found = verify_files(run)
    if content_hash and content_hash.strip().lower() != found:
        raise InputError("--hash", f"must be the content hash of the report, {found}", content_hash, "Check both.")
    checked = ExposureReport.load(run)
    measured_at = "" if checked.run is None else checked.run.measured_at
    if as_json:
        values = {"content_hash": found, "outcome": checked.outcome.value, "measured_at": measured_at}
        typer.echo(json.dumps(values, indent=1))
    else:
        typer.echo(f"{checked.outcome.value.upper()}  {outcome_text(checked)}")
        typer.echo(f"measured {measured_at or 'at an unknown time'}; all files are as they were written")
        typer.echo(f"content hash {found}")
    if checked.outcome is Outcome.INVALID:
        raise typer.Exit(_INVALID)


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that measure or a training wrote, or report.json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html and plots.")],
    utility: Annotated[
        str, typer.Option(help="Key of the trainer's log that measures utility, to compare several runs.")
    ] = "eval_loss",
    tolerance: Annotated[float, typer.Option(help="Utilities within this relative difference count as equal.")] = 0.01,
    pool: Annotated[
        bool, typer.Option("--pool", help="Pool the runs as seeds of one setting: report means over models.")
    ] = False,
    further_formats: FormatOption = [],  # noqa: B006
    between: Annotated[
        str,
        typer.Option(
            metavar="STEP:STEP", help="Two steps of one run: report how exposure changed between them, with p-values."
        ),
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show a run on one page, or compare several runs: which setting memorizes less at equal utility?"""
    check_runs(runs)
    check_new(out, overwrite)
    steps = _steps(between, len(runs))
    check_formats(further_formats, out)
    if further_formats and len(runs) > 1:
        raise InputError("--format", "is for the report of one run", len(runs), "Name one run, or leave it out.")
    if pool and len(runs) < 2:
        raise InputError("--pool", "takes at least two runs", len(runs), "Name the runs of the other seeds.")
    from hf_exposure.records import Validity
    from hf_exposure.report.run import load_run, load_runs
    from hf_exposure.report.verdict import validity_line

    loaded = [load_run(runs[0])] if len(runs) == 1 else load_runs(runs)
    invalid = [one for one in loaded if one.report.validity is Validity.INVALID]
    if invalid and len(runs) > 1:
        # `compare_runs` refuses an invalid run too, but its exit status must not be that of bad input.
        for one in invalid:
            typer.echo(f"hf-exposure: {one.name}: {validity_line(one.report)} It is not compared.", err=True)
        raise typer.Exit(_INVALID)
    if len(runs) == 1:
        run = loaded[0]
        formats = [one.value for one in further_formats]
        written = run.report.save(out, run.history, training_log=run.training_log, formats=formats)
        from hf_exposure.report.table import tables_text
        from hf_exposure.report.verdict import headline

        values = run.report.to_dict()
        text = f"{headline(run.report)}\n\n{tables_text(run.report)}"
        if steps:
            changes = _changes(run.history or [run.report], steps)
            values = {**values, "changes": [change.to_dict() for change in changes]}
            text = "\n".join([text, "", *map(str, changes)])
    elif pool:
        from hf_exposure.records.pool import pool_reports
        from hf_exposure.report.pooled import pooled_text, save_pooled

        pooled = pool_reports([one.report for one in loaded])
        written, values, text = save_pooled(pooled, out), pooled.to_dict(), pooled_text(pooled)
    else:
        from hf_exposure.report.comparison import compare_runs
        from hf_exposure.report.comparison_page import (
            comparison_table,
            comparison_values,
            correlation_text,
            save_comparison,
        )

        comparison = compare_runs(loaded, utility_key=utility, tolerance=tolerance)
        written = save_comparison(comparison, out)
        values = comparison_values(comparison)
        text = "\n".join([*comparison.findings, "", str(comparison_table(comparison)), *_noted(comparison.notes)])
        text += f"\n{correlation_text(comparison)}" if correlation_text(comparison) else ""
    if as_json:
        typer.echo(json.dumps(values, indent=1, allow_nan=False))
    else:
        typer.echo(f"{text}\n\nWritten to {out}{os.sep}: {', '.join(sorted(path.name for path in written))}")
    if invalid:
        typer.echo(f"hf-exposure: {validity_line(invalid[0].report)}", err=True)
        raise typer.Exit(_INVALID)


def _steps(between: str, runs: int) -> tuple[int, int] | None:
    """The two steps of `--between`, or None without it."""
    if not between:
        return None
    first, _, second = between.partition(":")
    if not (first.isdecimal() and second.isdecimal()) or runs > 1:
        rule = "must be two steps of one run, as in 200:800"
        raise InputError("--between", rule, between if runs == 1 else f"{runs} runs", "Write --between 200:800.")
    return int(first), int(second)


def _changes(history: Sequence[ExposureReport], steps: tuple[int, int]) -> list[ExposureChange]:
    """The change between two steps, of all inserted canaries and of each repetition count."""
    from hf_exposure.report.checkpoints import exposure_change, report_at

    earlier, later = (report_at(history, step) for step in steps)
    counts = sorted({estimate.repetitions for estimate in later.inserted})
    return [exposure_change(earlier, later, repetitions=count) for count in (counts if len(counts) > 1 else [None])]


def _noted(notes: tuple[str, ...]) -> list[str]:
    return [f"note: {note}" for note in notes]
