"""Tests one-run bounds on ideal Gaussian canaries: how large they are, and how often they exceed the truth.

The rules, written before the experiment, at confidence 95 % and delta 1e-5, on 200 draws of 1,000 canaries whose score
is N(mu coin, 1) with the mu that has exactly epsilon 4:

    the median bound on (epsilon, delta)-privacy (a tenth guessed) is at least 1.5
    the median bound on independent Gaussian noise (all guessed) is at least 2.5
    no claim's bound exceeds the truth in more than 5 % of draws plus three standard errors, at epsilon 0, 1, 2, 4, 8

`python -m benchmarks.one_run_epsilon` writes `benchmarks/results/one_run_epsilon.json`, with the medians at other
epsilons, other numbers of canaries and, at epsilons 2 and 4, other shares guessed.
"""

from __future__ import annotations

import math
import time
from functools import cache
from typing import get_args

import numpy as np

from benchmarks.record import write_result
from hf_exposure.estimators import default_guesses, epsilon_lower_bound, gaussian_mu
from hf_exposure.estimators.epsilon import Claim

DELTA, LEVEL, DRAWS = 1e-5, 0.95, 200
CLAIMS: tuple[Claim, ...] = get_args(Claim)
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)


def correct_guesses(costs_m: np.ndarray, coins_m: np.ndarray, guesses: int) -> int:
    """The number of correct guesses, on which alone the bound depends."""
    order = np.argsort(costs_m)
    return int(coins_m[order[: guesses - guesses // 2]].sum() + (~coins_m[order[len(order) - guesses // 2 :]]).sum())


@cache
def bound(canaries: int, guesses: int, correct: int, claim: Claim) -> float:
    """Returns the bound for this number of correct guesses, from the public function."""
    coins_m = np.zeros(canaries, dtype=bool)
    coins_m[: guesses - guesses // 2] = True
    if guesses < canaries:
        coins_m[guesses - guesses // 2] = True
    guessed = [*range(guesses - guesses // 2), *range(canaries - guesses // 2, canaries)]
    # Both outcomes occur, since coins with a single outcome are refused.
    wrong = [*guessed[::2], *guessed[1::2]][: guesses - correct]
    coins_m[wrong] = ~coins_m[wrong]
    found = epsilon_lower_bound(
        np.arange(float(canaries)), coins_m, guesses=guesses, delta=DELTA, confidence_level=LEVEL, claim=claim
    )
    assert found.correct == correct
    return found.epsilon


def main() -> None:
    """Runs everything and writes the result."""
    started, rows, generator = time.perf_counter(), [], np.random.default_rng(0)
    for epsilon in (0.0, 1.0, 2.0, 4.0, 8.0):
        mu = gaussian_mu(epsilon, DELTA) if epsilon else 0.0
        for canaries in (200, 1000, 5000):
            draws = []
            for _ in range(DRAWS):
                coins_m = generator.random(canaries) < 0.5
                draws.append((-(generator.normal(size=canaries) + mu * coins_m), coins_m))
            for claim in CLAIMS:
                usual = default_guesses(canaries, claim)
                shares = SHARES if canaries <= 1000 and epsilon in (2.0, 4.0) else ()
                for guesses in sorted({usual, *(int(share * canaries) for share in shares)}):
                    bounds = [bound(canaries, guesses, correct_guesses(*draw, guesses), claim) for draw in draws]
                    rows.append(
                        {
                            "epsilon": epsilon, "canaries": canaries, "claim": claim, "guesses": guesses,
                            "is_default": guesses == usual, "median": float(np.median(bounds)),
                            "too_much": float(np.mean(np.array(bounds) > epsilon + 1e-9)),
                        }
                    )  # fmt: skip
            print(f"epsilon {epsilon:g}, {canaries} canaries: {time.perf_counter() - started:.0f} s", flush=True)
    at_4 = {
        row["claim"]: row["median"] for row in rows
        if row["is_default"] and row["epsilon"] == 4.0 and row["canaries"] == 1000
    }  # fmt: skip
    allowed = 1 - LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / DRAWS)
    worst = max(row["too_much"] for row in rows if row["is_default"])
    passed = at_4["approximate_dp"] >= 1.5 and at_4["independent_gaussian"] >= 2.5 and worst <= allowed
    figures = {
        "passed": bool(passed), "delta": DELTA, "confidence_level": LEVEL, "draws": DRAWS, "medians_at_4": at_4,
        "worst_too_much": worst, "allowed_too_much": allowed, "rows": rows,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip
    print(f"medians at epsilon 4: {at_4}, worst {worst}: {write_result('one_run_epsilon', figures)}")


if __name__ == "__main__":
    main()
