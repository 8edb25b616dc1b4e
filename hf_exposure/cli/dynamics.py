"""`hf-exposure dynamics`: how a recorded training learned each example."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import check_new, print_run


def dynamics(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a training with a DynamicsMeasure.")],
    out: Annotated[Path | None, typer.Option(help="Folder for dynamics.html, examples.csv and plots.")] = None,
    push: Annotated[
        str, typer.Option(metavar="USER/MODEL", help="Write the means into the card of this model on the Hub.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the measure, if it was changed.")] = "dynamics",
    until: Annotated[int | None, typer.Option(help="Only measurements up to this step, such as the best one.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show which examples a training learned late, forgot or memorized, and candidates for wrong labels."""
    if out is not None:
        check_new(out, overwrite)
    from hf_exposure.records.dynamics import DynamicsRecord
    from hf_exposure.report.dynamics import dynamics_of, dynamics_text, save_dynamics, summary

    record = DynamicsRecord.load(run, name)
    record = record if until is None else record.until(until)
    found = dynamics_of(record)
    written = [] if out is None else save_dynamics(found, out)
    url = record.push_to_hub(push) if push else ""
    print_run(dynamics_text(found), summary(found), written, url, as_json=as_json)
