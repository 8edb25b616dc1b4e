"""Membership statistics against loops over tokens, and the separation of scores against scipy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    TokenSignals,
    base_calibrated,
    error_zone,
    exact_memorization,
    extraction_strength,
    loss,
    min_k,
    min_k_plus_plus,
    separation,
    zlib_ratio,
)


def signals(log_probability: list[float], likeliest: list[bool] | None = None, **changes: object) -> TokenSignals:
    tokens = len(log_probability)
    values = {
        "log_probability_T": np.array(log_probability), "mean_T": np.full(tokens, -2.0),
        "variance_T": np.full(tokens, 4.0), "is_likeliest_T": np.array(likeliest or [False] * tokens),
        "compressed_bits": 160.0,
    }  # fmt: skip
    return TokenSignals(**{**values, **changes})  # type: ignore[arg-type]


def random_signals(seed: int, tokens: int = 37) -> TokenSignals:
    rng = np.random.default_rng(seed)
    return signals(
        (-rng.exponential(3.0, tokens)).tolist(),
        (rng.random(tokens) < 0.4).tolist(),
        mean_T=-rng.exponential(2.0, tokens),
        variance_T=rng.exponential(2.0, tokens),
        compressed_bits=float(rng.integers(100, 900)),
    )


@pytest.mark.parametrize("tokens", [1, 4, 5, 9, 37])
def test_statistics_are_those_of_loops(tokens: int) -> None:
    text, base = random_signals(tokens, tokens), random_signals(tokens + 100, tokens)
    log_p, log_b = text.log_probability_T.tolist(), base.log_probability_T.tolist()
    assert loss(text) == pytest.approx(sum(log_p) / tokens)
    assert base_calibrated(text, base) == pytest.approx(sum(a - b for a, b in zip(log_p, log_b)) / tokens)  # noqa: B905
    assert zlib_ratio(text) == pytest.approx(sum(log_p) / text.compressed_bits)
    lowest = max(1, int(0.2 * tokens))
    assert min_k(text) == pytest.approx(sum(sorted(log_p)[:lowest]) / lowest)
    z = [(log_p[i] - text.mean_T[i]) / math.sqrt(text.variance_T[i]) for i in range(tokens)]
    assert min_k_plus_plus(text) == pytest.approx(sum(sorted(z)[:lowest]) / lowest)
    up = down = errors = 0.0
    for i in range(tokens):
        if not text.is_likeliest_T[i]:
            errors += 1
            up += max(0.0, log_p[i] - log_b[i])
            down += max(0.0, log_b[i] - log_p[i])
    assert error_zone(text, base) == pytest.approx(up / (up + down) if errors else 1.0)
    assert exact_memorization(text) == pytest.approx(sum(text.is_likeliest_T.tolist()) / tokens)
    # The shortest prefix of k tokens after which every token is the first choice.
    shortest = min(k for k in range(tokens + 1) if all(text.is_likeliest_T[k:]))
    assert extraction_strength(text) == pytest.approx(1 - shortest / tokens)


def test_the_error_zone_ranks_as_the_papers_ratio_does() -> None:
    pairs = [(random_signals(seed), random_signals(seed + 1000)) for seed in range(50)]
    ratios = []
    for text, base in pairs:
        gain = (text.log_probability_T - base.log_probability_T)[~text.is_likeliest_T]
        ratios.append(gain[gain > 0].sum() / abs(gain[gain < 0].sum()))
    assert np.argsort([error_zone(*pair) for pair in pairs]).tolist() == np.argsort(ratios).tolist()


def test_edges() -> None:
    base = signals([-1.0, -1.0])
    assert math.isnan(base_calibrated(base, None)) and math.isnan(error_zone(base, None))
    assert error_zone(signals([-1.0, -3.0], [True, True]), base) == 1.0  # no error at all
    assert error_zone(base, base) == 0.5  # errors, and nothing moved
    assert error_zone(signals([-0.5, -0.5]), base) == 1.0 and error_zone(signals([-2.0, -2.0]), base) == 0.0
    assert extraction_strength(signals([-1.0] * 4, [True, False, True, True])) == 0.5
    assert extraction_strength(signals([-1.0] * 2, [True, False])) == 0.0
    assert extraction_strength(signals([-1.0] * 2, [True, True])) == 1.0
    # Tokens that a model excludes.
    never = signals([-1.0, -math.inf])
    assert loss(never) == -math.inf and min_k(never) == -math.inf and min_k_plus_plus(never) == -math.inf
    assert base_calibrated(never, signals([-2.0, -math.inf])) == 0.5
    assert error_zone(signals([-1.0, -3.0]), never) == 1.0 and error_zone(never, base) == 0.0
    # All allowed tokens are equally likely: no deviation.
    assert min_k_plus_plus(signals([-2.0], variance_T=np.zeros(1))) == 0.0
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(InputError, match="share"):
            min_k(base, share=share)
    with pytest.raises(InputError, match="base: must be the signals of the same 2 tokens"):
        base_calibrated(base, signals([-1.0]))


def test_separation_is_the_rank_test() -> None:
    rng = np.random.default_rng(0)
    members, held_out = rng.normal(0.6, 1, 70).round(1), rng.normal(0, 1, 120).round(1)
    found = separation(members, held_out)
    expected = stats.mannwhitneyu(members, held_out, alternative="greater")
    assert found.auc == pytest.approx(expected.statistic / (70 * 120)) and found.p_value == pytest.approx(
        expected.pvalue
    )
    assert found.auc_low is not None and found.auc_low < found.auc < (found.auc_high or 0)
    # Only the order matters: infinite scores are the highest.
    assert separation([math.inf, 2.0], [-math.inf, 1.0]).auc == 1.0


def test_undefined_has_a_reason() -> None:
    found = separation([1.0, math.nan], [0.0])
    assert (found.auc, found.p_value) == (None, None) and "undefined for 1 of 3 records" in found.reason
    assert separation([], [1.0]).reason == "there are no members"
    assert separation([1.0], []).reason == "there are no held-out records"
    with pytest.raises(InputError, match="member_scores"):
        separation([[1.0]], [1.0])


@pytest.mark.parametrize("statistic", [loss, min_k, min_k_plus_plus, zlib_ratio])
def test_p_values_are_uniform_where_members_are_like_the_others(statistic: object) -> None:
    p_values = []
    for seed in range(150):
        scores = [statistic(random_signals(10_000 * seed + number, 12)) for number in range(50)]  # type: ignore[operator]
        p_values.append(separation(scores[:20], scores[20:]).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
