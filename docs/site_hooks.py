"""How the site is made of the checkout. mkdocs calls the functions whose names begin with `on_`.

Pages are written for a reader of the repository: they link to scripts, results and folders outside of docs/. The site
has pages of those files too, so that it needs no repository behind it. The navigation is what docs/README.md links to,
in its order, under its headings.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
_SECTION = re.compile(r"^\*\*(.+)\*\*$")
# Files that are shown as a page; of others (figures, results in JSON) the site has a copy.
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml"}
_SOURCE_PAGE = """\
---
search:
  exclude: true
---

# {title}

{body}
"""

Nav = list[Any]


def on_config(config: MkDocsConfig) -> None:
    """Reads the navigation from the index pages."""
    config.nav = _nav_of(DOCS / "README.md")


def _nav_of(index: Path) -> Nav:
    """The pages that an index links to, under its bold headings, after the index itself."""
    nav: Nav = [_place_of(index)]
    section = nav
    for line in index.read_text(encoding="utf-8").splitlines():
        if heading := _SECTION.match(line):
            section = []
            nav.append({heading[1]: section})
        for title, link, _ in _LINK.findall(line) if line.startswith("- ") else ():
            target = (index.parent / link).resolve()
            title = title[:1].upper() + title[1:]
            if target.is_relative_to(DOCS) and target.is_dir():
                section.append(
                    {title: [_place_of(target), *(_place_of(page) for page in sorted(target.glob("*.md")))]}
                )
            elif target.name == "README.md" and target.parent not in (DOCS, ROOT):
                section.append({title: _nav_of(target)})
            elif target.suffix == ".md":
                section.append({title: _place_of(target)})
    return nav


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Adds what pages link to and docs/ does not have."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        linked = _children(page) if page.is_dir() else _targets(page) if page.suffix == ".md" else ()
        for target in linked:
            if target not in seen:
                seen.add(target)
                waiting.append(target)
                if target.is_dir() or not target.is_relative_to(DOCS):
                    files.append(_generated(target, config))


def _generated(path: Path, config: MkDocsConfig) -> File:
    """A page, or a copy, of a file or a folder."""
    place = _place_of(path)
    if path.is_dir():
        lines = [f"- [{_title_of(child)}]({_relative(_place_of(child), place)})" for child in _children(path)]
        content = _SOURCE_PAGE.format(title=path.relative_to(ROOT), body="\n".join(lines))
    elif path.suffix in _LANGUAGES:
        body = f"````{_LANGUAGES[path.suffix]}\n{path.read_text(encoding='utf-8')}````"
        content = _SOURCE_PAGE.format(title=path.relative_to(ROOT), body=body)
    else:
        return File.generated(config, place, abs_src_path=str(path))
    return File.generated(config, place, content=content)


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turns links between files of the checkout into links between places of the site."""
    file = page.file
    if not (file.generated_by is None or Path(file.abs_src_path or "").is_relative_to(ROOT)):
        return markdown  # made above
    origin = Path(file.abs_src_path or "")

    def moved(link: re.Match[str]) -> str:
        target = (origin.parent / link[2]).resolve()
        return f"[{link[1]}]({_relative(_place_of(target), file.src_uri)}{link[3] or ''})"

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(moved, part) for part in parts)


def _targets(page: Path) -> Iterator[Path]:
    for _, link, _ in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = (page.parent / link).resolve()
        if target.exists() and target.is_relative_to(ROOT):
            yield target


def _children(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "__pycache__"))]


def _title_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return path.name


def _place_of(path: Path) -> str:
    """Where the site has a file or folder of the checkout."""
    place = path.relative_to(DOCS) if path.is_relative_to(DOCS) else "source" / path.relative_to(ROOT)
    if path.is_dir():
        place /= "index.md"
    elif path.suffix in _LANGUAGES:
        place = place.with_name(f"{place.name}.md")
    return place.as_posix()


def _relative(place: str, page: str) -> str:
    return Path(os.path.relpath(place, os.path.dirname(page))).as_posix()
