"""A lower bound on the epsilon of differential privacy, from the certified ranks of secrets that were drawn uniformly.

A secret drawn uniformly from k texts is a guessing game with k answers. If training is epsilon-private (the record is
one canary with all its repetitions, and a neighboring data set has another secret in it), then no set of L texts that
is chosen from the model contains the secret with a probability above

    q = L e^epsilon / (L e^epsilon + k - L)

whatever is known of all other secrets: each likelihood in the set is at most e^epsilon times each likelihood outside.
The L likeliest texts under the model are such a set, so the number of canaries with a rank of at most L is
stochastically at most Binomial(m, q). Inverting this bounds epsilon from below. It needs no coin flips and no
controls: the probability of a lucky guess is L / k, which is known and not estimated. With delta > 0, each canary may
succeed with an additional probability of (k - 1) delta / (L e^epsilon + k - L), and the p-value grows by m times that.

The statement about m canaries needs *one* set that depends on the model alone: ranks count every text of the space,
including the other canaries. Secrets that are drawn without replacement exclude each other, so k is the size of the
space minus the number of all other distinct drawn secrets. Proofs: docs/design/0020-epsilon-from-ranks.md.

Legend: m canaries, k candidates for one secret when all others are known, L texts guessed.

Source: ours, in the spirit of Jagielski, "A Note On Interpreting Canary Exposure" (2306.00133), who relates exposure
    to differential privacy; Steinke, Nasr and Jagielski 2023 (2305.08846), for many canaries in one run; Mahloujifar,
    Melis and Chaudhuri 2024 (2410.22235), for guesses among k; Swanberg et al. 2025 (2507.08158), for the same
    probability in the other direction, as a bound on what an attacker reconstructs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, expit, logit
from scipy.stats import binom

from hf_exposure.checks import holds_more, real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, checked_space_size
from hf_exposure.limits import LARGEST_SPACE_DIGITS, MOST_TEXTS

# With delta > 0 the p-value need not grow with epsilon, so it is evaluated at this many points.
_GRID = 4096


@dataclass(frozen=True, kw_only=True)
class RankEpsilon:
    """What ranks refute: training is not (epsilon', delta)-private for any epsilon' < `epsilon`, at the confidence
    level.

    The record is a canary with all its repetitions; a neighboring data set has another secret in its place. Gaussian
    DP-SGD has no finite epsilon at delta = 0, so a bound at delta = 0 does not contradict its accountant.

    Attributes:
        epsilon: in units of the natural logarithm, as usual; 0 if nothing is refuted.
        threshold_rank: L, for which the bound holds: the given one, or the step of the ladder with the largest bound.
        successes: canaries with a certified rank of at most L.
        canaries: m.
        uncertified: how many of them have no certified rank, and count as failures.
        candidates: k, the size of the space minus the number of other distinct secrets.
        delta, confidence_level: the arguments.
        groups: the number of groups of canaries that share the error.
        note: why the bound is 0, else "".
    """

    epsilon: float
    threshold_rank: int
    successes: int
    canaries: int
    uncertified: int
    candidates: int
    delta: float
    confidence_level: float
    groups: int
    note: str = ""


def epsilon_from_ranks(
    ranks: ArrayLike | Iterable[object],
    space_size: int,
    threshold_rank: int | None = None,
    confidence_level: float = 0.95,
    delta: float = 0.0,
    *,
    other_secrets: int | None = None,
    groups: int = 1,
) -> RankEpsilon:
    """The largest epsilon that the certified ranks refute.

    Args:
        ranks: (m,) whole numbers from 1, of any size: for each canary, the *certified upper bound* of its rank among
            all texts of the space, including the other canaries. None, NaN or inf means that nothing is certified, so
            that the canary counts as a failure. The end of a confidence interval is not certified.
        space_size: the number of texts from which the secrets were drawn uniformly.
        threshold_rank: L, chosen before the ranks are seen. None tries L = 1, 2, 4, 8, ... up to half of the
            candidates and assigns 1 / (j (j + 1)) of the error to the j-th of them, which sums to the whole error.
        confidence_level: one-sided.
        delta: of the (epsilon, delta) that is refuted, in [0, 1).
        other_secrets: for each canary, the number of other *distinct* texts that were drawn without replacement from
            the same space, including held-out controls. None means m - 1, that is, no controls. Pass 0 if secrets were
            drawn independently, with replacement.
        groups: the number of groups of canaries of one training that are tested, including this one. Each gets an
            equal share of the error, so that all their bounds hold together.

    Returns:
        `RankEpsilon`. It bounds the epsilon of substituting one canary's secret, in all its repetitions. For adding or
        removing the canary, epsilon is at least half as large; for one row of a canary that was inserted r times, at
        least 1 / r of either (group privacy; at delta = 0).

    Raises:
        InputError: there are no ranks, or one is not a whole number from 1; the threshold is outside 1..k - 1; delta
            or the level is impossible; or there are more distinct secrets than texts in the space.

    Source: docs/design/0020-epsilon-from-ranks.md, Theorems 2 and 4.

    Example (one canary that ranks first of 10^9; by hand ln(0.05 / 0.95 * (10^9 - 1)); without a certified rank,
    nothing is refuted):
        >>> round(epsilon_from_ranks([1], 10**9, threshold_rank=1).epsilon, 3)
        17.779
        >>> bound = epsilon_from_ranks([4, 1, 3, 2], 10**9)
        >>> bound.threshold_rank, bound.successes, round(bound.epsilon, 2)
        (4, 4, 18.26)
        >>> epsilon_from_ranks([float("inf"), None], 10**9).epsilon
        0.0
    """
    known = _certified(ranks)
    size, level = checked_space_size(space_size), checked_confidence(confidence_level)
    delta = real_number("delta", delta, "must lie in [0, 1)", "Type 0.0.", at_least=0.0, below=1.0)
    groups = whole_number("groups", groups, 1)
    remedy = "Type other_secrets=0 if they were drawn with replacement."
    most = 10**LARGEST_SPACE_DIGITS
    others = len(known) - 1 if other_secrets is None else whole_number("other_secrets", other_secrets, 0, most)
    if others >= size:
        raise InputError("other_secrets", f"must be below the space's size of {size}", others, remedy)
    candidates, error = size - others, (1.0 - level) / groups
    certified = sorted(rank for rank in known if rank is not None)
    if threshold_rank is None:
        tried = list(_ladder(certified, candidates, error))
    else:
        rule, remedy = f"must lie in 1..{candidates - 1}", "Guess fewer texts than there are candidates."
        if isinstance(threshold_rank, bool) or not isinstance(threshold_rank, Integral):
            raise InputError("threshold_rank", rule, type(threshold_rank).__name__, remedy)
        if not 1 <= threshold_rank < candidates:
            raise InputError("threshold_rank", rule, int(threshold_rank), remedy)
        limit = int(threshold_rank)
        tried = [(limit, sum(rank <= limit for rank in certified), error)]
    found = [
        (_largest_refuted(successes, len(known), limit, candidates, delta, share), limit, successes)
        for limit, successes, share in tried
    ]
    # Among equal bounds take the first, with the fewest texts.
    epsilon, limit, successes = max(found, key=lambda one: (one[0], -one[1]))
    return RankEpsilon(
        epsilon=epsilon,
        threshold_rank=limit,
        successes=successes,
        canaries=len(known),
        uncertified=len(known) - len(certified),
        candidates=candidates,
        delta=delta,
        confidence_level=level,
        groups=groups,
        note="" if epsilon > 0.0 else "ranks this high may well occur without any memorization: nothing is refuted",
    )


def rank_p_value(
    epsilon: float, *, delta: float = 0.0, successes: int, canaries: int, threshold_rank: int, candidates: int
) -> float:
    """The largest probability of `successes` or more under (epsilon, delta)-private training.

    `P(Binomial(m, q) >= successes) + m (k - 1) delta / (L e^epsilon + k - L)`, at most 1.

    Args:
        epsilon: at least 0.
        delta: in [0, 1).
        successes: canaries with a rank of at most L among all texts, from 0 to m.
        canaries: m.
        threshold_rank: L, from 1 to k - 1.
        candidates: k, the size of the space minus the number of other distinct secrets.

    Source: docs/design/0020-epsilon-from-ranks.md, Theorems 2 and 4.

    Example (by hand: 2 of 2 with k = 4, L = 1 and e^epsilon = 3, so q = 1/2; and the most of one canary, which the
    linear program of all mechanisms confirms: (3 + 3 * 0.1) / 6):
        >>> rank_p_value(math.log(3), successes=2, canaries=2, threshold_rank=1, candidates=4)
        0.25
        >>> round(rank_p_value(math.log(3), delta=0.1, successes=1, canaries=1, threshold_rank=1, candidates=4), 6)
        0.55
    """
    epsilon = real_number("epsilon", epsilon, "must be at least 0", "Type 1.0, say.", at_least=0.0)
    delta = real_number("delta", delta, "must lie in [0, 1)", "Type 0.0.", at_least=0.0, below=1.0)
    canaries = whole_number("canaries", canaries, 1)
    successes = whole_number("successes", successes, 0, canaries)
    candidates = checked_space_size(candidates)
    limit = whole_number("threshold_rank", threshold_rank, 1, max(candidates - 1, 1))
    if limit >= candidates or successes == 0:
        return 1.0
    return float(_p_values(np.array([epsilon]), successes, canaries, limit, candidates, delta)[0])


def _p_values(
    epsilons_E: FloatArray, successes: int, canaries: int, limit: int, candidates: int, delta: float
) -> FloatArray:
    q_E = expit(epsilons_E - _log_odds_of_chance(limit, candidates))
    # (k - 1) / (L e^epsilon + k - L) is (1 - q) (k - 1) / (k - L): the largest k do not fit a float.
    extra_E = canaries * delta * (1.0 - q_E) * ((candidates - 1) / (candidates - limit))
    p_E: FloatArray = np.minimum(binom.sf(successes - 1, canaries, q_E) + extra_E, 1.0)
    return p_E


def _log_odds_of_chance(limit: int, candidates: int) -> float:
    """ln((k - L) / L), from ints, since a space may have 10^4000 texts."""
    return math.log(candidates - limit) - math.log(limit)


def _largest_refuted(successes: int, canaries: int, limit: int, candidates: int, delta: float, error: float) -> float:
    """The largest epsilon whose p-value is at most `error`; 0 if there is none.

    Training that is (epsilon, delta)-private is also private for every larger epsilon, so refuting the largest epsilon
    refutes all smaller ones.
    """
    if successes == 0 or limit >= candidates:
        return 0.0
    least_q = float(betaincinv(successes, canaries - successes + 1, error))  # one-sided Clopper-Pearson
    most = float(logit(least_q)) + _log_odds_of_chance(limit, candidates)
    if delta == 0.0 or most <= 0.0:
        return max(most, 0.0)

    def refuted(epsilons_E: FloatArray) -> NDArray[np.bool_]:
        are: NDArray[np.bool_] = _p_values(epsilons_E, successes, canaries, limit, candidates, delta) <= error
        return are

    grid = np.linspace(0.0, most, _GRID)
    places = np.flatnonzero(refuted(grid))
    if not places.size:
        return 0.0
    low, high = grid[places[-1]], grid[min(places[-1] + 1, _GRID - 1)]
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if refuted(np.array([middle]))[0] else (low, middle)
    return float(low)


def _ladder(certified: list[int], candidates: int, error: float) -> Iterable[tuple[int, int, float]]:
    """(L, successes, share of the error) of each step L = 1, 2, 4, ... that could give the largest bound.

    A step with no more successes than the one below it gives a smaller bound, so only the first step at or above a
    rank counts.
    """
    yield 1, sum(rank <= 1 for rank in certified), error / 2.0
    rungs = {(rank - 1).bit_length() for rank in certified}
    for rung in sorted(rungs - {0}):
        limit = 1 << rung
        if 2 * limit > candidates:
            return
        # ...the rung 2^j is the (j + 1)-th.
        yield limit, sum(rank <= limit for rank in certified), error / ((rung + 1) * (rung + 2))


def _certified(ranks: ArrayLike | Iterable[object]) -> list[int | None]:
    """The ranks as ints; None for those that are not certified."""
    remedy = "Pass the upper ends of certified ranks."
    if isinstance(ranks, (str, bytes)) or not isinstance(ranks, Iterable):
        raise InputError("ranks", "must be a list", type(ranks).__name__, remedy)
    if holds_more(ranks, MOST_TEXTS):
        raise InputError("ranks", f"must hold at most {MOST_TEXTS} entries", "more", "Use fewer.")
    values: list[Any] = list(ranks)
    if not values:
        raise InputError("ranks", "must hold at least 1 rank", 0, remedy)
    # Each entry of a tensor is a tensor without dimensions.
    return [_certified_rank(value.item() if getattr(value, "shape", None) == () else value) for value in values]


def _certified_rank(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, (Integral, Real)) and not isinstance(value, bool):
        # Try an int first, since the largest ones do not fit a float.
        number = int(value) if isinstance(value, Integral) else float(value)
        if not isinstance(number, int) and not math.isfinite(number):
            return None
        if number == int(number) and number >= 1:
            return int(number)
    rule, remedy = "must be whole numbers from 1, or None, NaN or inf", "Pass the upper ends of certified ranks."
    raise InputError("ranks", rule, value if isinstance(value, Real) else type(value).__name__, remedy)
