"""A lower bound on the epsilon of differential privacy, from one training run whose canaries were coin flips."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, checked_costs, number_array
from hf_exposure.limits import MOST_INSERTIONS


@dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """What a run refutes: it is not (epsilon', delta)-private for any epsilon' < `epsilon`, at that confidence.

    Attributes:
        epsilon: natural-log units, as epsilon is; 0 says nothing.
        delta, confidence_level: as asked.
        canaries: how many coins were flipped.
        guesses: how many were to be guessed, fixed beforehand.
        correct: how many guesses were right.
        note: why the bound is 0, else "".
    """

    epsilon: float
    delta: float
    confidence_level: float
    canaries: int
    guesses: int
    correct: int
    note: str = ""


def epsilon_lower_bound(
    costs: ArrayLike,
    included: ArrayLike | None,
    *,
    guesses: int | None = None,
    delta: float = 0.0,
    confidence_level: float = 0.95,
) -> EpsilonBound:
    """Guess each canary's coin from its cost, and ask what epsilon so many right guesses refute.

    The cheapest half of the guesses say "in", the dearest half "out" (an odd one over says "in"); the canaries between
    are left alone. Each *must* have been included by its own fair coin: canaries of which a fixed number was held out
    are no coin flips. Ties that straddle the edge of a half are left alone too, at the price of the guess: their order
    in the list must not matter.

    Args:
        costs: (m,) costs in bits of all flipped canaries, lower = likelier.
        included: (m,) the coins: True where the canary went into the training set.
        guesses: how many to guess, chosen before seeing a cost; default half of the canaries. Trying several and
            keeping the best voids the confidence.
        delta: of the (epsilon, delta) that is refuted, in [0, 1).
        confidence_level: one-sided.

    Returns:
        `EpsilonBound`. It bounds the epsilon of adding or removing one canary, all its repetitions together.

    Raises:
        InputError: no coins, coins all alike, counts that differ, NaN costs, `guesses` outside 1..m, an impossible
            delta or level.

    Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023), Theorem 5.2 and
        Algorithm 1.

    Example (10 of 10 right: the epsilon at which that has probability 0.05 is ln(q / (1 - q)), q = 0.05 ** 0.1):
        >>> coins = [True] * 5 + [False] * 5
        >>> bound = epsilon_lower_bound(range(10), coins, guesses=10)
        >>> bound.correct, round(bound.epsilon, 4)
        (10, 1.0519)
    """
    costs_m = checked_costs("costs", costs, smallest_count=2)
    coins_m = _checked_coins(included, costs_m.size)
    level = checked_confidence(confidence_level)
    delta = _checked_delta(delta)
    planned = max(costs_m.size // 2, 1)
    if guesses is not None:
        planned = _checked_count("guesses", guesses, 1, costs_m.size, "Leave it out for half of them.")
    guessed_in, guessed_out = _guessed(costs_m, planned)
    correct = int((guessed_in & coins_m).sum() + (guessed_out & ~coins_m).sum())
    epsilon = _largest_refuted(costs_m.size, planned, correct, delta, 1.0 - level)
    return EpsilonBound(
        epsilon=epsilon,
        delta=delta,
        confidence_level=level,
        canaries=costs_m.size,
        guesses=planned,
        correct=correct,
        note="" if epsilon > 0.0 else "so many right guesses are no surprise without any memory: nothing is refuted",
    )


def one_run_p_value(epsilon: float, *, delta: float, canaries: int, guesses: int, correct: int) -> float:
    """The largest probability that an (epsilon, delta)-private training allows to `correct` or more right guesses.

    With delta = 0 every guess is right with probability at most q = e^epsilon / (1 + e^epsilon), whatever the others,
    so the number right is at most Binomial(guesses, q). A delta above 0 lets, for each of the m canaries and with
    probability 2 delta, the count be pushed up by some i; the adversary's best push is worth
    `max_i P(correct - i <= W < correct) / i` per unit of delta.

    Raises:
        InputError: a negative epsilon, an impossible delta, more guesses than canaries, more right than guessed.

    Source: Steinke, Nasr and Jagielski 2023, Theorem 5.2.

    Example (delta = 0, by hand: at least 2 of 2 at epsilon = ln 3, q = 3/4):
        >>> round(one_run_p_value(np.log(3.0), delta=0.0, canaries=2, guesses=2, correct=2), 6)
        0.5625
    """
    epsilon = real_number("epsilon", epsilon, "must be at least 0", "Type 1.0, say.", at_least=0.0)
    delta = _checked_delta(delta)
    canaries = _checked_count("canaries", canaries, 1, MOST_INSERTIONS, "Count the coins that were flipped.")
    guesses = _checked_count("guesses", guesses, 0, canaries, "Guess at most as many coins as were flipped.")
    correct = _checked_count("correct", correct, 0, guesses, "Count the guesses that were right.")
    return _p_value(epsilon, delta=delta, canaries=canaries, guesses=guesses, correct=correct)


def _p_value(epsilon: float, *, delta: float, canaries: int, guesses: int, correct: int) -> float:
    q = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, q))
    if delta == 0.0 or correct == 0:
        return min(tail, 1.0)
    pushes = np.arange(1, correct + 1)
    short_by = np.cumsum(binom.pmf(correct - pushes, guesses, q))
    return min(tail + 2.0 * canaries * delta * float((short_by / pushes).max()), 1.0)


def _largest_refuted(canaries: int, guesses: int, correct: int, delta: float, refuted_below: float) -> float:
    """Bisection: the p-value grows with epsilon, from chance to certainty."""

    def refuted(epsilon: float) -> bool:
        p_value = _p_value(epsilon, delta=delta, canaries=canaries, guesses=guesses, correct=correct)
        return p_value < refuted_below

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2.0 * high
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _guessed(costs_m: FloatArray, guesses: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Who is guessed in and who out. A tie across the edge of either half is not guessed at all."""
    ordered = np.sort(costs_m)
    count_in, count_out = guesses - guesses // 2, guesses // 2
    nobody = np.zeros(costs_m.shape, dtype=bool)
    guessed_in = costs_m < ordered[count_in] if count_in < costs_m.size else ~nobody
    guessed_out = costs_m > ordered[-count_out - 1] if count_out else nobody
    return guessed_in, guessed_out


def _checked_coins(included: ArrayLike | None, canaries: int) -> NDArray[np.bool_]:
    flip = "Flip one fair coin per canary before training."
    if included is None:
        raise InputError("included", "must be the coins, one per canary", None, flip)
    coins = number_array("included", included, flip)
    if coins.shape != (canaries,) or not np.isin(coins, [0, 1]).all():
        raise InputError("included", f"must be {canaries} bools, one per cost", f"shape {coins.shape}", flip)
    coins_m: NDArray[np.bool_] = coins.astype(bool)
    if coins_m.all() or not coins_m.any():
        raise InputError("included", "must be fair coin flips, of both outcomes", "one outcome", flip)
    return coins_m


def _checked_delta(delta: float) -> float:
    remedy = "Type 0.0, or less than 1 over the training rows."
    return real_number("delta", delta, "must lie in [0, 1)", remedy, at_least=0.0, below=1.0)


def _checked_count(argument: str, value: object, smallest: int, largest: int, remedy: str) -> int:
    rule = f"must lie in {smallest}..{largest}"
    number = real_number(argument, value, rule, remedy, at_least=smallest, at_most=largest)
    if not number.is_integer():
        raise InputError(argument, "must be a whole number", value, remedy)
    return int(number)
