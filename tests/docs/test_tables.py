"""Figures that a page quotes are those of the benchmark that it names."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from doc_blocks import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "design").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_up_to_date(page: Path) -> None:
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    make_tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_tables)
    text = page.read_text(encoding="utf-8")
    assert text == make_tables.rewrite(text), "run: python docs/make_tables.py"


def test_the_table_of_estimators_is_the_benchmarks() -> None:
    page = (ROOT / "docs" / "choosing-an-estimator.md").read_text(encoding="utf-8")
    table = page.split("<!-- table: estimators -->\n")[1].split("\n\n")[0].splitlines()[2:]
    measured = json.loads((ROOT / "benchmarks" / "results" / "estimators.json").read_text())["rows"]
    for line, row in zip(table, measured, strict=True):
        methods = row["methods"]
        errors = [f"{methods[name]['error_bits']:+.2f}" for name in ("sample", "skew_normal", "importance")]
        search = methods["bounded"]
        outcome = "exact," if search["certified"] else "open after"
        seconds = [
            methods["sample"]["seconds_measuring"],
            methods["importance"]["seconds_measuring"],
            search["seconds"],
        ]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        expected = [f"{row['truth_bits']:.2f}", *errors, f"{outcome} {search['expansions']:,} expansions"]
        assert cells == [*expected, ", ".join(f"{value:.1f}" for value in seconds)]


def test_the_tables_of_other_tools_are_the_benchmarks() -> None:
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    measured = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())["secrets"]
    expected = []
    for secret, row in measured.items():
        for tool, result in row["tools"].items():
            found = result["detections"]
            groups = found["by_repetitions"].values()
            assert sum(group["detected"] for group in groups) == found["inserted"]["detected"]
            # The rule: at most 1 % of the controls exceed a threshold that comes from them.
            if tool != "hf_exposure, without controls":
                assert found["controls"]["detected"] <= 0.01 * found["controls"]["of"]
            low, high = (f"{100 * found['inserted'][end]:.0f} %" for end in ("low", "high"))
            cells = [
                secret,
                tool,
                f"{found['inserted']['detected']} of {found['inserted']['of']} [{low}, {high}]",
                *(f"{group['detected']} of {group['of']}" for group in groups),
                f"{found['controls']['detected']} of {found['controls']['of']}",
            ]
            expected.append(f"| {' | '.join(cells)} |")
    assert page.split("<!-- table: peers_detections -->\n")[1].split("\n\n")[0].splitlines()[2:] == expected
