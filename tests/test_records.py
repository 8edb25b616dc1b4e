"""The kind of an exposure figure: set by every method, kept in files, derived from old files, and alone decisive."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_samples import estimate, mixed, report

from hf_exposure import ExposureReport
from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    enumeration_exposure,
    importance_exposure,
    sampling_exposure,
    skew_normal_exposure,
)
from hf_exposure.estimators.estimate import CostEstimate, weakest_bound
from hf_exposure.hub import published
from hf_exposure.report.verdict import headline, judgment

REFERENCES = np.random.default_rng(0).normal(50.0, 3.0, 4000)


def kinds(estimates: list[CostEstimate]) -> list[str]:
    return [one.bound for one in estimates]


def test_each_estimator_says_what_its_figures_are() -> None:
    costs = [49.0, 20.0]
    assert kinds(enumeration_exposure(costs, REFERENCES, includes_self=False, tolerance_bits=0.01)) == ["exact"] * 2
    assert kinds(sampling_exposure(costs, REFERENCES, space_size=10**9)) == ["interval", "lower"]
    assert kinds(sampling_exposure(costs, REFERENCES)) == ["interval", "lower"]
    # Below all of nearly the whole space, the exposure has an upper limit too.
    assert kinds(sampling_exposure([20.0], REFERENCES, space_size=4001)) == ["interval"]
    weights = np.full(4000, 1.0)
    assert kinds(importance_exposure(costs, REFERENCES, weights, space_size=10**9)) == ["interval", "lower"]
    good, bad = REFERENCES, np.linspace(40.0, 60.0, 4000)
    assert kinds(skew_normal_exposure(costs, good)) == ["extrapolated"] * 2
    assert kinds(skew_normal_exposure(costs, bad, accept_bad_fit=True)) == ["extrapolated"] * 2
    refused = skew_normal_exposure(costs, bad)
    assert kinds(refused) == ["undefined"] * 2
    assert all(math.isnan(one.exposure_bits) for one in refused)


def test_undefined_is_null_in_json_and_nan_in_python() -> None:
    original = mixed()
    row = original.to_dict()["estimates"][2]
    assert (row["bound"], row["exposure_bits"]) == ("undefined", None)
    (restored,) = (e for e in ExposureReport.from_dict(original.to_dict()).estimates if e.bound == "undefined")
    assert math.isnan(restored.exposure_bits)


@pytest.mark.parametrize("bound", ["exact", "interval", "lower", "extrapolated"])
def test_the_kind_survives_json_and_publishing(bound: Any) -> None:
    kept = report(estimate(5.0, 4, bound=bound), estimate(1.0, 0))
    assert ExposureReport.from_dict(json.loads(json.dumps(kept.to_dict()))).estimates[0].bound == bound
    assert published(kept).estimates[0].bound == bound
    assert ExposureReport.from_dict(published(kept).to_dict()).estimates[0].bound == bound


TOP = math.log2(1000)


@pytest.mark.parametrize(
    ("figures", "bound"),
    [
        ({"method": "enumerate", "rank_low": 3, "rank_high": 5}, "exact"),
        ({"method": "bounded", "low_bits": 5.0, "high_bits": 5.0, "rank_low": 31, "rank_high": 31}, "exact"),
        ({"method": "bounded", "low_bits": 5.0, "high_bits": 9.0, "rank_low": 2, "rank_high": 31}, "lower"),
        # Published: without ranks.
        ({"method": "bounded", "low_bits": 5.0, "high_bits": 5.0}, "exact"),
        ({"method": "bounded", "low_bits": 5.0, "high_bits": 9.0}, "lower"),
        ({"method": "sample"}, "interval"),
        ({"method": "importance"}, "interval"),
        ({"method": "sample", "high_bits": TOP}, "lower"),
        ({"method": "sample", "high_bits": 10.0}, "lower"),  # published: rounded
        ({"method": "sample", "high_bits": math.inf}, "lower"),
        ({"method": "sample", "exposure_bits": TOP - 0.05, "high_bits": TOP}, "interval"),
        ({"method": "skew_normal", "low_bits": math.nan, "high_bits": math.nan}, "extrapolated"),
        ({"method": "sample", "exposure_bits": math.nan}, "undefined"),
    ],
)
def test_files_without_the_kind_have_it_from_their_figures(figures: dict[str, Any], bound: str) -> None:
    """The note contradicts the kind, and must not matter."""
    note = "exact" if bound == "lower" else "a lower bound: undefined"
    values = report(estimate(5.0, 4), estimate(1.0, 0)).to_dict()
    row = {**values["estimates"][0], "note": note, **figures}
    row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items() if k != "bound"}
    values["estimates"][0] = row
    restored = ExposureReport.from_dict(values)
    assert restored.estimates[0].bound == bound
    # Once read, the kind is stored.
    assert restored.to_dict()["estimates"][0]["bound"] == bound


def test_the_space_of_a_canary_is_without_the_other_inserted_ones() -> None:
    """100 of 128 texts were inserted: a canary competes with 28, so the maximum is 4.8 bits."""
    rows = [estimate(3.0, 1, canary_id=str(i), high_bits=math.log2(29)) for i in range(100)]
    values = report(*rows, space_size=128).to_dict()
    for row in values["estimates"]:
        del row["bound"]
    assert {e.bound for e in ExposureReport.from_dict(values).estimates} == {"lower"}


def test_no_word_of_a_note_changes_what_is_said() -> None:
    words = ("", "a lower bound: stopped", "undefined", "extrapolated", "not certified", "INVALID")
    said = set()
    for note in words:
        rows = [replace(e, note=note) for e in mixed().estimates]
        one = mixed()
        one = replace(one, estimates=tuple(rows))
        said.add((headline(one), judgment(one), str([(g.bound, g.lower_bounds, g.rank1) for g in one.groups])))
    assert len(said) == 1


def test_a_kind_that_contradicts_the_figure_is_refused() -> None:
    with pytest.raises(InputError, match="^bound: must be 'undefined' if exposure_bits is NaN, and only then"):
        estimate(3.0, 1, bound="undefined")
    with pytest.raises(InputError, match="^bound: must be 'undefined' if"):
        estimate(math.nan, 1, bound="exact")
    with pytest.raises(
        InputError, match="^bound: must be one of exact, interval, lower, extrapolated, undefined, got"
    ):
        estimate(3.0, 1, bound="certain")
    values = mixed().to_dict()
    values["estimates"][0]["bound"] = "certain"
    with pytest.raises(InputError, match=r"^report\.estimates\[0\]\.bound: must be one of exact, interval, lower"):
        ExposureReport.from_dict(values)


def test_what_is_known_about_an_exposure() -> None:
    most = 10.0
    assert estimate(4.0, low_bits=3.5, high_bits=4.5).known_bits(most) == (3.5, 4.5)
    assert estimate(4.0, low_bits=3.5, high_bits=4.5, bound="lower").known_bits(most) == (3.5, most)
    stopped = estimate(4.0, low_bits=4.0, high_bits=6.0, rank_low=16, rank_high=64, bound="lower")
    assert stopped.known_bits(most) == (4.0, 6.0)
    assert estimate(12.0, low_bits=math.nan, high_bits=math.nan, bound="extrapolated").known_bits(most) == (0.0, most)
    assert estimate(math.nan, low_bits=3.0, high_bits=4.0).known_bits(most) == (0.0, most)
    assert estimate(9.9, low_bits=9.0, high_bits=math.inf).known_bits(most) == (9.0, most)
    assert estimate(0.1, low_bits=-0.2, high_bits=0.5).known_bits(most) == (0.0, 0.5)


def test_of_a_mean_the_weakest_figure_counts() -> None:
    order = ["exact", "interval", "lower", "extrapolated", "undefined"]
    for place, kind in enumerate(order):
        assert weakest_bound(order[: place + 1]) == kind  # type: ignore[arg-type]
    assert weakest_bound([]) == "undefined"
    theirs = CostEstimate(method="theirs", exposure_bits=3.0, low_bits=math.nan, high_bits=math.nan)
    assert theirs.bound == "extrapolated"
