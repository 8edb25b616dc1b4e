"""Draws of a batch are spread evenly: their shares vary less than those of independent draws, and intervals that are
computed from whole batches cover the truth.

The space is all five-digit strings, the models are tables, and true ranks are counted over all 10^5 strings.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from table_scorer import DIGIT_MODELS as MODELS
from table_scorer import DigitScorer, digit_logits
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits
from hf_exposure.estimators import importance_exposure
from hf_exposure.estimators.weighted_cdf import weighted_cdf
from hf_exposure.extraction import (
    EXPONENTS,
    OF_EIGHT,
    Proposals,
    TokenAutomaton,
    UniformPaths,
    build_automaton,
    draw_proposals,
    largest_weights,
)
from hf_exposure.extraction.proposal import _by_bits, _Walk

DIGITS, SPACE = 5, 10**5
# After "." nothing is left to count but the text itself.
ENDINGS = ["", "."]


class Setting(NamedTuple):
    scorer: DigitScorer
    template: CanaryTemplate
    automaton: TokenAutomaton
    costs_R: np.ndarray
    weights_R: np.ndarray

    def draws(self, number: int, seed: int) -> Proposals:
        uniform = UniformPaths(self.template, seed)
        return draw_proposals(self.scorer, self.automaton, number, uniform, np.random.default_rng(seed))


def setting(model: str, ending: str) -> Setting:
    logits = digit_logits(*MODELS[model])
    bits = (np.logaddexp.reduce(logits, axis=2, keepdims=True) - logits) / np.log(2)
    strings = np.indices((10,) * DIGITS).reshape(DIGITS, -1)
    before = np.concatenate([np.zeros((1, SPACE), dtype=int), strings[:-1]])
    costs_R = sum(bits[position, before[position], strings[position]] for position in range(DIGITS))
    # Each component draws each digit with the model's probability to the power of its exponent.
    mixture_R = np.zeros(SPACE)
    for exponent, part in zip(EXPONENTS, OF_EIGHT, strict=True):
        tilted = np.exp2(-exponent * bits)
        tilted /= tilted.sum(axis=2, keepdims=True)
        each = [tilted[position, before[position], strings[position]] for position in range(DIGITS)]
        mixture_R += part / 8 * np.prod(each, axis=0)
    template = CanaryTemplate("code {code}" + ending, code=Digits(DIGITS))
    scorer = DigitScorer(ByT5Tokenizer(), bits, start=5)
    automaton = build_automaton(template, scorer.encoder)
    return Setting(scorer, template, automaton, np.asarray(costs_R), 1.0 / (SPACE * mixture_R))


def shares(of: Setting, draws: Proposals, costs_K: np.ndarray) -> np.ndarray:
    """(K,) weighted shares of the draws at or below each cost."""
    bits_NC, weights_NC, shares_NC = draws.rows(SPACE, set())
    mass_NC = weights_NC * shares_NC
    return np.array([mass_NC[bits_NC <= cost + 1e-9].sum() for cost in costs_K]) / mass_NC.sum()


def coverage(of: Setting, number: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) share of the intervals that contain the truth, for ranks from 1 to all; (K,) their mean width in bits."""
    canaries_K = np.argsort(of.costs_R)[np.unique(np.geomspace(1, SPACE, 40).astype(int)) - 1]
    costs_K = of.costs_R[canaries_K]
    truth_K = np.log2(SPACE) - np.log2([(of.costs_R <= cost + 1e-9).sum() for cost in costs_K])
    covered_K, width_K = np.zeros((2, costs_K.size))
    for seed in range(repeats):
        draws = of.draws(number, seed)
        bits_NC, weights_NC, shares_NC = draws.rows(SPACE, set())
        estimates = importance_exposure(
            costs_K + 1e-9,
            bits_NC,
            weights_NC,
            space_size=SPACE,
            weight_limits=largest_weights(of.automaton, costs_K, SPACE),
            own_weights=of.weights_R[canaries_K],
            strata=draws.strata_N,
            shares=shares_NC,
            batches=draws.batches_N,
        )
        low_K, high_K = np.array([(each.low_bits, each.high_bits) for each in estimates]).T
        covered_K += (low_K <= truth_K + 1e-9) & (truth_K <= high_K + 1e-9)
        width_K += high_K - low_K
    return covered_K / repeats, width_K / repeats


