"""`hf-exposure push`: a run's figures into a model card on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hf_exposure.cli.config import ConfigOption
from hf_exposure.cli.values import check_runs, load_canaries
from hf_exposure.validity import Validity

__all__ = ["push"]

_INVALID = 1


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that measure or a training wrote.")],
    repo_id: Annotated[str, typer.Option(help="The model on the Hub: me/model.")],
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of writing.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make the repository if there is none.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write to.")] = None,
    canaries: Annotated[Path | None, typer.Option(help="Canary file: none of its texts may leave.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config: ConfigOption = None,
) -> None:
    """Publish a run's figures, rounded to 0.1 bit, in a model's card. The token is the one of `hf auth login`.

    Of an invalid run the card says that it is invalid, and the exit status is 1.
    """
    check_runs([run])
    from hf_exposure.hub.push import push_to_hub
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
