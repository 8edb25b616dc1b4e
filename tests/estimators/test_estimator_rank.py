"""Exact ranks: counted by loops, ties against the canary, ints of any size."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_exposure.errors import InputError
from hf_exposure.estimators import enumeration_exposure, exposure_from_rank, ranks

few_values = st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, math.inf]), max_size=8)


@given(few_values, few_values)
def test_ranks_are_one_plus_the_number_that_cost_no_more(costs: list[float], competitors: list[float]) -> None:
    expected = [1 + len([c for c in competitors if c <= cost]) for cost in costs]
    assert ranks(costs, competitors).tolist() == expected


def test_exposure_of_huge_spaces_is_exact() -> None:
    assert exposure_from_rank(2**300, 2**2000) == 1700.0
    assert exposure_from_rank(10**400, 10**400) == 0.0


def test_exposure_takes_no_rank_outside_the_space_and_no_float_size() -> None:
    with pytest.raises(InputError, match=r"rank: must lie in 1..10, got 0. Count ranks from 1"):
        exposure_from_rank(0, 10)
    with pytest.raises(InputError, match="space_size: must be an int"):
        exposure_from_rank(1, 1e9)  # type: ignore[arg-type]


def test_a_canary_apart_and_one_among_its_competitors_get_the_same_exposure() -> None:
    """Space {1, 2, 2, 3, 4}, canary 2: rank 3 by hand (itself, its tie, and 1)."""
    (apart,) = enumeration_exposure([2.0], [1.0, 2.0, 3.0, 4.0], includes_self=False)
    (among,) = enumeration_exposure([2.0], [1.0, 2.0, 2.0, 3.0, 4.0], includes_self=True)
    assert apart == among
    assert apart.exposure_bits == pytest.approx(math.log2(5 / 3))
    assert (apart.rank_low, apart.rank_high) == (2, 3)
    assert apart.low_bits == pytest.approx(math.log2(5 / 3)) and apart.high_bits == pytest.approx(math.log2(5 / 2))
    assert apart.method == "enumerate" and "1 texts tie" in apart.note


def test_inserted_canaries_and_controls_go_in_one_call() -> None:
    """Inserted canary 0.5 has been taken out of the space; control 2.0 has not. Both compete in a space of 4."""
    space = [1.0, 2.0, 3.0]
    inserted, control = enumeration_exposure([0.5, 2.0], space, includes_self=[False, True])
    assert inserted.exposure_bits == 2.0
    assert control.exposure_bits == pytest.approx(math.log2(3 / 2))


def test_tolerance_widens_the_ranks_and_leaves_the_point() -> None:
    (e,) = enumeration_exposure([2.0], [1.99, 2.0, 2.01, 5.0], includes_self=True, tolerance_bits=0.02)
    assert (e.rank_low, e.rank_high) == (1, 3)
    assert e.exposure_bits == pytest.approx(math.log2(4 / 2))


def test_a_rescored_own_cost_is_recognized_within_the_tolerance() -> None:
    """The canary's own copy is scored a little higher: without a rival the rank is 1, never 0."""
    (e,) = enumeration_exposure([2.0], [2.0 + 1e-6, 5.0], includes_self=True, tolerance_bits=1e-4)
    assert (e.rank_low, e.rank_high, e.exposure_bits) == (1, 1, 1.0)
    with pytest.raises(InputError, match="includes_self: the canary's own cost must be among the competitors"):
        enumeration_exposure([2.0], [2.0 + 1e-6, 5.0], includes_self=True)


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, math.inf]), min_size=1, max_size=7), st.sampled_from([0.0, 0.6]))
def test_enumeration_against_loops(space: list[float], tolerance: float) -> None:
    estimates = enumeration_exposure(space, space, includes_self=True, tolerance_bits=tolerance)
    for i, e in enumerate(estimates):
        others = space[:i] + space[i + 1 :]
        rank = 1 + sum(other <= space[i] for other in others)
        assert e.exposure_bits == pytest.approx(math.log2(len(space)) - math.log2(rank))
        assert e.rank_low == 1 + sum(other < space[i] - tolerance for other in others)
        assert e.rank_high == 1 + sum(other <= space[i] + tolerance for other in others)
        assert e.low_bits <= e.exposure_bits <= e.high_bits


def test_bad_costs_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"costs: .*never NaN or -inf, got 'nan at position 1 \(1 in all\)'"):
        ranks([1.0, math.nan], [1.0])
    with pytest.raises(InputError, match="competitor_costs: .*-inf at position 0"):
        ranks([1.0], [-math.inf])
    with pytest.raises(InputError, match="costs: must be a flat list of numbers"):
        ranks(np.ones((2, 2)), [1.0])
    with pytest.raises(InputError, match="tolerance_bits: must be at least 0"):
        enumeration_exposure([1.0], [1.0], includes_self=True, tolerance_bits=-1.0)


def test_costs_may_be_exact_numbers_and_nothing_else() -> None:
    assert ranks([Fraction(1, 2), 10**30], [0.25, 1.0, 1e31]).tolist() == [2, 3]
    for other in (None, "2", Decimal(1)):
        with pytest.raises(InputError, match="^costs: must be numbers, got 'list with other values'"):
            ranks([Fraction(1, 2), other], [1.0])  # type: ignore[list-item]
