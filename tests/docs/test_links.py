"""Links between the pages lead somewhere."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest
from doc_blocks import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Explicit anchors, and anchors of headings as GitHub generates them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for path, anchor in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: no file {path}"
        if anchor and "\n::: " in target.read_text(encoding="utf-8"):
            assert pkgutil.resolve_name(anchor)  # a name of the package, documented by its docstring
        elif anchor:
            assert anchor in anchors_of(target), f"{page.name}: no heading {anchor} in {target.name}"


def test_every_page_can_be_found_from_the_index() -> None:
    named = {path for path, _ in _LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= named
