"""Running the command line as its entry point does."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import NamedTuple
from unittest.mock import patch

import pytest

from hf_exposure.cli import main


class Done(NamedTuple):
    status: int
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: object, plots: bool = False) -> Done:
    """Runs `hf-exposure ARGUMENTS` in this process without plots, which are slow and have their own tests."""
    typed = sys.argv
    sys.argv = ["hf-exposure", *map(str, arguments)]
    capsys.readouterr()
    try:
        with patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: plots):
            main()
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    finally:
        sys.argv = typed
    return Done(status, *capsys.readouterr())


def one_line(done: Done, *parts: str) -> None:
    """Checks that bad input ends with status 2 and exactly one line, on stderr."""
    assert (done.status, done.out) == (2, ""), done
    assert done.err.startswith("hf-exposure: ") and done.err.count("\n") == 1, done.err
    for part in parts:
        assert part in done.err, done.err


def start_interruptible(arguments: list[str]) -> subprocess.Popen[str]:
    """A process that accepts Ctrl-C, even if the tests run in the background and ignore it."""
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
