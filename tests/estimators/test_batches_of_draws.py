"""Draws that depend on each other in batches: variances by hand, and intervals that count batches and not draws."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hf_exposure.errors import InputError
from hf_exposure.estimators import check_weights, importance_exposure
from hf_exposure.estimators.weighted_cdf import weighted_cdf


@pytest.mark.parametrize("sizes", [(3, 3, 3, 3), (1, 4, 2, 5)])
def test_shares_and_variances_by_hand(sizes: tuple[int, ...]) -> None:
    """12 draws of two texts each, in four batches, two of each stratum."""
    generator = np.random.default_rng(sum(sizes[:2]))
    references, weights = generator.integers(0, 9, (12, 2)).astype(float), generator.uniform(0.1, 2.0, (12, 2))
    shares = generator.dirichlet([1.0, 1.0], 12)
    batches, strata = np.repeat([7, 2, 5, 0], sizes), np.repeat([0, 0, 1, 1], sizes)
    costs = np.array([-1.0, 2.0, 5.0, 8.0])
    limits = np.full(4, 1.5)
    shuffled = generator.permutation(12)
    found = weighted_cdf(
        costs,
        references[shuffled],
        weights[shuffled],
        shares[shuffled],
        limits_K=limits,
        strata_N=strata[shuffled],
        batches_N=batches[shuffled],
        confidence_level=0.95,
    )
    mass = weights * shares
    for cost, share, variance, hits in zip(costs, found.share_K, found.variance_K, found.hits_K, strict=True):
        below = references <= cost
        own = max(1.5, weights[below].max(initial=0.0))
        total = mass.sum() + own
        y = (mass[below].sum() + own) / total
        residual_N = (mass * (below - y)).sum(axis=1)
        squares = (own * (1.0 - y)) ** 2
        for stratum in (0, 1):
            # The mean residual of a draw, as far as it differs from that of all draws.
            off, within = residual_N[strata == stratum].mean() - residual_N.mean(), 0.0
            counts = np.unique(batches[strata == stratum], return_counts=True)[1]
            # Two batches of one size: their sums vary by twice the squares around the mean that they share.
            correction = counts.sum() ** 2 / (counts.sum() ** 2 - (counts**2).sum())
            assert correction == pytest.approx(2.0) or counts[0] != counts[1]
            for batch in np.unique(batches[strata == stratum]):
                in_batch = batches == batch
                residual, size = residual_N[in_batch].sum(), in_batch.sum()
                within += (residual - size * off) ** 2 + 2.0 * size**2 * off * residual_N.mean()
            squares += correction * max(within, 0.0)
        assert (share, variance) == (pytest.approx(y), pytest.approx(squares / total**2, abs=1e-15))
        assert hits == below.any(axis=1).sum()


def test_a_batch_of_equal_draws_is_worth_one() -> None:
    """40 batches of 16 copies each are 40 draws, up to the canary's weight, which is a sixteenth of theirs."""
    generator = np.random.default_rng(0)
    once = generator.normal(size=40)
    often = {"references": np.repeat(once, 16), "weight_limits": 1.0}
    (as_batches,) = importance_exposure([0.0], **often, space_size=10**6, batches=np.repeat(np.arange(40), 16))
    (as_draws,) = importance_exposure([0.0], **often, space_size=10**6)
    (single,) = importance_exposure([0.0], once, space_size=10**6, weight_limits=1.0)
    assert as_batches.exposure_bits == as_draws.exposure_bits
    width, expected = (each.high_bits - each.low_bits for each in (as_batches, single))
    assert width == pytest.approx(expected, rel=0.1)
    assert as_draws.high_bits - as_draws.low_bits < 0.3 * width
    # Copies are worth less than independent draws, which is never called a gain.
    assert as_batches.draw_gain == 1.0 == as_draws.draw_gain


def test_batches_of_one_draw_are_independent_draws() -> None:
    generator = np.random.default_rng(1)
    references, weights = generator.normal(size=400), generator.uniform(0.5, 1.5, 400)
    costs, strata = [-2.0, 0.0, 1.0], np.repeat([0, 1], 200)
    plain = importance_exposure(costs, references, weights, space_size=10**6, strata=strata)
    batched = importance_exposure(
        costs, references, weights, space_size=10**6, strata=strata, batches=np.arange(400)[::-1]
    )
    for one, other in zip(plain, batched, strict=True):
        assert one.exposure_bits == pytest.approx(other.exposure_bits, abs=1e-12)
        # The variance grows by 200 / 199.
        assert other.high_bits - other.low_bits == pytest.approx(one.high_bits - one.low_bits, rel=0.004)
    assert check_weights(weights, strata, np.arange(400)).standard_error == pytest.approx(
        check_weights(weights, strata).standard_error * math.sqrt(200 / 199)
    )


