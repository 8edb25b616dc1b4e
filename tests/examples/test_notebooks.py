"""The notebooks under `examples` run from top to bottom, and contain the output that they produce."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").rglob("*.ipynb"))
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "agg",
}
SECONDS = 600
"""Half a minute on an idle core; a busy machine may take far longer."""


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shown(cell: dict[str, Any]) -> str:
    """What a cell printed."""
    return "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))


def as_script(cells: list[str]) -> str:
    """The cells as one program. If a cell ends with a value, its notebook output is produced too."""
    parts = []
    for source in cells:
        *before, last = ast.parse(source).body
        if isinstance(last, ast.Expr):
            shows = ["_shown = " + ast.unparse(last.value), "getattr(_shown, '_repr_html_', str)()"]
            parts += [ast.unparse(ast.Module(before, [])), *shows]
        else:
            parts.append(source)
    return "\n\n".join(parts)


def test_there_are_notebooks() -> None:
    assert [notebook.name for notebook in NOTEBOOKS] == ["first_minutes.ipynb"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_prints_what_it_holds(notebook: Path, tmp_path: Path) -> None:
    """Without Jupyter, as a plain program."""
    script = tmp_path / "notebook.py"
    script.write_text(as_script(code_of(notebook)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    held = "".join(shown(cell) for cell in cells if cell["cell_type"] == "code")
    # Figures may differ in the last digit between processors; the findings may not.
    assert [line for line in held.splitlines() if "<-" in line], "the notebook must find a secret"
    for line in held.splitlines():
        words = [word for word in line.split() if not any(sign.isdigit() for sign in word)]
        assert any(all(word in other for word in words) for other in done.stdout.splitlines()), line


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_jupyter(notebook: Path, tmp_path: Path) -> None:
    if find_spec("nbclient") is None or find_spec("ipykernel") is None:
        pytest.skip("nbclient and ipykernel are not installed")
    program = (
        "import sys, nbformat, nbclient\n"
        "read = nbformat.read(sys.argv[1], as_version=4)\n"
        "where = {'metadata': {'path': sys.argv[2]}}\n"
        f"nbclient.NotebookClient(read, timeout={SECONDS}, resources=where).execute()\n"
        "nbformat.validate(read)\n"
        "nbformat.write(read, sys.argv[3])\n"
    )
    out = tmp_path / "run.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", program, str(notebook), str(tmp_path), str(out)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS + 60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kinds = {
        kind
        for cell in json.loads(out.read_text())["cells"]
        for one in cell.get("outputs", [])
        for kind in one.get("data", {})
    }
    assert {"text/html", "image/png"} <= kinds, "the report and a plot are shown"
