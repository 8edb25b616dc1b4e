"""The application and its commands, one module each."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_exposure import __version__
from hf_exposure.cli.demo import demo
from hf_exposure.cli.draw import draw
from hf_exposure.cli.extract import extract
from hf_exposure.cli.insert import insert
from hf_exposure.cli.measure import measure
from hf_exposure.cli.push import push
from hf_exposure.cli.report import report

__all__ = ["app"]

_HELP = "Is a language model memorising secrets, how sure is that, and could a stranger get them out?"

app = typer.Typer(
    name="hf-exposure",
    help=_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-exposure {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected failure; it may quote secrets.")
    ] = False,
) -> None:
    """Is a language model memorising secrets, how sure is that, and could a stranger get them out?"""


for _command in (demo, draw, insert, measure, extract, report, push):
    app.command()(_command)
