"""Rates at a fixed rate of false alarms: by loops over thresholds, and intervals by their coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from hf_exposure.errors import InputError
from hf_exposure.estimators import chance_tpr, control_test, roc_curve, tpr_at_fpr


def best_rate(members: list[float], controls: list[float], fpr: float) -> float:
    """The highest true-positive rate of all rules "above t" that at most the given number of controls pass."""
    rates = [0.0]
    for threshold in [-math.inf, *members, *controls]:
        if sum(score > threshold for score in controls) <= fpr * len(controls) + 1e-9:
            rates.append(sum(score > threshold for score in members) / len(members))
    return max(rates)


@pytest.mark.parametrize("fpr", [0.05, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("levels", [3, 1000])
def test_the_rate_is_the_best_of_all_thresholds(fpr: float, levels: int) -> None:
    generator = np.random.default_rng(levels)
    for _ in range(20):
        members = generator.integers(levels, size=generator.integers(1, 30)).tolist()
        controls = generator.integers(levels, size=generator.integers(20, 40)).tolist()
        found = tpr_at_fpr(members, controls, fpr)
        assert found.rate == pytest.approx(best_rate(members, controls, fpr))
        assert found.false_positives is not None and found.false_positives <= fpr * len(controls)
        assert found.low <= found.rate <= found.high


@pytest.mark.parametrize(("fpr", "needed"), [(0.01, 100), (0.001, 1000), (1 / 49, 49), (0.03, 34), (0.5, 2)])
def test_the_rate_is_undefined_below_one_over_fpr(fpr: float, needed: int) -> None:
    members = np.ones(5)
    short = tpr_at_fpr(members, np.arange(needed - 1) / needed, fpr)
    assert (short.rate, short.true_positives, short.false_positives) == (None, None, None)
    assert (short.needed, short.controls, short.low) == (needed, needed - 1, 0.0)
    enough = tpr_at_fpr(members, np.arange(needed) / needed, fpr)
    assert (enough.rate, enough.false_positives) == (1.0, 1)


def test_a_low_end_above_zero_needs_the_controls_that_it_says() -> None:
    """By hand: 0.99^436 > 0.0125 >= 0.99^437."""
    members = np.full(50, 2.0)
    assert tpr_at_fpr(members, np.zeros(436)).needed_for_low == 437
    assert tpr_at_fpr(members, np.zeros(436)).low == 0.0
    assert tpr_at_fpr(members, np.zeros(437)).low == pytest.approx(0.0125 ** (1 / 50))


def test_ties_count_against_the_attack() -> None:
    assert tpr_at_fpr([1.0, 1.0], [1.0, 1.0, 0.0, 0.0], 0.25).rate == 0.0
    assert tpr_at_fpr([math.inf, 1.0], [1.0, 1.0, -math.inf, 0.0], 0.25).rate == 0.5


@pytest.mark.parametrize(("fpr", "shift", "n", "m"), [(0.1, 1.0, 20, 40), (0.01, 2.0, 60, 500), (0.2, 0.0, 10, 12)])
def test_the_interval_covers_the_true_rate(fpr: float, shift: float, n: int, m: int) -> None:
    """For normal scores, the true rate is that at the threshold which a share fpr of all controls passes."""
    generator = np.random.default_rng(3)
    truth, covered, runs = norm.sf(norm.isf(fpr) - shift), 0, 400
    for _ in range(runs):
        found = tpr_at_fpr(generator.normal(shift, 1, n), generator.normal(0, 1, m), fpr, 0.8)
        covered += found.low <= truth <= found.high
    assert covered / runs >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / runs)


def test_limits_given_the_threshold_would_cover_too_seldom() -> None:
    """Why this is allowed for: the same runs, if the threshold of 40 controls is treated as the true one."""
    from hf_exposure.estimators import clopper_pearson

    generator = np.random.default_rng(3)
    truth, covered, runs = norm.sf(norm.isf(0.1) - 1.0), 0, 400
    for _ in range(runs):
        found = tpr_at_fpr(generator.normal(1, 1, 200), generator.normal(0, 1, 40), 0.1, 0.8)
        assert found.true_positives is not None
        low, high = clopper_pearson([found.true_positives], 200, 0.8)
        covered += low[0] <= truth <= high[0]
    assert covered / runs < 0.6


def test_the_curve_by_a_loop_over_thresholds() -> None:
    generator = np.random.default_rng(0)
    members, controls = generator.integers(0, 12, 40) + 2.0, generator.integers(0, 12, 30) + 0.0
    curve = roc_curve(members, controls)
    assert (curve.fpr_V[0], curve.tpr_V[0], curve.thresholds_V[0]) == (0.0, 0.0, math.inf)
    for fpr, tpr, threshold in zip(curve.fpr_V, curve.tpr_V, curve.thresholds_V, strict=True):
        assert fpr == np.mean(controls >= threshold)
        assert tpr == np.mean(members >= threshold)
    assert (np.diff(curve.thresholds_V) < 0).all()
    assert curve.auc == pytest.approx(np.trapezoid(curve.tpr_V, curve.fpr_V))
    test = control_test(-members, -controls)
    assert (curve.auc, curve.auc_low, curve.auc_high) == pytest.approx((test.auc, test.auc_low, test.auc_high))
    assert (curve.members, curve.controls) == (40, 30)


@pytest.mark.parametrize("members, controls, fpr", [(5, 4, 0.25), (3, 6, 0.4), (4, 5, 0.2)])
def test_the_rate_by_chance_is_that_of_all_orders(members: int, controls: int, fpr: float) -> None:
    places = range(members + controls)
    rates = []
    for chosen in itertools.combinations(places, members):
        rest = [place for place in places if place not in chosen]
        rates.append(tpr_at_fpr(chosen, rest, fpr).rate)
    found = chance_tpr(members, controls, fpr, confidence_level=0.6)
    assert found.mean == pytest.approx(np.mean(rates))
    assert found.variance == pytest.approx(np.var(rates))
    values = np.array(rates)
    assert np.mean(values < found.low - 1e-9) <= 0.2 <= np.mean(values <= found.low + 1e-9)
    assert np.mean(values < found.high - 1e-9) <= 0.8 <= np.mean(values <= found.high + 1e-9)


def test_a_rate_by_chance_needs_members_and_controls() -> None:
    with pytest.raises(InputError, match="controls"):
        chance_tpr(10, 99, fpr=0.01)
    with pytest.raises(InputError, match="members"):
        chance_tpr(0, 100)


def test_infinite_scores_have_a_place() -> None:
    curve = roc_curve([math.inf, 1.0], [-math.inf, 0.0])
    assert curve.auc == 1.0
    assert curve.tpr_V.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("function", [tpr_at_fpr, roc_curve])
def test_what_is_no_score_is_refused(function: object) -> None:
    assert callable(function)
    with pytest.raises(InputError, match="member_scores: must hold at least 1 score"):
        function([], [1.0])
    with pytest.raises(InputError, match="control_scores: must not hold NaN"):
        function([1.0], [math.nan])
    with pytest.raises(InputError, match="member_scores: must be a flat list"):
        function([[1.0]], [1.0])
    with pytest.raises(InputError, match="fpr"):
        tpr_at_fpr([1.0], [1.0], fpr=0.0)