@pytest.mark.parametrize("sizes", [[16] * 8, [16] * 8 + [1] * 8, [16] * 2 + [1] * 8, [3, 1]])
def test_the_variance_of_batches_is_right_on_average(sizes: list[int]) -> None:
    """4,000 sets of draws that are in fact independent, so that the variance of a batch grows with its size."""
    generator = np.random.default_rng(len(sizes))
    batches, repeats = np.repeat(np.arange(len(sizes)), sizes), 4000
    shares, variances, errors = np.zeros((3, repeats))
    for repeat in range(repeats):
        weights = np.where(generator.random(len(batches)) < 0.3, 1.0, 2.0)
        errors[repeat] = check_weights(weights, batches=batches).standard_error
        shares[repeat] = weights.mean()
        variances[repeat] = errors[repeat] ** 2
    assert variances.mean() == pytest.approx(shares.var(), rel=0.08)


def test_an_infinite_cost_counts_only_draws_with_weight() -> None:
    """Two of four draws have weight 0; a text that the model excludes has them all at or below it."""
    references, weights = np.array([1.0, 2.0, np.inf, 4.0]), np.array([1.0, 0.0, 1.0, 0.0])
    found = weighted_cdf(
        np.array([0.0, 3.0, np.inf]),
        references[:, None],
        weights[:, None],
        np.ones((4, 1)),
        limits_K=None,
        strata_N=np.zeros(4, dtype=np.int64),
        confidence_level=0.95,
    )
    assert found.hits_K.tolist() == [0, 1, 2]


def test_draws_that_avoid_each_other_give_narrower_intervals_and_a_gain() -> None:
    """Pairs of antithetic draws u and 1 - u, of which at most one is at or below 0.4."""
    u = np.random.default_rng(2).random(4000)
    references = np.concatenate([u, 1.0 - u])
    batches = np.tile(np.arange(4000), 2)
    (independent,) = importance_exposure([0.4], references, space_size=10**9)
    (spread,) = importance_exposure([0.4], references, space_size=10**9, batches=batches)
    assert spread.exposure_bits == independent.exposure_bits
    ratio = (spread.high_bits - spread.low_bits) / (independent.high_bits - independent.low_bits)
    # Variances: of one draw 0.4 * 0.6 = 0.24; of a pair's mean (0.24 - 0.4 * 0.4) / 2 = 0.04, a third of 0.12.
    assert ratio**2 == pytest.approx(1 / 3, rel=0.1)
    assert spread.draw_gain == pytest.approx(3.0, rel=0.1) and independent.draw_gain == 1.0
    assert spread.effective_hits == pytest.approx(3 * 3200, rel=0.1)


def test_weights_are_checked_by_batches() -> None:
    """Heavy and light draws in each batch, so that the mean weight is known better than of independent draws."""
    weights = np.tile([0.2, 1.8], 50)
    spread = check_weights(weights, batches=np.repeat(np.arange(50), 2))
    assert spread.mean == pytest.approx(1.0) and spread.standard_error == pytest.approx(0.0, abs=1e-12)
    assert check_weights(weights).standard_error == pytest.approx(0.08)
    light = check_weights(weights * 0.9, batches=np.repeat(np.arange(50), 2))
    assert not light.good


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"batches": [0, 0, 0, 1]}, "batches: must each lie in one stratum"),
        ({"batches": [0, 0, 1, 1]}, "batches: must be at least 2 in each stratum"),
        ({"batches": [0, 1]}, "batches: must be one label per reference"),
        ({"batches": [0, "a", None, 1]}, "batches: must be labels of one kind"),
        ({"batches": [0, 0, 0, 0], "strata": None}, "batches: must be at least 2 in each stratum"),
    ],
)
def test_what_is_refused(changed: dict[str, object], said: str) -> None:
    arguments = {"strata": [0, 0, 1, 1], **changed}
    with pytest.raises(InputError, match=said):
        importance_exposure([1.0], [1.0, 2.0, 3.0, 4.0], space_size=10, **arguments)


def test_labels_of_batches_are_names_only() -> None:
    generator = np.random.default_rng(3)
    references, batches = generator.normal(size=60), np.repeat(np.arange(12), 5)
    names = np.array(list("abcdefghijkl"))[batches]
    by_number, by_name = (
        importance_exposure([0.0], references, space_size=1000, batches=labels)[0] for labels in (batches, names)
    )
    assert replace(by_number) == by_name
