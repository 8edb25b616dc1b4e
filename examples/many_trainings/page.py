"""Writes the results in `docs/many_trainings.md` from the stored JSON and its rules.

python -m examples.many_trainings.page
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from examples.many_trainings import RESULTS
from examples.secret_sharer.claims import check_claim

__all__ = ["PAGE", "with_results"]

PAGE = Path(__file__).parents[2] / "docs" / "many_trainings.md"
_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->"


# What a stored setting means. A name has one meaning in all studies.
_SETTINGS = {
    "canaries_each": "{} canaries for each repetition count",
    "characters": "{} characters of text",
    "contexts": "contexts of {} characters",
    "controls": "{} held-out controls",
    "copies": "{} copies of each repeated line",
    "counts": "repetition counts {}",
    "draws": "{} draws",
    "epochs": "{} epochs",
    "families": "{} groups of near-duplicates",
    "fine_tuning_epochs": "{} epochs of fine-tuning",
    "gradients": "{} rows whose gradients are compared",
    "held_out": "{} held-out lines",
    "layer": "{} rows in a layer",
    "lines": "{} lines of text",
    "lines_each": "{} lines for each repetition count",
    "models": "{} models",
    "noise": "share of noisy labels {}",
    "pretraining_epochs": "{} epochs of pre-training",
    "repeated": "{} repeated lines",
    "repetitions": "repetition counts {}",
    "rows": "{} rows",
    "seeds": "{} seeds",
    "share": "share of the rows in each subset {}",
    "space": "{} candidate secrets",
    "steps": "{} steps",
    "targets": "{} target models",
    "tests": "{} test rows",
    "unique": "{} unique lines",
    "unusual": "{} rows of random characters",
    "validation": "{} validation rows",
    "vocabularies": "vocabularies of {} units",
    "weights": "{} weights",
    "width": "{} hidden units",
    "widths": "widths of {} hidden units",
}


def with_results(page: str) -> str:
    """The page with a table for every study that has rules; studies without a stored result are "not run"."""
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + "\n".join(map(_study, sorted(RESULTS.glob("*.toml")))) + rest[rest.index(_END) :]


def _study(rules: Path) -> str:
    words = tomllib.loads(rules.read_text(encoding="utf-8"))
    stored = rules.with_suffix(".json")
    record = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else None
    lines = [f"### {words['title']}", ""]
    if record is not None:
        settings = "; ".join(_in_words(name, value) for name, value in record["settings"].items())
        lines += [f"Data: {record['data']}. Settings: {settings}.", ""]
    lines += ["| rule | found | holds |", "|---|---|---|"]
    for claim in words["claims"]:
        found, holds = "", "not run"
        if record is not None:
            made = check_claim(claim, record["figures"])
            mean, low, high = made.spread
            found = "undefined" if mean != mean else f"{mean:.3g}"
            found += f" [{low:.3g}, {high:.3g}]" if mean == mean and low != high else ""
            holds = "yes" if made.holds else "no"
        source = "" if claim["source"] == "paper" else " (ours)"
        lines.append(f"| {claim['sentence'].strip()}{source} | {found} | {holds} |")
    return "\n".join([*lines, ""])


def _in_words(name: str, value: Any) -> str:
    """A setting as a reader of the page sees it."""
    *others, last = (f"{one:,}" for one in (value if isinstance(value, list) else [value]))
    return _SETTINGS[name].format(f"{', '.join(others)} and {last}" if others else last)


if __name__ == "__main__":
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
