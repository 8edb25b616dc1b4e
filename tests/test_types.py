"""A type checker on a user's script sees the package's types, and finds mistakes that would fail at run time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import hf_exposure

pytest.importorskip("mypy")
ROOT = Path(hf_exposure.__file__).resolve().parents[1]
# The package's dependencies are not read: that takes minutes, and only the package's own types are tested here.
CONFIG = """\
[mypy]
[mypy-torch.*,transformers.*,datasets.*,accelerate.*,numpy.*,scipy.*,pyarrow.*,tokenizers.*,huggingface_hub.*]
follow_imports = skip
ignore_missing_imports = true
[mypy-matplotlib.*,peft.*,trl.*,typer.*,tqdm.*,yaml.*,evaluate.*,gradio.*,jinja2.*,pandas.*]
follow_imports = skip
ignore_missing_imports = true
"""
SETUP = """\
from pathlib import Path
from typing import Any

from hf_exposure import (
    CanarySet, CanaryTemplate, Digits, ExposureCallback, ExposureReport, draw_canaries, insert_canaries,
    measure_exposure, presets,
)

model: Any = None
tokenizer: Any = None
rows: Any = None
template = CanaryTemplate("The random number is {number}", number=Digits(9))
canaries = draw_canaries(template, repetitions={1: 4, 8: 4}, controls=32)
"""
RIGHT = """\
train = insert_canaries(rows, canaries, text_column="text")
callback = ExposureCallback(canaries, strategy="epoch", references=256)
report: ExposureReport = measure_exposure(model, tokenizer, canaries, method="auto", references=256)
report.save(Path("exposure"))
bits: float = report.estimates[0].exposure_bits
again: CanarySet = draw_canaries(presets.credit_card(), {1: 4})
"""
# A line with a mistake, and the part of the message that shows that it is understood.
WRONG = {
    "a name the package lacks": ("from hf_exposure import ExposureCalback", "ExposureCalback"),
    "a wrong argument of draw_canaries": ("draw_canaries(template, repetition={1: 4})", "repetition"),
    "a wrong argument of measure_exposure": ("measure_exposure(model, tokenizer, canaries, reference=9)", "reference"),
    "a wrong type for a setting": ("measure_exposure(model, tokenizer, canaries, references='9')", "references"),
    "a wrong method": ("measure_exposure(model, tokenizer, canaries, method='guess')", "method"),
    "a wrong strategy": ("ExposureCallback(canaries, strategy='epohc')", "strategy"),
    "a wrong argument of the callback": ("ExposureCallback(canaries, reference=256)", "reference"),
    "a wrong type for the callback's setting": ("ExposureCallback(canaries, references='256')", "references"),
    "a string for a template": ("draw_canaries('pin {pin}', {1: 4})", "CanaryTemplate"),
    "a string for a space": ("CanaryTemplate('pin {pin}', pin='digits:4')", "Space"),
    "a template for a set": ("ExposureCallback(template)", "CanarySet"),
    "an attribute the report lacks": ("print(measure_exposure(model, tokenizer, canaries).exposures)", "exposures"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """mypy's output for each script by its name; all are checked in one run."""
    folder = tmp_path_factory.mktemp("scripts")
    scripts = {"right": RIGHT, "revealed": "reveal_type(ExposureCallback)\n"}
    scripts |= {_module(name): f"{line}\n" for name, (line, _) in WRONG.items()}
    for name, script in scripts.items():
        (folder / f"{name}.py").write_text(SETUP + script)
    (folder / "mypy.ini").write_text(CONFIG)
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(folder / "cache")]
    done = subprocess.run(
        [*command, *(f"{name}.py" for name in scripts)],
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = dict.fromkeys(scripts, "")
    for line in done.stdout.splitlines():
        name, _, message = line.partition(".py:")
        if name in found and re.search(r" (error|note): ", message):
            found[name] += message + "\n"
    return found


def _module(name: str) -> str:
    return re.sub(r"\W", "_", name)


def test_a_right_script_has_no_error(said: Mapping[str, str]) -> None:
    assert said["right"] == ""


def test_the_callback_is_typed(said: Mapping[str, str]) -> None:
    (line,) = said["revealed"].splitlines()
    assert line.endswith('ExposureCallback"') and "references" in line
    assert "canaries: hf_exposure.canaries.canary_set.CanarySet" in line


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_an_error(said: Mapping[str, str], name: str) -> None:
    message = said[_module(name)]
    line = SETUP.count("\n") + 1
    assert re.match(rf"{line}: error: ", message), message or "no error"
    assert WRONG[name][1] in message


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(hf_exposure.__file__).parent / "py.typed").is_file()
