"""The entry point: runs the command, and turns what went wrong into one line and an exit status."""

from __future__ import annotations

import shlex
import sys

import typer
from typer.main import get_command

from hf_exposure.cli.commands import app
from hf_exposure.errors import ExposureError

__all__ = ["BAD_USAGE", "INTERRUPTED", "main"]

BAD_USAGE, INTERRUPTED = 2, 130


def main() -> None:
    """Runs the command line.

    Exit status: 0 done, 1 a threshold was crossed or the run is invalid, 2 bad usage or input, 130 interrupted.
    """
    arguments = sys.argv[1:]
    try:
        # Left to itself, the library would answer Ctrl-C with status 1, which here means a crossed threshold.
        status = get_command(app).main(arguments, prog_name="hf-exposure", standalone_mode=False)
        if status == INTERRUPTED:  # newer releases catch it, and answer with its status
            status = _interrupted(arguments)
    except ExposureError as error:
        status = _fail(str(error))
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        status = _fail(f"{error.strerror or error}{where}")
    except (KeyboardInterrupt, typer.Abort):
        status = _interrupted(arguments)
    except Exception as error:
        # Typer brings a parser of its own, whose usage errors share a way to show themselves and no public class.
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        status = _fail(" ".join(error.format_message().split()) or "no command was given")
    if isinstance(status, int) and status:
        sys.exit(status)


def _fail(message: str) -> int:
    first = next((line for line in message.strip().splitlines() if line.strip()), "failed")
    typer.echo(f"hf-exposure: {first}", err=True)
    return BAD_USAGE


def _interrupted(arguments: list[str]) -> int:
    typer.echo("\nhf-exposure: interrupted. No file was left half written. To begin again, type:", err=True)
    typer.echo(f"  {shlex.join(['hf-exposure', *arguments])}", err=True)
    return INTERRUPTED
