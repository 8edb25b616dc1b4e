"""Principal components of inputs and weights, and networks compared by pairs: by hand, by loops, by simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hf_exposure.errors import InputError
from hf_exposure.estimators import (
    disagreement,
    gradient_coherence,
    mean_between,
    mean_over_pairs,
    pair_figures,
    principal_alignment,
)


def test_the_misalignment_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(400, 4)) @ generator.normal(size=(4, 4))
    weights = generator.normal(size=(50, 4)) @ generator.normal(size=(4, 4))
    found = principal_alignment(inputs, weights, variance=1.0)
    values, vectors = np.linalg.eigh(np.cov(inputs.T))
    covariance = np.cov(weights.T)
    inverse = np.linalg.inv(covariance)
    by_hand = [math.sqrt((e @ covariance @ e) * (e @ inverse @ e)) - 1.0 for e in vectors.T]
    assert found.misalignment == pytest.approx(np.mean(by_hand))
    assert found.input_variance_K == pytest.approx(values[::-1])
    assert found.weight_variance_K == pytest.approx([e @ covariance @ e for e in vectors.T[::-1]])


def test_aligned_weights_have_the_level_that_is_promised_and_others_do_not():
    generator, aligned, turned, scores = np.random.default_rng(1), [], [], []
    scales = np.array([8.0, 4.0, 2.0, 1.0, 0.5])
    rotation = np.linalg.qr(generator.normal(size=(5, 5)))[0]
    inputs = generator.normal(size=(20_000, 5)) * scales
    for _ in range(200):
        weights = generator.normal(size=(20, 5)) * scales**0.5
        found = principal_alignment(inputs, weights, variance=1.0)
        aligned.append(found.misalignment)
        scores.append(found.score)
        turned.append(principal_alignment(inputs, weights @ rotation, variance=1.0).score)
    assert np.mean(aligned) == pytest.approx(found.if_aligned, rel=0.1)
    assert np.mean(scores) == pytest.approx(1.0, abs=0.1)
    assert abs(np.mean(turned)) < 0.5 < np.mean(scores)
    assert found.transfer > 0.8


def test_only_the_components_that_are_asked_for_are_used():
    inputs = np.random.default_rng(2).normal(size=(2000, 6)) * [10.0, 3.0, 1.0, 0.1, 0.1, 0.0]
    weights = np.random.default_rng(3).normal(size=(9, 6))
    sizes = [len(principal_alignment(inputs, weights, share).input_variance_K) for share in (0.5, 0.98, 0.999)]
    assert sizes == [1, 2, 3]
    assert principal_alignment(inputs, weights, 0.5).misalignment == pytest.approx(0.0)
    assert math.isnan(principal_alignment(inputs, weights, 0.98).transfer)
    with pytest.raises(InputError, match="^weights_HD: must have 3 more neurons than the 5 components"):
        principal_alignment(inputs, weights[:7], 1.0)


@pytest.mark.parametrize(
    "inputs, weights, argument",
    [
        (np.ones((5, 2)), np.ones((9, 2)), "inputs_ND"),
        (np.eye(3), np.ones((9, 2)), "inputs_ND, weights_HD"),
        ([[1.0, math.nan], [0.0, 1.0]], np.ones((9, 2)), "inputs_ND, weights_HD"),
    ],
)
def test_what_cannot_be_aligned_is_named(inputs, weights, argument):
    with pytest.raises(InputError, match=f"^{argument}:"):
        principal_alignment(inputs, weights)


def test_disagreement_is_that_of_every_pair():
    decisions = np.random.default_rng(0).integers(3, size=(4, 50))
    found = disagreement(decisions)
    for a, b in itertools.product(range(4), repeat=2):
        assert found[a, b] == np.mean([x != y for x, y in zip(decisions[a], decisions[b], strict=True)])


def test_errors_of_pairs_allow_for_the_networks_that_they_share():
    generator, means, errors, covered = np.random.default_rng(1), [], [], 0
    for _ in range(400):
        own = generator.normal(size=8)
        values = own[:, None] + own[None, :] + 3.0  # the mean over pairs is 3 + 2 * mean(own)
        found = mean_over_pairs(values)
        means.append(found.mean), errors.append(found.standard_error)
        covered += found.low <= 3.0 <= found.high
    assert np.mean(np.square(errors)) == pytest.approx(4.0 / 8, rel=0.1)
    assert np.var(means) == pytest.approx(4.0 / 8, rel=0.2)
    assert covered / 400 == pytest.approx(0.95, abs=0.04)


def test_errors_between_groups_are_those_of_two_samples():
    generator, means, errors = np.random.default_rng(2), [], []
    for _ in range(400):
        values = generator.normal(size=(6, 1)) + 2.0 * generator.normal(size=(1, 9))
        found = mean_between(values)
        means.append(found.mean), errors.append(found.standard_error**2)
    assert np.mean(errors) == pytest.approx(1 / 6 + 4 / 9, rel=0.1)
    assert np.var(means) == pytest.approx(1 / 6 + 4 / 9, rel=0.25)
    assert math.isnan(mean_between([[1.0]]).standard_error) and math.isnan(mean_over_pairs(np.eye(2)).low)
    assert math.isnan(mean_over_pairs(np.eye(1)).mean)


def test_coherence_is_the_mean_product_over_the_mean_square():
    gradients = np.random.default_rng(3).normal(size=(7, 5)) + 1.0
    pairs = [a @ b for a, b in itertools.permutations(gradients, 2)]
    assert gradient_coherence(gradients) == pytest.approx(np.mean(pairs) / (gradients**2).sum(1).mean())
    assert gradient_coherence(np.ones((3, 2))) == pytest.approx(1.0)
    assert gradient_coherence([[1.0], [-1.0]]) == pytest.approx(-1.0)
    assert math.isnan(gradient_coherence(np.zeros((3, 2))))


@pytest.mark.parametrize(
    "call",
    [
        lambda: disagreement([1, 2]),
        lambda: mean_over_pairs([[0, 1], [2, 0]]),
        lambda: mean_over_pairs([[0, 1]]),
        lambda: mean_between([[math.nan]]),
        lambda: gradient_coherence([[1.0, 2.0]]),
        lambda: mean_between([[1.0]], confidence_level=1.0),
    ],
)
def test_wrong_arrays_are_refused(call):
    with pytest.raises(InputError):
        call()


def test_figures_of_pairs():
    assert pair_figures(["a", "ab"], lambda a, b: len(a) + len(b)).tolist() == [[1.0, 3.0], [3.0, 1.0]]
