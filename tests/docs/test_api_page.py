"""The API reference says what the docstrings say, and leaves out no public name."""

from __future__ import annotations

import importlib.util
import re

import pytest
from doc_blocks import ROOT

import hf_exposure
from hf_exposure import estimators

SCRIPT = ROOT / "docs" / "make_api.py"


@pytest.fixture(scope="module")
def make_api():
    spec = importlib.util.spec_from_file_location("make_api", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(make_api) -> None:
    assert make_api.PAGE.read_text(encoding="utf-8") == make_api.render(), "run: python docs/make_api.py"


def test_every_public_name_stands_on_the_page() -> None:
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert {*hf_exposure.__all__, *estimators.__all__} - {"presets", "__version__"} <= set(headings)


def test_a_docstring_becomes_prose_lists_and_a_transcript(make_api) -> None:
    def described(text: str, /, size: int = 2, *others: int, name: str = "x", **more: int) -> bool:
        """What it does.

        More of it.

        Args:
            text: what is read,
                on two lines.
            size, name: both.

        Raises:
            ValueError: never.

        Source: a book.

        Example:
            >>> 1 + 1
            2
        """

    assert make_api.markdown(make_api.inspect.getdoc(described)) == (
        "What it does.\n\nMore of it.\n\n"
        "**Args**\n\n- `text`: what is read, on two lines.\n- `size`, `name`: both.\n\n"
        "**Raises**\n\n- `ValueError`: never.\n\n"
        "**Source**: a book.\n\n"
        "```pycon\n>>> 1 + 1\n2\n```\n"
    )
    assert make_api.signature_of("f", described) == (
        "f(text: str, /, size: int = 2, *others: int, name: str = 'x', **more: int) -> bool"
    )


def test_a_bare_star_marks_what_must_be_named(make_api) -> None:
    def short(first: int, *, second: float = 0.5) -> None: ...

    assert make_api.signature_of("short", short) == "short(first: int, *, second: float = 0.5) -> None"
