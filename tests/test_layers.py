"""The package's layers are respected, and the check detects violations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter")
ROOT = Path(__file__).resolve().parents[1]
LAYERS = "Data flows down the layers; imports point up only"
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


# Prints each group of files that import each other on one line. Only imports for type checkers do not count.
FIND_KNOTS = """
import grimp
graph = grimp.build_graph("hf_exposure", exclude_type_checking_imports=True, cache_dir=None)
needs = {name: graph.find_upstream_modules(name) for name in graph.modules}
for knot in {frozenset([name, *(other for other in needs[name] if name in needs[other])]) for name in needs}:
    if len(knot) > 1:
        print(*sorted(knot))
"""


def knots_in(root: Path) -> list[set[str]]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", FIND_KNOTS]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_no_files_import_each_other(copy: Path) -> None:
    assert knots_in(copy) == []


@pytest.mark.parametrize(
    ("module", "line", "other"),
    [
        ("estimators/arrays.py", "from hf_exposure.estimators.rank import ranks", "estimators.rank"),
        ("canaries/draw.py", "def late():\n    from hf_exposure.canaries import CanarySet", "canaries"),
        ("files.py", "import hf_exposure.canaries.canary_set", "canaries.canary_set"),
    ],
)
def test_a_planted_cycle_is_found(copy: Path, module: str, line: str, other: str) -> None:
    file = copy / "hf_exposure" / module
    file.write_text(file.read_text() + f"\n{line}\n")
    both = {f"hf_exposure.{module.removesuffix('.py').replace('/', '.')}", f"hf_exposure.{other}"}
    assert any(both <= knot for knot in knots_in(copy))


def test_an_import_for_type_checkers_ties_no_knot(copy: Path) -> None:
    before = knots_in(copy)
    file = copy / "hf_exposure" / "estimators" / "arrays.py"
    guarded = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hf_exposure.estimators.rank import ranks\n"
    )
    file.write_text(file.read_text() + guarded)
    assert knots_in(copy) == before


def test_a_module_outside_the_layers_is_caught(copy: Path) -> None:
    (copy / "hf_exposure" / "utils.py").write_text('"""A drawer for everything."""\n')
    status, said = lint(copy)
    assert status != 0
    assert f"{LAYERS} BROKEN" in said
    assert "hf_exposure.utils" in said
