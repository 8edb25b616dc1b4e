"""English that is on every machine with Python: what its standard library and installed packages say of themselves."""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

__all__ = ["docstrings"]


def docstrings(characters: int) -> str:
    """Docstrings, one a line, in lower case and without signs but full stops and commas: the first so many characters.

    Which packages there are decides what is read: another machine has another text.
    """
    found, size, seen = [], 0, set()
    for folder in (sysconfig.get_paths()[name] for name in ("stdlib", "purelib")):
        for path in sorted(Path(folder).rglob("*.py")):
            for line in _docstrings_of(path):
                words = " ".join(re.findall(r"[a-z]+|[.,]", line.lower()))
                if len(words) < 40 or words in seen:
                    continue
                seen.add(words)
                found.append(words)
                size += len(words) + 1
                if size >= characters:
                    return "\n".join(found) + "\n"
    return "\n".join(found) + "\n"


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about the packages' own strings
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # templates, old Python, other encodings
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""
