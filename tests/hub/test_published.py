"""The content of a published report."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
from scipy.stats import mannwhitneyu

from hf_exposure.hub import published
from hf_exposure.records import ExposureEstimate, ExposureReport


def estimate(name: str, repetitions: int, bits: float, **changes: object) -> ExposureEstimate:
    values = {
        "log_perplexity_bits": 40.123456 - bits, "exposure_bits": bits, "low_bits": bits - 0.26,
        "high_bits": bits + 0.26, "method": "sample", "note": "17 of 4096 at or below", "base_exposure_bits": 1.2345,
    }  # fmt: skip
    return ExposureEstimate(canary_id=name, repetitions=repetitions, **{**values, **changes})


REPORT = ExposureReport(
    estimates=(
        estimate("a0", 8, 5.4321),
        estimate("b1", 8, 19.8765, rank_low=1, rank_high=1),
        estimate("c2", 8, 7.6543, rank_low=30, rank_high=33, bound="lower", note="31 expansions"),
        estimate("d3", 1, math.nan, low_bits=math.nan, high_bits=math.inf, note="NaN because of 3 references"),
        estimate("e4", 0, 0.5555),
        estimate("f5", 0, 2.2222),
    ),
    template="pin {pin}",
    spaces={"pin": "Digits(length=6)"},
    space_size=10**6,
    manifest_hash="0f",
    settings={"method": "auto", "seed": 77, "confidence_level": 0.95, "unheard_of": "x"},
    p_value=0.123456,
    seconds=1.23456,
    model={"class": "GPT2LMHeadModel", "name": "/home/me/run", "parameters": 12, "dtype": "float32"},
    step=3,
)


def test_figures_by_hand() -> None:
    rows = [(e.canary_id, e.exposure_bits, e.low_bits, e.high_bits, e.note) for e in published(REPORT).estimates]
    assert rows[1:] == [
        ("x8-1", 19.9, 19.6, 20.1, ""),
        ("x8-2", 7.7, 7.4, 7.9, "a lower bound"),
        ("x8-3", 5.4, 5.2, 5.7, ""),
        ("control-1", 2.2, 2.0, 2.5, ""),
        ("control-2", 0.6, 0.3, 0.8, ""),
    ]
    assert rows[0][0] == "x1-1"
    assert all(map(math.isnan, rows[0][1:4]))
    assert rows[0][4] == "undefined"


def test_what_would_name_a_secret_is_gone() -> None:
    seen = published(REPORT)
    assert all(math.isnan(e.log_perplexity_bits) and math.isnan(e.base_exposure_bits) for e in seen.estimates)
    # Rank 1 is published, since an exposure of log2|R| reveals it anyway.
    assert [e.rank_high for e in seen.estimates] == [None, 1, None, None, None, None]
    assert seen.settings == {"method": "auto", "confidence_level": 0.95}
    assert seen.model == {"class": "GPT2LMHeadModel", "parameters": 12, "dtype": "float32"}
    said = json.dumps(seen.to_dict()) + repr(seen)
    for gone in ("a0", "b1", "77", "/home/me", "4096", "5.4321", "1.2345", "34.69"):
        assert gone not in said, gone


def test_what_is_about_all_canaries_stays() -> None:
    seen = published(REPORT)
    assert (seen.p_value, seen.step, seen.template, seen.space_size) == (0.123456, 3, "pin {pin}", 10**6)
    assert seen.manifest_hash == "0f"
    assert [group.rank1 for group in seen.groups] == [0, 0, 1]


def test_publishing_twice_changes_nothing() -> None:
    once = published(REPORT)
    assert json.dumps(published(once).to_dict()) == json.dumps(once.to_dict())


def test_the_order_of_the_set_is_gone() -> None:
    """Two pushes of one set cannot be joined row by row."""
    shuffled = replace(REPORT, estimates=tuple(reversed(REPORT.estimates)))
    assert json.dumps(published(shuffled).to_dict()) == json.dumps(published(REPORT).to_dict())


def test_groups_are_tested_on_exposures() -> None:
    """Log-perplexities are withheld; exposures order texts in the same way, so the exact test has the same result."""
    rows = [estimate(f"i{k}", 4, 3.0 + k) for k in range(5)] + [estimate(f"c{k}", 0, 0.5 + k) for k in range(6)]
    report = replace(REPORT, estimates=tuple(rows))
    expected = mannwhitneyu([3.0 + k for k in range(5)], [0.5 + k for k in range(6)], alternative="greater").pvalue
    assert published(report).groups[1].p_value == pytest.approx(expected)
    assert report.groups[1].p_value == pytest.approx(expected)


def test_one_missing_log_perplexity_is_no_published_report() -> None:
    rows = [estimate("i", 4, 3.0, log_perplexity_bits=math.nan), estimate("c", 0, 1.0)]
    assert math.isnan(replace(REPORT, estimates=tuple(rows)).groups[1].p_value)


def test_every_field_of_a_report_was_decided_on() -> None:
    """A new field is not published until somebody has thought about it: then it is added here."""
    decided = {
        "estimates", "template", "spaces", "space_size", "manifest_hash", "settings", "p_value", "auc", "auc_low",
        "auc_high", "epsilon", "gaussian_epsilons", "uniform_draw", "complete_search", "seconds", "model", "versions",
        "step", "epoch", "notes",
    }  # fmt: skip
    marked = replace(REPORT, versions={"v": "1"}, notes=("n",), epsilon={"epsilon": 0.5}, epoch=1.5, auc=0.75)
    seen = published(marked)
    kept = {field.name for field in fields(ExposureReport) if getattr(seen, field.name) == getattr(marked, field.name)}
    assert kept >= decided - {"estimates", "settings", "model", "seconds", "auc_low", "auc_high"}
    needed = {f.name: getattr(marked, f.name) for f in fields(ExposureReport) if f.name in decided}
    blank = ExposureReport(**needed)
    undecided = {field.name for field in fields(ExposureReport)} - decided
    assert {name: repr(getattr(seen, name)) for name in undecided} == {
        name: repr(getattr(blank, name)) for name in undecided
    }
