"""Writes docs/api.md from the docstrings: `python docs/make_api.py`. A test says when it must be run again."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hf_exposure
from hf_exposure import canaries, errors, estimators, hub, runs, signals, testing
from hf_exposure.canaries import presets

PAGE = Path(__file__).with_name("api.md")
_HEAD = """\
# API reference

Every public name, from its docstring: `python docs/make_api.py` writes this page. Names are imported from
`hf_exposure` where nothing else is said. Logarithms are base 2 and scores are in bits. The examples are run as tests.
"""
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Sources?)(?: \((.+)\))?:(?: (.*))?$")
_ITEM = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)$", re.DOTALL)
_LISTED = ("Args", "Attributes", "Raises")


def render() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_contents(), *(line for part in _parts() for line in _part(*part))])


def _parts() -> Iterator[tuple[str, ModuleType, dict[str, Any]]]:
    """A title and its things by name, in the order in which data flow."""
    homes = dict.fromkeys(hf_exposure._HOME_OF.values())
    for home in homes:
        names = [name for name, its_home in hf_exposure._HOME_OF.items() if its_home == home and name != "presets"]
        about = importlib.import_module(f"hf_exposure.{home}")
        yield home.capitalize(), about, {name: getattr(hf_exposure, name) for name in names}
        if about is canaries:
            yield "hf_exposure.presets", presets, _members(presets)
    for module in (estimators, signals, runs, hub, errors, testing):
        yield module.__name__, module, _members(module)


def _members(module: ModuleType) -> dict[str, Any]:
    """Functions and classes that the package root does not have: a constant has no docstring of its own."""
    names = [name for name in module.__all__ if name not in hf_exposure._HOME_OF]
    return {name: getattr(module, name) for name in names if callable(getattr(module, name))}


def _contents() -> Iterator[str]:
    for title, _, things in _parts():
        yield f"- {title}: " + ", ".join(f"[`{name}`](#{name.lower()})" for name in things)
    yield ""


def _part(title: str, about: ModuleType, things: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n\n{_prose(inspect.getdoc(about) or '')}\n"
    for name, thing in things.items():
        yield f"### {name}\n"
        if inspect.isfunction(thing) or (inspect.isclass(thing) and inspect.isfunction(thing.__init__)):
            yield f"```text\n{signature_of(name, thing)}\n```\n"
        yield markdown(inspect.getdoc(thing) or "")
        if inspect.isclass(thing):
            yield from _methods(thing)


def _methods(kind: type) -> Iterator[str]:
    """The public methods and properties that a class defines itself and says something about."""
    for name, member in vars(kind).items():
        plain = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or not inspect.isfunction(plain) or not plain.__doc__:
            continue
        yield f"#### {kind.__name__}.{name}\n"
        if not isinstance(member, property):
            yield f"```text\n{signature_of(name, plain)}\n```\n"
        yield markdown(inspect.getdoc(plain) or "")


def signature_of(name: str, thing: Any) -> str:
    """As it would be typed: annotations without quotes, one argument a line where it is long."""
    signature = inspect.signature(thing)
    written, keyword_only = [], False
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    for place, one in enumerate(parameters):
        if one.kind is one.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            if not any(other.kind is one.VAR_POSITIONAL for other in parameters):
                written.append("*")
        stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
        annotation = "" if one.annotation is one.empty else f": {one.annotation}"
        default = "" if one.default is one.empty else f" = {_default(one.default)}"
        written.append(f"{stars}{one.name}{annotation}{default}")
        after = parameters[place + 1].kind if place + 1 < len(parameters) else None
        if one.kind is one.POSITIONAL_ONLY and after is not one.POSITIONAL_ONLY:
            written.append("/")
    returned = signature.return_annotation
    arrow = "" if returned is signature.empty or inspect.isclass(thing) else f" -> {returned}"
    line = f"{name}({', '.join(written)}){arrow}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in written), f"){arrow}"])


def _default(value: Any) -> str:
    shown = repr(value)
    return "..." if shown.startswith("<") else shown


def markdown(docstring: str) -> str:
    """A docstring's prose, its sections as lists, its example as a transcript."""
    title, lines, parts = "", [], []
    for line in [*docstring.splitlines(), "End:"]:
        head = _SECTION.match(line)
        if head or line == "End:":
            parts.append(_section(title, lines))
            if head and head[2]:
                parts.append(f"{head[2][0].upper()}{head[2][1:]}:")
            title, lines = (head[1], [head[3]] if head[3] else []) if head else ("", [])
        else:
            lines.append(line)
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, lines: list[str]) -> str:
    text = textwrap.dedent("\n".join(lines)).strip("\n")
    if title == "Example":
        return f"```pycon\n{text.strip()}\n```"
    if title in _LISTED:
        return f"**{title}**\n\n" + "\n".join(_item(item) for item in _items(text))
    body = _prose("\n".join(line.strip() for line in text.splitlines()) if title else text)
    return f"**{title}**: {body}" if title and body else body


def _items(text: str) -> list[str]:
    """A new item begins at the margin; what is indented goes on with the one before."""
    return [" ".join(item.split()) for item in re.split(r"\n(?=\S)", text) if item.strip()]


def _item(item: str) -> str:
    found = _ITEM.match(item)
    return f"- {', '.join(f'`{name}`' for name in found[1].split(', '))}: {found[2]}" if found else f"- {item}"


def _prose(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text.strip())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
