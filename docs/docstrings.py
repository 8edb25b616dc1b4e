"""A griffe extension that prepares docstrings for the API pages.

- `low, high: confidence limits` is one entry for two parameters or attributes; griffe needs one entry each.
- `Example:` is a section of doctests; griffe calls it `Examples:`.
- A name that can be imported from `hf_exposure` itself is marked.
- A name that is only kept for its earlier spelling is left out.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

_ENTRIES = re.compile(r"^(?:Args|Attributes):\n(?:(?: .*)?\n?)+", re.MULTILINE)
_SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE
)
_EXAMPLE = re.compile(r"^Example(?: \((?P<title>.+)\))?:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """The extension, which mkdocs.yml names under mkdocstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = for_griffe(obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        for name, member in list(cls.members.items()):
            if member.docstring is not None and member.docstring.value.startswith("The earlier spelling of"):
                cls.del_member(name)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        for name, home in ast.literal_eval(str(pkg["_HOME_OF"].value)).items():
            thing = pkg[f"{home}.{name}"]
            (thing.final_target if thing.is_alias else thing).labels.add("from hf_exposure import")


def for_griffe(docstring: str) -> str:
    """Converts a docstring of this project to griffe's Google style.

    Example:
        >>> print(for_griffe("Args:\\n    low, high: ends.\\n\\nExample (by hand):"))
        Args:
            low: ends.
            high: ends.
        <BLANKLINE>
        Examples: By hand
    """

    def apart(entry: re.Match[str]) -> str:
        return "\n".join(f"{entry['indent']}{name}: {entry['text']}" for name in entry["names"].split(", "))

    docstring = _ENTRIES.sub(lambda entries: _SHARED.sub(apart, entries[0]), docstring)
    return _EXAMPLE.sub(lambda head: f"Examples: {(head['title'] or '').capitalize()}".strip(), docstring)
