"""Figures of repetition groups, by hand and against other ways to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report_samples import estimate, mixed, report
from scipy import stats

from hf_exposure.estimators import mean_interval
from hf_exposure.records import ExposureEstimate
from hf_exposure.records.groups import RepetitionGroup
from hf_exposure.report.verdict import group_cells, rank1_text, spread_text

TOP = math.log2(1000)


def group_of(estimates: list[ExposureEstimate], **changes: object) -> RepetitionGroup:
    return report(*estimates, **changes).groups[-1]


def exact(bits: float, **changes: object) -> ExposureEstimate:
    return estimate(bits, 4, low_bits=bits, high_bits=bits, bound="exact", **changes)


def test_below_8_canaries_every_value_is_shown_and_no_interval() -> None:
    few = group_of([exact(b) for b in (3.0, TOP, 9.9, 0.25, 2.0, 1.0, 7.0)])
    assert few.is_small
    assert math.isnan(few.low_bits) and math.isnan(few.high_bits)
    assert spread_text(few) == "10.0, 9.9, 7.0, 3.0, 2.0, 1.0, 0.2"
    many = group_of([exact(b) for b in (3.0, TOP, 9.9, 0.25, 2.0, 1.0, 7.0, 5.0)])
    assert not many.is_small
    assert spread_text(many) == f"{many.low_bits:.1f} to {many.high_bits:.1f}"
    assert 0 < many.low_bits < many.mean_bits < many.high_bits < TOP


def test_each_value_says_what_kind_it_is() -> None:
    group = group_of(
        [
            exact(4.0),
            estimate(8.0, 4, bound="lower"),
            estimate(12.0, 4, bound="extrapolated"),
            estimate(math.nan, 4, low_bits=math.nan, high_bits=math.nan),
        ]
    )
    assert spread_text(group) == "~ 12.0, ≥ 8.0, 4.0, undefined"
    assert (group.bound, group.lower_bounds) == ("undefined", 1)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_two_valued_groups_have_the_interval_of_clopper_and_pearson(level: float) -> None:
    """A mean of 0 and the top is a share: its exact interval is another library's."""
    bits = [0.0] * 7 + [TOP] * 4
    group = group_of([exact(b) for b in bits], settings={"confidence_level": level})
    share = stats.binomtest(4, 11).proportion_ci(level, method="exact")
    assert group.low_bits == pytest.approx(TOP * share.low, rel=1e-6)
    assert group.high_bits == pytest.approx(TOP * share.high, rel=1e-6)


def test_the_interval_is_the_quantile_of_random_weights() -> None:
    bits = np.array([0.3, 0.3, 1.2, 2.0, 2.5, 4.0, 6.5, 9.9])
    weights = np.random.default_rng(0).dirichlet(np.ones(9), 400_000)
    low = np.quantile(weights @ np.append(bits, 0.0), 0.025)
    high = np.quantile(weights @ np.append(bits, TOP), 0.975)
    group = group_of([exact(b) for b in bits.tolist()])
    assert (group.low_bits, group.high_bits) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_each_canarys_own_uncertainty_is_in_the_interval() -> None:
    bits = [1.0, 2.0, 3.0, 3.5, 4.0, 5.0, 5.5, 6.0]
    sharp = group_of([exact(b) for b in bits])
    blurred = group_of([estimate(b, 4, low_bits=b - 0.5, high_bits=b + 0.5) for b in bits])
    ends = mean_interval([b - 0.5 for b in bits], [b + 0.5 for b in bits], TOP)
    assert (blurred.low_bits, blurred.high_bits) == ends
    assert blurred.low_bits < sharp.low_bits - 0.2 and blurred.high_bits > sharp.high_bits + 0.2
    assert blurred.mean_bits == sharp.mean_bits


def test_a_lower_bound_reaches_to_the_top() -> None:
    """Eight canaries below all references: only the top of the space limits them, whatever their stored high end."""
    group = group_of([estimate(5.0, 4, low_bits=4.5, high_bits=5.5, bound="lower") for _ in range(8)])
    assert group.high_bits == pytest.approx(TOP)
    assert group_cells(group)[0] == "≥ 5.0"
    # If a search certified their best possible rank, that limits them.
    ranked = group_of(
        [
            estimate(5.0, 4, low_bits=5.0, high_bits=6.0, rank_low=15, rank_high=31, bound="lower", method="bounded")
            for _ in range(8)
        ]
    )
    assert ranked.high_bits < TOP - 1


@pytest.mark.parametrize("bound", ["extrapolated", "undefined"])
def test_what_nothing_limits_has_no_interval(bound: str) -> None:
    bits = math.nan if bound == "undefined" else 12.1
    odd = estimate(bits, 4, low_bits=math.nan, high_bits=math.nan, bound=bound)
    group = group_of([*(exact(4.0 + i / 10) for i in range(9)), odd])
    assert math.isnan(group.low_bits) and math.isnan(group.high_bits)
    assert spread_text(group) == "none"
    assert math.isnan(group.mean_bits) == (bound == "undefined")
    assert math.isnan(group.median_bits) == (bound == "undefined")


