"""Tests whether epsilon from ranks is a valid bound, and how large it is.

The rules, written before the experiment:

    false alarms    k-ary randomized response at its exact epsilon of 1, 3 and 6, k of 10 to 10^6, 1 to 100 canaries of
                    at most k / 2, with and without replacement: at most 5 % of bounds exceed the truth. Exact sums of
                    the binomial where one L is fixed; elsewhere 10^5 draws, and three standard errors are allowed.
    power           at epsilon 6, k = 1,000 and 40 canaries the median bound is at least 4.5, every correction included

Mechanisms:
    fixed L             the guessed set holds the secret with the q of the theorem: the worst of private mechanisms
    ladder              the answer ranks first and all other texts follow in random order: each rung has its chance
    ladder, distinct    the same, and of distinct secrets each guess avoids the secrets before it

`python -m benchmarks.rank_epsilon` writes `benchmarks/results/rank_epsilon.json`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from scipy.stats import binom

from benchmarks.record import write_result
from hf_exposure.estimators import epsilon_from_ranks

EPSILONS = (1.0, 3.0, 6.0)
SPACES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
CANARIES = (1, 2, 5, 10, 40, 100)
SHARES = (0.0, 0.01, 0.1, 0.4)  # shares of the space that are guessed; 0 means one text
DRAWS = 100_000
ERROR = 0.05


def least_alarming(k: int, m: int, limit: int, epsilon: float, threshold: int | None, **how: Any) -> int:
    """The number of m ranks that must be `limit` for the bound to exceed epsilon; m + 1 if none suffices."""

    def alarms(successes: int) -> bool:
        ranks = [limit] * successes + [None] * (m - successes)
        return epsilon_from_ranks(ranks, k, threshold, 1 - ERROR, **how).epsilon > epsilon

    low, high = 0, m + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if alarms(middle) else (middle, high)
    return high


def fixed(k: int, m: int, epsilon: float, how: dict[str, Any]) -> float:
    """The largest rate of false alarms over the guessed shares, summed exactly."""
    rates = []
    for share in SHARES:
        limit = max(1, int(share * k))
        q = limit * math.exp(epsilon) / (limit * math.exp(epsilon) + k - limit)
        rates.append(float(binom.sf(least_alarming(k, m, limit, epsilon, limit, **how) - 1, m, q)))
    return max(rates)


def ladder(k: int, m: int, epsilon: float, how: dict[str, Any], generator: np.random.Generator) -> float:
    """Returns the rate of false alarms if all rungs are used."""
    answered = math.exp(epsilon) / (math.exp(epsilon) + k - 1)
    candidates = k - how.get("other_secrets", m - 1)
    limits = [2**j for j in range(k.bit_length()) if 2 ** (j + 1) <= candidates]
    needed = [least_alarming(k, m, limit, epsilon, None, **how) for limit in limits]
    alarms = 0
    for _ in range(10):
        shape = (DRAWS // 10, m)
        ranks_Nm = np.where(generator.random(shape) < answered, 1, generator.integers(2, k + 1, shape))
        rungs = [(ranks_Nm <= limit).sum(axis=1) >= least for limit, least in zip(limits, needed, strict=True)]
        alarms += int(np.logical_or.reduce(rungs).sum()) if rungs else 0
    return alarms / DRAWS


def distinct(k: int, m: int, epsilon: float, generator: np.random.Generator) -> float:
    """The rate of false alarms if each guess is the answer, or another text if the answer is an earlier secret."""
    stays = (math.exp(epsilon) - 1) / (math.exp(epsilon) + k - 1)
    least, alarms, block = least_alarming(k, m, 1, epsilon, None), 0, max(1, 2_000_000 // k)
    done = 0
    while done < DRAWS:
        draws = min(block, DRAWS - done)
        secrets_Nm = np.argsort(generator.random((draws, k)), axis=1)[:, :m]
        said_Nm = np.where(generator.random((draws, m)) < stays, secrets_Nm, generator.integers(0, k, (draws, m)))
        successes_N = np.zeros(draws, dtype=int)
        for i in range(m):
            left_Nk = generator.random((draws, k))
            np.put_along_axis(left_Nk, said_Nm[:, i : i + 1], -1.0, axis=1)
            np.put_along_axis(left_Nk, secrets_Nm[:, :i], 2.0, axis=1)
            successes_N += left_Nk.argmin(axis=1) == secrets_Nm[:, i]
        alarms += int((successes_N >= least).sum())
        done += draws
    return alarms / DRAWS


def power(epsilon: float, k: int, m: int) -> float:
    """Returns the median bound for randomized response, including all corrections."""
    q = math.exp(epsilon) / (math.exp(epsilon) + k - 1)
    successes = int(binom.ppf(0.5, m, q))
    return epsilon_from_ranks([1] * successes + [k] * (m - successes), k).epsilon


def main() -> None:
    """Runs everything and writes the result."""
    started, generator = time.perf_counter(), np.random.default_rng(0)
    rows = []
    for epsilon in EPSILONS:
        for k in SPACES:
            for m in (m for m in CANARIES if m <= k // 2):
                for name, how in (("with", {"other_secrets": 0}), ("without", {})):
                    rows.append(
                        {
                            "epsilon": epsilon, "k": k, "canaries": m, "replacement": name,
                            "fixed_exact": fixed(k, m, epsilon, how),
                            "ladder": ladder(k, m, epsilon, how, generator),
                        }
                    )  # fmt: skip
        print(f"epsilon {epsilon:g}: {time.perf_counter() - started:.0f} s", flush=True)
    guessers = [
        {"epsilon": epsilon, "k": k, "canaries": m, "ladder_distinct": distinct(k, m, epsilon, generator)}
        for epsilon in EPSILONS
        for k, m in ((10, 5), (20, 10), (100, 10))
    ]
    allowed = ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / DRAWS)
    median = power(6.0, 1000, 40)
    figures = {
        "draws": DRAWS,
        "allowed": {"fixed_exact": ERROR, "simulated": allowed},
        "worst": {
            "fixed_exact": max(row["fixed_exact"] for row in rows),
            "ladder": max(row["ladder"] for row in rows),
            "ladder_distinct": max(row["ladder_distinct"] for row in guessers),
        },
        "median_at_epsilon_6": {"k": 1000, "canaries": 40, "epsilon": median, "at_least": 4.5},
        "medians": [
            {"epsilon": e, "k": k, "canaries": m, "median": power(e, k, m)}
            for e in (3.0, 6.0, 10.0) for k in (1000, 10**6, 10**9) for m in (4, 40)
        ],
        "false_alarms": rows,
        "guessers_that_know_earlier_secrets": guessers,
        "seconds": time.perf_counter() - started,
    }  # fmt: skip
    worst = figures["worst"]
    assert isinstance(worst, dict)
    passed = worst["fixed_exact"] <= ERROR + 1e-12 and max(worst["ladder"], worst["ladder_distinct"]) <= allowed
    path = write_result("rank_epsilon", {"passed": bool(passed and median >= 4.5), **figures})
    print(f"worst {worst}, median {median:.2f}: {path}")


if __name__ == "__main__":
    main()
