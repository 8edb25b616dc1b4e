"""Texts that a model generates unaided: against the sampling of `transformers`, brute force, and counts by hand."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import merging_tokenizer, tiny_model
from tokenizers import decoders
from transformers import (
    ByT5Tokenizer,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hf_exposure import CanaryTemplate, Digits, Letters, discoverable_extraction
from hf_exposure.errors import InputError
from hf_exposure.extraction.discoverable import _edits
from hf_exposure.records import Discoverability
from hf_exposure.scoring.decoding import Sampling, continuation_bits, decode_greedily, draw_samples

TEMPLATE = CanaryTemplate("pin {pin}!", pin=Digits(2))
PROMPT = [112 + 3, 105 + 3, 110 + 3, 32 + 3]
SCHEMES = [
    Sampling(),
    Sampling(temperature=0.6),
    Sampling(top_k=7),
    Sampling(top_p=0.7),
    Sampling(temperature=1.7, top_k=40, top_p=0.9),
]


def _warped(logits: torch.Tensor, scheme: Sampling) -> torch.Tensor:
    """Samples as `transformers` does."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(scheme.temperature)])
    if scheme.top_k:
        warpers.append(TopKLogitsWarper(scheme.top_k))
    if scheme.top_p:
        warpers.append(TopPLogitsWarper(scheme.top_p))
    return warpers(torch.zeros((len(logits), 1), dtype=torch.long), logits).softmax(dim=-1)


@pytest.mark.parametrize("scheme", SCHEMES, ids=repr)
def test_bits_are_those_of_the_library_s_own_sampling(scheme: Sampling) -> None:
    model = tiny_model("gpt2", scale=0.2)
    continuations = [[53, 54, 36], [53, 54], [300, 2, 7, 9]]
    expected = []
    for continuation in continuations:
        ids = torch.tensor([[*PROMPT, *continuation]])
        with torch.no_grad():
            probabilities = _warped(model(input_ids=ids).logits[0, len(PROMPT) - 1 : -1], scheme)
        factors = [float(row[token]) for row, token in zip(probabilities, continuation, strict=True)]
        expected.append(-math.log2(math.prod(factors)) if math.prod(factors) else math.inf)
    bits, _ = continuation_bits(model, PROMPT, continuations, scheme, max_batch_tokens=9)
    np.testing.assert_allclose(bits, expected, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "lstm"])
def test_greedy_decoding(family: str) -> None:
    model = tiny_model(family)
    tokens = decode_greedily(model, PROMPT, 6)
    if hasattr(model, "generate"):
        ids = torch.tensor([PROMPT])
        said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6,
                              eos_token_id=None, pad_token_id=0)  # fmt: skip
        assert tokens == tuple(said[0, len(PROMPT) :].tolist())
    bits, known = continuation_bits(model, PROMPT, [tokens, (*tokens[:-1], tokens[-1] ^ 1)], Sampling())
    assert known.tolist() == [0, 6] and bits[0] < bits[1]


@pytest.mark.parametrize("family", ["gpt2", "lstm"])
def test_what_must_be_typed_before_the_likeliest_continuation_is_the_rest(family: str) -> None:
    model, draw = tiny_model(family), np.random.default_rng(5)
    secrets = []
    for forced in (0, 1, 3, 5):
        # Random tokens, then the model's own continuation.
        typed = tuple(draw.integers(3, 200, forced).tolist())
        secrets.append((*typed, *decode_greedily(model, (*PROMPT, *typed), 6 - forced)))
    _, known = continuation_bits(model, PROMPT, secrets, Sampling(), max_batch_tokens=9)
    for secret, found in zip(secrets, known.tolist(), strict=True):
        # Prompt the model with longer and longer beginnings until it generates the rest.
        needed = [n for n in range(7) if decode_greedily(model, (*PROMPT, *secret[:n]), 6 - n) == secret[n:]]
        assert found == min(needed)