@pytest.mark.parametrize(
    ("first", "canaries", "text"),
    [
        (4, 4, "4 of 4 (at least 47 %)"),  # 0.05 ** (1 / 4) = 0.4729
        (1, 1, "1 of 1 (at least 5 %)"),
        (1, 4, "1 of 4 (at least 1 %)"),  # 1 - 0.95 ** (1 / 4) = 0.0127
        (0, 4, "0 of 4"),
        (40, 40, "40 of 40 (at least 92 %)"),
    ],
)
def test_how_many_rank_first_and_what_share_does_at_the_least(first: int, canaries: int, text: str) -> None:
    rows = [exact(TOP, rank_low=1, rank_high=1)] * first + [exact(2.0, rank_low=250, rank_high=250)] * (
        canaries - first
    )
    group = group_of(rows)
    assert rank1_text(group) == text
    limit = stats.binomtest(first, canaries, alternative="greater").proportion_ci(0.95).low
    assert group.rank1_share_low == pytest.approx(limit)


def test_p_values_of_tables_and_headline_are_corrected_alike() -> None:
    """Three counts: the most extreme order of 4 + 4 costs has p = 1 / 70, and with two neighbors swapped 2 / 70."""
    controls = [estimate(1.0, 0, log_perplexity_bits=50.0 + i) for i in range(4)]
    best = [estimate(9.0, 8, log_perplexity_bits=10.0 + i) for i in range(4)]
    second = [estimate(3.0, 4, log_perplexity_bits=c) for c in (47.0, 48.0, 49.0, 50.5)]
    worst = [estimate(1.0, 2, log_perplexity_bits=60.0 + i) for i in range(4)]
    found = report(*worst, *second, *best, *controls)
    assert [group.p_value for group in found.groups[1:]] == pytest.approx([1.0, 2 / 70, 1 / 70])
    assert [group.corrected_p_value for group in found.groups[1:]] == pytest.approx([1.0, 6 / 70, 3 / 70])
    assert found.memorization_p_value == pytest.approx(3 / 70)
    assert [group_cells(group)[-1] for group in found.groups] == ["", "1", "0.086", "0.043"]
    assert math.isnan(found.groups[0].corrected_p_value)


def test_groups_ascend_from_the_controls_and_count_what_they_hold() -> None:
    controls, once, eight = mixed().groups
    assert [g.repetitions for g in (controls, once, eight)] == [0, 1, 8]
    assert [g.canaries for g in (controls, once, eight)] == [2, 2, 2]
    assert (controls.mean_bits, eight.mean_bits, eight.rank1, eight.lower_bounds) == (2.0, 7.0, 1, 1)
    assert (once.rank1, once.lower_bounds, controls.rank1) == (0, 0, 0)
    assert (controls.bound, once.bound, eight.bound) == ("interval", "undefined", "lower")


def test_an_undefined_member_leaves_the_group_undefined() -> None:
    _, once, _ = mixed().groups
    assert all(map(math.isnan, (once.mean_bits, once.median_bits, once.low_bits, once.high_bits)))


def test_the_dose_of_a_group_is_the_mean_of_its_members() -> None:
    members = [estimate(2.0, 4, effective_dose=6.0), estimate(3.0, 4, effective_dose=3.0), estimate(4.0, 2)]
    two, four = report(*members).groups
    assert four.effective_dose == 4.5 and math.isnan(two.effective_dose)


def test_the_smallest_p_value_of_the_groups_is_corrected_for_their_number() -> None:
    """One canary likelier than all three controls has p = 1 / 4, and 2 / 4 with two repetition counts."""
    rows = [estimate(9.0, 8, log_perplexity_bits=10.0), estimate(2.0, 1, log_perplexity_bits=40.0)]
    controls = [estimate(1.0, 0, log_perplexity_bits=bits) for bits in (20.0, 21.0, 22.0)]
    assert report(rows[0], *controls).memorization_p_value == pytest.approx(0.25)
    assert report(*rows, *controls).memorization_p_value == pytest.approx(0.5)
    third = estimate(2.0, 4, log_perplexity_bits=39.0)
    assert report(*rows, third, *controls).memorization_p_value == pytest.approx(0.75)
    more = [estimate(2.0, times, log_perplexity_bits=39.0) for times in (2, 3)]
    assert report(*rows, third, *more, *controls).memorization_p_value == 1.0


POPULATIONS = {
    "chance": lambda generator, n: np.minimum(-np.log2(generator.random(n)), TOP),
    "one in ten": lambda generator, n: np.where(
        generator.random(n) < 0.1, TOP, np.minimum(-np.log2(generator.random(n)), TOP)
    ),
    "half": lambda generator, n: np.where(generator.random(n) < 0.5, TOP, 1.0),
}


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_interval_holds_the_mean_of_skewed_populations(name: str) -> None:
    """300 groups of 8: coverage in fewer than 273 (91 %) would refute 95 % at p = 0.003."""
    draw, generator = POPULATIONS[name], np.random.default_rng(3)
    mean = draw(np.random.default_rng(4), 2_000_000).mean()
    held = 0
    for _ in range(300):
        bits = draw(generator, 8)
        low, high = mean_interval(bits, bits, TOP)
        held += low <= mean <= high
    assert held >= 273
