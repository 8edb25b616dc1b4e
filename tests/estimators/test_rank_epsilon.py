"""An epsilon from ranks: against a linear program over every private mechanism, and by counting its false alarms.

Legend: m canaries, k texts, L texts guessed, D datasets, O outputs, J rungs of the ladder, N draws.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq, linprog
from scipy.sparse import lil_array
from scipy.stats import binom

from hf_exposure.errors import InputError
from hf_exposure.estimators import epsilon_from_ranks, rank_p_value


def best_probability(
    k: int, m: int, limit: int, epsilon: float, delta: float, successes: int, *, replacement: bool
) -> float:
    """The largest probability of that many successes over all (epsilon, delta)-private ways to guess `limit` texts.

    The unknowns are the probabilities of each guessed set under each dataset and, for delta > 0, the amounts by which
    they exceed e^epsilon times those under each neighbor, which sum to at most delta.
    """
    datasets = [d for d in itertools.product(range(k), repeat=m) if replacement or len(set(d)) == m]
    place = {dataset: number for number, dataset in enumerate(datasets)}
    guesses = list(itertools.combinations(range(k), limit))
    neighbors = [
        (place[d], place[other])
        for d in datasets
        for i, t in itertools.product(range(m), range(k))
        if (other := (*d[:i], t, *d[i + 1 :])) != d and other in place
    ]
    laws, outputs = len(datasets) * len(guesses), len(guesses)
    unknowns = laws + len(neighbors) * outputs
    private = lil_array((len(neighbors) * (outputs + 1), unknowns))
    most = np.zeros(private.shape[0])
    for number, (d, other) in enumerate(neighbors):
        row, excess = number * (outputs + 1), laws + number * outputs
        for o in range(outputs):
            private[row + o, [d * outputs + o, other * outputs + o, excess + o]] = [1.0, -math.exp(epsilon), -1.0]
        private[row + outputs, excess : excess + outputs] = np.ones(outputs)
        most[row + outputs] = delta
    whole = lil_array((len(datasets), unknowns))
    for d in range(len(datasets)):
        whole[d, d * outputs : (d + 1) * outputs] = np.ones(outputs)
    wins = np.array([sum(s in guess for s in d) >= successes for d in datasets for guess in guesses], dtype=float)
    cost = np.append(-wins / len(datasets), np.zeros(unknowns - laws))
    found = linprog(cost, A_ub=private.tocsr(), b_ub=most, A_eq=whole.tocsr(), b_eq=np.ones(len(datasets)))
    return float(-found.fun)


@pytest.mark.parametrize(
    ("k", "limit", "epsilon", "delta"),
    [(3, 1, 1.0, 0.0), (4, 2, 1.0, 0.0), (4, 1, 2.0, 0.2), (4, 2, 1.0, 0.05), (5, 3, 0.5, 0.1), (5, 2, 0.0, 0.3)],
)
def test_of_one_canary_some_mechanism_attains_it(k: int, limit: int, epsilon: float, delta: float) -> None:
    best = best_probability(k, 1, limit, epsilon, delta, 1, replacement=True)
    bound = rank_p_value(epsilon, delta=delta, successes=1, canaries=1, threshold_rank=limit, candidates=k)
    assert bound == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("k", "limit", "epsilon", "delta"),
    [(3, 1, 1.0, 0.0), (3, 1, 1.0, 0.05), (4, 2, 1.0, 0.0), (4, 2, 0.5, 0.05), (4, 1, 2.0, 0.02)],
)
@pytest.mark.parametrize("replacement", [True, False])
def test_of_two_canaries_no_mechanism_exceeds_it(
    k: int, limit: int, epsilon: float, delta: float, replacement: bool
) -> None:
    candidates = k if replacement else k - 1
    for successes in (1, 2):
        best = best_probability(k, 2, limit, epsilon, delta, successes, replacement=replacement)
        bound = rank_p_value(
            epsilon, delta=delta, successes=successes, canaries=2, threshold_rank=limit, candidates=candidates
        )
        assert best <= bound + 1e-7


def test_without_replacement_the_whole_space_would_be_too_many() -> None:
    best = best_probability(4, 2, 1, 1.0, 0.0, 1, replacement=False)
    wrong = rank_p_value(1.0, successes=1, canaries=2, threshold_rank=1, candidates=4)
    assert best > wrong + 0.005
    # So the other canary is subtracted, unless the caller states that canaries were drawn with replacement.
    assert epsilon_from_ranks([1, 2], 4).candidates == 3
    assert epsilon_from_ranks([1, 2], 4, other_secrets=0).candidates == 4


@pytest.mark.parametrize(("successes", "canaries"), [(1, 1), (4, 4), (4, 12), (40, 80)])
@pytest.mark.parametrize("limit", [1, 4, 5000])
def test_the_bound_is_where_the_p_value_is_the_error(successes: int, canaries: int, limit: int) -> None:
    """By root finding on the binomial tail."""
    space = 10**6
    ranks = [limit] * successes + [limit + 1] * (canaries - successes)
    found = epsilon_from_ranks(ranks, space, limit, 0.9, other_secrets=0)

    def error(epsilon: float) -> float:
        odds = math.exp(epsilon) * limit / (space - limit)
        return float(binom.sf(successes - 1, canaries, odds / (1 + odds))) - 0.1

    assert found.epsilon == pytest.approx(brentq(error, 0.0, 40.0), abs=1e-8)
    assert (found.successes, found.canaries, found.threshold_rank) == (successes, canaries, limit)


@pytest.mark.parametrize(
    ("delta", "canaries", "successes"), [(1e-3, 1, 1), (1e-3, 10, 7), (1e-5, 40, 12), (0.04, 1, 1)]
)
def test_with_delta_it_is_the_largest_epsilon_that_is_refuted(delta: float, canaries: int, successes: int) -> None:
    ranks = [1] * successes + [math.inf] * (canaries - successes)
    found = epsilon_from_ranks(ranks, 1000, 1, delta=delta, other_secrets=0)

    def p_value(epsilon: float) -> float:
        return rank_p_value(
            epsilon, delta=delta, successes=successes, canaries=canaries, threshold_rank=1, candidates=1000
        )

    refuted = [epsilon for epsilon in np.arange(0.0, 12.0, 0.002) if p_value(epsilon) <= 0.05]
    assert found.epsilon == pytest.approx(max(refuted), abs=0.002)
    assert p_value(found.epsilon) <= 0.05 + 1e-12 < p_value(found.epsilon + 1e-6)
    assert found.epsilon < epsilon_from_ranks(ranks, 1000, 1, other_secrets=0).epsilon


def test_a_large_delta_refutes_nothing() -> None:
    assert epsilon_from_ranks([1], 10**9, 1, delta=0.06).epsilon == 0.0
    assert "nothing is refuted" in epsilon_from_ranks([1], 10**9, 1, delta=0.06).note


def least_alarming(k: int, m: int, limit: int, epsilon: float, threshold: int | None, **how: Any) -> int:
    """The least number of ranks of `limit` among m at which the bound exceeds epsilon; m + 1 if there is none."""
    for successes in range(1, m + 1):
        ranks = [limit] * successes + [None] * (m - successes)
        if epsilon_from_ranks(ranks, k, threshold, **how).epsilon > epsilon:
            return successes
    return m + 1


SPACES = [10, 100, 1000, 10**6]
SETS = [(k, m) for k in SPACES for m in (1, 2, 5, 10, 40, 100) if m <= k // 2]


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_false_alarms_of_randomized_response_summed(epsilon: float, share: float) -> None:
    """Exact sums: the likeliest set of L texts contains the secret with probability q, which has this epsilon."""
    for k, m in SETS:
        limit = max(1, int(share * k))
        q = limit * math.exp(epsilon) / (limit * math.exp(epsilon) + k - limit)
        for how in ({"other_secrets": 0}, {}):
            alarms = binom.sf(least_alarming(k, m, limit, epsilon, limit, **how) - 1, m, q)
            assert alarms <= 0.05 + 1e-12


@pytest.mark.parametrize("epsilon", [1.0, 3.0, 6.0])
def test_false_alarms_of_the_ladder_counted(epsilon: float) -> None:
    """Randomized response whose other texts follow in random order, so every rung may raise a false alarm."""
    generator, draws = np.random.default_rng(7), 20_000
    for k, m in [(10, 5), (100, 40), (1000, 40), (10**6, 10)]:
        first = math.exp(epsilon) / (math.exp(epsilon) + k - 1)
        ranks_Nm = np.where(generator.random((draws, m)) < first, 1, generator.integers(2, k + 1, (draws, m)))
        for how in ({"other_secrets": 0}, {}):
            rungs = [2**j for j in range(k.bit_length()) if 2 ** (j + 1) <= k - how.get("other_secrets", m - 1)]
            alarms_N = np.zeros(draws, dtype=bool)
            for limit in rungs:
                alarms_N |= (ranks_Nm <= limit).sum(axis=1) >= least_alarming(k, m, limit, epsilon, None, **how)
            assert alarms_N.mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


@pytest.mark.parametrize(("k", "m", "epsilon"), [(10, 5, 1.0), (10, 5, 3.0), (100, 50, 1.0)])
def test_false_alarms_where_each_guess_knows_the_secrets_before_it(k: int, m: int, epsilon: float) -> None:
    """Secrets are distinct, so earlier ones are ruled out, which the proof allows for."""
    generator, draws = np.random.default_rng(11), 20_000
    secrets_Nm = np.argsort(generator.random((draws, k)), axis=1)[:, :m]
    stays = (math.exp(epsilon) - 1) / (math.exp(epsilon) + k - 1)
    said_Nm = np.where(generator.random((draws, m)) < stays, secrets_Nm, generator.integers(0, k, (draws, m)))
    successes_N = np.zeros(draws, dtype=int)
    for i in range(m):
        left_Nk = generator.random((draws, k))
        np.put_along_axis(left_Nk, said_Nm[:, i : i + 1], -1.0, axis=1)  # the reported secret comes first
        np.put_along_axis(left_Nk, secrets_Nm[:, :i], 2.0, axis=1)  # secrets already drawn come last
        successes_N += left_Nk.argmin(axis=1) == secrets_Nm[:, i]
    alarms = (successes_N >= least_alarming(k, m, 1, epsilon, 1)).mean()
    assert alarms <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_ranks_that_leave_out_the_other_canaries_would_raise_false_alarms() -> None:
    """A model that learned nothing, with five canaries of ten texts: the first three are all canaries with 1/12."""
    generator, draws = np.random.default_rng(5), 20_000
    order_Nk = np.argsort(generator.random((draws, 10)), axis=1)
    inserted_Nk = order_Nk < 5  # the first five texts are the canaries
    before_first_other_N = inserted_Nk.cumprod(axis=1).sum(axis=1)  # rank 1 if other canaries are ignored
    assert (before_first_other_N >= least_alarming(10, 5, 1, 0.0, 1)).mean() > 0.07
    places_Nm = np.argsort(order_Nk, axis=1)[:, :5] + 1  # ranks among all
    assert ((places_Nm <= 1).sum(axis=1) >= least_alarming(10, 5, 1, 0.0, 1)).mean() == 0.0
    assert ((places_Nm <= 3).sum(axis=1) >= least_alarming(10, 5, 3, 0.0, 3)).mean() <= 0.05


def test_power_at_epsilon_6() -> None:
    """The median under randomized response on 1,000 texts with 40 canaries, with the ladder's correction."""
    q = math.exp(6) / (math.exp(6) + 999)
    successes = int(binom.ppf(0.5, 40, q))
    found = epsilon_from_ranks([1] * successes + [1000] * (40 - successes), 1000)
    assert found.threshold_rank == 1
    assert 4.5 <= found.epsilon <= 6.0


