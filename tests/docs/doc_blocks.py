"""The code blocks of a Markdown page, run in order, in one folder, as a reader would type them.

All `python` fences of a page are executed in one namespace. A `bash` fence must end with status 0. In a `console`
fence, the lines after `$ ` are run, and their output must equal what the page shows below them, except for figures
and hashes. Comments control this, each on its own line before a fence:

    <!-- not run: why -->      skipped
    <!-- slow -->              run by `make proof` only
    <!-- prints -->            the output of the `python` fence before it, compared in the same way
    <!-- setup: python code -->    run first; creates what a reader already has (a data set, a model)
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
_PART = re.compile(
    r"<!-- (?P<mark>not run: [^>]*|slow|prints) -->\n+|<!-- setup:\n(?P<setup>.*?)-->\n|"
    r"^```(?P<kind>\w+)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_FIGURE = re.compile(r"\b[0-9a-f]{8,}\b|\d[\d,]*(\.\d+)?(e[+-]?\d+)?")

# Other packages, where they are installed, log to the standard output too.
_LOG_LINE = re.compile(r"\[\d{4}-\d\d-\d\d .*\] \[WARNING\]")


@dataclass(frozen=True)
class Block:
    """A fence or a setup comment: its kind, code, line in the page, and the mark before it."""

    kind: str
    code: str
    line: int
    mark: str = ""


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks that are run, in order."""
    mark = ""
    for part in _PART.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        if part["mark"]:
            mark = part["mark"]
            continue
        if part["setup"] is not None:
            yield Block("python", part["setup"], line, mark)
        elif mark == "prints":
            yield Block("prints", part["code"], line)
        elif part["kind"] in ("python", "bash", "console"):
            yield Block(part["kind"], part["code"], line, mark)
        mark = ""


def run_blocks(page: Path, folder: Path, *, slow: bool) -> int:
    """Runs the blocks of a page in `folder`, with `slow` also the slow ones. Returns the number of blocks run."""
    done = 0
    printed: str | None = None  # by the fence before, if it was run
    # A module that can be found, since a class is pickled by the name of its module.
    module = sys.modules["page"] = ModuleType("page")
    namespace = vars(module)
    for block in blocks_of(page.read_text(encoding="utf-8")):
        where = f"{page.name}, line {block.line}"
        if block.kind == "prints":
            if printed is not None:
                compare(printed, block.code, where)
                done += 1
            continue
        printed = None
        if block.mark.startswith("not run") or (block.mark == "slow" and not slow):
            continue
        if block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(block.code, where, "exec"), namespace)
            printed = output.getvalue()
        elif block.kind == "bash":
            typed(block.code, folder, where)
        else:
            for command, shown in transcript(block.code):
                compare(typed(command, folder, where), shown, f"{where}: {command}")
        done += 1
    return done


def compare(came: str, shown: str, where: str) -> None:
    """Fails unless the two have the same shape."""
    assert shape(came) == shape(shown), f"{where}\n--- came\n{came}\n--- the page shows\n{shown}"


def transcript(code: str) -> Iterator[tuple[str, str]]:
    """Commands of a console block, each with the output shown below it. A backslash continues a command."""
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        lines = part.split("\n")
        end = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
        yield "\n".join(lines[:end]), "\n".join(lines[end:])


def shape(text: str) -> list[str]:
    """Lines without their figures and without the width of their columns."""
    lines = (" ".join(_FIGURE.sub("#", line).split()) for line in text.splitlines() if not _LOG_LINE.match(line))
    return [line for line in lines if line]


def typed(command: str, folder: Path, where: str) -> str:
    """Runs a command and returns its output; `hf-exposure` is the one of this checkout."""
    shim = folder / ".bin" / "hf-exposure"
    if not shim.exists():
        shim.parent.mkdir(exist_ok=True)
        code = "from hf_exposure.cli import main; main()"
        shim.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -c "{code}" "$@"\n')
        shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{where}: status {done.returncode}\n{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
