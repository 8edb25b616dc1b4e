"""The page of reproduced results says what the stored numbers say, and every claim is evaluated anew from them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from examples.secret_sharer.page import load_results, page

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "examples" / "secret_sharer" / "results"
STORED = sorted(path.stem for path in RESULTS.glob("*.json"))
# Everything that the paper shows of memorisation.
PROMISED = {
    *("table1", "table2", "table3", "table4", "table5", "table6"),
    *("figure1", "figure3", "figure4", "figure5", "figure7", "figure8", "figure9", "figure11", "figure12"),
    *("section6_3", "section7_4", "section9_1", "section9_2"),
}


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def values(node: Any, path: list[str]) -> list[float]:
    if not path:
        return [math.nan if node is None else float(node)]
    if path[0] == "*":
        items = list(node.values()) if isinstance(node, dict) else node
        return [value for item in items for value in values(item, path[1:])]
    return values(node[int(path[0])] if isinstance(node, list) else node[path[0]], path[1:])


def bears_out(made: dict[str, Any], figures: dict[str, Any]) -> bool:
    """The claim's rule by itself: t-intervals are scipy's test."""
    numbers, than, rule = values(figures, made["numbers"].split(".")), made["than"], made["rule"]
    if not numbers or any(math.isnan(number) for number in numbers):
        return False
    if rule.startswith("all"):
        return all(number >= than if rule == "all_at_least" else number <= than for number in numbers)
    if len(numbers) < 2:
        return False
    low, high = stats.ttest_1samp(numbers, than).confidence_interval(0.95)
    return bool({"mean_above": low > than, "mean_below": high < than, "mean_holds": low <= than <= high}[rule])


# Some stored samples are one number many times: SciPy warns that their variance is rounding.
@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
@pytest.mark.parametrize("name", STORED)
def test_every_claim_is_what_its_numbers_say(name: str) -> None:
    stored = record(name)
    assert stored["claims"], "a result without a claim shows nothing"
    for made in stored["claims"]:
        assert bears_out(made, stored["figures"]) == made["holds"], made["sentence"]


@pytest.mark.parametrize("name", STORED)
def test_the_verdict_names_the_claims_that_fail(name: str) -> None:
    (result,) = [result for result in load_results() if result.name == name]
    failing = [place for place, made in enumerate(record(name)["claims"], 1) if not made["holds"]]
    assert result.words["failing"] == failing
    assert (result.words["verdict"] == "holds") == (not failing)
    assert result.words["verdict"] in ("holds", "fails", "differs") and result.words["remark"].strip()


@pytest.mark.parametrize("name", STORED)
def test_a_record_says_how_it_was_made_and_holds_no_text_of_a_corpus(name: str) -> None:
    stored = record(name)
    assert stored["result"] == name and stored["size"] in ("small", "full")
    assert stored["seeds"] and stored["cost"]["seconds"] > 0 and stored["versions"]["torch"]
    assert not stored["text"] or re.fullmatch("[0-9a-f]{64}", stored["text"]["sha256"])
    assert (ROOT / "examples" / "secret_sharer" / f"{name}.py").exists()
    assert max((len(text) for text in re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(stored))), default=0) < 300


def test_the_results_that_are_promised_are_there() -> None:
    assert {re.match(r"(section\d_\d|[a-z]+\d+)_", name)[1] for name in STORED} == PROMISED  # type: ignore[index]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8") == page(load_results())
    for result in load_results():
        for image in result.images:
            assert (ROOT / "docs" / image).read_bytes().startswith(b"\x89PNG")


def test_a_claim_that_no_longer_holds_is_seen() -> None:
    made = {"numbers": "runs.*.bits", "than": 1.0, "rule": "mean_above"}
    assert bears_out(made, {"runs": [{"bits": 2.0}, {"bits": 2.1}, {"bits": 2.2}]})
    assert not bears_out(made, {"runs": [{"bits": 2.0}, {"bits": 2.1}, {"bits": -2.2}]})
    assert not bears_out(made, {"runs": [{"bits": 2.0}, {"bits": None}]})
