"""A record is shown by the presenter of its kind; a terminal, a notebook and pandas show reports consistently."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest
from report_samples import estimate, mixed, report

from hf_exposure.presenting import Presented, register_presenter
from hf_exposure.report.save import save_report
from hf_exposure.report.table import rates_table, report_table
from hf_exposure.report.verdict import headline, judgment


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._in_cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        elif self._in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_print_shows_the_verdict_the_table_and_the_notes() -> None:
    shown = str(mixed(notes=("a note",)))
    verdict, test, nothing, *table, space, heads, once, often, note = shown.splitlines()
    assert (verdict, test, nothing, note) == (headline(mixed()), judgment(mixed()), "", "note: a note")
    assert (space, [re.split(" {2,}", line)[0] for line in (heads, once, often)]) == (
        "",
        ["inserted", "once", "8 times"],
    )
    assert [re.split(" {2,}", line) for line in table] == [
        ["inserted", "canaries", "exposure (bits)", "95 % interval, or each value", "ranks first",
         "p-value (corrected)"],
        ["once", "2", "undefined", "2.0, undefined", "0 of 2", "1"],
        ["8 times", "2", "≥ 7.0", "9.0, ≥ 5.0", "1 of 2 (at least 2 %)", "1"],
        ["held out", "2", "2.0", "3.0, 1.0", "0 of 2"],
    ]  # fmt: skip
    # Figures end below each other.
    assert (
        len(
            {line.index(cell) + len(cell) for line, cell in zip(table[1:], ("undefined", "≥ 7.0", "2.0"), strict=True)}
        )
        == 1
    )


def test_a_notebook_and_pandas_show_the_same_table() -> None:
    table = report_table(mixed())
    cells = [[str(cell) for cell in row] for row in table.rows]
    frame = mixed().to_pandas()
    assert list(frame.columns) == list(table.heads)
    assert frame.astype(str).to_numpy().tolist() == cells
    html = Cells(mixed()._repr_html_())
    against = rates_table(mixed())
    assert against is not None
    assert html.rows == [list(table.heads), *cells, list(against.heads), *map(list, against.rows)]


def test_a_notebook_shows_data_as_text() -> None:
    evil = "<img src=x onerror='alert(1)'>"
    html = report(estimate(5.0, 8), estimate(1.0, 0), notes=(evil,))._repr_html_()
    assert "<img" not in html and "&lt;img src=x onerror=" in html
    assert set(Cells(html).tags) == {"div", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}


def test_saving_is_one_function_and_a_thin_method(tmp_path: Path) -> None:
    names = [path.name for path in mixed(step=3).save(tmp_path / "method")]
    assert [path.name for path in save_report(mixed(step=3), tmp_path / "function")] == names
    for name in names:
        assert (tmp_path / "method" / name).read_bytes() == (tmp_path / "function" / name).read_bytes(), name


@dataclass(frozen=True, kw_only=True)
class Temperature(Presented):
    kind: ClassVar[str] = "temperature of the tests"
    degrees: float


def test_another_record_plugs_in_its_own_presenter() -> None:
    record = Temperature(degrees=21.5)
    assert str(record) == repr(record)
    assert record._repr_html_() is None
    with pytest.raises(NotImplementedError, match="^nothing is registered for 'frame' of a temperature of the tests"):
        record.to_pandas()
    register_presenter(record.kind, "text", lambda: lambda record: f"{record.degrees} degrees")
    assert f"{record}" == "21.5 degrees"
    assert "21.5 degrees" not in str(mixed())


def test_a_report_is_read_shown_and_saved_without_torch(tmp_path: Path) -> None:
    mixed().save(tmp_path)
    code = f"""
import json, sys
from hf_exposure import ExposureReport
loaded = ExposureReport.load({str(tmp_path)!r})
before = set(sys.modules)
str(loaded), loaded.save({str(tmp_path / "again")!r})
heavy = ("torch", "transformers", "datasets", "accelerate", "pandas")
print(json.dumps([[m for m in heavy if m in sys.modules], [m for m in ("jinja2", "matplotlib") if m in before]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [[], []]
