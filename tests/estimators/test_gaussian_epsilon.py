"""Gaussian claims: exact laws by simulation and scipy, false alarms at the truth, and other libraries' figures.

Legend: m canaries, N draws.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import binom, norm

from hf_exposure.errors import InputError
from hf_exposure.estimators import epsilon_lower_bound, gaussian_delta, gaussian_epsilon, gaussian_mu
from hf_exposure.estimators.gaussian_epsilon import refuted_gdp, refuted_independent

DELTA = 1e-5
CLAIMS = ["approximate_dp", "gdp", "independent_gaussian"]


@pytest.mark.parametrize(("epsilon", "mu"), [(0.0, 0.3), (1.0, 0.5), (4.0, 0.92), (12.0, 3.0)])
def test_delta_is_what_the_two_gaussians_differ_by(epsilon: float, mu: float) -> None:
    """The definition: the integral of the positive part of N(mu, 1) less e^epsilon N(0, 1)."""

    def excess(z: float) -> float:
        return max(0.0, float(norm.pdf(z - mu) - math.exp(epsilon) * norm.pdf(z)))

    begins = epsilon / mu + mu / 2
    expected, _ = quad(excess, begins, begins + 12, epsabs=1e-14)
    assert gaussian_delta(epsilon, mu) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mu", [0.1, 0.5, 2.0, 8.0])
@pytest.mark.parametrize("delta", [1e-10, 1e-5, 0.01])
def test_epsilon_and_mu_are_inverse(mu: float, delta: float) -> None:
    epsilon = gaussian_epsilon(mu, delta)
    assert gaussian_delta(epsilon, mu) == pytest.approx(delta, rel=1e-6)
    assert gaussian_mu(epsilon, delta) == pytest.approx(mu)
    assert gaussian_epsilon(0.0, delta) == 0.0


def ideal(generator: np.random.Generator, mu: float, canaries: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Costs and coins of canaries with independent Gaussian noise."""
    coins_m = generator.random(canaries) < 0.5
    return -(generator.normal(size=canaries) + mu * coins_m), coins_m


@pytest.mark.parametrize(("m", "guesses"), [(30, 30), (30, 29), (100, 10), (12, 1)])
@pytest.mark.parametrize("mu", [0.5, 2.0])
def test_the_law_of_right_guesses_is_that_of_the_best_guesser(m: int, guesses: int, mu: float) -> None:
    """Simulated with the largest likelihood ratios: the truth is refuted exactly where its tail is below the error."""
    generator, draws = np.random.default_rng(1), 10_000
    coins_Nm = generator.random((draws, m)) < 0.5
    ratios_Nm = mu * (generator.normal(size=(draws, m)) + mu * coins_Nm) - mu**2 / 2
    chosen_Nc = np.argsort(-np.abs(ratios_Nm), axis=1)[:, :guesses]
    right_Nm = (ratios_Nm > 0) == coins_Nm
    correct_N = np.take_along_axis(right_Nm, chosen_Nc, axis=1).sum(axis=1)
    error, noise = 0.1, 4 * math.sqrt(0.09 / draws)
    for correct in range(1, guesses + 1):
        tail = (correct_N >= correct).mean()
        if refuted_independent(m, guesses, correct, error) > mu:
            assert tail <= error + noise
        else:
            assert tail >= error - noise


def test_with_all_guessed_it_is_a_binomial() -> None:
    """By hand: 70 of 100 right; the largest mu at which Binomial(100, Phi(-mu / 2)) has at most 30 with 5 %."""
    mu = refuted_independent(100, 100, 70, 0.05)
    assert binom.cdf(30, 100, norm.cdf(-mu / 2)) == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("epsilon", [0.0, 1.0, 4.0])
def test_false_alarms_at_the_truth(claim: Any, epsilon: float) -> None:
    """Independent Gaussian noise with exactly that epsilon; at 0 scores carry no information (null calibration)."""
    generator, draws = np.random.default_rng(2), 150
    mu = 0.0 if epsilon == 0.0 else gaussian_mu(epsilon, DELTA)
    alarms = 0
    for _ in range(draws):
        costs_m, coins_m = ideal(generator, mu, 200)
        alarms += epsilon_lower_bound(costs_m, coins_m, delta=DELTA, claim=claim).epsilon > epsilon + 1e-9
    assert alarms / draws <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)


def test_canaries_that_share_their_luck_do_not_have_independent_noise() -> None:
    """All canaries share one |L|, drawn as for a Gaussian; each then reports falsely with probability 1 / (1 + e^|L|).

    Each canary is mu-GDP: the sign and the size of a Gaussian's L are drawn separately. So the bounds on the first two
    claims hold and the bound on independent noise does not; this is why the claims are distinguished.
    """
    generator, draws, mu = np.random.default_rng(3), 200, gaussian_mu(2.0, DELTA)
    alarms = dict.fromkeys(CLAIMS, 0)
    for _ in range(draws):
        coins_m = generator.random(200) < 0.5
        size = abs(mu * generator.normal() + mu**2 / 2)
        says_m = np.where(generator.random(200) < 1 / (1 + math.exp(size)), ~coins_m, coins_m)
        costs_m = np.where(says_m, 0.0, 1.0) + 0.5 * generator.random(200)
        for claim in CLAIMS:
            bound = epsilon_lower_bound(costs_m, coins_m, delta=DELTA, claim=claim)  # type: ignore[arg-type]
            alarms[claim] += bound.epsilon > 2.0
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
    assert alarms["approximate_dp"] / draws <= limit
    assert alarms["gdp"] / draws <= limit
    assert alarms["independent_gaussian"] / draws > 0.15


