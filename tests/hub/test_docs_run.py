"""The code in docs/hub.md and docs/trackers.md runs; what needs the Hub is at least Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
MARK = "<!-- needs the Hub -->"
BLOCK = re.compile(rf"({re.escape(MARK)}\n)?```python\n(.*?)```", re.DOTALL)
PAGES = [DOCS / "hub.md", DOCS / "trackers.md", DOCS.parent / "hf_exposure" / "hub" / "exposure" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert blocks
    namespace: dict[str, object] = {"__name__": "page"}
    for needs_hub, code in blocks:
        if "evaluate.load" in code:
            pytest.importorskip("evaluate")
        if "tensorboard" in code:
            pytest.importorskip("tensorboard")
        if needs_hub:
            ast.parse(code)
        else:
            exec(compile(code, page.name, "exec"), namespace)
