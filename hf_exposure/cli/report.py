"""`hf-exposure report`: the page of a run, or of several side by side."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.values import check_new, check_runs
from hf_exposure.validity import Validity

__all__ = ["report"]

_INVALID = 1


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders that measure or a training wrote, or report.json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html and plots.")],
    utility: Annotated[
        str, typer.Option(help="What of the trainer's log stands for utility, where there are several runs.")
    ] = "eval_loss",
    tolerance: Annotated[float, typer.Option(help="Utilities nearer than this share count as equal.")] = 0.01,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Lay out a run on one page; or several runs: which setting memorises less at equal utility?"""
    check_runs(runs)
    check_new(out, overwrite)
    from hf_exposure.report.run import load_run, load_runs
    from hf_exposure.report.verdict import validity_line

    loaded = [load_run(runs[0])] if len(runs) == 1 else load_runs(runs)
    invalid = [one for one in loaded if one.report.validity is Validity.INVALID]
    if invalid and len(runs) > 1:
        # Nor does `compare_runs` take one; the status of an invalid run is not that of bad input.
        for one in invalid:
            typer.echo(f"hf-exposure: {one.name}: {validity_line(one.report)} It is not compared.", err=True)
        raise typer.Exit(_INVALID)
    if len(runs) == 1:
        run = loaded[0]
        written = run.report.save(out, run.history, training_log=run.training_log)
        from hf_exposure.cli.tables import group_table
        from hf_exposure.report.verdict import headline

        values = run.report.to_dict()
        text = f"{headline(run.report)}\n\n{group_table(run.report)}"
    else:
        from hf_exposure.cli.tables import comparison_table
        from hf_exposure.report.comparison import compare_runs
        from hf_exposure.report.comparison_page import comparison_values, save_comparison

        comparison = compare_runs(loaded, utility_key=utility, tolerance=tolerance)
        written = save_comparison(comparison, out)
        values = comparison_values(comparison)
        text = "\n".join([*comparison.findings, "", comparison_table(comparison), *_noted(comparison.notes)])
    if as_json:
        typer.echo(json.dumps(values, indent=1, allow_nan=False))
    else:
        typer.echo(f"{text}\n\nWritten to {out}{os.sep}: {', '.join(sorted(path.name for path in written))}")
    if invalid:
        typer.echo(f"hf-exposure: {validity_line(invalid[0].report)}", err=True)
        raise typer.Exit(_INVALID)


def _noted(notes: tuple[str, ...]) -> list[str]:
    return [f"note: {note}" for note in notes]
