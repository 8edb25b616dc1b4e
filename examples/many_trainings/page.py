"""Writes the results in `docs/many_trainings.md` from the stored JSON and its rules.

python -m examples.many_trainings.page
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from examples.many_trainings import RESULTS
from examples.secret_sharer.claims import check_claim

__all__ = ["PAGE", "with_results"]

PAGE = Path(__file__).parents[2] / "docs" / "many_trainings.md"
_BEGIN, _END = "<!-- results -->\n", "<!-- end of results -->"


def with_results(page: str) -> str:
    """The page with a table of every study whose rules are there: what was stored, or "not run"."""
    before, rest = page.split(_BEGIN)
    return before + _BEGIN + "\n".join(map(_study, sorted(RESULTS.glob("*.toml")))) + rest[rest.index(_END) :]


def _study(rules: Path) -> str:
    words = tomllib.loads(rules.read_text(encoding="utf-8"))
    stored = rules.with_suffix(".json")
    record = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else None
    lines = [f"### {words['title']}", ""]
    if record is not None:
        settings = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
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


if __name__ == "__main__":
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
