"""A canary that was never inserted has P(exposure >= x) <= 2^-x: every case is counted, not sampled."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hf_exposure.estimators import enumeration_exposure, importance_exposure, sampling_exposure

SPACES = [
    [0.0, 1.0, 2.0, 3.0],
    [1.0, 1.0, 1.0, 1.0],
    [0.0, 0.0, 1.0, 2.0, 2.0],
]


def assert_no_more_than_its_share(bits: list[float], probabilities: list[float]) -> None:
    bits_E, probabilities_E = np.array(bits), np.array(probabilities)
    assert probabilities_E.sum() == pytest.approx(1.0)
    for threshold in np.unique(bits_E):
        assert probabilities_E[bits_E >= threshold - 1e-12].sum() <= 2.0**-threshold + 1e-12


@pytest.mark.parametrize("space", SPACES)
def test_exact_ranks(space: list[float]) -> None:
    estimates = enumeration_exposure(space, space, includes_self=True)
    assert_no_more_than_its_share([e.exposure_bits for e in estimates], [1 / len(space)] * len(space))


@pytest.mark.parametrize("draws", [1, 2, 3, 4])
@pytest.mark.parametrize("space", SPACES)
def test_sampling(space: list[float], draws: int) -> None:
    """Enumerates every canary with every tuple of references, all equally likely."""
    bits = []
    for references in itertools.product(space, repeat=draws):
        bits += [e.exposure_bits for e in sampling_exposure(space, references, space_size=len(space))]
    assert_no_more_than_its_share(bits, [1 / len(bits)] * len(bits))


def test_sampling_is_as_sharp_as_ties_allow() -> None:
    """One canary and 2 draws from n distinct costs: both cost more with probability sum_c ((n - 1 - c)/n)^2 / n."""
    n = 20
    pairs = itertools.product(range(n), repeat=2)
    top = sum(e.exposure_bits > 1.5 for references in pairs for e in sampling_exposure(range(n), references))
    assert top / n**3 == pytest.approx((n - 1) * (2 * n - 1) / (6 * n**2))  # 0.309; log2 3 bits allow 1/3


@pytest.mark.parametrize("draws", [1, 2, 3, 4])
def test_importance(draws: int) -> None:
    """The canary is uniform, references come from a skewed proposal: enumerates every case with its probability."""
    space, proposal = [0.0, 1.0, 1.0, 2.0, 3.0], [0.5, 0.2, 0.1, 0.1, 0.1]
    weights = [1 / (len(space) * q) for q in proposal]
    limits = [max(w for w, other in zip(weights, space, strict=True) if other <= cost) for cost in space]
    bits, probabilities = [], []
    for drawn in itertools.product(range(len(space)), repeat=draws):
        references, drawn_weights = [space[i] for i in drawn], [weights[i] for i in drawn]
        estimates = importance_exposure(space, references, drawn_weights, space_size=5, weight_limits=limits)
        bits += [e.exposure_bits for e in estimates]
        probabilities += [math.prod(proposal[i] for i in drawn) / len(space)] * len(space)
    assert_no_more_than_its_share(bits, probabilities)


@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("space", [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [[0.0, 3.0], [1.0, 4.0], [2.0, 2.0]]])
@pytest.mark.parametrize("proposal", [[1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]])
def test_draws_that_count_all_their_endings(draws: int, space: list[list[float]], proposal: list[float]) -> None:
    """Three rows of two texts each: enumerates every canary with every tuple of rows and its probability."""
    row_shares = [[0.7, 0.3], [0.5, 0.5], [0.2, 0.8]]
    costs = [cost for row in space for cost in row]
    weights = [[1 / (6 * q * share) for share in shares] for q, shares in zip(proposal, row_shares, strict=True)]
    of_text = [(w, c) for ws, cs in zip(weights, space, strict=True) for w, c in zip(ws, cs, strict=True)]
    limits = [max(w for w, other in of_text if other <= cost) for cost in costs]
    bits, probabilities = [], []
    for drawn in itertools.product(range(3), repeat=draws):
        estimates = importance_exposure(
            costs,
            [space[i] for i in drawn],
            [weights[i] for i in drawn],
            space_size=6,
            weight_limits=limits,
            shares=[row_shares[i] for i in drawn],
        )
        bits += [e.exposure_bits for e in estimates]
        probabilities += [math.prod(proposal[i] for i in drawn) / 6] * 6
    assert_no_more_than_its_share(bits, probabilities)
