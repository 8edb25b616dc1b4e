"""The application, its commands and its entry point, which turns every failure into one line and an exit status.

Status 1 is a verdict: a threshold was crossed, or the run is invalid. So a mere failure may never end with 1, even if
a library calls `sys.exit(1)` or a message cannot be written.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Annotated, Any

import typer
from typer.main import get_command

from hf_exposure import __version__
from hf_exposure.cli.audit import audit
from hf_exposure.cli.cost import cost
from hf_exposure.cli.critical import critical
from hf_exposure.cli.demo import demo
from hf_exposure.cli.doctor import doctor, env
from hf_exposure.cli.draw import draw
from hf_exposure.cli.dynamics import dynamics
from hf_exposure.cli.extract import extract
from hf_exposure.cli.insert import insert
from hf_exposure.cli.measure import measure
from hf_exposure.cli.membership import membership
from hf_exposure.cli.report import push, report, verify
from hf_exposure.cli.scan import scan
from hf_exposure.cli.subsets import subsets
from hf_exposure.errors import ExposureError, kind_and_place

_HELP = "Is a language model memorizing secrets, with what confidence, and could an attacker extract them?"

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
    """Is a language model memorizing secrets, with what confidence, and could an attacker extract them?"""


_COMMANDS = (
    demo, scan, draw, insert, measure, membership, dynamics, critical, extract, audit, subsets, cost, report, verify,
    push, env, doctor,
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)


BAD_USAGE, UNEXPECTED, INTERRUPTED = 2, 3, 130
# The shell's status for a program that SIGPIPE ended.
READER_LEFT = 141
DEBUG = "--debug"


def main() -> None:
    """Runs the command line and exits.

    Exit status: 0 done, 1 a threshold was crossed or the run is invalid, 2 bad usage or input, 3 an unexpected
    failure, 130 interrupted, 141 the reader of the output closed it, 143 terminated. A mere failure may never end with
    1, which is a verdict.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    for stream in (sys.stdout, sys.stderr):
        # Characters that the terminal's encoding lacks are written as escapes, so that printing does not fail after
        # the work was done.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Retries without a network are reported once, at the end.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    with _interrupts_noted() as interrupts:
        try:
            status = _run(arguments)
            if sys.stdout is not None:  # the caller closed it
                sys.stdout.flush()  # so that a full disk is noticed here
        except BaseException as error:
            status = _interrupted(arguments, interrupts[0]) if interrupts else _status_of(error, arguments)
    if status:
        sys.exit(status)


@contextmanager
def _interrupts_noted() -> Iterator[list[int]]:
    """Ctrl-C, and the SIGTERM of a scheduler, stop the command in order: files and workers are cleaned up.

    They are noted when they come: a library that they stop in its import raises an `ImportError` in their place.
    """
    noted: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    usual: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    # Where one is ignored, or somebody else's, it stays so. Only the main thread may set them.
    ours = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield noted
    finally:
        for number in ours:
            signal.signal(number, usual[number])


def _say(message: str) -> None:
    """Writes to stderr. If that fails, the exit status alone tells what happened; it must not become 1."""
    try:
        typer.echo(message, err=True)
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # the disk is full, or the reader has closed the stream
        _silence(sys.stderr)


def _run(arguments: list[str]) -> int:
    try:
        status = get_command(app).main(arguments, prog_name="hf-exposure", standalone_mode=False)
    except SystemExit as stopped:
        # Typer exits with status 1 when the reader closes the output, which here would mean a crossed threshold.
        raise stopped.__context__ if isinstance(stopped.__context__, BrokenPipeError) else stopped from None
    if status == INTERRUPTED:  # newer releases catch Ctrl-C and return its status
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _status_of(error: BaseException, arguments: list[str]) -> int:
    """Prints what went wrong, and returns the exit status."""
    if isinstance(error, ExposureError):
        if error.__cause__ is not None:  # an error of code that is not ours, such as a recipe's training
            _show_traceback(error.__cause__)
        return _fail(str(error))
    if isinstance(error, BrokenPipeError):
        _silence(sys.stdout)
        return READER_LEFT
    if isinstance(error, OSError):
        _silence(sys.stdout)
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}")
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _interrupted(arguments)
    # Typer has its own parser, whose usage errors share a `format_message` method but no public class.
    if hasattr(error, "exit_code") and hasattr(error, "format_message"):
        return _fail(" ".join(error.format_message().split()) or "no command was given")
    return _unexpected(error)


def _fail(message: str) -> int:
    first = next((line for line in message.strip().splitlines() if line.strip()), "failed")
    _say(f"hf-exposure: {first}")
    return BAD_USAGE


def _unexpected(error: BaseException) -> int:
    """Names the failure by its kind and place only. Its message comes from another library and may quote a secret."""
    wants_traceback = _show_traceback(error)
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    what = "out of memory" if is_memory else "unexpected failure"
    advice = "" if wants_traceback else f" Add {DEBUG} for the traceback, which may quote secrets."
    _say(f"hf-exposure: {what}: {kind_and_place(error)}.{advice}")
    return UNEXPECTED


def _show_traceback(error: BaseException) -> bool:
    """Where `--debug` asks for it; whether it does."""
    if wanted := DEBUG in sys.argv:
        _say("".join(traceback.format_exception(error)).rstrip())
    return wanted


def _interrupted(arguments: list[str], number: int = signal.SIGINT) -> int:
    _say("\nhf-exposure: interrupted. No file was left half written. To begin again, type:")
    _say(f"  {shlex.join(['hf-exposure', *arguments])}")
    return 128 + number  # as the shell reports a program that a signal ended


def _silence(stream: IO[str] | None) -> None:
    """Nothing more is written: the interpreter flushes on its way out, and would fail once more."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
