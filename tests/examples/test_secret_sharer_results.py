"""The page of reproduced results agrees with the stored numbers, from which every claim is evaluated again."""

from __future__ import annotations

import json
import math
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from examples.secret_sharer.claims import (
    RULES,
    Checked,
    check_claim,
    detectable_difference,
    share_power,
    verdict,
)
from examples.secret_sharer.page import load_results, page
from examples.secret_sharer.paper_setting.store import experiments

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "examples" / "secret_sharer" / "results"
STORED = sorted(path.stem for path in RESULTS.glob("*.json"))
# Everything that the paper shows about memorization.
PROMISED = {
    *("table1", "table2", "table3", "table4", "table5", "table6"),
    *("figure1", "figure3", "figure4", "figure5", "figure7", "figure8", "figure9", "figure11", "figure12"),
    *("section6_3", "section7_4", "section9_1", "section9_2"),
}


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def words(name: str) -> dict[str, Any]:
    return tomllib.loads((RESULTS / f"{name}.toml").read_text(encoding="utf-8"))


def values(node: Any, path: list[str]) -> list[float]:
    if not path:
        return [math.nan if node is None else float(node)]
    if path[0] == "*":
        items = list(node.values()) if isinstance(node, dict) else node
        return [value for item in items for value in values(item, path[1:])]
    if path[0].startswith("["):
        wanted = dict(pair.split("=") for pair in path[0][1:-1].split(","))
        kept = [item for item in node if all(str(item[key]).lower() == value for key, value in wanted.items())]
        return [value for item in kept for value in values(item, path[1:])]
    return values(node[int(path[0])] if isinstance(node, list) else node[path[0]], path[1:])


def bears_out(made: dict[str, Any], figures: dict[str, Any]) -> bool:
    """The claim's rule, implemented separately: t-intervals come from scipy."""
    numbers, than, rule = values(figures, made["numbers"].split(".")), made["than"], made["rule"]
    if not numbers or any(math.isnan(number) for number in numbers):
        return False
    if rule == "interval_holds":
        low, high = numbers
        return bool(low <= than <= high)
    if rule.startswith(("all", "share")):
        good = [number >= than if rule.endswith("at_least") else number <= than for number in numbers]
        return sum(good) >= made.get("share", 1.0) * len(good)
    if len(numbers) < 2:
        return False
    low, high = stats.ttest_1samp(numbers, than).confidence_interval(0.95)
    return bool({"mean_above": low > than, "mean_below": high < than, "mean_holds": low <= than <= high}[rule])


# Some stored samples repeat one number: SciPy warns that their variance is rounding error.
@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
@pytest.mark.parametrize("name", STORED)
def test_every_claim_is_what_its_numbers_say(name: str) -> None:
    (result,) = [result for result in load_results() if result.name == name]
    assert result.claims, "a result without a claim shows nothing"
    for made in result.claims:
        if "untested" in made.words:
            assert made.holds is None and "rule" not in made.words and made.is_the_papers
        else:
            figures = record(made.words.get("of", name))["figures"]
            assert bears_out(dict(made.words), figures) == made.holds, made.words["sentence"]


@pytest.mark.parametrize("name", STORED)
def test_a_claim_of_the_paper_says_where_it_is_made(name: str) -> None:
    found = words(name)
    for made in [*found["claims"], *found["paper_setting"]["claims"]]:
        assert made["source"] in ("paper", "ours")
        assert ("section" in made) == (made["source"] == "paper"), made["sentence"]
    assert any(made["source"] == "paper" for made in found["claims"]), "the paper is what is reproduced"
    assert found["remark"].strip() and found["canary_share"]


def claims(*found: tuple[str, bool | None]) -> list[Checked]:
    return [Checked(words={"source": source}, values=(), spread=(0, 0, 0), holds=holds) for source, holds in found]


def test_only_claims_of_the_paper_decide_a_verdict() -> None:
    assert verdict(claims(("paper", True), ("ours", False))) == "holds"
    assert verdict(claims(("paper", True), ("paper", None), ("ours", False))) == "holds in part"
    assert verdict(claims(("paper", True), ("paper", False), ("ours", True))) == "differs"
    assert verdict(claims(("paper", None), ("ours", True))) == "not tested"
    assert verdict(claims(("ours", True))) == "ours alone"


def test_a_claim_on_figures_that_lack_its_numbers_does_not_hold() -> None:
    made = {"source": "ours", "sentence": "", "rule": "all_at_most", "numbers": "runs.*.bits", "than": 1}
    assert check_claim(made, {"other": []}).holds is False
    assert check_claim(made, {"runs": []}).holds is False
    assert check_claim(made, {"runs": [{"bits": None}]}).holds is False
    assert check_claim(made, {"runs": [{"bits": 1}]}).holds is True


def test_differences_pair_models_of_the_same_seed() -> None:
    made = {"source": "ours", "sentence": "", "rule": "mean_above", "numbers": "a.*", "minus": "b.*", "than": 0}
    checked = check_claim(made, {"a": [3.0, 5.0], "b": [1.0, 2.0, 100.0]})
    assert checked.values == (2.0, 3.0)


@pytest.mark.parametrize("models", [3, 10])
def test_the_power_of_a_mean_is_that_of_simulated_t_tests(models: int) -> None:
    shown = detectable_difference(2.5, models)
    drawn = np.random.default_rng(0).normal(shown, 2.5, (20_000, models))
    assert np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.012)


def test_the_power_of_a_share_counts_models() -> None:
    # At least 2 of 3 with probability 0.5 each: 3/8 + 1/8.
    assert share_power(3, 0.6, 0.5) == pytest.approx(0.5)
    assert share_power(10, 1.0, 0.9) == pytest.approx(0.9**10)


@pytest.mark.parametrize("name", STORED)
def test_every_rule_on_the_papers_setting_can_be_read_by_the_queue(name: str) -> None:
    setting, known = words(name)["paper_setting"], experiments()
    assert setting["experiment"] in known and setting["claims"] and setting["design"].strip()
    for made in setting["claims"]:
        cells = known[made.get("experiment", setting["experiment"])]["cells"]
        assert made["rule"] in RULES and made["models"] >= 1
        for path in (made["numbers"], made.get("minus", "derived")):
            first, *more = path.split(".")
            assert first in ("cells", "derived"), path
            if first == "cells":
                assert more[0] == "*" or cells[more[0]] >= min(made["models"], max(cells.values())), path
        if made["rule"].startswith("mean"):
            assert made["scatter"] > 0, "a rule on a mean has a power"


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
