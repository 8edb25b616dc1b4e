"""Weighted draws: their probabilities by brute force, and their weights."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from token_models import bare_costs, model_for
from tokenizer_styles import tokenizer_in_style
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Choice, Digits, Words
from hf_exposure.extraction import (
    EXPONENTS,
    OF_EIGHT,
    Proposals,
    TokenAutomaton,
    UniformPaths,
    build_automaton,
    draw_proposals,
    enumerate_texts,
    largest_weights,
)
from hf_exposure.extraction.sampled_encodings import SampledEncodings
from hf_exposure.extraction.vocabulary_automaton import vocabulary_automaton
from hf_exposure.scoring import CausalScorer

TEMPLATES = [
    CanaryTemplate("pin {pin} ok", pin=Digits(2)),
    # Words of unequal length: uniform over texts is not uniform over letters.
    CanaryTemplate("say {words}.", words=Words(2, ["a", "ab", "abc", "b", "cab", "é"])),
    CanaryTemplate("{who} is", who=Choice(["ann", "anna", "bo"])),
]


@pytest.fixture(scope="module")
def scorer() -> CausalScorer:
    torch.manual_seed(1)
    config = GPT2Config(
        vocab_size=384, n_layer=2, n_head=2, n_embd=32, n_positions=64, initializer_range=0.3, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    return CausalScorer(GPT2LMHeadModel(config), ByT5Tokenizer())


def _draw(
    scorer: CausalScorer, template: CanaryTemplate, automaton: TokenAutomaton, count: int, seed: int
) -> Proposals:
    return draw_proposals(scorer, automaton, count, UniformPaths(template, seed), np.random.default_rng(seed))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_draws_are_texts_with_their_true_costs(scorer: CausalScorer, template: CanaryTemplate) -> None:
    automaton = build_automaton(template, scorer.encoder)
    draws = _draw(scorer, template, automaton, 400, seed=0)
    assert all(template.contains(text) for text in draws.texts)
    assert not any(text in repr(draws) for text in draws.texts)  # the model may have generated a canary
    whole = scorer.sequence_bits(scorer.encode(draws.texts))
    prefix = float(np.nansum(scorer.prefix_bits(automaton.prefix)))
    np.testing.assert_allclose(draws.hole_bits_N + prefix, whole, atol=1e-3)
    assert np.bincount(draws.strata_N).tolist() == [50 * part for part in OF_EIGHT]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_probabilities_sum_to_one_and_match_frequencies(scorer: CausalScorer, template: CanaryTemplate) -> None:
    automaton = build_automaton(template, scorer.encoder)
    draws = _draw(scorer, template, automaton, 8000, seed=0)
    q = {text: np.exp2(row) for text, row in zip(draws.texts, draws.log2_q_NS, strict=True)}
    for stratum, exponent in enumerate(EXPONENTS):
        drawn = [text for text, s in zip(draws.texts, draws.strata_N.tolist(), strict=True) if s == stratum]
        for text in set(drawn):
            share, expected = drawn.count(text) / len(drawn), q[text][stratum]
            assert abs(share - expected) < 5 * math.sqrt(expected / len(drawn)) + 1e-3, (exponent, text)
    # The rest is the probability of texts that were never drawn.
    assert (sum(q.values()) <= 1 + 1e-6).all()
    if len(q) == template.space_size:
        np.testing.assert_allclose(sum(q.values()), 1.0, atol=1e-6)


OPEN_ENDED = [
    CanaryTemplate("pin {pin}", pin=Digits(2)),
    # Of equally many characters, but not bytes: after "y", one child is the end of a text, and one is not.
    CanaryTemplate("the {who}", who=Choice(["yz", "yé", "yè", "éa", "éb", "zz"])),
]


@pytest.mark.parametrize("template", [*OPEN_ENDED, TEMPLATES[0]], ids=lambda template: template.text)
def test_every_ending_has_its_cost_its_share_and_the_probability_of_the_mixture(
    scorer: CausalScorer, template: CanaryTemplate
) -> None:
    automaton = build_automaton(template, scorer.encoder)
    draws = _draw(scorer, template, automaton, 2000, seed=2)
    endings = draws.endings
    assert endings is not None
    texts = [template.text_at(index) for index in range(template.space_size)]
    prefix = float(np.nansum(scorer.prefix_bits(automaton.prefix)))
    bits = dict(zip(texts, scorer.sequence_bits(scorer.encode(texts)) - prefix, strict=True))
    q = {text: np.exp2(row) for text, row in zip(draws.texts, draws.log2_q_NS, strict=True)}
    assert set(q) == set(texts)
    np.testing.assert_allclose(endings.shares_NC.sum(axis=1), 1.0)
    for draw, (stem, pieces) in enumerate(zip(endings.stems, endings.pieces, strict=True)):
        own, ended = q[draws.texts[draw]], [stem + piece for piece in pieces]
        counted = [c for c in range(len(ended)) if endings.shares_NC[draw, c] > 0.0]
        assert draws.texts[draw] in [ended[c] for c in counted]
        for c in counted:
            assert endings.bits_NC[draw, c] == pytest.approx(bits[ended[c]], abs=1e-3)
            assert np.exp2(endings.log2_q_NC[draw, c]) == pytest.approx(q[ended[c]] @ OF_EIGHT / 8, rel=1e-3)
            # Endings share their beginning, so that their shares are in proportion to their probabilities.
            place = ended.index(draws.texts[draw])
            ratio = endings.shares_NC[draw, c] / endings.shares_NC[draw, place]
            stratum = draws.strata_N[draw]
            assert ratio == pytest.approx(q[ended[c]][stratum] / own[stratum], rel=1e-3)
    assert (endings.shares_NC.max(axis=1) < 1.0).any() == (template in OPEN_ENDED)


@pytest.mark.parametrize("template", [*OPEN_ENDED, TEMPLATES[0]], ids=lambda template: template.text)
def test_rows_give_every_share_of_the_space_and_leave_out_what_is_excluded(
    scorer: CausalScorer, template: CanaryTemplate
) -> None:
    automaton = build_automaton(template, scorer.encoder)
    draws = _draw(scorer, template, automaton, 8000, seed=4)
    texts = [template.text_at(index) for index in range(template.space_size)]
    prefix = float(np.nansum(scorer.prefix_bits(automaton.prefix)))
    bits = scorer.sequence_bits(scorer.encode(texts)) - prefix
    order = np.argsort(bits)
    without = {texts[place] for place in order[[0, 2]]}
    for excluded in (set(), without):
        bits_NC, weights_NC, shares_NC = draws.rows(template.space_size, excluded)
        mass_NC = weights_NC * shares_NC
        for rank in range(1, len(texts) + 1):
            among = sum(texts[place] not in excluded for place in order[:rank])
            hit_N = (mass_NC * (bits_NC <= bits[order[rank - 1]] + 1e-4)).sum(axis=1)
            error = hit_N.std() / math.sqrt(len(hit_N))
            assert abs(hit_N.mean() - among / len(texts)) < 5 * error + 1e-9, rank
    if template in OPEN_ENDED:
        single = draws.weights(template.space_size) * (draws.hole_bits_N <= np.median(bits))
        bits_NC, weights_NC, shares_NC = draws.rows(template.space_size, set())
        whole = (weights_NC * shares_NC * (bits_NC <= np.median(bits))).sum(axis=1)
        assert whole.var() < single.var()


def test_too_many_endings_are_not_kept(scorer: CausalScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    automaton = build_automaton(OPEN_ENDED[0], scorer.encoder)
    monkeypatch.setattr("hf_exposure.extraction.proposal._MOST_ENDINGS", 3999)
    few, many = (_draw(scorer, OPEN_ENDED[0], automaton, count, seed=0) for count in (392, 400))
    assert few.endings is not None and many.endings is None
    assert few.join(many).endings is None and few.join(few).endings.bits_NC.shape == (784, 10)
    bits_NC, weights_NC, shares_NC = many.rows(100, set())
    assert bits_NC.shape == weights_NC.shape == shares_NC.shape == (400, 1)
    np.testing.assert_array_equal(weights_NC[:, 0], many.weights(100))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_the_uniform_part_is_uniform_and_bounds_the_weights(scorer: CausalScorer, template: CanaryTemplate) -> None:
    automaton = build_automaton(template, scorer.encoder)
    draws = _draw(scorer, template, automaton, 4000, seed=0)
    np.testing.assert_allclose(draws.log2_q_NS[:, 0], -math.log2(template.space_size), atol=1e-9)
    weights = draws.weights(template.space_size)
    assert weights.max() <= 8 / OF_EIGHT[0] + 1e-9
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(len(weights))
    # Half of the draws are from the model, which gives a text of b bits at least 2^-b.
    assert (weights <= 2 * np.exp2(draws.hole_bits_N) / template.space_size * (1 + 1e-6)).all()
    limits = largest_weights(automaton, draws.hole_bits_N, template.space_size)
    assert (weights <= limits * (1 + 1e-6)).all()
    assert (limits <= np.minimum(4.0, 2 * np.exp2(draws.hole_bits_N) / template.space_size)).all()


def test_the_largest_weight_by_hand(scorer: CausalScorer) -> None:
    """1,000 texts; at 2^-b = 1/1000 the components give at least 1, 1, 1 and 1000^-0.5 thousandths, and make 2, 1, 4
    and 1 of 8 draws.
    """
    bits = np.array([math.log2(1000), 0.0, 200.0])
    automaton = copy.copy(build_automaton(CanaryTemplate("pin {pin}", pin=Digits(3)), scorer.encoder))
    by_hand = [8 / (7 + 1000**-0.5), 8 / (2 + 1000**0.5 + 5000), 4.0]
    np.testing.assert_allclose(largest_weights(automaton, bits, 1000), by_hand)
    automaton.one_path = False
    by_hand = [8 / (6 + 1000**-0.5), 8 / (2 + 5000), 4.0]
    np.testing.assert_allclose(largest_weights(automaton, bits, 1000), by_hand)
    # Nothing scores the first token.
    automaton = build_automaton(CanaryTemplate("{pin}", pin=Digits(3)), scorer.encoder)
    if not automaton.prefix:
        np.testing.assert_allclose(largest_weights(automaton, bits, 1000), 4.0)


def test_the_same_seed_draws_the_same(scorer: CausalScorer) -> None:
    template = TEMPLATES[0]
    automaton = build_automaton(template, scorer.encoder)
    first = _draw(scorer, template, automaton, 40, seed=5)
    again = _draw(scorer, template, automaton, 40, seed=5)
    assert first.texts == again.texts
    assert first.texts != _draw(scorer, template, automaton, 40, seed=6).texts


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.text)
def test_the_whole_space_is_enumerated_as_it_would_be_encoded(scorer: CausalScorer, template: CanaryTemplate) -> None:
    automaton = build_automaton(template, scorer.encoder)
    space = enumerate_texts(automaton, scorer.encoder.first_scored)
    texts = [template.text_at(index) for index in range(template.space_size)]
    expected = dict(zip(texts, scorer.encode(texts).ids, strict=True))
    found = dict(zip(space.texts, space.ids, strict=True))
    assert len(space) == template.space_size and found == expected
    assert space.texts[-1] in expected


@pytest.mark.parametrize("style", ["gpt2", "from the right"])
def test_shares_are_right_where_one_text_has_many_paths(style: str) -> None:
    """Digits merge: draws that are not canonical encodings have weight 0; the shares are those of all texts."""
    tokenizer, model = tokenizer_in_style(style), model_for(style, "bag")
    scorer, template = CausalScorer(model, tokenizer), CanaryTemplate("the number is {number} ok", number=Digits(4))
    sample = SampledEncodings.of(template, scorer.encoder)
    automaton, _ = vocabulary_automaton(template, scorer.encoder, sample)
    assert automaton is not None
    encoded = scorer.encode([template.text_at(index) for index in range(template.space_size)])
    prefix = float(np.nansum(scorer.prefix_bits(automaton.prefix)))
    truth = bare_costs(model, encoded.ids, encoded.first_scored) - prefix
    draws = _draw(scorer, template, automaton, 6000, seed=3)
    weights = draws.weights(template.space_size)
    assert 0 < (weights == 0).sum() < 0.75 * len(weights) and weights.max() <= 8 / OF_EIGHT[0] + 1e-9
    assert not weights[~draws.is_text_N].any()
    of_text = dict(zip(encoded.texts, truth, strict=True))
    drawn = [of_text[text] for text, is_text in zip(draws.texts, draws.is_text_N, strict=True) if is_text]
    np.testing.assert_allclose(draws.hole_bits_N[draws.is_text_N], drawn, atol=1e-3)
    for rank in (10, 300, 1_000, 5_000, 10_000):
        hit = weights * (draws.hole_bits_N <= np.sort(truth)[rank - 1] + 1e-4)
        assert abs(hit.mean() - rank / 1e4) < 5 * hit.std() / math.sqrt(len(hit)), rank


def test_a_uniform_text_outside_the_graph_is_no_draw(scorer: CausalScorer) -> None:
    """An audited graph may lack a text: its draw has weight 0, and no other text is drawn in its place."""

    class Given(UniformPaths):
        def __init__(self, texts: list[str]) -> None:
            self._ids = scorer.encode(texts).ids

    def audited(template: CanaryTemplate) -> TokenAutomaton:
        automaton = copy.copy(build_automaton(template, scorer.encoder))
        assert automaton.one_path
        automaton.one_path = False  # as graphs that may lack a text are
        return automaton

    automaton = audited(CanaryTemplate("say {word} ok", word=Choice(["ab", "cd"])))
    texts = ["say ab ok", "say cd ok", "say ax ok", "say cd ok"]
    draws = draw_proposals(scorer, automaton, 16, Given(texts), np.random.default_rng(0))
    of_uniform = draws.strata_N == EXPONENTS.index(0.0)
    assert draws.is_text_N[of_uniform].tolist() == [True, True, False, True]
    assert draws.is_text_N[~of_uniform].all()
    # The weight of a watched text that the graph lacks is unknown.
    watched = [ids[len(automaton.prefix) :] for ids in scorer.encode(texts).ids]
    beside = draw_proposals(scorer, automaton, 16, Given(texts), np.random.default_rng(0), watched=watched)
    assert np.isnan(beside.watched_weights(2)).tolist() == [False, False, True, False]
    np.testing.assert_allclose(beside.watched_weights(2)[:2], draws.weights(2)[:2])
    # The same if the missing choice is the last one.
    automaton = audited(CanaryTemplate("say {word}", word=Choice(["a", "c"])))
    given = Given(["say a", "say c", "say x", "say c"])
    draws = draw_proposals(scorer, automaton, 16, given, np.random.default_rng(0))
    assert draws.is_text_N[:4].tolist() == [True, True, False, True]


def test_draws_continue_where_the_model_excludes_every_child() -> None:
    """Where the model excludes every child, all components draw by counts, and weights stay finite."""
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=64, bos_token_id=0, eos_token_id=1)
    model = GPT2LMHeadModel(config)
    digits = [ByT5Tokenizer()(str(digit), add_special_tokens=False)["input_ids"][0] for digit in range(10)]
    with torch.no_grad():
        model.lm_head = torch.nn.Linear(16, 384)
        model.lm_head.bias[digits] = -math.inf
    scorer, template = CausalScorer(model, ByT5Tokenizer()), CanaryTemplate("pin {pin} ok", pin=Digits(3))
    automaton = build_automaton(template, scorer.encoder)
    draws = _draw(scorer, template, automaton, 400, seed=0)
    assert np.isinf(draws.hole_bits_N).all() and np.isfinite(draws.log2_q_NS).all()
    np.testing.assert_allclose(draws.log2_q_NS, -math.log2(1000))
    np.testing.assert_allclose(draws.weights(1000), 1.0)
