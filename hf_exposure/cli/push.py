"""`hf-exposure push`: a run's figures into a model card on the Hub."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption

__all__ = ["push"]


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that measure or a training wrote.")],
    repo_id: Annotated[str, typer.Option(help="The model on the Hub: me/model.")],
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of writing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Publish a run's figures, rounded to 0.1 bit, in a model's card. The token is the one of `hf auth login`."""
    from hf_exposure.report.run import load_run

    loaded = load_run(run)
    folder = run if run.is_dir() else run.parent
    url = importlib.import_module("hf_exposure.hub.push").push_to_hub(
        loaded.report, repo_id, create_pr=create_pr, folder=folder
    )
    typer.echo(json.dumps({"url": url}) if as_json else f"Published: {url}")