@pytest.mark.parametrize("number", [16, 17, 64, 1024, 1144, 2000])
def test_batches_lie_in_one_component_and_are_of_one_size(number: int) -> None:
    draws = setting("flat", "").draws(number, seed=0)
    eighth = max(2, -(-number // 8))
    assert np.bincount(draws.strata_N).tolist() == [eighth * part for part in OF_EIGHT]
    pairs = np.unique(np.column_stack([draws.batches_N, draws.strata_N]), axis=0)
    assert len(pairs) == draws.batches_N.max() + 1
    for component, part in enumerate(OF_EIGHT):
        sizes = np.unique(draws.batches_N[draws.strata_N == component], return_counts=True)[1]
        assert sizes.max() - sizes.min() <= 1 and sizes.max() <= 16
        assert len(sizes) == min(eighth * part, max(8, -(-eighth * part // 16)))
    joined = draws.join(draws)
    assert len(np.unique(joined.batches_N)) == 2 * len(pairs)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("model", MODELS)
def test_watched_texts_get_their_weights(model: str, ending: str) -> None:
    """The most and the least likely text and some between, which do not count as draws."""
    of = setting(model, ending)
    numbers = np.argsort(of.costs_R)[np.linspace(0, SPACE - 1, 11).astype(int)]
    encoded = of.scorer.encode([of.template.text_at(int(number)) for number in numbers])
    watched = [ids[len(of.automaton.prefix) :] for ids in encoded.ids]
    uniform, generator = UniformPaths(of.template, 0), np.random.default_rng(0)
    draws = draw_proposals(of.scorer, of.automaton, 40, uniform, generator, watched=watched)
    assert len(draws.texts) == len(draws.batches_N) == len(draws.rows(SPACE, set())[0]) == 40
    np.testing.assert_allclose(draws.watched_weights(SPACE), of.weights_R[numbers])
    drawn = [int(text[5:10]) for text in draws.texts]
    np.testing.assert_allclose(draws.weights(SPACE), of.weights_R[drawn])
    joined = draws.join(draw_proposals(of.scorer, of.automaton, 16, uniform, generator))
    np.testing.assert_allclose(joined.watched_weights(SPACE), of.weights_R[numbers])
    # In parts, where the memory holds few texts at once.
    of.scorer.samples_at_once = lambda samples, length: min(samples, 30)  # type: ignore[method-assign]
    parts = draw_proposals(of.scorer, of.automaton, 40, uniform, generator, watched=watched)
    assert len(parts.texts) == 40 and len(np.unique(parts.batches_N)) == 40
    np.testing.assert_allclose(parts.watched_weights(SPACE), of.weights_R[numbers])


def test_points_of_a_batch_are_as_far_apart_as_can_be() -> None:
    """Those of 16 draws are a sixteenth apart, and those of 2, 4 and 8 neighbors by bits a half, fourth and eighth."""
    of = setting("flat", "")
    walk = _Walk(of.scorer, of.automaton, 32, None, (), DIGITS, np.random.default_rng(0), 0)
    walk._bits = np.random.default_rng(1).permutation(256) / 50.0
    alive = np.arange(256)
    points_N = walk._points(alive)
    assert ((points_N >= 0.0) & (points_N < 1.0)).all()
    for batch in np.unique(walk._batches[walk._strata == EXPONENTS.index(1.0)]):
        own = alive[walk._batches == batch]
        by_bits = points_N[own[np.argsort(walk._bits[own])]]
        assert len(by_bits) == 16
        for together in (2, 4, 8, 16):
            for first in range(0, 16, together):
                gaps = np.diff(np.sort(by_bits[first : first + together]))
                np.testing.assert_allclose(np.append(gaps, 1.0 - gaps.sum()), 1.0 / together, atol=1e-12)
    # The shift of each batch is its own.
    assert len(np.unique(np.round(points_N[::16] * 16 % 1.0, 9))) == 16


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("model", ["flat", "uneven", "peaked"])
def test_shares_vary_less_than_those_of_independent_draws(
    model: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = setting(model, ending)
    costs_K = np.sort(of.costs_R)[np.array([1000, 5000, 20_000, 50_000]) - 1]
    truth_K = np.array([1000, 5000, 20_000, 50_000]) / SPACE
    spread = np.array([shares(of, of.draws(1024, seed), costs_K) for seed in range(40)])
    monkeypatch.setattr(_Walk, "_points", lambda walk, alive: walk._generator.random(len(alive)))
    independent = np.array([shares(of, of.draws(1024, seed), costs_K) for seed in range(40)])
    gain_K = independent.var(axis=0) / spread.var(axis=0)
    assert np.exp(np.log(gain_K).mean()) > 1.5
    # Both are right on average.
    for found in (spread, independent):
        assert (np.abs(found.mean(axis=0) - truth_K) < 4.5 * found.std(axis=0) / np.sqrt(len(found)) + 2e-4).all()


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("model", MODELS)
def test_intervals_cover_in_a_short_run(model: str, ending: str) -> None:
    """40 runs, 38 canaries: the mean over canaries is known to about 1 %."""
    covered_K, width_K = coverage(setting(model, ending), 512, repeats=40)
    assert covered_K.mean() >= 0.94
    # Intervals that cover everything because they are wide would prove nothing.
    assert width_K[-8:].mean() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("number", [64, 256, 1024, 4096])
@pytest.mark.parametrize("model", MODELS)
def test_intervals_cover_everywhere(model: str, number: int, ending: str) -> None:
    """400 runs: for one of 38 canaries 3 standard errors are 3.3 %."""
    covered_K, _ = coverage(setting(model, ending), number, repeats=400)
    assert covered_K.min() >= 0.91
    assert covered_K.mean() >= 0.945


@pytest.mark.parametrize("number", [64, 1024])
@pytest.mark.parametrize("model", MODELS)
def test_a_canary_that_was_never_inserted_has_the_exposures_of_chance(model: str, number: int) -> None:
    """P(exposure >= x) <= 2^-x over canaries of all ranks and fresh draws; 1 % is the most that 30 sets leave to
    chance.
    """
    of = setting(model, "")
    canaries_K = np.argsort(of.costs_R)[10::20]
    costs_K = of.costs_R[canaries_K]
    limits = largest_weights(of.automaton, costs_K, SPACE)
    assert (of.weights_R[canaries_K] <= limits).all()
    found = []
    for seed in range(30):
        draws = of.draws(number, seed)
        bits_NC, weights_NC, shares_NC = draws.rows(SPACE, set())
        found.append(
            weighted_cdf(
                costs_K + 1e-9,
                bits_NC,
                weights_NC,
                shares_NC,
                limits_K=limits,
                own_K=of.weights_R[canaries_K],
                strata_N=draws.strata_N,
                batches_N=draws.batches_N,
                confidence_level=0.95,
            ).share_K
        )
    for bits in (0.1, 0.5, 1.0, 2.0, 3.0, 5.0):
        assert (np.concatenate(found) <= 2.0**-bits).mean() <= 1.01 * 2.0**-bits


@pytest.mark.parametrize("children", [10, 64, 65, 300])
def test_children_are_in_order_of_their_bits(children: int) -> None:
    """To two decimals, and up to 327 bits where there are many; children of equal bits stay as they were."""
    bits_OC = np.random.default_rng(0).exponential(8.0, (20, children))
    bits_OC[:, ::7], bits_OC[:, 3::7] = 4.0 + 1e-6 * np.arange(len(bits_OC[0, ::7])), np.inf
    order_OC = _by_bits(bits_OC)
    np.testing.assert_array_equal(order_OC, np.argsort(np.round(bits_OC, 2), axis=1, kind="stable"))
