"""Near-verbatim extraction: against all texts that a model can generate, samples, and distances by recursion."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from scipy import stats
from token_models import BagOfTokens, model_for
from tokenizer_styles import tokenizer_in_style
from tokenizers import Tokenizer, decoders, models
from torch import nn
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hf_exposure import CanaryTemplate, Digits, NearExtraction, discoverable_extraction, near_extraction
from hf_exposure.errors import InputError
from hf_exposure.extraction.levenshtein import ACCEPTED, DEAD, OPEN, UNKNOWN, LevenshteinTokens
from hf_exposure.scoring.decoding import Sampling, draw_samples
from hf_exposure.scoring.least_probability import least_probabilities

SCHEMES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"top_k": 4},
    {"top_p": 0.8},
    {"temperature": 1.5, "top_k": 7, "top_p": 0.95},
    {"greedy": True},
]
SECRET = "31415"


@cache
def _levenshtein(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    replaced = _levenshtein(a[:-1], b[:-1]) + (a[-1] != b[-1])
    return min(replaced, _levenshtein(a[:-1], b) + 1, _levenshtein(a, b[:-1]) + 1)


def _is_near(secret: str, said: str, edits: int) -> bool:
    return any(_levenshtein(secret, said[:length]) <= edits for length in range(len(said) + 1))


def _near_texts(secret: str, edits: int) -> set[str]:
    """All texts over the digits within the distance, made by edits one at a time."""
    found = {secret}
    for _ in range(edits):
        more = set()
        for text in found:
            for at in range(len(text) + 1):
                more.add(text[:at] + text[at + 1 :])
                more.update(text[:at] + digit + text[at:] for digit in "0123456789")
                more.update(text[:at] + digit + text[at + 1 :] for digit in "0123456789")
        found |= more
    return found


# --- the automaton ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("secret", "edits"), [("abcab", 1), ("aab", 2), ("abc", 0), ("abcabca", 3)])
def test_a_token_decides_as_the_distance_of_every_beginning_does(secret: str, edits: int) -> None:
    pieces = [*("".join(one) for size in (1, 2, 3) for one in itertools.product("abx", repeat=size)), None, ""]
    tokens = LevenshteinTokens(secret, edits, pieces)
    draw = np.random.default_rng(0)
    endings = ["".join(one) for size in range(len(secret) + 1) for one in itertools.product(set(secret), repeat=size)]
    for _ in range(60):
        state, said = tokens.start, ""
        while True:
            step, token = tokens.step(state), int(draw.integers(len(pieces)))
            verdict, piece = step.verdict_V[token], pieces[token]
            if not piece:
                assert verdict == (UNKNOWN if piece is None else DEAD)
                break
            said += piece
            assert (verdict == ACCEPTED) == _is_near(secret, said, edits)
            if verdict != ACCEPTED:
                # It is dead if no possible ending brings it near.
                assert (verdict == DEAD) != any(_is_near(secret, said + ending, edits) for ending in endings)
            if verdict != OPEN:
                break
            state = int(step.state_V[token])


# --- lower bounds on probabilities -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheme",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(top_k=3),
        Sampling(top_p=0.7),
        Sampling(top_p=0.05),
        Sampling(temperature=2.0, top_k=5, top_p=0.9),
        Sampling(temperature=1e-30),
    ],
    ids=repr,
)
@pytest.mark.parametrize("tolerance_bits", [1e-4, 0.1])
def test_no_figures_within_the_tolerance_make_a_token_less_likely(scheme: Sampling, tolerance_bits: float) -> None:
    draw = np.random.default_rng(1)
    for _ in range(60):
        # Ties, near ties, and some that are never drawn.
        logits = draw.choice([0.0, 1.0, 1.0 + tolerance_bits / 3, -3.0, 2.5, -math.inf], 12) + 0.0
        logits[draw.integers(12)] = 2.0
        bits = (np.logaddexp.reduce(logits) - logits) / math.log(2)
        least = least_probabilities(bits, scheme, tolerance_bits)
        for _ in range(20):
            moved = -(bits + draw.choice([-1, 0, 1], 12) * tolerance_bits) * math.log(2)
            exact = scheme.log_probabilities(torch.from_numpy(moved)).double().exp().numpy()
            assert (least <= exact * (1 + 1e-5)).all()


def test_a_bound_is_tight_where_nothing_is_near() -> None:
    logits = np.array([3.0, 1.0, 0.0, -2.0, -2.5, -7.0])
    bits = (np.logaddexp.reduce(logits) - logits) / math.log(2)
    for scheme in (Sampling(), Sampling(temperature=0.7, top_k=4), Sampling(top_p=0.9), Sampling(top_k=3, top_p=0.5)):
        exact = scheme.log_probabilities(torch.from_numpy(logits)).double().exp().numpy()
        np.testing.assert_allclose(least_probabilities(bits, scheme, 1e-6), exact, atol=1e-5)
    assert least_probabilities(bits, None, 1e-6).tolist() == [1, 0, 0, 0, 0, 0]
    assert least_probabilities(np.array([1.0, 1.0 + 1e-5, 9.0]), None, 1e-4).tolist() == [0, 0, 0]


# --- against all texts -----------------------------------------------------------------------------------------------


@cache
def _digits_only() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(vocab={str(digit): digit for digit in range(10)}, merges=[]))
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _drawn(logits_NV: torch.Tensor, scheme: dict[str, Any]) -> np.ndarray:
    """(N, V) the probabilities under a decoding scheme, including greedy decoding."""
    if scheme.get("greedy"):
        return nn.functional.one_hot(logits_NV.argmax(dim=1), logits_NV.shape[1]).double().numpy()
    return Sampling(**scheme).log_probabilities(logits_NV).double().exp().numpy()


def _by_enumeration(
    model: nn.Module, secret: str, length: int, edits: list[int], scheme: dict[str, Any]
) -> list[float]:
    """For each number of edits, the probability of all texts of `length` digits with a near beginning."""
    probability, texts = np.ones(1), torch.tensor([[7, 7]])
    for _ in range(length):
        with torch.no_grad():
            logits = torch.cat([model(input_ids=part).logits[:, -1] for part in texts.split(4096)])
        probability = (probability[:, None] * _drawn(logits, scheme)).ravel()
        texts = torch.cat([texts.repeat_interleave(10, dim=0), torch.arange(10).repeat(len(texts))[:, None]], dim=1)
    assert probability.sum() == pytest.approx(1, abs=1e-4)
    digits = texts[:, 2:].numpy()
    found = []
    for most in edits:
        is_near = np.zeros(len(digits), dtype=bool)
        for near in _near_texts(secret, most):
            if len(near) <= length:
                is_near |= (digits[:, : len(near)] == [int(one) for one in near]).all(axis=1)
        found.append(float(probability[is_near].sum()))
    return found


def _check_against_all_texts(model: nn.Module, scheme: dict[str, Any], edits: list[int], secret: str) -> None:
    template, length = CanaryTemplate("77{pin}", pin=Digits(len(secret))), len(secret) + max(edits)
    for most, exact in zip(edits, _by_enumeration(model, secret, length, edits, scheme), strict=True):
        widths = []
        for passes in (1, 3, 20, 1000):
            found = near_extraction(
                model, _digits_only(), template, f"77{secret}", edits=most, passes=passes, width=0.0, **scheme
            )
            assert found.low <= exact * (1 + 1e-5) and exact <= found.high * (1 + 1e-5) + 1e-12
            widths.append(found.width)
        assert widths == sorted(widths, reverse=True)
        assert most == 2 or widths[-1] < 0.01


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_bounds_hold_the_probability_over_all_of_a_million_texts(scheme: dict[str, Any]) -> None:
    """Six digits decide whether a beginning is within one edit of five digits: 10^6 texts."""
    _check_against_all_texts(BagOfTokens(10).eval(), scheme, [0, 1], SECRET)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_bounds_hold_for_a_transformer_and_two_edits(scheme: dict[str, Any]) -> None:
    _check_against_all_texts(tiny_model("gpt2", vocab_size=10), scheme, [0, 1], SECRET[:4])
    _check_against_all_texts(tiny_model("gpt2", vocab_size=10), scheme, [2], SECRET[:3])


# --- against samples -------------------------------------------------------------------------------------------------


@cache
def _trained() -> nn.Module:
    """A model that generates one of four numbers, or combinations of their parts."""
    model, tokenizer = tiny_model("gpt2"), ByT5Tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = ["pin 4271!", "pin 9135!", "pin 1234!", "pin 4444!"]
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts])
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


PIN = CanaryTemplate("pin {pin}!", pin=Digits(4))


def _near_samples(scheme: dict[str, Any], edits: int, count: int) -> int:
    tokenizer = ByT5Tokenizer()
    prompt = tokenizer("pin", add_special_tokens=False)["input_ids"]
    drawn = draw_samples(_trained(), prompt, len(" 4271!") + edits, count, Sampling(**scheme), seed=3)
    distinct, counts = np.unique(drawn, axis=0, return_counts=True)
    near = 0
    for tokens, times in zip(distinct.tolist(), counts.tolist(), strict=True):
        own = tokens[: tokens.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in tokens else tokens
        near += times * _is_near(" 4271!", tokenizer.decode(own), edits)
    return near


def _check_against_samples(scheme: dict[str, Any], edits: int, count: int) -> None:
    found = near_extraction(_trained(), ByT5Tokenizer(), PIN, "pin 4271!", edits=edits, **scheme)
    near = _near_samples(scheme, edits, count)
    limits = stats.binomtest(near, count).proportion_ci(0.9999, method="exact")
    assert found.low <= limits.high and found.high >= limits.low
    assert found.tokens <= 20 * len("pin 4271!")


@pytest.mark.parametrize("scheme", [{}, {"top_p": 0.9}], ids=repr)
def test_samples_come_as_often_as_the_bounds_allow(scheme: dict[str, Any]) -> None:
    _check_against_samples(scheme, 1, 2000)


@pytest.mark.slow
@pytest.mark.parametrize("edits", [0, 1, 2])
@pytest.mark.parametrize("scheme", SCHEMES[:-1], ids=repr)
def test_a_hundred_thousand_samples(scheme: dict[str, Any], edits: int) -> None:
    _check_against_samples(scheme, edits, 100_000)


# --- what is found, and what is refused ------------------------------------------------------------------------------


def test_what_was_found_is_near_and_adds_up_to_no_more_than_the_bound() -> None:
    found = near_extraction(_trained(), ByT5Tokenizer(), PIN, "pin 4271!", edits=1, passes=40, width=0.0)
    assert found.found[0].text in (" 4271", " 4271!") and len(found.found) > 5
    assert all(_is_near(" 4271!", one.text, 1) for one in found.found)
    bits = [one.log_perplexity_bits for one in found.found]
    assert bits == sorted(bits) and sum(2.0**-b for b in bits) <= found.low * (1 + 1e-6)
    assert "4271" not in repr(found)
    low, high = found.probability_within(10)
    assert found.low < low <= high <= 1
    # More edits allowed means a higher probability.
    verbatim, near = (near_extraction(_trained(), ByT5Tokenizer(), PIN, "pin 4271!", edits=e) for e in (0, 1))
    assert verbatim.low <= near.high and near.low > 0.1


def test_greedy_decoding_generates_it_or_does_not() -> None:
    said = [
        near_extraction(_trained(), ByT5Tokenizer(), PIN, f"pin {pin}!", greedy=True, width=0.0)
        for pin in ("4271", "9135", "1234", "4444", "9999")
    ]
    assert {(one.low, one.high) for one in said} == {(0.0, 1e-9), (1 - 1e-9, 1.0)} or all(
        one.low > 0.99 or one.high < 0.01 for one in said
    )
    assert 1 <= sum(one.low > 0.99 for one in said) <= 2


@pytest.mark.parametrize("style", ["gpt2", "llama3", "sentencepiece"])
def test_tokens_of_any_kind(style: str) -> None:
    """Every segmentation of a text counts, so the bound is at least the probability of the canonical one."""
    tokenizer, model = tokenizer_in_style(style), model_for(style, "bag")
    template = CanaryTemplate("the number is {n}", n=Digits(3))
    [known] = discoverable_extraction(model, tokenizer, template, ["the number is 123"], samples=0)
    found = near_extraction(model, tokenizer, template, "the number is 123", edits=0, passes=50, width=0.0)
    assert found.low * (1 + 1e-3) >= 2.0**-known.bits and found.high <= 1
    assert all(_is_near(found.found[0].text[:4], one.text, 0) for one in found.found)


def test_texts_of_the_context_s_length_are_not_read_beyond_it(byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2", n_positions=8)
    found = near_extraction(model, byte_tokenizer, CanaryTemplate("pin {pin}", pin=Digits(4)), "pin 1234", edits=2)
    assert isinstance(found, NearExtraction) and found.low <= found.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "pin 4!"}, "text: must be a text of the template"),
        ({"edits": 6}, "edits: must be fewer than the 6 characters of the secret"),
        ({"edits": -1}, "edits: must be a whole number of at least 0"),
        ({"passes": 0}, "passes: must be a whole number of at least 1"),
        ({"width": 2.0}, "width: must be from 0 to 1"),
        ({"greedy": True, "top_k": 3}, "greedy: goes without temperature, top_k and top_p"),
        ({"temperature": 0.0}, "temperature: must be positive"),
        ({"template": CanaryTemplate("{a}!", a=Digits(4)), "text": "1234!"}, "template: must begin with fixed text"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str, byte_tokenizer: ByT5Tokenizer) -> None:
    given = {"template": PIN, "text": "pin 1234!", **arguments}
    with pytest.raises(InputError, match=message):
        near_extraction(tiny_model("gpt2"), byte_tokenizer, **given)
