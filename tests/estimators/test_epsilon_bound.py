"""One-run audit: binomial tails by hand, and randomized response, which is exactly epsilon-private."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_exposure.errors import InputError
from hf_exposure.estimators import epsilon_lower_bound, one_run_p_value


def by_hand(guesses: int, correct: int, q: float) -> float:
    return sum(math.comb(guesses, w) * q**w * (1 - q) ** (guesses - w) for w in range(correct, guesses + 1))


@pytest.mark.parametrize(("guesses", "correct", "epsilon"), [(5, 5, 0.0), (5, 3, 1.0), (20, 19, 2.0), (8, 0, 0.5)])
def test_without_delta_it_is_a_binomial_tail(guesses: int, correct: int, epsilon: float) -> None:
    expected = by_hand(guesses, correct, math.e**epsilon / (1 + math.e**epsilon))
    p_value = one_run_p_value(epsilon, delta=0.0, canaries=50, guesses=guesses, correct=correct)
    assert p_value == pytest.approx(expected)


def test_delta_by_hand() -> None:
    """10 canaries, 2 guesses, both right, q = 1/2: P(W >= 2) = 1/4; pushes of 1 and 2 are worth 1/2 and 3/4 / 2."""
    p_value = one_run_p_value(0.0, delta=0.001, canaries=10, guesses=2, correct=2)
    assert p_value == pytest.approx(0.25 + 2 * 10 * 0.001 * 0.5)
    assert one_run_p_value(0.0, delta=0.5, canaries=10, guesses=2, correct=2) == 1.0


def test_the_bound_is_where_the_tail_is_5_percent() -> None:
    """If all r guesses are right, q^r = 0.05, so epsilon = ln(q / (1 - q))."""
    costs, coins = np.arange(40.0), np.arange(40) < 20
    bound = epsilon_lower_bound(costs, coins)
    assert (bound.guesses, bound.correct, bound.canaries) == (20, 20, 40)
    q = 0.05 ** (1 / 20)
    assert bound.epsilon == pytest.approx(math.log(q / (1 - q)), abs=1e-9)
    assert bound.note == ""
    assert by_hand(20, 20, 1 / (1 + math.exp(-bound.epsilon))) == pytest.approx(0.05)
    assert epsilon_lower_bound(costs, coins, delta=1e-4).epsilon < bound.epsilon
    assert epsilon_lower_bound(costs, coins, guesses=40).epsilon > bound.epsilon


def test_chance_refutes_nothing_and_says_so() -> None:
    bound = epsilon_lower_bound(np.arange(20.0), np.arange(20) % 2 == 0)
    assert bound.epsilon == 0.0 and "nothing is refuted" in bound.note


def test_ties_are_not_guessed_so_that_list_order_cannot_help() -> None:
    """All costs are equal and inserted canaries come first: a stable sort would guess every coin."""
    bound = epsilon_lower_bound(np.ones(40), np.arange(40) < 20, guesses=40)
    assert (bound.correct, bound.guesses, bound.epsilon) == (0, 40, 0.0)
    # One tie crosses each edge, so 2 of 4 guesses remain.
    assert epsilon_lower_bound([1, 2, 2, 5, 8, 8, 9], [1, 1, 1, 0, 0, 0, 0], guesses=4).correct == 2


def test_guesses_by_hand() -> None:
    """Three guesses: the 2 lowest costs are guessed in (1 right), the highest is guessed out (wrong)."""
    assert epsilon_lower_bound([5.0, 1.0, 3.0, 2.0, 4.0], [1, 1, 0, 0, 0], guesses=3).correct == 1


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_bounds_hold_for_randomized_response(epsilon: float) -> None:
    """Each coin is reported truly with probability e^eps / (1 + e^eps): at 95 %, at most 5 % of bounds exceed eps."""
    generator, runs, above, bounds = np.random.default_rng(0), 200, 0, []
    for _ in range(runs):
        coins = generator.random(200) < 0.5
        truthful = generator.random(200) < 1 / (1 + math.exp(-epsilon))
        says_in = np.where(truthful, coins, ~coins)
        costs = np.where(says_in, 0.0, 10.0) + generator.random(200)
        bound = epsilon_lower_bound(costs, coins, guesses=100)
        above += bound.epsilon > epsilon
        bounds.append(bound.epsilon)
    assert above / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert np.median(bounds) > 0.5 * epsilon - 0.2


def test_coins_are_needed_and_checked() -> None:
    with pytest.raises(InputError, match="included: must be the coins, one per canary, got None. Flip one fair coin"):
        epsilon_lower_bound([1.0, 2.0], None)
    with pytest.raises(InputError, match="included: must be fair coin flips, of both outcomes"):
        epsilon_lower_bound([1.0, 2.0], [True, True])
    with pytest.raises(InputError, match="included: must be 2 bools"):
        epsilon_lower_bound([1.0, 2.0], [True])
    with pytest.raises(InputError, match=r"guesses: must lie in 1..2, got 3"):
        epsilon_lower_bound([1.0, 2.0], [True, False], guesses=3)
    with pytest.raises(InputError, match=r"delta: must lie in \[0, 1\)"):
        epsilon_lower_bound([1.0, 2.0], [True, False], delta=1.0)


def test_one_canary_bounds_no_epsilon() -> None:
    with pytest.raises(InputError, match="^costs: must .* at least 2"):
        epsilon_lower_bound([1.0], [True])
