"""`hf-exposure critical`: the critical samples of a recorded training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.options import check_new, print_run


def critical(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Output folder of a training with a CriticalSampleRatio.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for critical_samples.html and the plot.")] = None,
    push: Annotated[
        str, typer.Option(metavar="USER/MODEL", help="Write the figures into the card of this model on the Hub.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of the measure, if it was changed.")] = "critical",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show, over the course of training, for how many inputs a small perturbation changes the model's decision."""
    if out is not None:
        check_new(out, overwrite)
    from hf_exposure.report.critical import critical_summary, read_critical

    found = read_critical(run, name)
    written = [] if out is None else found.save(out)
    url = found.push_to_hub(push) if push else ""
    print_run(str(found), critical_summary(found), written, url, as_json=as_json)
