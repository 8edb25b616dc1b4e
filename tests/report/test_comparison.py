"""Runs side by side: by hand, and against scipy's own t-tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import estimate, report
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.report import ExposureReport
from hf_exposure.report.comparison import compare_runs, difference_bits
from hf_exposure.report.comparison_page import comparison_page, comparison_values, save_comparison
from hf_exposure.report.run import Run


def with_bits(bits: list[float], repetitions: int = 8, *, other: bool = False, **changes: Any) -> ExposureReport:
    rows = [estimate(b, repetitions, canary_id=f"{repetitions}-{i}") for i, b in enumerate(bits)]
    return report(*rows, estimate(1.0, 0), manifest_hash="b" if other else "a", **changes)


def run(name: str, bits: list[float], loss: float | None = None, **changes: Any) -> Run:
    log = () if loss is None else ({"step": 1, "eval_loss": loss},)
    return Run(name=name, report=with_bits(bits, **changes), training_log=log)


def test_the_same_canaries_are_compared_in_pairs() -> None:
    more, less = [9.0, 12.0, 7.5, 15.0, 11.0], [4.0, 8.5, 3.0, 9.0, 7.0]
    gap = difference_bits(with_bits(more), with_bits(less), [8])
    expected = stats.ttest_rel(more, less).confidence_interval(0.95)
    assert (gap.low_bits, gap.high_bits) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert gap.mean_bits == pytest.approx(np.mean(more) - np.mean(less))


def test_other_canaries_are_compared_as_two_samples() -> None:
    more, less = [9.0, 12.0, 7.5, 15.0, 11.0], [4.0, 8.5, 3.0, 9.0]
    gap = difference_bits(with_bits(more), with_bits(less, other=True), [8])
    expected = stats.ttest_ind(more, less, equal_var=False).confidence_interval(0.95)
    assert (gap.low_bits, gap.high_bits) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_each_repetition_count_weighs_the_same() -> None:
    few = [estimate(2.0, 1, canary_id=f"a{i}") for i in range(2)]
    many = [estimate(10.0, 8, canary_id=f"b{i}") for i in range(8)]
    both = Run(name="x", report=report(*few, *many))
    (first, _) = compare_runs([both, Run(name="y", report=both.report)]).runs
    assert (first.exposure.mean_bits, first.exposure.low_bits, first.exposure.high_bits) == (6.0, 6.0, 6.0)


def test_who_memorises_less_at_equal_utility() -> None:
    runs = [
        run("plain", [10.0, 11.0, 12.0, 13.0], 2.00),
        run("dropout", [5.0, 6.0, 7.5, 8.0], 2.01),  # within 1 %
        run("bad", [5.5, 6.5, 7.0, 8.5], 2.50),
    ]
    found = compare_runs(runs)
    # Differences 5, 5, 4.5, 5: mean 4.875, standard error 0.125, t = 3.1824 with 3 degrees of freedom.
    assert found.findings[0] == (
        "dropout memorises less than plain: 4.9 bits less exposure [4.5, 5.3] at eval_loss 2.01 against 2."
    )
    assert len(found.findings) == 1
    assert [one.on_front for one in found.runs] == [True, True, False]
    assert found.notes == ()
    tight = compare_runs(runs, tolerance=0.0)
    assert tight.findings == ("No run is shown to memorise less than another at equal or better eval_loss.",)


def test_a_utility_that_grows_with_goodness() -> None:
    low = Run(name="low", report=with_bits([5.0, 6.0]), results={"eval_accuracy": 0.5})
    high = Run(name="high", report=with_bits([5.0, 6.0]), results={"eval_accuracy": 0.9})
    found = compare_runs([low, high], utility_key="eval_accuracy")
    assert not found.lower_is_better
    assert [one.on_front for one in found.runs] == [False, True]


def test_without_utility_exposure_alone_is_compared() -> None:
    found = compare_runs([run("a", [10.0, 11.0, 12.0]), run("b", [2.0, 3.5, 4.0])])
    assert found.findings == ("b memorises less than a: 7.8 bits less exposure [7.1, 8.6].",)
    assert found.notes[-1] == "No eval_loss was found for a, b: it is read from the trainer's log in the run's folder."
    assert found.placed == ()


@pytest.mark.parametrize(
    ("other", "note"),
    [
        (run("b", [1.0, 2.0], repetitions=4), "The runs have no repetition count in common"),
        (run("b", [1.0, 2.0], other=True, template="x {pin}"), "The runs have canaries of different templates"),
        (run("b", [1.0, 2.0], other=True), "The runs have different canaries"),
    ],
    ids=["counts", "templates", "draws"],
)
def test_what_cannot_be_compared_is_noted(other: Run, note: str) -> None:
    found = compare_runs([run("a", [9.0, 9.5]), other])
    assert any(said.startswith(note) for said in found.notes)
    if other.report.inserted[0].repetitions == 4:
        assert math.isnan(found.runs[0].exposure.mean_bits)
        assert found.findings == ("No run is shown to memorise less than another.",)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match=r"^runs: must be at least two, got 1\."):
        compare_runs([run("a", [1.0])])
    with pytest.raises(InputError, match=r"^tolerance: must lie in \[0, 1\), got -1\."):
        compare_runs([run("a", [1.0]), run("b", [1.0])], tolerance=-1)


def test_names_from_data_are_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare_runs([run("<script>a", [9.0, 9.5], 2.0), run("_b$&", [1.0, 2.0], 2.0)])
    page = comparison_page(found, {})
    assert "<script>a" not in page
    assert "&lt;script&gt;a" in page
    values = json.loads(json.dumps(comparison_values(found), allow_nan=False))
    assert [one["name"] for one in values["runs"]] == ["<script>a", "_b$&"]
    written = save_comparison(found, tmp_path)
    assert sorted(path.name for path in written) == [
        "comparison.json",
        "exposure_against_utility.png",
        "report.html",
    ]
