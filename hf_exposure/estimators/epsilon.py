"""A lower bound on the epsilon of differential privacy, from one training run whose canaries were coin flips.

The same guesses refute three claims about the training (`Claim`), and refute the stronger claims more easily:

    "approximate_dp"        it is (epsilon, delta)-private
    "gdp"                   it is as private as a Gaussian mechanism with that epsilon at that delta (mu-GDP)
    "independent_gaussian"  it hides each canary with Gaussian noise of its own that has that epsilon at that delta

A bound for the second or third claim does not bound the first. `gaussian_epsilon.py` has their mathematics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from hf_exposure.checks import one_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, checked_costs, number_array
from hf_exposure.estimators.gaussian_epsilon import gaussian_epsilon, refuted_gdp, refuted_independent
from hf_exposure.limits import MOST_INSERTIONS

Claim = Literal["approximate_dp", "gdp", "independent_gaussian"]
# A few certain guesses refute more than many uncertain ones, but fewer than 20 guesses refute little even if all are
# right. (Measured on ideal Gaussian canaries: benchmarks/one_run_epsilon.py.)
_FEWEST_GUESSES = 20


@dataclass(frozen=True, kw_only=True)
class EpsilonBound:
    """What a run refutes: its `claim` does not hold for any epsilon' < `epsilon`, at that confidence.

    Attributes:
        claim: what is refuted: "approximate_dp", that training is (epsilon', delta)-private; "gdp", that it is as
            private as a Gaussian mechanism with epsilon' at delta; "independent_gaussian", that it hides each canary
            by independent Gaussian noise with epsilon' at delta. Only the first is a bound on (epsilon, delta).
        epsilon: in units of the natural logarithm, as usual; 0 means that nothing is refuted.
        delta, confidence_level: as asked.
        canaries: the number of coins that were flipped.
        guesses: the number of planned guesses, fixed beforehand.
        correct: the number of correct guesses.
        note: why the bound is 0; "" otherwise.
    """

    epsilon: float
    delta: float
    confidence_level: float
    canaries: int
    guesses: int
    correct: int
    note: str = ""
    claim: Claim = "approximate_dp"


def epsilon_lower_bound(
    costs: ArrayLike,
    included: ArrayLike | None,
    *,
    guesses: int | None = None,
    delta: float = 0.0,
    confidence_level: float = 0.95,
    claim: Claim = "approximate_dp",
) -> EpsilonBound:
    """Guesses each canary's coin from its cost, and computes the epsilon that the number of correct guesses refutes.

    The lowest-cost half of the guesses say "in", the highest-cost half "out" (an odd one over says "in"); no guess is
    made for the canaries between. Each canary *must* have been included by its own fair coin: holding out a fixed
    number of canaries is not a coin flip. Ties across the edge of a half get no guess either, since their order in the
    list must not matter.

    Args:
        costs: (m,) costs in bits of all flipped canaries, lower = likelier.
        included: (m,) the coins: True if the canary was inserted into the training set.
        guesses: the number of guesses, chosen before seeing a cost; None means `default_guesses`: a tenth of the
            canaries. Trying several numbers and keeping the best voids the confidence.
        delta: of the (epsilon, delta) that is refuted, in [0, 1); above 0 for the two Gaussian claims.
        confidence_level: one-sided.
        claim: the claim to refute, chosen beforehand too. With 1,000 ideal Gaussian canaries at a true epsilon of 4
            (delta 1e-5) the median bound is 1.5 on "approximate_dp", 2.3 on "gdp" and 3.3 on "independent_gaussian".

    Returns:
        `EpsilonBound`. It bounds the epsilon of adding or removing one canary, all its repetitions together.

    Raises:
        InputError: there are no coins, all coins are equal, the lengths differ, a cost is NaN, `guesses` is outside
            1..m, delta or the level is impossible, the claim is unknown, or a Gaussian claim has delta 0.

    Source: Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run" (NeurIPS 2023), Theorem 5.2 and
        Algorithm 1; for the Gaussian claims see `hf_exposure.estimators.gaussian_epsilon`.

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
    one_of("claim", claim, get_args(Claim), "Leave it out for (epsilon, delta)-privacy.")
    planned = default_guesses(costs_m.size, claim)
    if guesses is not None:
        planned = _checked_count("guesses", guesses, 1, costs_m.size, "Leave it out for a tenth of them.")
    guessed_in, guessed_out = _guessed(costs_m, planned)
    correct = int((guessed_in & coins_m).sum() + (guessed_out & ~coins_m).sum())
    if claim == "approximate_dp":
        epsilon = _largest_refuted(costs_m.size, planned, correct, delta, 1.0 - level)
    else:
        refuted = refuted_gdp if claim == "gdp" else refuted_independent
        epsilon = gaussian_epsilon(refuted(costs_m.size, planned, correct, 1.0 - level), delta)
    return EpsilonBound(
        epsilon=epsilon,
        delta=delta,
        confidence_level=level,
        canaries=costs_m.size,
        guesses=planned,
        correct=correct,
        note=""
        if epsilon > 0.0
        else "this many correct guesses may well happen without any memorization: nothing is refuted",
        claim=claim,
    )


def default_guesses(canaries: int, claim: Claim = "approximate_dp") -> int:
    """The default number of guesses for this many canaries: a tenth, but at least 20 and at most half.

    All canaries for "independent_gaussian", which uncertain guesses refute too.

    Example:
        >>> [default_guesses(canaries) for canaries in (10, 80, 1000)], default_guesses(80, "independent_gaussian")
        ([5, 20, 100], 80)
    """
    if claim == "independent_gaussian":
        return canaries
    return max(canaries // 10, min(_FEWEST_GUESSES, canaries // 2), 1)


def one_run_p_value(epsilon: float, *, delta: float, canaries: int, guesses: int, correct: int) -> float:
    """The largest probability of `correct` or more right guesses under (epsilon, delta)-private training.

    With delta = 0 every guess is right with probability at most q = e^epsilon / (1 + e^epsilon), whatever the others,
    so the number right is at most Binomial(guesses, q). With a delta above 0, for each of the m canaries and with
    probability 2 delta, the adversary may increase the count by some i; the best increase is worth `max_i P(correct -
    i <= W < correct) / i` per unit of delta.

    Raises:
        InputError: epsilon is negative, delta is impossible, or there are more guesses than canaries or more right
            ones than guesses.

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
    """The canaries guessed "in" and those guessed "out". Ties across the edge of either half are not guessed."""
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
