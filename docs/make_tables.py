"""Writes the tables of measured figures into the pages: `python docs/make_tables.py`, after a benchmark was run.

A table stands below its line `<!-- table: NAME -->`; NAME is a function here. A test says when a page is not what
`benchmarks/results/` says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted((DOCS / "design").glob("*.md"))]
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(?:\|.*\n)*")


def rewrite(text: str) -> str:
    """The page with each of its tables as measured."""
    return _TABLE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n", text)


def _table(head: str, rows: list[list[str]]) -> str:
    rule = "|" + "---|" * (head.count("|") + 1)
    return "\n".join([f"| {head} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def _measured(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return values


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def speed() -> str:
    """Beside plain batches of whole texts."""
    scoring, growth, insertion = _measured("scoring"), _measured("growth"), _measured("insertion")
    some, whole, six = scoring["candidates"], scoring["whole_space"], growth["rows"][-1]
    identity, inserted = (median(insertion[f"{name}_seconds"]) for name in ("identity", "insertion"))
    plain_six = growth["plain_seconds_per_text"] * six["texts"]
    return _table(
        "work | plain batches of whole texts | hf_exposure",
        [
            [
                f"{some['texts']:,} candidates of nine digits",
                f"{_seconds(some['seconds']['plain'])} s",
                f"{_seconds(some['seconds']['ours'])} s ({some['ratio']:.1f}x; "
                f"{some['ratio_without_tokenisation']:.1f}x without tokenising)",
            ],
            [
                "all 10^5 candidates of five digits",
                f"{_seconds(whole['seconds']['plain'])} s (scaled from {whole['plain_is_scaled_from']:,})",
                f"{_seconds(whole['seconds']['ours_from_template'])} s ({whole['ratio']:.0f}x; "
                f"{whole['ratio_without_tokenisation']:.0f}x without preparing)",
            ],
            [
                "all 10^6 candidates of six digits",
                f"{_seconds(plain_six)} s (scaled from {growth['plain_texts']:,})",
                f"{_seconds(six['seconds'])} s ({six['ratio_to_plain']:.0f}x), from the template to the last figure",
            ],
            [
                f"{insertion['inserted_rows']:,} canary rows into 10^6 rows",
                f"{_seconds(identity)} s (an identity `map`)",
                f"{_seconds(inserted)} s",
            ],
        ],
    )


def estimators() -> str:
    """Error in bits of each method at five moments of a training."""
    rows = []
    for row in _measured("estimators")["rows"]:
        methods = row["methods"]
        search = methods["bounded"]
        seconds = [*(methods[name]["seconds_measuring"] for name in ("sample", "importance")), search["seconds"]]
        rows.append(
            [
                f"{row['truth_bits']:.2f}",
                *(f"{methods[name]['error_bits']:+.2f}" for name in ("sample", "skew_normal", "importance")),
                f"{'exact,' if search['certified'] else 'open after'} {search['expansions']:,} expansions",
                ", ".join(f"{value:.1f}" for value in seconds),
            ]
        )
    return _table("truth | sample | skew_normal | importance | bounded | seconds: sample, importance, bounded", rows)


def growth() -> str:
    """Whole spaces."""
    rows = [
        [
            f"{row['texts']:,}",
            f"{row['inner_nodes']:,}",
            _seconds(row["seconds"]),
            f"{row['microseconds_per_node']:.0f}",
            f"{row['ratio_to_plain']:.0f}x",
        ]
        for row in _measured("growth")["rows"]
    ]
    return _table("texts | tokens fed | seconds | microseconds a token | against plain batches", rows)


def search() -> str:
    """Exact ranks of nine digits: the dearest search of each whole number of bits."""
    dearest: dict[int, dict[str, Any]] = {}
    for row in _measured("search")["rows"]:
        bits = int(row["bits_after_prefix"])
        if row["secret"] == "nine digits" and row["expansions"] > dearest.get(bits, {"expansions": 0})["expansions"]:
            dearest[bits] = row
    rows = [
        [
            f"{row['bits_after_prefix']:.1f}",
            f"{row['exposure_bits']:.1f}",
            f"{row['expansions']:,}",
            f"{row['most_expansions']:,.0f}",
            _seconds(row["seconds"]),
        ]
        for _, row in sorted(dearest.items())
    ]
    return _table("b, bits of the canary | exposure | expansions | at most | seconds", rows)


def overhead() -> str:
    """What measurements add to a training."""
    measured = _measured("overhead")
    names = {
        "sample": "`sample`, 4,096 references, each epoch",
        "importance": "`importance`, 4,096 references, each epoch",
        "auto": "`auto`, 4,096 references, each epoch",
        "every_step_256_references": "`sample`, 256 references, every step",
    }
    rows = []
    for name, said in names.items():
        run = measured[name]
        each = sum(run["measuring_seconds"]) / run["measurements"]
        rows.append([said, str(run["measurements"]), _seconds(each), f"{100 * run['share_of_training']:.0f} %"])
    return _table("measured | times | seconds each | added to the training time", rows)


def group_intervals() -> str:
    """Coverage and width of the intervals of group means, by population and number of canaries."""
    rows: dict[str, list[str]] = {}
    shown = [("exact", 8), ("exact", 12), ("exact", 20), ("exact", 40), ("256 references", 8), ("256 references", 40)]
    shown += [("student", 8), ("student", 40)]
    for row in _measured("group_intervals")["rows"]:
        cells = rows.setdefault(row["population"], [row["population"], f"{row['mean_bits']:.2f}"])
        cells += [
            f"{100 * row[way]['coverage']:.1f} ({row[way]['width_bits']:.1f})"
            for way, size in shown
            if size == row["canaries"]
        ]
    # In the file the sizes come first, here the ways of measuring.
    order = sorted(range(len(shown)), key=lambda place: shown[place][1])
    heads = ["population", "mean", *(f"{'t' if way == 'student' else way}, {size}" for way, size in shown)]
    by_way = [[*cells[:2], *(cells[2 + order.index(place)] for place in range(len(shown)))] for cells in rows.values()]
    return _table(" | ".join(heads), by_way)


def cost_planner() -> str:
    """What a plan says by what a measurement took, and the measured figures."""
    rows = []
    for size, found in _measured("cost_planner")["sizes"].items():
        for row, said in (("auto_where_nothing_is_memorized", "`auto`"), ("bounded_to_its_budget", "`bounded`")):
            measured, ratio = found[row]["measured"], found[row]["predicted_by_measured"]
            rows.append(
                [
                    f"{size}, vocabulary of {found['vocabulary']:,}",
                    said,
                    f"{measured['tokens']:,} ({ratio['tokens']:.2f})",
                    f"{measured['passes']} ({ratio['passes']:.2f})",
                    f"{measured['tensor_bytes'] / 1e6:,.0f} MB ({ratio['tensor_bytes']:.2f})",
                    f"{_seconds(measured['seconds'])} s ({ratio['seconds']:.2f})",
                ]
            )
    return _table("parameters | method | tokens fed | passes | tensors beside the weights | time", rows)


TABLES: dict[str, Callable[[], str]] = {
    one.__name__: one for one in (speed, estimators, growth, search, overhead, group_intervals, cost_planner)
}  # fmt: skip


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(rewrite(page.read_text(encoding="utf-8")), encoding="utf-8")
