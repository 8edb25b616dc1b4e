"""Texts with probability 0 are never among the most likely texts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from token_models import BagOfTokens
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, extract, measure_exposure, rank_bounds
from hf_exposure.canaries import CanarySet
from hf_exposure.report.table import describe_extraction

TOKENIZER = ByT5Tokenizer()
TEMPLATE = CanaryTemplate("pin {n} ok", n=Digits(2))
OPEN_ENDED = CanaryTemplate("pin {n}", n=Digits(2))


class Forbidding(nn.Module):
    """A random model of bytes that never generates some characters."""

    def __init__(self, never: str) -> None:
        super().__init__()
        self.inner = BagOfTokens(384)
        self.never = TOKENIZER(never, add_special_tokens=False)["input_ids"]

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        logits = self.inner(input_ids).logits.clone()
        logits[..., self.never] = -math.inf
        return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("template", [TEMPLATE, OPEN_ENDED])
@pytest.mark.parametrize("never", ["0123456789", "ok", "k"])
def test_no_text_has_a_positive_probability(template: CanaryTemplate, never: str) -> None:
    if template is OPEN_ENDED and never != "0123456789":
        return
    found = extract(Forbidding(never).eval(), TOKENIZER, template, top_k=3)
    assert found.candidates == () and found.certified and found.rest_is_impossible
    assert found.note.startswith("only 0 of 3 texts have a positive probability")
    assert "probability 0" in describe_extraction(found)


@pytest.mark.parametrize("template", [TEMPLATE, OPEN_ENDED])
def test_fewer_texts_than_asked_for_have_a_positive_probability(template: CanaryTemplate) -> None:
    """Only the digits 3 and 7 are possible: four of a hundred texts."""
    model = Forbidding("01245689").eval()
    found = extract(model, TOKENIZER, template, top_k=10)
    pins = {one.text.removeprefix("pin ").removesuffix(" ok") for one in found.candidates}
    assert pins == {"33", "37", "73", "77"} and found.certified and found.rest_is_impossible
    assert all(math.isfinite(one.log_perplexity_bits) for one in found.candidates)
    assert found.note.startswith("only 4 of 10 texts have a positive probability")
    assert found.note in describe_extraction(found)
    enough = extract(model, TOKENIZER, template, top_k=4)
    assert len(enough.candidates) == 4 and not enough.rest_is_impossible and enough.note == ""


def test_all_texts_of_a_space_are_no_shortage() -> None:
    found = extract(Forbidding("x").eval(), TOKENIZER, CanaryTemplate("pin {n} ok", n=Digits(1)), top_k=50)
    assert len(found.candidates) == 10 and found.certified and not found.rest_is_impossible and found.note == ""


def test_a_search_that_was_stopped_does_not_say_that_the_rest_is_impossible() -> None:
    found = extract(Forbidding("0").eval(), TOKENIZER, TEMPLATE, top_k=10, max_expansions=2)
    assert not found.certified and not found.rest_is_impossible and found.note.startswith("stopped at")


def test_a_template_whose_beginning_is_impossible() -> None:
    """Texts are still ordered by what follows, and the result says that none has a positive probability."""
    found = extract(Forbidding("i").eval(), TOKENIZER, TEMPLATE, top_k=2)
    assert found.rest_is_impossible and found.note.startswith("the model gives the text before the first hole probab")
    assert [one.log_perplexity_bits for one in found.candidates] == [math.inf, math.inf]


def test_an_impossible_text_ties_with_all_others_of_its_kind() -> None:
    """`rank = 1 + the number of texts that cost at most as much`: 5, after the four possible ones, to the last."""
    model = Forbidding("01245689").eval()
    bounds = rank_bounds(model, TOKENIZER, "pin 12 ok", TEMPLATE)
    assert (bounds.low, bounds.high, bounds.certified) == (5, 100, True)
    assert bounds.log_perplexity_bits == math.inf and bounds.note.startswith("the model gives this text probability 0")
    excluded = rank_bounds(model, TOKENIZER, "pin 12 ok", TEMPLATE, exclude=["pin 33 ok", "pin 34 ok"])
    assert (excluded.low, excluded.high) == (4, 98)
    possible = rank_bounds(model, TOKENIZER, "pin 33 ok", TEMPLATE)
    assert possible.certified and 1 <= possible.low <= possible.high <= 4 and possible.note == ""


def test_an_impossible_canary_is_not_exposed() -> None:
    canaries = CanarySet.from_secrets(TEMPLATE, ["pin 12 ok", "pin 33 ok"])
    report = measure_exposure(Forbidding("01245689").eval(), TOKENIZER, canaries, method="bounded")
    by_text = dict(zip([canary.text for canary in canaries], report.estimates, strict=True))
    assert by_text["pin 12 ok"].exposure_bits == 0.0 and by_text["pin 33 ok"].exposure_bits > 4
