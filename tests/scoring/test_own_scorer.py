"""The `Scorer` protocol is the whole contract: a toy scorer without a model can be measured and searched like any
other.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from conftest import tiny_model
from table_scorer import TableScorer, random_bits
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries
from hf_exposure.extraction import (
    EXPONENTS,
    UniformPaths,
    build_automaton,
    draw_proposals,
    search_likeliest,
    search_ranks,
)
from hf_exposure.measures import ExposureMeter
from hf_exposure.scoring import CausalScorer, Scorer
from hf_exposure.testing import check_automaton, check_scorer, check_search

TEMPLATE = CanaryTemplate("pin {pin}.", pin=Digits(3))
TEXTS = [f"pin {number:03}." for number in range(1000)]
BITS_VV = random_bits()
MEMBERS = {name for name in (*dir(Scorer), *Scorer.__annotations__) if not name.startswith("_")}


def cost_by_hand(text: str) -> float:
    """Bytes are tokens; tokens 0 to 2 are special."""
    ids = [byte + 3 for byte in text.encode()]
    return math.fsum(BITS_VV[before, token] for before, token in zip(ids, ids[1:], strict=False))


COSTS = np.array([cost_by_hand(text) for text in TEXTS])


class Guarded:
    """A scorer that exposes only the protocol's members, and whose class nobody can check for."""

    def __init__(self, scorer: Any) -> None:
        self.__dict__["inner"], self.__dict__["asked"] = scorer, set()

    def __getattr__(self, name: str) -> Any:
        assert name in MEMBERS, f"{name} is not in the Scorer protocol"
        self.asked.add(name)
        return getattr(self.inner, name)


@pytest.fixture
def scorer(byte_tokenizer: ByT5Tokenizer) -> TableScorer:
    return TableScorer(byte_tokenizer, BITS_VV)


def test_it_satisfies_the_laws(scorer: TableScorer) -> None:
    assert isinstance(scorer, Scorer)
    check_scorer(scorer, ["pin 123.", "pin 129.", "pin 5", "pin one two"], tolerance=1e-9)


def test_search_is_brute_force(scorer: TableScorer) -> None:
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    check_automaton(automaton, TEMPLATE, scorer.encoder)
    check_search(scorer, automaton, TEXTS, COSTS, tolerance=1e-9)
    found = search_likeliest(scorer, automaton, top_k=20)
    assert [candidate.text for candidate in found.candidates] == [TEXTS[at] for at in np.argsort(COSTS)[:20]]
    ranks = search_ranks(scorer, automaton, TEXTS[:50])
    assert [(bounds.low, bounds.high) for bounds in ranks] == [(1 + (cost > COSTS).sum(),) * 2 for cost in COSTS[:50]]
    assert all(bounds.certified and bounds.mode == "" for bounds in ranks)


def test_draws_from_it_estimate_ranks(scorer: TableScorer) -> None:
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    draws = draw_proposals(scorer, automaton, 8000, UniformPaths(TEMPLATE, seed=1), np.random.default_rng(1))
    before = float(np.nansum(scorer.prefix_bits(automaton.prefix)))
    np.testing.assert_allclose(draws.hole_bits_N + before, [cost_by_hand(text) for text in draws.texts], atol=1e-9)
    # Component 1 takes each digit with the model's probability among the ten digits.
    digits = np.arange(10) + ord("0") + 3
    of_digit = BITS_VV + np.logaddexp2.reduce(-BITS_VV[:, digits], axis=1)[:, None]
    for text, log2_q in zip(draws.texts[:100], draws.log2_q_NS[:, EXPONENTS.index(1.0)], strict=False):
        ids = [byte + 3 for byte in text[3:7].encode()]
        assert log2_q == pytest.approx(-sum(of_digit[pair] for pair in zip(ids, ids[1:], strict=False)), abs=1e-9)
    weights = draws.weights(1000)
    for rank in (1, 10, 100, 500):
        hit = weights * (draws.hole_bits_N <= np.sort(COSTS)[rank - 1] - before + 1e-9)
        assert abs(hit.mean() - rank / 1000) < 5 * hit.std() / math.sqrt(len(hit)), rank


def canaries() -> CanarySet:
    return draw_canaries(TEMPLATE, {1: 3}, controls=5, seed=4)


@pytest.mark.parametrize("method", ["auto", "enumerate", "bounded", "importance", "sample", "skew_normal"])
def test_measurement_asks_for_nothing_beyond_the_protocol(
    method: str, scorer: TableScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = Guarded(scorer)
    monkeypatch.setattr("hf_exposure.measures.exposure.make_scorer", lambda *_, **__: guarded)
    # With 64 references "auto" searches and draws.
    report = ExposureMeter(canaries(), scorer.encoder.tokenizer, method=method, references=64).measure(nn.Identity())
    inserted = {canary.text for canary in canaries().inserted}
    assert {"encoder", "note", "mode", "why_no_search"} <= guarded.asked
    for canary, estimate in zip(canaries(), report.estimates, strict=True):
        cost = cost_by_hand(canary.text)
        assert estimate.log_perplexity_bits == pytest.approx(cost, abs=1e-9)
        rivals = [other for text, other in zip(TEXTS, COSTS, strict=True) if text not in inserted - {canary.text}]
        truth = math.log2(len(rivals)) - math.log2(sum(other <= cost + 1e-9 for other in rivals))
        if estimate.method in ("enumerate", "bounded"):
            assert estimate.exposure_bits == pytest.approx(truth, abs=1e-9)
        elif estimate.method != "skew_normal":
            assert estimate.low_bits - 0.5 <= truth <= estimate.high_bits + 0.5


def test_search_of_a_model_asks_for_nothing_beyond_the_protocol(byte_tokenizer: ByT5Tokenizer) -> None:
    guarded = Guarded(CausalScorer(tiny_model("gpt2"), byte_tokenizer))
    template = CanaryTemplate("pin {pin}", pin=Digits(4))
    automaton = build_automaton(template, guarded.encoder)
    assert search_likeliest(guarded, automaton, top_k=3).certified
    assert search_ranks(guarded, automaton, ["pin 1234"])[0].certified
    uniform = UniformPaths(template, seed=1)
    assert len(draw_proposals(guarded, automaton, 64, uniform, np.random.default_rng(1)).texts) == 64
    # The other members are for measurement, and for batches that were found wrong.
    assert MEMBERS - guarded.asked == {"note", "why_no_search", "distrust_batches", "sequence_bits", "reading"}
