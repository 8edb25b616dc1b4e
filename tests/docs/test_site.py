"""The site shows every page and every public name. `make site` builds it, and checks its links."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from doc_blocks import ROOT

import hf_exposure

DOCS = ROOT / "docs"


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def pages_in(nav: list[Any]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            (below,) = entry.values()
            yield from [below] if isinstance(below, str) else pages_in(below)


def test_the_navigation_has_every_page_once() -> None:
    pytest.importorskip("mkdocs")
    hooks = loaded("site_hooks")
    nav = list(pages_in(hooks._nav_of(DOCS / "README.md")))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert pages - set(nav) == set(), "link it from docs/README.md"
    assert len(nav) == len(set(nav))


def test_links_that_leave_docs_lead_to_pages_of_the_site() -> None:
    pytest.importorskip("mkdocs")
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File, Files

    config = MkDocsConfig()
    hooks = [str(DOCS / "site_hooks.py")]
    config.load_dict({"docs_dir": str(DOCS), "site_name": "x", "plugins": [], "hooks": hooks})
    assert config.validate()[0] == []
    page = File("recipes.md", str(DOCS), "site", use_directory_urls=False)
    files = config.plugins.on_files(Files([page]), config=config)
    made = {file.src_uri: file for file in files}
    assert {"source/examples/index.md", "source/examples/lora.py.md"} <= set(made)
    assert "def main() -> None:" in made["source/examples/lora.py.md"].content_string

    def shown(text: str, file: File) -> str:
        return config.plugins.on_page_markdown(text, page=SimpleNamespace(file=file), config=config, files=files)

    fence = "\n```\n[a](../examples/lora.py)\n```\n"
    assert shown(f"[a](../examples/lora.py) [b](design/0003-search.md#x) ![c](images/d.png){fence}", page) == (
        f"[a](source/examples/lora.py.md) [b](design/0003-search.md#x) ![c](images/d.png){fence}"
    )
    readme = SimpleNamespace(generated_by="x", abs_src_path=str(ROOT / "README.md"), src_uri="source/README.md")
    assert shown("[d](docs/tutorial.md)", readme) == "[d](../tutorial.md)"


def test_every_public_name_is_on_a_page() -> None:
    shown: set[Any] = set()
    for page in sorted((DOCS / "api").glob("*.md")):
        for name, members in re.findall(
            r"^::: (\S+)$(?:\n    options:\n      members: \[(.*)\]$)?", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            module = importlib.import_module(name)
            shown |= {id(getattr(module, member)) for member in members.split(", ") if member}
            shown |= {id(getattr(module, member)) for member in ([] if members else module.__all__)}
    public = set(hf_exposure.__all__) - {"presets", "__version__"}
    missing = [name for name in sorted(public) if id(getattr(hf_exposure, name)) not in shown]
    assert not missing, "list their module in docs/api"


def test_every_module_of_the_api_pages_is_linked_from_their_index() -> None:
    index = (DOCS / "api" / "README.md").read_text(encoding="utf-8")
    for page in (DOCS / "api").glob("[a-z]*.md"):
        for name in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"\]\({page.name}\).*`{re.escape(name)}`", index)
            assert pkgutil.resolve_name(name)


def test_docstrings_become_what_griffe_reads() -> None:
    pytest.importorskip("griffe")
    module = loaded("docstrings")
    assert doctest.testmod(module).failed == 0
    several = (
        "Args:\n    size: one.\n    low, high: ends,\n        on two lines.\n    **more: rest.\n\nThe low, high: no."
    )
    assert module.for_griffe(several) == (
        "Args:\n    size: one.\n    low: ends,\n        on two lines.\n    high: ends,\n        on two lines.\n"
        "    **more: rest.\n\nThe low, high: no."
    )
    assert module.for_griffe("Example:\n    >>> 1") == "Examples:\n    >>> 1"
