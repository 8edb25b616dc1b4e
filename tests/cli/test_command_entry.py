"""The entry point: it starts quickly, every command has help, and each failure has its status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import one_line, run, start_interruptible

COMMANDS = ("demo", "scan", "draw", "insert", "measure", "membership", "extract", "audit", "subsets", "report", "push")
HEAVY = ("torch", "transformers", "datasets", "numpy", "scipy", "matplotlib", "yaml", "huggingface_hub")


@pytest.mark.parametrize("arguments", [["--help"], ["measure", "--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys, json; sys.argv = ['hf-exposure', *{arguments!r}]\n"
        "from hf_exposure.cli import main\n"
        f"main(); print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, command, "--help")
    assert done.status == 0
    assert "--config" in done.out
    assert ("--json" in done.out) == (command != "demo")


def test_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    one_line(run(capsys, "nonsense"), "No such command 'nonsense'")
    assert run(capsys).status == 2


def test_an_error_of_the_system_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "canaries.json"))

    monkeypatch.setattr(os, "replace", full)
    typed = ("draw", "--template", "pin {pin}.", "--space", "pin=digits:4", "--repetitions", "1:2")
    done = run(capsys, *typed, "--out", tmp_path / "canaries.json")
    one_line(done, "No space left on device", "canaries.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_real_interrupt_ends_with_130_and_leaves_nothing(
    tmp_path: Path, model_folder: Path, canary_file: Path
) -> None:
    code = "from hf_exposure.cli import main; main()"
    typed = ["measure", "--model", str(model_folder), "--canaries", str(canary_file), "--out", str(tmp_path / "run")]
    heavy = ["--method", "enumerate"]  # a million texts
    process = start_interruptible([sys.executable, "-c", code, *typed, *heavy])
    time.sleep(25)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "hf-exposure: interrupted." in err
    assert not list(tmp_path.iterdir())
