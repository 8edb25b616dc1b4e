"""The house's layers hold, and the check that says so notices when they do not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
ROOT = Path(__file__).resolve().parents[1]
LAYERS = "Data flows down the house; imports point up only"
LIGHT = "canaries and estimators need neither torch nor transformers"


def lint(root: Path) -> tuple[int, str]:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    # The copy comes before the installed package.
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "hf_exposure", tmp_path / "hf_exposure", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_layers_hold(copy: Path) -> None:
    status, said = lint(copy)
    assert status == 0, said
    assert f"{LAYERS} KEPT" in said
    assert f"{LIGHT} KEPT" in said
    assert "0 broken" in said


@pytest.mark.parametrize(
    ("module", "line", "broken", "kept", "culprit"),
    [
        ("estimators/rank.py", "import hf_exposure.callback", LAYERS, None, "estimators.rank"),
        ("scoring/causal.py", "from hf_exposure.measures import measure_exposure", LAYERS, LIGHT, "scoring.causal"),
        (
            "records/exposure_report.py",
            "def save():\n    from hf_exposure.report.save import save_report",
            LAYERS,
            None,
            "records.exposure_report",
        ),
        ("records/documents.py", "import torch", LIGHT, LAYERS, "records.documents"),
        ("canaries/draw.py", "import torch", LIGHT, LAYERS, "canaries.draw"),
        ("estimators/control_test.py", "from datasets import Dataset", LIGHT, LAYERS, "estimators.control_test"),
    ],
)
def test_a_planted_import_is_caught(
    copy: Path, module: str, line: str, broken: str, kept: str | None, culprit: str
) -> None:
    file = copy / "hf_exposure" / module
    file.write_text(file.read_text() + f"\n{line}\n")
    status, said = lint(copy)
    assert status != 0
    assert f"{broken} BROKEN" in said
    assert f"hf_exposure.{culprit}" in said.split("Broken contracts")[1]
    if kept is not None:
        assert f"{kept} KEPT" in said


def test_a_module_outside_the_layers_is_caught(copy: Path) -> None:
    (copy / "hf_exposure" / "utils.py").write_text('"""A drawer for everything."""\n')
    status, said = lint(copy)
    assert status != 0
    assert f"{LAYERS} BROKEN" in said
    assert "hf_exposure.utils" in said
