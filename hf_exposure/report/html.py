"""The parts of a self-contained page. Whatever came from data goes through `escaped`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

__all__ = ["data_block", "definitions", "escaped", "figures", "paragraph", "shell", "table"]


def escaped(value: object) -> str:
    """Any value as text of a page: `<script>` stays five letters between two signs.

    Example:
        >>> escaped("<script>"), escaped(3)
        ('&lt;script&gt;', '3')
    """
    return escape(str(value), quote=True)


def shell(title: str, body: str, *, script: str = "", marks: Mapping[str, str] | None = None) -> str:
    """The whole page. Its policy lets nothing be loaded, and no script run but the one given.

    `marks` are names and contents of `meta` elements.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            *(f'<meta name="{escaped(name)}" content="{escaped(mark)}">' for name, mark in (marks or {}).items()),
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>\n{read_part('page.css')}</style>",
            "</head>",
            "<body>",
            body,
            f"<script>{script}</script>" if script else "",
            "</body>",
            "</html>",
            "",
        ]
    )


def read_part(name: str) -> str:
    """A style sheet or script that ships beside this file."""
    return files("hf_exposure.report").joinpath(name).read_text(encoding="utf-8")


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{escaped(text)}</p>"


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """Names and values, values as code."""
    rows = (f"<dt>{escaped(name)}</dt><dd><code>{escaped(value)}</code></dd>" for name, value in pairs)
    return f"<dl>{''.join(rows)}</dl>"


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[object]], *, kinds: Sequence[str], name: str = ""
) -> str:
    """A table that scrolls sideways by itself, with the keyboard too.

    Args:
        caption: what it shows, for a reader who cannot see it.
        heads: of the columns.
        rows: cells of plain values.
        kinds: class of each column: "text", "note" or "" for figures.
        name: id of the table element.
    """
    cells = (
        "<tr>" + "".join(f"<td{_class(kind)}>{escaped(v)}</td>" for v, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    head = "".join(
        f'<th scope="col"{_class("text" if kind else "")}>{escaped(head)}</th>'
        for head, kind in zip(heads, kinds, strict=True)
    )
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f"<table{identity}><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(cells) + "\n</tbody></table></div>"
    )


def figures(plots: Mapping[str, bytes], captions: Mapping[str, tuple[str, str]]) -> str:
    """Pictures inside the page, each with a title for those who cannot see it and a caption.

    Args:
        plots: PNG bytes by file name.
        captions: title and caption by file name; a plot without one is left out.
    """
    shown = []
    for name, (title, caption) in captions.items():
        if name in plots:
            picture = base64.b64encode(plots[name]).decode()
            shown.append(
                f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{escaped(title)}">'
                f'<img alt="{escaped(title)}" src="data:image/png;base64,{picture}"></div>'
                f"<figcaption>{escaped(caption)}</figcaption></figure>"
            )
    return "\n".join(shown)


def data_block(name: str, values: Any) -> str:
    """Values for the page's script. No text in them can end the block."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<script type="application/json" id="{name}">{safe}</script>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
