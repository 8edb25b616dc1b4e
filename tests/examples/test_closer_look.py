"""The closer look's scripts run at their smallest size, and its page says what the stored numbers say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from test_secret_sharer_results import bears_out

from examples.closer_look.images import parse_options
from examples.closer_look.page import ORDER, load_results, page
from examples.secret_sharer.plots import draw_plot

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "examples" / "closer_look" / "results"
STORED = sorted(path.stem for path in RESULTS.glob("*.json"))


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.filterwarnings("ignore:Precision loss occurred:RuntimeWarning")
@pytest.mark.parametrize("name", STORED)
def test_every_claim_is_what_its_numbers_say(name: str) -> None:
    stored = record(name)
    assert stored["claims"] and stored["size"] in ("small", "full") and stored["cost"]["seconds"] > 0
    assert stored["settings"]["data"].startswith("MNIST ")
    for made in stored["claims"]:
        assert bears_out(made, stored["figures"]) == made["holds"], made["sentence"]


@pytest.mark.parametrize("name", STORED)
def test_the_verdict_names_the_claims_that_fail(name: str) -> None:
    (result,) = [result for result in load_results() if result.name == name]
    failing = [place for place, made in enumerate(record(name)["claims"], 1) if not made["holds"]]
    assert result.words["failing"] == failing
    assert (result.words["verdict"] == "holds") == (not failing)
    assert result.words["verdict"] in ("holds", "fails", "differs") and result.words["remark"].strip()


def test_the_page_is_up_to_date() -> None:
    results = load_results()
    assert [result.name for result in results] == list(ORDER)
    assert (ROOT / "docs" / "closer_look.md").read_text(encoding="utf-8") == page(results)
    for result in results:
        assert (ROOT / "examples" / "closer_look" / f"{result.name}.py").exists()
        for image in result.images:
            assert (ROOT / "docs" / image).read_bytes().startswith(b"\x89PNG")


# A size that shows nothing: networks that learned nothing yet agree everywhere, of which means warn.
@pytest.mark.filterwarnings("ignore:Mean of empty slice:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", ORDER)
def test_each_script_runs_at_its_smallest_size(name: str, tmp_path: Path) -> None:
    script = importlib.import_module(f"examples.closer_look.{name}")
    assert set(script.SIZES) == {"smallest", "small", "full"} and script.__doc__
    script.run(parse_options(script.__doc__, ["--size", "smallest", "--out", str(tmp_path)]))
    stored = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert stored["result"] == name and stored["claims"] and stored["settings"]["data"] == "made up"
    width = len(stored["table"]["columns"])
    assert width and all(len(row) == width for row in stored["table"]["rows"])
    for place, spec in enumerate(stored["plots"]):
        draw_plot(spec, tmp_path / f"{place}.png")
        assert (tmp_path / f"{place}.png").stat().st_size > 5_000
