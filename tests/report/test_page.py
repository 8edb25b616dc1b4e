"""The page is self-contained, its figures are those of the report, and everything from data is plain text."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from report_samples import estimate, mixed, report

from hf_exposure.records import ExposureReport
from hf_exposure.report.page import CAPTIONS, report_page

EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Elements with their attributes, texts by the element that holds them, and rows of the tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.words.append(data)


def many(count: int) -> ExposureReport:
    rows = (estimate(i / count * 9, (0, 1, 8)[i % 3], canary_id=f"{i:06x}") for i in range(count))
    return report(*sorted(rows, key=lambda one: one.is_control))


def test_nothing_is_loaded_and_one_script_runs() -> None:
    text = report_page(mixed(), {"references.png": b"\x89PNG"})
    page = Page(text)
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert not value or value.startswith(("data:image/png;base64,", "#")), (tag, value)
    assert not re.findall(r"https?://|url\(|@import", text)
    (policy,) = (a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    code = [script for script in page.scripts if "use strict" in script]
    assert len(code) == 1
    digest = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_what_came_from_data_is_text() -> None:
    rows = [estimate(5.0, 8, canary_id=EVIL, note=f"{EVIL}</script>", method=EVIL), estimate(1.0, 0)]
    changes: dict[str, Any] = {
        "template": f"{EVIL} {{pin}}", "spaces": {EVIL: EVIL}, "manifest_hash": EVIL, "notes": (EVIL,),
        "model": {"name": EVIL, EVIL: EVIL}, "dataset": {"name": EVIL}, "versions": {EVIL: EVIL},
        "settings": {"confidence_level": 0.95, EVIL: EVIL}, "epsilon": {"a": EVIL},
    }  # fmt: skip
    text = report_page(report(*rows, **changes), {})
    assert "<script>alert" not in text
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2  # the data and the code
    assert EVIL in page.tables[-1][1]
    (data,) = (json.loads(script) for script in page.scripts if "use strict" not in script)
    assert data["rows"][0][0] == EVIL
    assert data["rows"][0][-1] == f"{EVIL}</script>"


def test_the_tables_say_what_the_report_says() -> None:
    groups, rates, canaries = Page(report_page(mixed(), {})).tables
    assert rates == [
        ["inserted", "AUC (95 % interval)", "TPR at 10 % FPR", "TPR at 1 % FPR", "epsilon refuted"],
        ["once", "0.50 (0.11 to 0.89)", *["undefined: needs 10 controls", "undefined: needs 100 controls"], ""],
        ["8 times", "0.50 (0.11 to 0.89)", *["undefined: needs 10 controls", "undefined: needs 100 controls"], ""],
    ]
    assert groups[0] == [
        "inserted", "canaries", "exposure (bits)", "95 % interval, or each value", "ranks first",
        "p-value (corrected)",
    ]  # fmt: skip
    assert [row[:5] for row in groups[1:]] == [
        ["held out", "2", "2.0", "3.0, 1.0", "0 of 2"],
        ["once", "2", "undefined", "2.0, undefined", "0 of 2"],
        ["8 times", "2", "≥ 7.0", "9.0, ≥ 5.0", "1 of 2 (at least 2 %)"],
    ]
    assert [row[2] for row in canaries[1:]] == ["9.00", "5.00", "3.00", "2.00", "1.00", "undefined"]
    assert canaries[1][5] == "1"
    assert canaries[2][5] == "30 to 32"
    assert [row[canaries[0].index("kind")] for row in canaries[1:]] == [
        "exact",
        "lower bound",
        "interval",
        "interval",
        "interval",
        "undefined",
    ]


def test_large_groups_have_an_interval_and_the_page_says_what_it_is() -> None:
    groups, *_ = Page(text := report_page(many(30), {})).tables
    for row, group in zip(groups[1:], many(30).groups, strict=True):
        assert row[3] == f"{group.low_bits:.1f} to {group.high_bits:.1f}"
    assert "for fewer canaries each value is shown" in text and "(Bonferroni)" in text


def test_ten_thousand_canaries_stay_a_small_page() -> None:
    text = report_page(many(10_000), {})
    page = Page(text)
    assert len(text) < 1_500_000
    assert len(page.tables[-1]) == 1 + 100
    (data,) = (json.loads(script) for script in page.scripts if "use strict" not in script)
    assert len(data["rows"]) == 10_000
    # Without scripts the most exposed canaries are shown.
    assert page.tables[-1][1][2] == f"{9999 / 10_000 * 9:.2f}"


def test_undefined_figures_are_null_in_the_data() -> None:
    text = report_page(report(estimate(math.nan, 1, low_bits=math.inf, log_perplexity_bits=math.nan)), {})
    (data,) = (json.loads(script) for script in Page(text).scripts if "use strict" not in script)
    assert data["rows"][0][2:6] == [None, None, None, None]


def test_every_plot_has_words_for_those_who_do_not_see_it(tmp_path: Path) -> None:
    page = Page(report_page(mixed(), dict.fromkeys([*CAPTIONS, "another.png"], b"x")))
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert [picture["alt"] for picture in pictures] == [title for title, _ in CAPTIONS.values()]
    scrolling = [a for _, a in page.elements if a.get("class") == "scroll"]
    assert len(scrolling) == 3 + len(CAPTIONS)
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolling)


def test_without_plots_the_page_says_how_to_get_them() -> None:
    assert 'pip install "hf-exposure[plots]"' in "".join(Page(report_page(mixed(), {})).words)
