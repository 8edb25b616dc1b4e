"""What correct guesses of coins refute about *Gaussian* privacy: a mu, which is converted to an epsilon at a delta.

A training is mu-GDP if telling whether a canary was included is never easier than telling N(0, 1) from N(mu, 1). This
constrains every event more than one (epsilon, delta) does, so the same guesses refute more. There are two claims.

**mu-GDP** (Mahloujifar et al. 2024). Let R_j be the probability that a random canary is guessed right and at least j
are right in total, and H_j the probability that it is guessed wrong or not at all and at least j are right. Flipping
that canary's coin turns a right guess into a wrong one, and j right ones into j - 1, so for every mu-GDP training

    H_(j-1) >= Phi(Phi^-1(R_j) - mu).

If v or more are right with a probability of `error`, then R_v >= error v / m. The inequality raises H_(v-1), hence the
probability of fewer right guesses, hence R_(v-1), and so on down to 0. If R_0 + H_0 exceeds c / m, the share of
canaries that are guessed, then v right guesses were less likely than `error`: mu is refuted. Nothing is assumed about
how canaries depend on each other.

**Independent Gaussian noise.** Each score is a function of N(mu coin, 1), independently. Given the scores, guess i is
wrong with a probability of at least 1 / (1 + e^|L_i|), L_i the log-likelihood ratio, independently. So the number of
wrong guesses among c of m is at least what the c largest |L_i| give: if all are guessed, Binomial(m, Phi(-mu / 2)); if
c < m, a mixture over the largest ratio that is left out. It is the order-statistics bound of Xiang et al. (2025), with
the exact law instead of a Chernoff bound. It refutes far more than the first, but **it does not bound mu-GDP**: a
training that draws one |L| for all canaries is mu-GDP too, and all guesses are right far more often than this allows
(see `tests/estimators/test_gaussian_epsilon.py`).

Legend: m canaries, c of them guessed, v guesses right, Q quantiles.

Sources: Dong, Roth and Su, "Gaussian Differential Privacy" (2022), Corollary 2.13, for epsilon at delta; Mahloujifar,
    Melis and Chaudhuri, "Auditing f-Differential Privacy in One Run" (2410.22235), for the recursion; Xiang et al.,
    "Tight Privacy Audit in One Run" (2509.08704), for order statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtr, betaincinv, log_ndtr, ndtr, ndtri

from hf_exposure.checks import real_number
from hf_exposure.estimators.arrays import FloatArray

# Beyond this mu, double precision cannot distinguish the two Gaussians from perfectly separated ones.
_LARGEST_MU = 60.0
_QUANTILES = 256


def gaussian_delta(epsilon: float, mu: float) -> float:
    """The delta at which a mu-GDP training is (epsilon, delta)-private: `Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu)`.

    Example (at epsilon = 0 it is the total variation, 2 Phi(mu / 2) - 1):
        >>> round(gaussian_delta(0.0, 1.0), 6)
        0.382925
    """
    at_least_0 = "must be at least 0"
    epsilon = real_number("epsilon", epsilon, at_least_0, "Type 1.0, say.", at_least=0.0)
    mu = real_number("mu", mu, at_least_0, "Type 1.0, say.", at_least=0.0)
    if mu == 0.0:
        return 0.0
    # If delta is tiny, this is the difference of two nearly equal logarithms.
    first, second = log_ndtr(0.5 * mu - epsilon / mu), epsilon + log_ndtr(-0.5 * mu - epsilon / mu)
    return float(math.exp(first) * -math.expm1(min(second - first, 0.0)))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon at which a mu-GDP training is (epsilon, delta)-private; 0 if delta alone suffices.

    Args:
        mu: at least 0.
        delta: strictly between 0 and 1, since no Gaussian has a finite epsilon at 0.

    Raises:
        InputError: a number out of range.

    Example:
        >>> round(gaussian_epsilon(1.0, 1e-5), 4)
        4.3772
    """
    delta = _checked_delta(delta)
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2.0
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The largest mu whose Gaussian is (epsilon, delta)-private: the inverse of `gaussian_epsilon`.

    Example:
        >>> round(gaussian_mu(4.0, 1e-5), 4)
        0.9249
    """
    delta = _checked_delta(delta)
    high = 1.0
    while gaussian_delta(epsilon, high) < delta:
        high *= 2.0
    return float(brentq(lambda mu: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12))


def refuted_gdp(canaries: int, guesses: int, correct: int, error: float) -> float:
    """The largest mu for which `correct` right guesses, out of at most `guesses`, refute that the training is
    mu-GDP.
    """

    def refuted(mu: float) -> bool:
        right = error * correct / canaries
        wrong = error * (guesses - correct) / canaries
        for fewer in range(correct - 1, -1, -1):
            needed = float(ndtr(ndtri(right) - mu))
            if needed <= wrong:
                break  # it is not needed below either
            right += (needed - wrong) * fewer / (guesses - fewer)
            wrong = needed
            if right >= 1.0:
                return True
        return right + wrong > guesses / canaries

    return _largest(refuted)


def refuted_independent(canaries: int, guesses: int, correct: int, error: float) -> float:
    """The largest mu for which `correct` right guesses refute independent Gaussian noise of that mu on each canary."""
    # The probability that another ratio exceeds the largest one that is left out has a Beta law.
    middles_Q = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    beyond_Q = betaincinv(guesses + 1.0, canaries - guesses, middles_Q) if guesses < canaries else None

    def refuted(mu: float) -> bool:
        wrong_Q = ndtr([-0.5 * mu]) if beyond_Q is None else _wrong_beyond(beyond_Q, mu)
        return float(bdtr(guesses - correct, guesses, wrong_Q).mean()) <= error

    return _largest(refuted)


def _wrong_beyond(beyond_Q: FloatArray, mu: float) -> FloatArray:
    """The probability that the best guess is wrong, given that |L| / mu exceeds its upper `beyond_Q` quantile.

    |L| / mu is |z - mu / 2| for z from an even mixture of N(0, 1) and N(mu, 1): it exceeds y with a probability of
    Phi(mu / 2 - y) + Phi(-mu / 2 - y), and the second term is the part that is guessed wrong.
    """
    low_Q, high_Q = np.zeros_like(beyond_Q), np.full_like(beyond_Q, 0.5 * mu + 40.0)
    for _ in range(60):
        y_Q = 0.5 * (low_Q + high_Q)
        too_low = ndtr(0.5 * mu - y_Q) + ndtr(-0.5 * mu - y_Q) > beyond_Q
        low_Q, high_Q = np.where(too_low, y_Q, low_Q), np.where(too_low, high_Q, y_Q)
    wrong_Q = ndtr(-0.5 * mu - low_Q)
    share_Q: FloatArray = wrong_Q / (wrong_Q + ndtr(0.5 * mu - low_Q))
    return share_Q


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest refuted mu, by bisection, since all smaller ones are refuted too; 0 if none is."""
    low, high = 0.0, _LARGEST_MU
    if refuted(high):
        return high
    for _ in range(45):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low if low > 1e-9 else 0.0


def _checked_delta(delta: float) -> float:
    rule = "must lie strictly between 0 and 1: no Gaussian has a finite epsilon at 0"
    return real_number("delta", delta, rule, "Type the delta of your privacy accountant.", above=0.0, below=1.0)
