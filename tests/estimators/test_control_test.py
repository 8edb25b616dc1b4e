"""Inserted canaries against controls: p-values by enumerating every choice, intervals by coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from hf_exposure.errors import InputError
from hf_exposure.estimators import control_test


def wins(inserted: list[float], controls: list[float]) -> float:
    return sum((i < c) + (i == c) / 2 for i in inserted for c in controls)


@pytest.mark.parametrize(
    ("inserted", "controls"),
    [
        ([1.0], [2.0]),
        ([1.0, 2.0, 2.0], [2.0, 3.0, 1.0, 5.0]),
        ([4.0, 4.0, 4.0], [4.0, 4.0]),
        ([1.0, 9.0, 3.0, 3.0], [3.0, 7.0]),
        ([0.5, 1.5, 2.5, math.inf], [1.0, 2.0, 3.0, 4.0, math.inf]),
    ],
)
def test_exact_p_value_by_every_relabeling(inserted: list[float], controls: list[float]) -> None:
    costs, n = inserted + controls, len(inserted)
    dealt = []
    for chosen in itertools.combinations(range(len(costs)), n):
        rest = [costs[i] for i in range(len(costs)) if i not in chosen]
        dealt.append(wins([costs[i] for i in chosen], rest))
    observed = wins(inserted, controls)
    result = control_test(inserted, controls)
    assert result.p_value == pytest.approx(np.mean(np.array(dealt) >= observed))
    assert result.auc == pytest.approx(observed / (n * len(controls)))
    assert (result.inserted_count, result.control_count, result.p_value_method) == (n, len(controls), "exact")


@pytest.mark.parametrize(("n", "m"), [(12, 32), (40, 30), (1, 60)])
def test_exact_without_ties_is_scipys(n: int, m: int) -> None:
    generator = np.random.default_rng(n)
    inserted, controls = generator.normal(-0.5, 1, n), generator.normal(0, 1, m)
    expected = mannwhitneyu(inserted, controls, alternative="less", method="exact")
    result = control_test(inserted, controls)
    assert result.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert result.auc == pytest.approx(1 - expected.statistic / (n * m))


def test_many_are_asymptotic_and_near_the_exact_value() -> None:
    generator = np.random.default_rng(0)
    inserted, controls = generator.normal(-0.2, 1, 100), generator.normal(0, 1, 100)
    result = control_test(inserted, controls)
    assert result.p_value_method == "asymptotic"
    exact = mannwhitneyu(inserted, controls, alternative="less", method="exact").pvalue
    assert result.p_value == pytest.approx(exact, rel=0.05)


def test_complete_separation_keeps_a_width() -> None:
    apart, reversed_ = control_test([1, 2], [3, 4]), control_test([3, 4], [1, 2])
    assert apart.p_value == pytest.approx(1 / 6) and reversed_.p_value == 1.0
    assert (apart.auc, apart.auc_high) == (1.0, 1.0) and 0.2 < apart.auc_low < 0.6
    assert (reversed_.auc, reversed_.auc_low) == (0.0, 0.0)
    assert reversed_.auc_high == pytest.approx(1 - apart.auc_low)
    many = control_test(np.arange(40), np.arange(40, 80))
    assert 0.85 < many.auc_low < 0.99


def test_one_against_one_by_hand() -> None:
    """The equation (1 - a)^2 = z^2 a (1 - a) has the root 1 / (1 + z^2), with z = 1.959964."""
    assert control_test([0.0], [1.0]).auc_low == pytest.approx(1 / (1 + 1.959964**2), abs=1e-6)


@pytest.mark.parametrize(("shift", "n", "m"), [(0.0, 8, 32), (1.0, 12, 20), (2.5, 12, 32)])
def test_the_interval_covers(shift: float, n: int, m: int) -> None:
    generator = np.random.default_rng(5)
    truth, covered, runs = norm.cdf(shift / math.sqrt(2)), 0, 150
    for _ in range(runs):
        result = control_test(generator.normal(-shift, 1, n), generator.normal(0, 1, m))
        covered += result.auc_low <= truth <= result.auc_high
    assert covered / runs >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs)


def test_empty_groups_are_refused() -> None:
    with pytest.raises(InputError, match="control_costs: must hold at least 1 cost, got 0"):
        control_test([1.0], [])
    with pytest.raises(InputError, match="inserted_costs: .*nan"):
        control_test([math.nan], [1.0])