def test_the_ladder_by_all_of_its_rungs() -> None:
    """Compared with a loop over every rung with its share of the error."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        ranks = np.exp(generator.uniform(0, math.log(10**5), 12)).astype(int).tolist()
        found = epsilon_from_ranks(ranks, 10**6, confidence_level=0.9, groups=2)
        each = [
            epsilon_from_ranks(ranks, 10**6, 2**j, 1 - 0.05 / ((j + 1) * (j + 2))).epsilon
            for j in range(20)
            if 2 ** (j + 1) <= 10**6 - 11
        ]
        assert found.epsilon == pytest.approx(max(each))
        assert found.threshold_rank == 2 ** int(np.argmax(each))


def test_only_certain_ranks_succeed() -> None:
    found = epsilon_from_ranks([1, None, math.nan, math.inf, np.int64(3), np.float64(2.0)], 10**6, 3)
    assert (found.successes, found.canaries, found.uncertified) == (3, 6, 3)


def test_sizes_that_no_float_holds() -> None:
    """By hand: one canary at rank 10^300 of 10^4000; ln(0.05 / 0.95) + 3700 ln 10."""
    found = epsilon_from_ranks([10**300], 10**4000, 10**300)
    assert found.epsilon == pytest.approx(math.log(0.05 / 0.95) + 3700 * math.log(10))
    assert epsilon_from_ranks([10**300 + 1], 10**4000, 10**300).successes == 0
    assert epsilon_from_ranks([10**300, 10**310], 10**4000, delta=1e-9).epsilon > 8000


def test_the_space_may_be_too_small_to_refute_anything() -> None:
    assert epsilon_from_ranks([1, 2, 3], 3).epsilon == 0.0
    assert epsilon_from_ranks([1, 2, 3], 3).candidates == 1


@pytest.mark.parametrize(
    ("ranks", "arguments", "said"),
    [
        ([0], {}, "ranks: must be whole numbers from 1"),
        ([1.5], {}, "ranks: must be whole numbers from 1"),
        ([True], {}, "ranks: must be whole numbers from 1"),
        (["1"], {}, "ranks: .*got 'str'"),
        ([], {}, "ranks: must hold at least 1 rank"),
        ("12", {}, "ranks: must be a list"),
        ([[1, 2]], {}, "ranks: .*got 'list'"),
        ([1], {"threshold_rank": 0}, r"threshold_rank: must lie in 1..999"),
        ([1], {"threshold_rank": 1000}, r"threshold_rank: must lie in 1..999"),
        ([1], {"threshold_rank": 1.0}, r"threshold_rank: must lie in 1..999"),
        ([1], {"delta": 1.0}, "delta: must lie in"),
        ([1], {"confidence_level": 1.0}, "confidence_level"),
        ([1], {"groups": 0}, "groups"),
        ([1], {"other_secrets": 1000}, "other_secrets: must be below the space's size"),
        ([1] * 1001, {}, "other_secrets: .*with replacement"),
    ],
)
def test_invalid_ranks_are_refused(ranks: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"(?s){said}"):
        epsilon_from_ranks(ranks, 1000, **arguments)