def test_stronger_claims_are_refuted_further() -> None:
    """Medians over ideal canaries at epsilon 4 are ordered by claim, and each bound is informative."""
    generator, mu = np.random.default_rng(4), gaussian_mu(4.0, DELTA)
    bounds = []
    for _ in range(11):
        costs_m, coins_m = ideal(generator, mu, 1000)
        bounds.append(
            [epsilon_lower_bound(costs_m, coins_m, delta=DELTA, claim=claim).epsilon for claim in CLAIMS]  # type: ignore[arg-type]
        )
    approximate, gdp, independent = np.median(bounds, axis=0)
    assert 1.3 < approximate < gdp < independent < 4.0
    assert gdp > 2.0 and independent > 2.5


def test_gaussian_claims_need_a_delta() -> None:
    coins = [True, False] * 10
    with pytest.raises(InputError, match="delta: must lie strictly between 0 and 1: no Gaussian"):
        epsilon_lower_bound(range(20), coins, claim="gdp")
    with pytest.raises(InputError, match="claim: must be one of approximate_dp, gdp, independent_gaussian"):
        epsilon_lower_bound(range(20), coins, delta=0.1, claim="f_dp")  # type: ignore[arg-type]


def test_the_bound_says_what_it_refutes() -> None:
    coins = np.arange(400) < 200
    for claim in CLAIMS:
        bound = epsilon_lower_bound(np.arange(400.0), coins, delta=DELTA, claim=claim)  # type: ignore[arg-type]
        assert bound.claim == claim
        assert bound.guesses == (400 if claim == "independent_gaussian" else 40)
        assert bound.epsilon > 1.0


# Other libraries, where they are installed: only their arithmetic is loaded, without their other imports.


def module_of(package: str, file: str) -> Any:
    """One module of an installed package, loaded without the package around it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(next(iter(found.submodule_search_locations))) / file
    if not path.exists():
        pytest.skip(f"{package} has no {file}")
    spec = importlib.util.spec_from_file_location(f"of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.skip(f"{package} lacks {error.name}")
    return module


@pytest.mark.parametrize(
    ("m", "guesses", "correct"), [(1000, 100, 80), (1000, 100, 60), (200, 200, 150), (50, 20, 20)]
)
@pytest.mark.parametrize("delta", [1e-5, 1e-3])
def test_jax_privacy_agrees(m: int, guesses: int, correct: int, delta: float) -> None:
    theirs = module_of("jax_privacy", "auditing.py")
    costs_m, coins_m = scores_with(m, guesses, correct)
    for claim, function in (("approximate_dp", "_epsilon_one_run"), ("gdp", "_epsilon_one_run_fdp")):
        ours = epsilon_lower_bound(costs_m, coins_m, guesses=guesses, delta=delta, claim=claim)  # type: ignore[arg-type]
        assert (ours.guesses, ours.correct) == (guesses, correct)
        expected = getattr(theirs, function)(0.0, m, guesses, correct, 0.05, delta)
        assert ours.epsilon == pytest.approx(max(expected, 0.0), abs=2e-4)


@pytest.mark.parametrize(("m", "correct"), [(1000, 680), (1000, 560), (200, 150)])
def test_opake_agrees_up_to_its_chernoff_bound(m: int, correct: int) -> None:
    """That library treats ranks as independent and bounds the tail; ours is the exact law, so somewhat higher."""
    theirs = module_of("opake", "api/auditing/one_run/_gdp.py")
    costs_m, coins_m = scores_with(m, m, correct)
    ours = epsilon_lower_bound(costs_m, coins_m, guesses=m, delta=DELTA, claim="independent_gaussian")
    low, high = 0.0, 5.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if theirs._p_value(m, m, m - correct, middle, 2000) < 0.05 else (low, middle)
    expected = theirs._gdp_to_eps_delta(low, DELTA)
    assert expected <= ours.epsilon <= expected + 1.2


def scores_with(m: int, guesses: int, correct: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Costs 0 to m - 1, and coins for which exactly the given number of guesses are right."""
    coins_m = np.arange(m) % 2 == 0
    sides = np.arange(m)
    guessed_in, guessed_out = sides < guesses - guesses // 2, sides >= m - guesses // 2
    coins_m = np.where(guessed_in, True, np.where(guessed_out, False, coins_m))
    wrong = np.flatnonzero(guessed_in | guessed_out)[: guesses - correct]
    coins_m[wrong] = ~coins_m[wrong]
    return np.arange(m, dtype=np.float64), coins_m


def test_the_refuted_mu_falls_with_the_number_right() -> None:
    for function in (refuted_gdp, refuted_independent):
        found = [function(400, 40, correct, 0.05) for correct in range(0, 41, 5)]
        assert found == sorted(found)
        assert found[4] == 0.0 < found[8]
