"""Weighted draws: sampling as the special case, hand-made shares, weight limits, and weights that do not add up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from hf_exposure.errors import InputError
from hf_exposure.estimators import check_weights, importance_exposure, sampling_exposure
from hf_exposure.estimators.weighted_cdf import weighted_cdf


def test_equal_weights_are_sampling() -> None:
    generator = np.random.default_rng(0)
    references, costs = generator.integers(0, 30, 200), np.arange(-1.0, 31.0)
    plain = sampling_exposure(costs, references, space_size=10**6)
    for weights, limits in ((None, None), (np.ones(200), None), (np.ones(200), 1.0)):
        weighted = importance_exposure(costs, references, weights, space_size=10**6, weight_limits=limits)
        for ours, theirs in zip(weighted, plain, strict=True):
            assert replace(ours, method="", note="") == replace(theirs, method="", note="")


def test_a_share_by_hand() -> None:
    """Hits weigh 0.5 + 0.25, misses 1.25 + 2; the canary's own limit is 0.5: (0.75 + 0.5) / (4 + 0.5)."""
    (e,) = importance_exposure(
        [2.0], [5.0, 1.0, 2.0, 3.0], [2.0, 0.5, 0.25, 1.25], space_size=10**6, weight_limits=0.5
    )
    assert e.exposure_bits == pytest.approx(-math.log2(1.25 / 4.5))
    assert e.low_bits < e.exposure_bits < e.high_bits
    assert e.note.startswith("the estimate rests on few samples (")


def test_the_canary_counts_with_its_own_weight_where_that_is_known() -> None:
    """As above, the hits weigh 0.75 and all draws 4; only the points change, and never fall as the cost rises."""
    costs, references, weights = [2.0, 1.5, 2.5, 2.2], [5.0, 1.0, 2.0, 3.0], [2.0, 0.5, 0.25, 1.25]
    limited = importance_exposure(costs, references, weights, space_size=10**6, weight_limits=0.5)
    known = importance_exposure(
        costs, references, weights, space_size=10**6, weight_limits=0.5, own_weights=[0.1, 0.3, np.nan, 0.2]
    )
    # At 2.0 the 0.3 of the canary at 1.5 counts, and at 2.5 the limit.
    expected = [(0.75 + 0.3) / 4.3, (0.5 + 0.3) / 4.3, (0.75 + 0.5) / 4.5, (0.75 + 0.3) / 4.3]
    assert [each.exposure_bits for each in known] == pytest.approx(-np.log2(expected))
    for one, other in zip(limited, known, strict=True):
        assert (one.low_bits, one.high_bits) == (other.low_bits, other.high_bits)
    for wrong in ([0.1], [0.1, 0.2, 0.3, 0.0], [0.1, 0.2, 0.3, math.inf], [-1.0, 1.0, 1.0, 1.0]):
        with pytest.raises(InputError, match="own_weights: must be one finite number above 0, or NaN, per cost"):
            importance_exposure(costs, references, weights, space_size=10**6, own_weights=wrong)


def test_order_of_references_and_costs_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    references, weights, strata = generator.normal(size=90), generator.uniform(0.5, 1.5, 90), np.repeat([0, 1, 2], 30)
    costs, shuffled = np.array([-1.0, 0.0, 1.0]), generator.permutation(90)
    forth = importance_exposure(costs, references, weights, space_size=1000, strata=strata)
    back = importance_exposure(
        costs[::-1],
        references[shuffled],
        weights[shuffled],
        space_size=1000,
        strata=np.array(list("xyz"))[strata[shuffled]],
    )
    for one, other in zip(forth, back[::-1], strict=True):
        assert one.exposure_bits == pytest.approx(other.exposure_bits)
        assert (one.low_bits, one.high_bits) == pytest.approx((other.low_bits, other.high_bits))


