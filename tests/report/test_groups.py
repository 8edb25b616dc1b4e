"""Means and intervals of repetition groups, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from report_samples import estimate, mixed, report
from scipy import stats


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_interval_is_students_t(level: float) -> None:
    bits = [3.1, 4.7, 2.9, 5.5, 4.0]
    (group,) = report(*(estimate(b, 4) for b in bits), settings={"confidence_level": level}).groups
    low, high = stats.t.interval(level, df=4, loc=np.mean(bits), scale=stats.sem(bits))
    assert (group.low_bits, group.high_bits) == (pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))
    assert (group.mean_bits, group.median_bits) == (pytest.approx(4.04), 4.0)


def test_by_hand_with_two_canaries() -> None:
    # Mean 4, sd sqrt(2), sem 1; the 97.5 % point of t with 1 degree of freedom is 12.7062: cut to [0, log2 1000].
    (group,) = report(estimate(3.0, 2), estimate(5.0, 2)).groups
    assert (group.low_bits, group.high_bits) == (0.0, pytest.approx(math.log2(1000)))
    # At 50 % the point of t is 1, exactly: tan(pi/4).
    (group,) = report(estimate(3.0, 2), estimate(5.0, 2), settings={"confidence_level": 0.5}).groups
    assert (group.low_bits, group.high_bits) == (pytest.approx(3.0), pytest.approx(5.0))


def test_extrapolated_figures_above_the_space_stay_within_their_interval() -> None:
    (group,) = report(estimate(11.9, 2), estimate(12.1, 2)).groups  # log2 1000 is 9.97
    assert group.low_bits <= group.mean_bits <= group.high_bits


def test_a_single_canary_has_its_own_interval() -> None:
    (group,) = report(estimate(3.0, 2, low_bits=2.25, high_bits=7.5)).groups
    assert (group.mean_bits, group.low_bits, group.high_bits) == (3.0, 2.25, 7.5)


def test_groups_ascend_from_the_controls_and_count_what_they_hold() -> None:
    controls, once, eight = mixed().groups
    assert [g.repetitions for g in (controls, once, eight)] == [0, 1, 8]
    assert [g.canaries for g in (controls, once, eight)] == [2, 2, 2]
    assert (controls.mean_bits, eight.mean_bits, eight.rank1, eight.lower_bounds) == (2.0, 7.0, 1, 1)
    assert (once.rank1, once.lower_bounds, controls.rank1) == (0, 0, 0)


def test_an_undefined_member_leaves_the_group_undefined() -> None:
    _, once, _ = mixed().groups
    assert all(map(math.isnan, (once.mean_bits, once.median_bits, once.low_bits, once.high_bits)))


def test_the_dose_of_a_group_is_the_mean_of_its_members() -> None:
    members = [estimate(2.0, 4, effective_dose=6.0), estimate(3.0, 4, effective_dose=3.0), estimate(4.0, 2)]
    two, four = report(*members).groups
    assert four.effective_dose == 4.5 and math.isnan(two.effective_dose)


def test_the_smallest_p_value_of_the_groups_is_corrected_for_their_number() -> None:
    """One canary more likely than all three controls: 1 in 4 by chance; of two repetition counts, 2 in 4."""
    rows = [estimate(9.0, 8, log_perplexity_bits=10.0), estimate(2.0, 1, log_perplexity_bits=40.0)]
    controls = [estimate(1.0, 0, log_perplexity_bits=bits) for bits in (20.0, 21.0, 22.0)]
    assert report(rows[0], *controls).memorisation_p_value == pytest.approx(0.25)
    assert report(*rows, *controls).memorisation_p_value == pytest.approx(0.5)
    third = estimate(2.0, 4, log_perplexity_bits=39.0)
    assert report(*rows, third, *controls).memorisation_p_value == pytest.approx(0.75)
    more = [estimate(2.0, times, log_perplexity_bits=39.0) for times in (2, 3)]
    assert report(*rows, third, *more, *controls).memorisation_p_value == 1.0
