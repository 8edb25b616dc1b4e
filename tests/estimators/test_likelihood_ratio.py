"""LiRA and RMIA against loops, and by simulations in which the best attack is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators import lira, lira_leave_one_out, logit_confidence, rmia, roc_curve, tpr_at_fpr


def runs_of(models=20, rows=30, shift=2.0, seed=0):
    generator = np.random.default_rng(seed)
    included = generator.random((models, rows)) < 0.5
    difficulty = 5.0 * generator.normal(size=rows)
    return difficulty + shift * included + generator.normal(size=(models, rows)), included


def by_loop(scores, included, target, kind):
    found = []
    for row, score in enumerate(target):
        with_row = [scores[m, row] for m in range(len(scores)) if included[m, row]]
        without = [scores[m, row] for m in range(len(scores)) if not included[m, row]]
        outside = stats.norm(np.mean(without), np.std(without))
        inside = stats.norm(np.mean(with_row), np.std(with_row))
        found.append(
            {
                "online": inside.logpdf(score) - outside.logpdf(score),
                "logcdf": outside.logcdf(score),
                "logpdf": -outside.logpdf(score),
            }[kind]
        )
    return np.array(found)


def test_every_form_of_lira_against_a_loop():
    scores, included = runs_of()
    shadow, flags, target = scores[1:], included[1:], scores[0]
    assert lira(shadow, flags, target) == pytest.approx(by_loop(shadow, flags, target, "online"))
    assert lira(shadow, flags, target, offline=True) == pytest.approx(by_loop(shadow, flags, target, "logcdf"))
    two_sided = lira(shadow, flags, target, True, density="logpdf")
    assert two_sided == pytest.approx(by_loop(shadow, flags, target, "logpdf"))
    assert lira_leave_one_out(scores, included)[0] == pytest.approx(lira(shadow, flags, target))


def test_the_offline_forms_differ_where_a_score_is_lower_than_without_the_row():
    shadow, flags = np.array([[0.0], [1.0], [0.5], [0.2]]), np.zeros((4, 1), dtype=bool)
    low, middle = np.array([-5.0]), np.array([0.4])
    assert lira(shadow, flags, low, True) < lira(shadow, flags, middle, True)
    assert lira(shadow, flags, low, True, density="logpdf") > lira(shadow, flags, middle, True, density="logpdf")


def test_shared_variance_by_hand():
    # Squares about the means of the sides: with the row 1 + 1 and 4 + 4, over 2 degrees: 5; without it 1 + 1 and 0: 1.
    scores = np.array([[2.0, 4.0], [0.0, 0.0], [0.0, 1.0], [-2.0, 1.0]])
    included = np.array([[1, 1], [1, 1], [0, 0], [0, 0]])
    found = lira(scores, included, [1.0, 1.0], variance="shared")
    wanted = [
        stats.norm(mean_in, 5**0.5).logpdf(1.0) - stats.norm(mean_out, 1.0).logpdf(1.0)
        for mean_in, mean_out in ((1.0, -1.0), (2.0, 1.0))
    ]
    assert found == pytest.approx(wanted)


def test_undefined_where_a_side_has_too_few_models_or_no_variance():
    included = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0]])
    scores = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert np.isnan(lira(scores, included, np.ones(3))).tolist() == [True, False, True]
    assert not np.isnan(lira(scores, included, np.ones(3), offline=True)).any()
    assert not np.isnan(lira(scores, included, np.ones(3), variance="shared")).any()


def test_it_is_calibrated_where_coins_decided_nothing():
    generator = np.random.default_rng(1)
    scores, coins = generator.normal(size=(64, 4000)), generator.random((64, 4000)) < 0.5
    for target in range(8):
        others = np.arange(64) != target
        ratios = lira(scores[others], coins[others], scores[target])
        rate = tpr_at_fpr(ratios[coins[target]], ratios[~coins[target]], 0.01)
        assert rate.low <= 0.01 <= rate.high
        area = roc_curve(ratios[coins[target]], ratios[~coins[target]], 0.999)
        assert area.auc_low <= 0.5 <= area.auc_high


def test_it_approaches_the_best_attack_and_beats_the_score_alone():
    scores, included = runs_of(models=400, rows=4000, shift=2.0, seed=2)
    members = included[0]
    ratios = lira(scores[1:], included[1:], scores[0])
    found = tpr_at_fpr(ratios[members], ratios[~members], 0.01).rate
    # For two known normal laws at a distance of 2, P(z > z_0.99 - 2) = 0.372.
    best = float(stats.norm.sf(stats.norm.isf(0.01) - 2.0))
    assert found == pytest.approx(best, abs=0.05)
    assert found > 5 * tpr_at_fpr(scores[0][members], scores[0][~members], 0.01).rate


def test_rmia_against_a_loop():
    generator = np.random.default_rng(3)
    included = generator.random((8, 12)) < 0.5
    included[0], included[1] = True, False
    rows, population = generator.random((9, 12)), generator.random((9, 40))
    for offline in (False, True):
        found = rmia(
            np.log(rows[1:]),
            included,
            np.log(rows[0]),
            np.log(population[1:]),
            np.log(population[0]),
            gamma=1.5,
            offline=offline,
        )
        for row in range(12):
            mean_in = np.mean([rows[1 + m, row] for m in range(8) if included[m, row]])
            mean_out = np.mean([rows[1 + m, row] for m in range(8) if not included[m, row]])
            prior = ((1.3 * mean_out + 0.7) if offline else mean_in + mean_out) / 2
            ratios = [population[0, z] / population[1:, z].mean() for z in range(40)]
            wanted = np.mean([rows[0, row] / prior >= 1.5 * ratio for ratio in ratios])
            assert found[row] == pytest.approx(wanted)


@pytest.mark.parametrize("offline, undefined", [(False, [True, True, False]), (True, [False, True, False])])
def test_rmia_of_a_row_without_models_on_a_side_is_undefined_without_a_warning(offline, undefined):
    included = [[0, 1, 0], [0, 1, 1]]
    found = rmia(np.full((2, 3), -1.0), included, [-1.0] * 3, np.full((2, 4), -1.0), [-1.0] * 4, offline=offline)
    assert np.isnan(found).tolist() == undefined


def test_logits_of_probabilities_near_the_ends():
    probabilities = np.array([1e-300, 1e-9, 0.25, 0.5, 1 - 1e-9])
    wanted = np.log(probabilities) - np.log1p(-probabilities)
    assert logit_confidence(np.log(probabilities)) == pytest.approx(wanted, rel=1e-6)
    assert np.isfinite(logit_confidence([0.0, -1e6])).all()
    with pytest.raises(InputError, match="^log_probabilities"):
        logit_confidence([0.1])


@pytest.mark.parametrize(
    "call, argument",
    [
        (lambda: lira([[1.0]], [[1]], [1.0], density="logcdf"), "density"),
        (lambda: lira([[1.0]], [[1]], [1.0, 2.0]), "target_scores_N"),
        (lambda: lira([[1.0]], [[1]], [np.nan]), "target_scores_N"),
        (lambda: lira([[1.0]], [[1]], [1.0], variance="mine"), "variance"),
        (lambda: lira_leave_one_out([[1.0]], [[1]]), "scores_MN"),
        (lambda: rmia([[1.0]], [[1]], [-1.0], [[-1.0]], [-1.0]), "log_probabilities_MN"),
        (lambda: rmia([[-1.0]], [[1]], [-1.0], [[-1.0]], [-1.0], gamma=0.5), "gamma"),
    ],
)
def test_wrong_arguments_are_named(call, argument):
    with pytest.raises(InputError, match=f"^{argument}"):
        call()


def test_a_ratio_that_is_equal_counts_whatever_the_rounding():
    # By hand: the row's ratio is 0.8 / ((0.5 + 0.3) / 2) = 2; those of the population are 0.6 / 0.3 = 2 and 1.
    population = np.log([[0.3, 0.1, 0.7]] * 2)
    found = rmia(np.log([[0.5], [0.3]]), [[1], [0]], np.log([0.8]), population, np.log([0.6, 0.1, 0.7]))
    assert found.tolist() == [1.0]
    found = rmia(np.log([[0.5], [0.3]]), [[1], [0]], np.log([0.8]), population, np.log([0.6, 0.1, 0.7]), gamma=1.01)
    assert found.tolist() == pytest.approx([2 / 3])