def test_samples_come_as_often_as_their_bits_say() -> None:
    model = tiny_model("gpt2", scale=0.25).train()
    scheme, count = Sampling(temperature=0.5, top_k=3), 4000
    torch.manual_seed(0)
    before = torch.get_rng_state()
    samples = draw_samples(model, PROMPT, 2, count, scheme, seed=1)
    assert torch.equal(before, torch.get_rng_state()) and model.training
    distinct, counts = np.unique(samples, axis=0, return_counts=True)
    bits, _ = continuation_bits(model, PROMPT, distinct.tolist(), scheme)
    expected = count * np.exp2(-bits)
    assert abs(np.exp2(-bits).sum() - 1) < 0.02  # nine pairs at most, and hardly any never drawn
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 1).all()
    assert np.array_equal(samples, draw_samples(model, PROMPT, 2, count, scheme, seed=1))
    assert not np.array_equal(samples, draw_samples(model, PROMPT, 2, count, scheme, seed=2))


def test_a_memorized_secret_is_generated_and_others_are_near(byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    ids = torch.tensor([byte_tokenizer("pin 42!", add_special_tokens=False)["input_ids"]])
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    found = discoverable_extraction(model, byte_tokenizer, TEMPLATE, ["pin 42!", "pin 43!", "pin 17!"], samples=64)
    known, near, far = found
    assert known.is_greedy and known.greedy_edits == 0 and known.bits < 1 and known.near_samples > 32
    assert known.samples_needed(0.5) == 1.0
    assert not near.is_greedy and near.greedy_edits == 1 and near.near_samples >= known.near_samples // 2
    assert far.greedy_edits == 2 and far.bits > near.bits / 2 and far.probability_within(1) < 1e-2
    assert found == discoverable_extraction(
        model, byte_tokenizer, TEMPLATE, ["pin 42!", "pin 43!", "pin 17!"], samples=64
    )


def test_the_prompt_ends_where_the_tokenizer_cuts() -> None:
    """The space and 12 are one token: the prompt ends before the space, and the bits include it."""
    tokenizer = merging_tokenizer()
    model = tiny_model("gpt2", vocab_size=len(tokenizer))
    template = CanaryTemplate("no {pin}", pin=Digits(2))
    [found] = discoverable_extraction(model, tokenizer, template, ["no 12"], samples=0)
    ids = tokenizer("no 12")["input_ids"]
    shared = len(tokenizer("no")["input_ids"])
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
    expected = -sum(float(log_p[at - 1, ids[at]]) for at in range(shared, len(ids))) / math.log(2)
    assert found.bits == pytest.approx(expected, rel=1e-5)


def _levenshtein(a: str, b: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        replaced = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(replaced, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


def test_edits() -> None:
    draw = np.random.default_rng(0)
    said = ["".join(draw.choice(list("abc"), draw.integers(0, 9))) for _ in range(200)]
    for secret in ("abcabc", "a", "cccb"):
        assert _edits(secret, said).tolist() == [_levenshtein(secret, text[: len(secret)]) for text in said]


def test_how_many_samples() -> None:
    def record(bits: float) -> Discoverability:
        return Discoverability(
            text="", bits=bits, is_greedy=False, greedy_edits=0, samples=0, near_samples=0, near_edits=1
        )

    assert record(1).probability_within(3) == pytest.approx(7 / 8)
    assert [record(1).samples_needed(p) for p in (0, 0.5, 0.75, 0.76, 1)] == [0, 1, 2, 3, math.inf]
    assert record(40).samples_needed(0.5) == pytest.approx(2**40 * math.log(2), rel=1e-6)
    assert record(math.inf).probability_within(10**9) == 0 and record(math.inf).samples_needed(0.5) == math.inf
    assert record(0).probability_within(1) == 1 and record(0).samples_needed(1) == 1
    with pytest.raises(InputError, match="probability: must be between 0 and 1, got 2"):
        record(1).samples_needed(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "texts: must hold at least one text"),
        ({"texts": ["pin 4!"]}, "texts: must be texts of the template"),
        ({"temperature": 0.0}, "temperature: must be positive"),
        ({"top_k": 0}, "top_k: must be a whole number of at least 1"),
        ({"top_p": 1.5}, "top_p: must be above 0 and at most 1"),
        ({"samples": -1}, "samples: must be a whole number of at least 0"),
        ({"template": CanaryTemplate("{a}!", a=Letters(2)), "texts": ["ab!"]}, "template: must begin with fixed text"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str, byte_tokenizer: ByT5Tokenizer) -> None:
    given = {"template": TEMPLATE, "texts": ["pin 12!"], "samples": 0, **arguments}
    with pytest.raises(InputError, match=message):
        discoverable_extraction(tiny_model("gpt2"), byte_tokenizer, **given)  # type: ignore[arg-type]


class _NextToken(torch.nn.Module):
    """Generates one fixed token after each token."""

    def __init__(self, following: dict[int, int], entries: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(entries, entries))
        for token, after in following.items():
            self.table.data[token, after] = 50.0

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


def test_an_answer_in_shorter_tokens_is_read_to_its_end() -> None:
    """The secret is encoded as "12", "12"; the model generates "1", "2", "12"."""
    tokenizer = merging_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    one, two, both = (tokenizer.convert_tokens_to_ids(piece) for piece in ("1", "2", "12"))
    ids = tokenizer("pin:1212")["input_ids"]
    assert ids[-2:] == [both, both]
    model = _NextToken({ids[-3]: one, one: two, two: both}, len(tokenizer))
    [found] = discoverable_extraction(
        model, tokenizer, CanaryTemplate("pin:{n}", n=Digits(4)), ["pin:1212"], samples=3
    )
    assert (found.greedy_edits, found.near_samples) == (0, 3)


@pytest.mark.parametrize(("context", "fits"), [(12, False), (13, True), (14, True), (16, True)])
def test_nothing_is_read_beyond_the_models_context(context: int, fits: bool, byte_tokenizer: ByT5Tokenizer) -> None:
    """A text of 13 tokens: an answer may be half as long again, which would not fit any of these contexts."""
    template = CanaryTemplate("pin {pin}", pin=Digits(9))
    model = tiny_model("gpt2", n_positions=context)
    texts = ["pin 123456789", "pin 987654321"]
    if fits:
        found = discoverable_extraction(model, byte_tokenizer, template, texts, samples=3)
        assert all(one.greedy_edits <= len(" 123456789") and math.isfinite(one.bits) for one in found)
        return
    with pytest.raises(InputError, match=r"^texts: must fit the model's context of 12 tokens, got text 0") as caught:
        discoverable_extraction(model, byte_tokenizer, template, texts, samples=3)
    assert "123456789" not in str(caught.value)


def test_a_tokenizer_larger_than_the_embedding_is_refused(byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2", vocab_size=100)
    with pytest.raises(InputError, match=r"^tokenizer: must be the model's own"):
        discoverable_extraction(model, byte_tokenizer, TEMPLATE, ["pin 12!"], samples=0)


@pytest.mark.parametrize("temperature", [1e-30, 1e-20, Fraction(1, 10**12)])
def test_at_next_to_no_temperature_the_likeliest_is_drawn(temperature: object, byte_tokenizer: ByT5Tokenizer) -> None:
    model = tiny_model("gpt2", scale=0.2)
    probabilities = (
        Sampling(temperature=temperature)
        .log_probabilities(  # type: ignore[arg-type]
            model(input_ids=torch.tensor([PROMPT])).logits
        )
        .exp()
    )
    assert not probabilities.isnan().any() and (probabilities.amax(dim=-1) > 0.999).all()
    discoverable_extraction(model, byte_tokenizer, TEMPLATE, ["pin 12!"], samples=2, temperature=temperature)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [5e-324, 1e-46, 1e300, 10**40])
def test_a_temperature_that_float32_cannot_divide_by(temperature: float) -> None:
    with pytest.raises(InputError, match="^temperature: must be from 1e-30 to 1e"):
        Sampling(temperature=temperature)
