"""The interval of a bounded mean: exact cases, large groups, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators import clopper_pearson_low, mean_interval


@pytest.mark.parametrize("level", [0.01, 0.5, 0.95, 0.999])
@pytest.mark.parametrize(("hits", "draws"), [(0, 1), (1, 1), (0, 8), (1, 8), (8, 8), (40, 40), (170, 400), (1, 3000)])
def test_of_two_values_it_is_clopper_and_pearson(hits: int, draws: int, level: float) -> None:
    values = np.repeat([1.0, 0.0], [hits, draws - hits])
    share = stats.binomtest(hits, draws).proportion_ci(level, method="exact")
    assert mean_interval(values, values, 1.0, level) == pytest.approx((share.low, share.high), abs=1e-6)


def test_of_one_draw_by_hand() -> None:
    """D_1 is uniform: the limits are the 2.5 % quantile of D_1 x and the 97.5 % quantile of (1 - D_1) 10 + D_1 x."""
    assert mean_interval([4.0], [4.0], 10.0) == pytest.approx((0.025 * 4.0, 10.0 - 0.025 * 6.0))


def test_it_is_the_quantile_of_random_weights_for_many_distinct_values() -> None:
    generator = np.random.default_rng(0)
    values = generator.exponential(3.0, 2000)
    weights = generator.exponential(size=(4000, 2001))
    weights /= weights.sum(axis=1, keepdims=True)
    low = np.quantile(weights @ np.append(values, 0.0), 0.025)
    high = np.quantile(weights @ np.append(values, 30.0), 0.975)
    found = mean_interval(values, values, 30.0)
    # With more values than levels, limits move outward by at most a level (30 / 512), plus the noise of 4,000 draws.
    assert low - 0.07 <= found[0] <= low + 0.02
    assert high - 0.02 <= found[1] <= high + 0.07


def test_it_grows_with_the_ends_and_shrinks_with_the_level() -> None:
    values = np.array([0.0, 0.5, 1.0, 4.0, 4.0, 9.0, 10.0, 2.0])
    low, high = mean_interval(values, values, 10.0)
    wide = mean_interval(np.maximum(values - 1, 0), np.minimum(values + 1, 10), 10.0)
    assert wide[0] < low < values.mean() < high < wide[1]
    narrow = mean_interval(values, values, 10.0, 0.5)
    assert low < narrow[0] < values.mean() < narrow[1] < high
    assert mean_interval([0.0] * 9, [10.0] * 9, 10.0) == (0.0, 10.0)


@pytest.mark.parametrize("share", [0.03, 0.1, 0.3])
@pytest.mark.parametrize(("middle", "draws"), [(0.1, 8), (0.5, 8), (0.9, 8), (0.1, 12)])
def test_three_valued_populations_are_covered(share: float, middle: float, draws: int) -> None:
    """Enumerates all outcomes of 0, a middle value and the top with their probabilities, so coverage is exact."""
    chances = np.array([1.0 - 2 * share, share, share])
    mean = float(chances @ [0.0, middle, 1.0])
    missed = 0.0
    for tops in range(draws + 1):
        for middles in range(draws + 1 - tops):
            outcome = (draws - tops - middles, middles, tops)
            chance = stats.multinomial.pmf(outcome, draws, chances)
            if chance < 1e-6:
                continue
            values = np.repeat([0.0, middle, 1.0], outcome)
            low, high = mean_interval(values, values, 1.0)
            missed += chance * (not low <= mean <= high)
    assert missed <= 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], 1.0), r"^low_ends, high_ends: must be two flat lists of equal length"),
        (([1.0], [0.5], 1.0), r"^low_ends, high_ends: "),
        (([1.0], [1.0, 2.0], 1.0), r"^low_ends, high_ends: "),
        (([float("nan")], [1.0], 1.0), r"^low_ends, high_ends: "),
        (([0.5], [0.5], 0.0), r"^most: must be finite and above 0"),
        (([0.5], [0.5], float("inf")), r"^most: must be finite and above 0"),
        (([0.5], [0.5], 1.0, 1.0), r"^confidence_level: "),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean_interval(*arguments)


def test_a_one_sided_share() -> None:
    assert clopper_pearson_low(4, 4) == pytest.approx(0.05**0.25)
    assert clopper_pearson_low(3, 7, 0.9) == pytest.approx(
        stats.binomtest(3, 7, alternative="greater").proportion_ci(0.9).low
    )
    # Below one half there is no two-sided level to take it from.
    assert clopper_pearson_low(1, 2, 0.3) == pytest.approx(1 - 0.3**0.5)
    for hits, draws in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(InputError, match="^hits: must lie in"):
            clopper_pearson_low(hits, draws)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["a"], ["b"], 10.0), "^low_ends: must be numbers"),
        (([1.0], {"a": 1}, 10.0), "^high_ends: must be numbers"),
        (([1.0], [2.0], "10"), "^most: must be finite and above 0"),
        (([1.0], [2.0], [10.0, 11.0]), "^most: must be finite and above 0"),
        (([1.0], [2.0], 1e308), "^most: must be at most 1e[+]100"),
    ],
)
def test_wrong_types(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mean_interval(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("hits", "draws"), [("1", 2), ([1], 2), (1, None), (math.nan, 2)])
def test_counts_of_the_wrong_type(hits: object, draws: object) -> None:
    with pytest.raises(InputError, match="^(hits|draws): must"):
        clopper_pearson_low(hits, draws)  # type: ignore[arg-type]