def memorized(each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A space of 10^9 with one text of cost 1, which the model generates half the time; half the draws are uniform."""
    says_it = np.random.default_rng(seed).random(each) < 0.5
    q_canary, q_other = 0.25 + 0.5e-9, 0.5 * 1e-9 + 0.25e-9
    hit = np.concatenate([np.zeros(each, dtype=bool), says_it])
    weights = np.where(hit, 1 / (1e9 * q_canary), 1 / (1e9 * q_other))
    return np.where(hit, 1.0, 30.0), weights, np.repeat([0, 1], each)


def test_a_memorized_canary_needs_its_weight_limit() -> None:
    """Rank 1 of 10^9: a weight limit from the canary's own bits certifies it; the heaviest weight drawn cannot."""
    references, weights, strata = memorized(2000)
    limit = 2.0 * 2.0**1.0 / 1e9
    (known,) = importance_exposure([1.0], references, weights, space_size=10**9, weight_limits=[limit], strata=strata)
    assert known.low_bits > 29.7 and known.high_bits == math.log2(10**9)
    (unknown,) = importance_exposure([1.0], references, weights, space_size=10**9, strata=strata)
    assert unknown.exposure_bits == pytest.approx(math.log2(10**9), abs=0.15)
    assert unknown.low_bits < 12 and "no weight_limits" in unknown.note


def test_the_canarys_own_draws_may_be_dropped_and_added_back_exactly() -> None:
    references, weights, _ = memorized(2000)
    without = np.where(references == 1.0, 0.0, weights)
    (e,) = importance_exposure([1.0], references, without, space_size=10**9, weight_limits=4e-9, includes_self=[False])
    # One unseen text of weight 4e-9 among 4,000 draws is a thousandth of a text, and 3.7 thousandths at 97.5 %.
    assert e.low_bits == pytest.approx(math.log2(10**9), abs=0.01)
    assert e.exposure_bits == pytest.approx(math.log2(10**9), abs=0.01)
    assert e.note == ""
    # With a poor limit the same draws leave a lower bound.
    (poor,) = importance_exposure([1.0], references, without, space_size=10**9, weight_limits=2.0, includes_self=False)
    assert poor.exposure_bits < 12 and poor.note.startswith("a lower bound: none of 4000 references")
    assert poor.high_bits == math.log2(10**9)


def test_a_draw_heavier_than_its_limit_raises_it() -> None:
    arguments = ([2.0], [1.0, 3.0, 3.0], [1.5, 0.75, 0.75])
    low = importance_exposure(*arguments, space_size=100, weight_limits=0.1)
    high = importance_exposure(*arguments, space_size=100, weight_limits=1.5)
    assert low == high


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_weights_that_do_not_add_up_widen_the_interval(factor: float) -> None:
    generator = np.random.default_rng(3)
    references, weights = generator.normal(size=2000), generator.uniform(0.5, 1.5, 2000)
    (fair,) = importance_exposure([-1.0], references, weights, space_size=10**6)
    (bent,) = importance_exposure([-1.0], references, factor * weights, space_size=10**6)
    assert "should be 1" not in fair.note and "should be 1" in bent.note
    assert bent.low_bits < fair.low_bits - 0.5 if factor < 1 else bent.high_bits > fair.high_bits + 0.5
    assert bent.low_bits <= bent.exposure_bits <= bent.high_bits
    # The half of the space that is never drawn may rank below the canary, unless the weight limits rule that out.
    if factor < 1:
        assert bent.low_bits < 1.0
        (limited,) = importance_exposure(
            [-1.0], references, factor * weights, space_size=10**6, weight_limits=factor * 1.5
        )
        assert limited.low_bits == pytest.approx(fair.low_bits, abs=0.01)


def test_check_weights_by_hand() -> None:
    """Weights 0 and 2 in two strata of two: the squares within strata sum to 4 x 1, divided by 4 squared."""
    check = check_weights([0.0, 2.0, 0.0, 2.0], [0, 0, 1, 1])
    assert (check.mean, check.standard_error, check.good) == (1.0, 0.5, True)
    assert check_weights([0.0, 2.0, 0.0, 2.0], [0, 1, 0, 1]).standard_error == 0.0
    assert not check_weights(np.full(10, 1.06)).good
    assert check_weights(np.array([0.1] * 3) * 10).good


def test_bad_weights_are_refused_by_name() -> None:
    for weights, rule in (
        ([1.0], r"weights: must be one per reference, \(2,\)"),
        ([1.0, -1.0], "weights: must be finite, at least 0, and not all 0"),
        ([1.0, math.nan], "weights: must be finite"),
        ([0.0, 0.0], "weights: must be finite, at least 0, and not all 0"),
    ):
        with pytest.raises(InputError, match=rule):
            importance_exposure([1.0], [1.0, 2.0], weights, space_size=10)
    with pytest.raises(InputError, match="weight_limits: must be one finite number above 0"):
        importance_exposure([1.0], [1.0, 2.0], space_size=10, weight_limits=[1.0, 2.0])
    with pytest.raises(InputError, match="strata: must hold at least 2 draws each, got"):
        importance_exposure([1.0], [1.0, 2.0, 3.0], space_size=10, strata=[0, 0, 1])
    row = [[1.0, 2.0]]
    for shares, rule in (
        ([0.5, 0.5], r"must be \(N, C\), as references then are"),
        ([[0.9, 0.9]], "must sum to at most 1 in each row"),
        ([[1.1, -0.1]], "must be at least 0"),
    ):
        with pytest.raises(InputError, match=f"shares: {rule}"):
            importance_exposure([1.0], row, space_size=10, shares=shares)
    with pytest.raises(InputError, match="weights: must not all be 0 where shares are above 0"):
        importance_exposure([1.0], row, [[1.0, 0.0]], space_size=10, shares=[[0.0, 1.0]])
    with pytest.raises(InputError, match=r"weights: must be one per reference, \(1, 2\)"):
        importance_exposure([1.0], row, [1.0], space_size=10, shares=[[0.5, 0.5]])
    with pytest.raises(InputError, match="space_size: is needed if includes_self is False"):
        importance_exposure([1.0], [1.0, 2.0], space_size=None, includes_self=False)


def test_a_surplus_of_weight_widens_both_ends_by_hand() -> None:
    """A mean weight of 1.1: up to a tenth of the space was counted twice, below the canary or above it."""
    references, weights = np.arange(4000.0), np.ones(4000)
    (fair,) = importance_exposure([1999.0], references, weights, space_size=10**6)
    (bent,) = importance_exposure([1999.0], references, 1.1 * weights, space_size=10**6)
    assert 2.0**-fair.high_bits == pytest.approx(0.4846, abs=1e-3)  # half of 4,000, less 1.96 standard errors
    assert 2.0**-bent.low_bits == pytest.approx(1.1 * 2.0**-fair.low_bits)
    assert 2.0**-bent.high_bits == pytest.approx(2.0**-fair.high_bits - 0.1)
    # If more may have been counted twice than was counted at all, the lower end is 0.
    (none,) = importance_exposure([40.0], references, 1.1 * weights, space_size=10**6)
    assert none.high_bits == math.log2(10**6) and none.low_bits < none.exposure_bits


@pytest.mark.parametrize(("mean", "half_width", "good"), [(1.1, 0.3, False), (1.04, 0.12, True), (1.1, 0.6, True)])
def test_a_mean_off_by_more_than_five_percent_needs_two_standard_errors(
    mean: float, half_width: float, good: bool
) -> None:
    """100 weights of mean +- half_width: a tenth of it is the standard error; the means are 3.3, 3.3, 1.7 off."""
    weights = np.tile([mean - half_width, mean + half_width], 50)
    check = check_weights(weights)
    assert (check.mean, check.standard_error) == (pytest.approx(mean), pytest.approx(half_width / 10))
    assert check.good is good


def test_strata_narrow_the_interval() -> None:
    """Half the draws are in a stratum of hits and half in one without hits: these numbers are fixed, not random."""
    references, strata = np.repeat([0.0, 2.0], 500), np.repeat([0, 1], 500)
    (plain,) = importance_exposure([1.0], references, space_size=10**6)
    (stratified,) = importance_exposure([1.0], references, space_size=10**6, strata=strata)
    assert plain.high_bits - plain.low_bits == pytest.approx(2 * 1.96 / math.sqrt(1000) / math.log(2), rel=0.05)
    assert stratified.high_bits - stratified.low_bits < 0.1 * (plain.high_bits - plain.low_bits)
    assert stratified.exposure_bits == pytest.approx(plain.exposure_bits)


@pytest.mark.parametrize("endings", [1, 3])
def test_every_cost_has_the_variance_of_its_residuals_in_strata_of_unequal_size(endings: int) -> None:
    """The residual of a draw: each of its texts has its weight times share, times (1 - y) for a hit, -y for a miss."""
    generator = np.random.default_rng(5)
    references, weights = generator.normal(size=(60, endings)), generator.uniform(0.1, 2.0, (60, endings))
    shares = generator.dirichlet(np.ones(endings), 60)
    shares[:10, 1:], weights[:10, 1:] = 0.0, 99.0  # rows of one text; whatever the padding weighs
    strata, costs = np.repeat([0, 1], [12, 48]), np.array([0.1, -0.5, 0.9, 9.0])
    found = weighted_cdf(costs, references, weights, shares, limits_K=None, strata_N=strata, confidence_level=0.95)
    counts = shares > 0.0
    for cost, share, variance, hits in zip(costs, found.share_K, found.variance_K, found.hits_K, strict=True):
        own = weights[counts & (references <= cost)].max()
        total = (weights * shares).sum() + own
        y = ((weights * shares)[references <= cost].sum() + own) / total
        residuals = (weights * shares * ((references <= cost) - y)).sum(axis=1)
        squares = (own * (1.0 - y)) ** 2
        for stratum in (0, 1):
            of_it = residuals[strata == stratum]
            between = len(of_it) * (np.mean(of_it) - np.mean(residuals)) ** 2
            squares += sum(one**2 for one in of_it) - between
        assert (share, variance) == (pytest.approx(y), pytest.approx(squares / total**2, abs=1e-15))
        assert hits == (counts & (references <= cost)).any(axis=1).sum()


def test_a_draw_of_many_endings_counts_what_one_of_them_would_on_average() -> None:
    """Two rows of two texts with one weight each, so that the total is fixed: the mean over the four ways to end."""
    references, shares, weights = [[1.0, 3.0], [2.0, 4.0]], [[0.25, 0.75], [0.5, 0.5]], [[0.5, 0.5], [2.0, 2.0]]
    costs = [0.0, 1.0, 2.5, 3.0, 5.0]
    rows = importance_exposure(costs, references, weights, space_size=10**6, weight_limits=2.0, shares=shares)
    mean = np.zeros(len(costs))
    for one, other in itertools.product((0, 1), repeat=2):
        singles = importance_exposure(
            costs, [references[0][one], references[1][other]], [0.5, 2.0], space_size=10**6, weight_limits=2.0
        )
        mean += shares[0][one] * shares[1][other] * np.exp2([-e.exposure_bits for e in singles])
    np.testing.assert_allclose(np.exp2([-e.exposure_bits for e in rows]), mean)


def test_the_gain_is_the_ratio_of_variances_over_many_draws() -> None:
    """1,000 sets of 40 draws, whose rows hold texts of other ranks and weights: by one text each, and by all."""
    generator = np.random.default_rng(2)
    space, weights = (
        generator.permutation(1000).astype(float).reshape(100, 10),
        generator.lognormal(0.0, 1.0, (100, 10)),
    )
    rows_of, chosen = generator.integers(0, 100, (1000, 40)), generator.integers(0, 10, (1000, 40))
    hits = weights * (space <= 300)
    whole = hits.mean(axis=1)[rows_of].sum(axis=1) / weights.mean(axis=1)[rows_of].sum(axis=1)
    singles = hits[rows_of, chosen].sum(axis=1) / weights[rows_of, chosen].sum(axis=1)
    # Each row many times, so that the canary, which counts as one more draw, does not matter.
    often = np.tile(space, (200, 1)), np.tile(weights, (200, 1))
    (found,) = importance_exposure([300.0], *often, space_size=1000, shares=np.full((20_000, 10), 0.1))
    assert found.draw_gain == pytest.approx(singles.var() / whole.var(), rel=0.1)
    (alone,) = importance_exposure([300.0], space.ravel(), weights.ravel(), space_size=1000)
    assert alone.draw_gain == 1.0


@pytest.mark.parametrize("endings", [1, 10])
def test_a_cost_above_all_draws_is_as_precise_as_their_number(endings: int) -> None:
    """Whatever their weights, and however their sums are rounded."""
    for seed in range(40):
        generator = np.random.default_rng(seed)
        references, weights = generator.normal(size=(90, endings)), generator.uniform(0.1, 2.0, (90, endings))
        (e,) = importance_exposure(
            [9.0], references, weights, space_size=10**6, strata=np.arange(90) % 3,
            shares=generator.dirichlet(np.ones(endings), 90),
        )  # fmt: skip
        assert (e.effective_hits, e.exposure_bits) == (90.0, 0.0)
