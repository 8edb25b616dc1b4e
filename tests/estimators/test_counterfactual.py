"""Counterfactual memorization and related measures, against loops, other libraries and simulations with known
truth.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    Undefined,
    consistency_score,
    counterfactual_exposure,
    counterfactual_influence,
    counterfactual_memorization,
    influence_standard_errors,
    label_memorization,
    memorization_intervals,
    models_for_reliability,
    models_for_standard_error,
    one_run_agreement,
    split_half_reliability,
)


def sides(scores, included, row, column):
    """The scores of `column` under the models trained with `row` and without it, in a loop."""
    with_row = [scores[m][column] for m in range(len(scores)) if included[m][row]]
    without = [scores[m][column] for m in range(len(scores)) if not included[m][row]]
    return with_row, without


def simulated(models, rows, truth, noise, seed, binary=False):
    """Scores whose memorization is `truth`, and the coins that included each row."""
    generator = np.random.default_rng(seed)
    included = generator.random((models, rows)) < 0.5
    if binary:
        return generator.random((models, rows)) < 0.3 + truth * included, included
    return truth * included + noise * generator.normal(size=(models, rows)), included


def test_memorization_and_its_interval_against_a_loop_and_scipys_welch():
    scores, included = simulated(20, 7, np.arange(7.0), 1.0, 0)
    found = memorization_intervals(scores, included, 0.9)
    for row in range(7):
        with_row, without = sides(scores, included, row, row)
        welch = stats.ttest_ind(with_row, without, equal_var=False)
        limits = welch.confidence_interval(0.9)
        assert found.memorization_N[row] == pytest.approx(np.mean(with_row) - np.mean(without))
        assert found.standard_error_N[row] == pytest.approx(found.memorization_N[row] / welch.statistic)
        assert (found.low_N[row], found.high_N[row]) == pytest.approx((limits.low, limits.high))
    assert counterfactual_memorization(scores, included) == pytest.approx(found.memorization_N)


def test_influence_and_its_errors_against_a_loop():
    generator = np.random.default_rng(1)
    scores, included = generator.normal(1e6, 1.0, size=(12, 5)), generator.random((12, 4)) < 0.5
    influence, errors = counterfactual_influence(scores, included), influence_standard_errors(scores, included)
    for row in range(4):
        for column in range(5):
            with_row, without = sides(scores, included, row, column)
            wanted = math.sqrt(np.var(with_row, ddof=1) / len(with_row) + np.var(without, ddof=1) / len(without))
            assert influence[row, column] == pytest.approx(np.mean(with_row) - np.mean(without), abs=1e-8)
            assert errors[row, column] == pytest.approx(wanted, rel=1e-6)


def test_influence_on_the_rows_themselves_is_memorization_on_the_diagonal():
    scores, included = simulated(10, 6, np.arange(6.0), 1.0, 2)
    influence = counterfactual_influence(scores, included)
    assert np.diag(influence) == pytest.approx(counterfactual_memorization(scores, included))


def test_consistency_and_label_memorization_against_a_loop():
    correct, included = simulated(15, 8, 0.5, 0.0, 3, binary=True)
    consistency, memorization = consistency_score(correct, included), label_memorization(correct, included)
    for row in range(8):
        with_row, without = sides(correct, included, row, row)
        assert consistency[row] == pytest.approx(np.mean(without))
        assert memorization[row] == pytest.approx(np.mean(with_row) - np.mean(without))
    with pytest.raises(InputError, match="^correct_MN"):
        label_memorization(np.full((4, 2), 0.5), np.eye(4, 2))


def test_rows_without_both_sides_are_undefined_with_their_reason():
    included = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0]])
    found = memorization_intervals(np.arange(16.0).reshape(4, 4), included)
    assert np.isnan(found.memorization_N).tolist() == [True, True, False, False]
    assert np.isnan(found.low_N).tolist() == np.isnan(found.standard_error_N).tolist() == [True, True, True, False]
    assert found.undefined == {
        0: Undefined.never_held_out,
        1: Undefined.never_included,
        2: Undefined.one_model,
    }
    influence = counterfactual_influence(np.ones((4, 3)), included)
    assert np.isnan(influence).all(1).tolist() == [True, True, False, False]


@pytest.mark.parametrize("binary", [False, True])
def test_limits_cover_the_truth_as_often_as_they_say(binary):
    truth = np.full(3000, 0.4)
    scores, included = simulated(24, 3000, truth, 0.5, 4, binary)
    found = memorization_intervals(scores, included, 0.9)
    covered = (found.low_N <= truth) & (truth <= found.high_N)
    # Newcombe's limits are within a few points of their level at 12 against 12; the scatter of the share is 0.5 %.
    assert 0.88 <= covered.mean() <= (0.96 if binary else 0.92)
    assert found.memorization_N.mean() == pytest.approx(0.4, abs=0.02)


def test_scores_that_all_agree_still_have_wide_limits():
    included = np.repeat([[True], [False]], 4, axis=0)
    found = memorization_intervals(included.astype(float), included)
    # By hand: Wilson's limits of 4 of 4 and 0 of 4 are 0.5101 and 0.4899; 1 - hypot(0.4899, 0.4899) = 0.3072.
    assert found.low_N[0] == pytest.approx(0.3072, abs=1e-4)
    assert found.standard_error_N[0] == 0.0


def test_reliability_is_the_share_of_variance_that_is_true():
    generator = np.random.default_rng(5)
    truth = generator.normal(size=2000)
    scores, included = simulated(40, 2000, truth, 3.0, 6)
    found = split_half_reliability(scores, included)
    # Each half has 10 models a side: the error variance is 9 (1/10 + 1/10) = 1.8, a little more if sides are uneven.
    assert found.halves == pytest.approx(1 / 2.87, abs=0.03)
    correlation = np.corrcoef(truth, counterfactual_memorization(scores, included))[0, 1]
    assert found.whole == pytest.approx(correlation**2, abs=0.04)
    needed = models_for_reliability(found)
    more, coins = simulated(needed, 2000, truth, 3.0, 7)
    assert split_half_reliability(more, coins).halves == pytest.approx(0.8, abs=0.03)


def test_reliability_without_enough_to_correlate_is_undefined_with_a_reason():
    flags = np.eye(3, dtype=bool)
    assert "four models" in split_half_reliability(flags * 1.0, flags).reason
    always = np.ones((8, 5), dtype=bool)
    assert "both sides" in split_half_reliability(always * 1.0, always).reason
    halves = np.tile([[True] * 5, [False] * 5], (8, 1))
    assert "equally" in split_half_reliability(np.ones((16, 5)), halves).reason
    assert models_for_reliability(split_half_reliability(np.ones((16, 5)), halves)) is None


def test_the_planner_gives_the_standard_error_that_was_asked_for():
    models = models_for_standard_error(0.2, share=0.25, deviation=1.0)
    generator = np.random.default_rng(8)
    included = np.zeros((models, 2000), dtype=bool)
    included[: models // 4] = True
    found = counterfactual_memorization(generator.normal(size=(models, 2000)), included)
    assert found.std() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    "scores, included, argument",
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), "scores_MN"),
        (np.zeros((3, 2)), np.full((3, 2), 2), "included_MN"),
        (np.zeros((3, 2)), [1, 0], "included_MN"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "included_MN"),
        ([[np.nan, 0.0]], [[1, 0]], "scores_MN"),
        ("scores", [[1, 0]], "scores_MN"),
    ],
)
def test_wrong_arrays_are_named(scores, included, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        counterfactual_memorization(scores, included)


def test_counterfactual_exposure_takes_off_what_a_canary_ranks_anyway():
    generator = np.random.default_rng(9)
    base, caused = generator.exponential(1.44, size=30), np.linspace(0, 12, 30)
    included = generator.random((60, 30)) < 0.5
    exposures = base + caused * included + 0.5 * generator.normal(size=(60, 30))
    found = counterfactual_exposure(exposures, included)
    assert found.caused.memorization_N == pytest.approx(caused, abs=0.6)
    assert found.without_C == pytest.approx(base, abs=0.4)
    assert found.with_C == pytest.approx(base + caused, abs=0.4)
    agreement = one_run_agreement(exposures, included)
    assert agreement.mean > 0.8 and agreement.runs == 60
    run = 7
    others = np.arange(60) != run
    used = included[run]
    truth = counterfactual_memorization(exposures[others], included[others])[used]
    assert agreement.correlation_M[run] == pytest.approx(stats.spearmanr(exposures[run][used], truth).statistic)
    assert agreement.error_bits_M[run] == pytest.approx(np.sqrt(np.mean((exposures[run][used] - truth) ** 2)))


def test_one_run_says_nothing_where_canaries_differ_by_chance_alone():
    generator = np.random.default_rng(10)
    included = generator.random((80, 40)) < 0.5
    found = one_run_agreement(5.0 * included + generator.exponential(1.44, size=(80, 40)), included)
    assert abs(found.mean) < 0.1
    assert math.isnan(one_run_agreement(np.ones((4, 5)), np.eye(4, 5)).mean)
