"""Models whose output for a text depends on other texts, padding, length or earlier calls are detected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ByT5Tokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_exposure import CanaryTemplate, Digits, draw_canaries, extract, log_perplexity, measure_exposure, rank_bounds
from hf_exposure.errors import InputError
from hf_exposure.runtime.batches import BatchCheck
from hf_exposure.scoring import CausalScorer, MaskedScorer, Seq2SeqScorer
from hf_exposure.testing import assert_close, brute_force_bits, brute_force_rank

TEXTS = ["the pin is 1234", "the pin is 12", "the pin is 9876 and so on", "the pin is 1299", "the pin is 123"]
TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(2))


class Company(torch.nn.Module):
    """A causal model whose logits depend on the rest of the call."""

    def __init__(self, inner: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner or tiny_model("gpt2")
        self.config = self.inner.config

    def forward(self, input_ids: torch.Tensor, **keywords: Any) -> Any:
        output = self.inner(input_ids=input_ids, **keywords)
        output.logits = self.change(output.logits)
        return output

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class FullExperts(Company):
    """Experts that process at most `most` tokens of a call, in batch order, and drop the rest."""

    most = 26

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        place = torch.arange(logits.shape[0] * logits.shape[1]).reshape(logits.shape[:2])
        return torch.where((place < self.most)[..., None], logits, 0.5 * logits)


class LargeBatchExperts(FullExperts):
    """The same, but with a limit that only batches larger than any check of a few texts exceed."""

    most = 1500


class BatchStatistics(Company):
    """Batch norm without running statistics, over the rows of a batch."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits - 0.3 * logits.mean(dim=0, keepdim=True)


class LastRowLeaks(Company):
    """A row sees a little of the one before it."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + 0.2 * torch.roll(logits, 1, dims=0)


def byte_ids(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]


def expected_bits(model: torch.nn.Module, texts: list[str]) -> np.ndarray:
    return np.array([brute_force_bits(model, byte_ids(text), 1) for text in texts])


@pytest.mark.parametrize("kind", [FullExperts, BatchStatistics, LastRowLeaks])
def test_answers_that_depend_on_the_batch(kind: type[Company], byte_tokenizer: ByT5Tokenizer) -> None:
    """Each text is then scored alone, and certified results are right."""
    model = kind()
    scorer = CausalScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)

    assert scorer.mode == "alone"
    space = [f"pin {number:02}" for number in range(100)]
    costs = expected_bits(model, space)
    found = extract(model, byte_tokenizer, TEMPLATE, top_k=10)
    assert found.certified and (found.mode == "alone" or kind is FullExperts), "small batches have room"
    assert_close([each.log_perplexity_bits for each in found.candidates], np.sort(costs)[:10], 1e-3)
    for own in (0, 17, 99):
        bounds = rank_bounds(model, byte_tokenizer, space[own], TEMPLATE)
        low, high = brute_force_rank(costs, own)
        assert bounds.certified and low <= bounds.low <= bounds.high <= high


def test_a_limit_that_only_a_large_batch_meets(byte_tokenizer: ByT5Tokenizer) -> None:
    model = LargeBatchExperts()
    texts = [f"the pin is {number:03}" for number in range(300)]
    scorer = CausalScorer(model, byte_tokenizer)
    few = scorer.encode(texts[:5])
    assert_close(scorer.sequence_bits(few), expected_bits(model, texts[:5]), 1e-3)
    assert scorer.mode == "packed"
    # The batches are plain, with whole texts: packed rows would have too few tokens to exceed the limit.
    texts = [f"{number:03} is the pin of the account" for number in range(300)]
    assert_close(scorer.sequence_bits(scorer.encode(texts)), expected_bits(model, texts), 1e-3)
    assert scorer.mode == "alone"


@pytest.mark.parametrize("most", [210, 400])
def test_a_limit_just_above_what_was_checked(most: int, byte_tokenizer: ByT5Tokenizer) -> None:
    """In each batch larger than all before, the tokens fed last are checked, whatever the order of the texts."""
    model = FullExperts()
    model.most = most
    scorer = CausalScorer(model, byte_tokenizer)
    texts = [f"{number:02} is the pin" for number in [*range(0, 40, 2), *range(1, 40, 2)]]
    assert_close(scorer.sequence_bits(scorer.encode(texts[:10])), expected_bits(model, texts[:10]), 1e-3)
    assert scorer.mode == "packed"
    assert_close(scorer.sequence_bits(scorer.encode(texts)), expected_bits(model, texts), 1e-3)
    assert scorer.mode == "alone"


class ThreeExperts(Company):
    """Each expert takes its own tokens, up to a limit that small batches of many equal tokens exceed too."""

    def forward(self, input_ids: torch.Tensor, **keywords: Any) -> Any:
        output = self.inner(input_ids=input_ids, **keywords)
        expert = (input_ids % 3).reshape(-1)
        order = torch.stack([(expert == each).cumsum(0) for each in range(3)])
        is_full = order[expert, torch.arange(len(expert))] > 100
        output.logits = torch.where(is_full.reshape(input_ids.shape)[..., None], 0.5 * output.logits, output.logits)
        return output


def test_a_search_that_met_a_wrong_batch_begins_again(byte_tokenizer: ByT5Tokenizer) -> None:
    """Earlier results may be wrong too, in experts that no checked text uses."""
    template = CanaryTemplate("the pin is {pin}.", pin=Digits(3))
    ids = torch.tensor([byte_ids(template.text_at(number)) for number in range(1000)])
    model = ThreeExperts()
    with torch.no_grad():  # alone, no text meets the limit
        bits = -torch.log_softmax(model.inner(ids).logits[:, :-1].double(), dim=-1) / np.log(2)
    costs = bits.gather(2, ids[:, 1:, None])[..., 0].sum(dim=1).numpy()
    own = int(np.argsort(costs)[333])
    bounds = rank_bounds(model, byte_tokenizer, template.text_at(own), template)
    low, high = brute_force_rank(costs, own)
    assert bounds.certified and bounds.mode == "alone" and low <= bounds.low <= bounds.high <= high


def test_the_report_says_how_the_model_was_read(byte_tokenizer: ByT5Tokenizer) -> None:
    canaries = draw_canaries(TEMPLATE, {1: 2}, controls=2, seed=0)
    for model, mode in ((tiny_model("gpt2"), "packed"), (BatchStatistics(), "alone")):
        report = measure_exposure(model, byte_tokenizer, canaries)
        assert report.scoring_mode == report.to_dict()["scoring_mode"] == mode
        costs = expected_bits(model, [f"pin {number:02}" for number in range(100)])
        for canary, estimate in zip(canaries, report.estimates, strict=True):
            own = int(canary.text[-2:])
            assert_close(estimate.log_perplexity_bits, costs[own], 1e-3)


class Stateful(Company):
    """A model that remembers how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return logits * (1 + 0.01 * self.calls)


class AtRandom(Company):
    """Dropout that evaluation mode does not switch off."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(logits, 0.1, training=True)


@pytest.mark.parametrize("kind", [Stateful, AtRandom])
def test_answers_that_depend_on_earlier_calls_or_chance(kind: type[Company], byte_tokenizer: ByT5Tokenizer) -> None:
    for call in (
        lambda: log_perplexity(kind(), byte_tokenizer, TEXTS),
        lambda: extract(kind(), byte_tokenizer, TEMPLATE),
        lambda: rank_bounds(kind(), byte_tokenizer, "pin 12", TEMPLATE),
    ):
        with pytest.raises(InputError, match="model: must give one text the same logits in every call"):
            call()


class ReadsPaddedLength(Company):
    """Every logit depends on how long the row is, padding included."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * (1 + 0.02 * logits.shape[1])


def test_answers_that_depend_on_the_length(byte_tokenizer: ByT5Tokenizer) -> None:
    """Whole texts have a score but beginnings have none: texts are scored alone, and there is no search."""
    model = ReadsPaddedLength()
    scorer = CausalScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), expected_bits(model, TEXTS), 1e-3)
    assert scorer.mode == "alone" and "length" in scorer.why_no_search
    for call in (
        lambda: extract(model, byte_tokenizer, TEMPLATE),
        lambda: rank_bounds(model, byte_tokenizer, "pin 12", TEMPLATE),
    ):
        with pytest.raises(InputError, match="model: must allow a search"):
            call()
    canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(5)), {1: 1}, controls=1, seed=0)
    report = measure_exposure(model, byte_tokenizer, canaries, references=50)
    assert [estimate.method for estimate in report.estimates] == ["sample", "sample"]
    assert any("length" in note for note in report.notes)
    with pytest.raises(InputError, match="method: must be"):
        measure_exposure(model, byte_tokenizer, canaries, method="bounded")


class SeesTheEnd(Company):
    """A row's mean over all its positions enters every logit."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits - 0.3 * logits.mean(dim=1, keepdim=True)


class SeesTheEndLate(Company):
    """Only from the ninth token on does a position see those after it."""

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        late = logits[:, 8:]
        return torch.cat([logits[:, :8], late - 0.3 * late.mean(dim=1, keepdim=True)], dim=1)


@pytest.mark.parametrize("kind", [SeesTheEnd, SeesTheEndLate])
def test_a_model_that_sees_later_tokens_is_refused(kind: type[Company], byte_tokenizer: ByT5Tokenizer) -> None:
    with pytest.raises(InputError, match="must read from left to right"):
        log_perplexity(kind(), byte_tokenizer, TEXTS)


ROPES = {
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [2.0, 4.0, 8.0, 16.0],
        "original_max_position_embeddings": 16,
    },
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
}


def rope_model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    common: dict[str, Any] = {
        "vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
    }  # fmt: skip
    if kind == "longrope":
        config = Phi3Config(**common, max_position_embeddings=128, rope_parameters=dict(ROPES[kind]))
        config.original_max_position_embeddings = 16
        return Phi3ForCausalLM(config).eval()
    return LlamaForCausalLM(
        LlamaConfig(**common, max_position_embeddings=16, rope_parameters=dict(ROPES[kind]))
    ).eval()


@pytest.mark.parametrize("first", ["short", "long"])
def test_positions_that_depend_on_the_length(first: str, byte_tokenizer: ByT5Tokenizer) -> None:
    """Beyond the original context, longrope uses different factors for the whole text, including its prefix."""
    model = rope_model("longrope")
    short = ["pin 12", "pin 345", "a pin"]
    long = ["the pin of the account is 12", "the pin of the account is 345 now"]
    scorer = CausalScorer(model, byte_tokenizer)
    for texts in (short, long, short) if first == "short" else (long, short, [*short, *long]):
        assert_close(scorer.sequence_bits(scorer.encode(texts)), expected_bits(model, texts), 1e-3)
    space = [f"pin {number:02}" for number in range(100)]
    costs = expected_bits(model, space)
    found = extract(model, byte_tokenizer, TEMPLATE, top_k=3)
    assert found.certified, "within the original context nothing depends on the length"
    assert_close([each.log_perplexity_bits for each in found.candidates], np.sort(costs)[:3], 1e-3)
    with pytest.raises(InputError, match="model: must allow a search"):
        extract(model, byte_tokenizer, CanaryTemplate("pin number is {pin}", pin=Digits(4)))
    beyond = [f"the pin of the account is {number:02}" for number in range(100)]
    found = extract(model, byte_tokenizer, CanaryTemplate("the pin of the account is {pin}", pin=Digits(2)))
    assert found.certified, "all texts and all their beginnings are longer than the original context"
    assert_close(found.candidates[0].log_perplexity_bits, expected_bits(model, beyond).min(), 1e-3)


class UnderEncoder(torch.nn.Module):
    """An encoder-decoder or masked model whose rows mix."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, **inputs: Any) -> Any:
        output = self.inner(**inputs)
        output.logits = output.logits - 0.3 * output.logits.mean(dim=0, keepdim=True)
        return output


def translator() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        initializer_factor=3.0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config).eval()


def test_translations_that_depend_on_the_batch(byte_tokenizer: ByT5Tokenizer) -> None:
    model = UnderEncoder(translator())
    sources = [text[::-1] + "?" for text in TEXTS]

    def alone(source: str, text: str) -> float:
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([byte_tokenizer(source)["input_ids"]]),
                decoder_input_ids=torch.tensor([[0, *byte_ids(text)]]),
            ).logits[0].double()  # fmt: skip
        bits = -torch.log_softmax(logits, dim=-1) / np.log(2)
        return sum(bits[place, token].item() for place, token in enumerate(byte_ids(text)))

    expected = [alone(source, text) for source, text in zip(sources, TEXTS, strict=True)]
    scorer = Seq2SeqScorer(model, byte_tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS), sources), expected, 1e-3)
    assert scorer.mode == "alone"
    fixed = Seq2SeqScorer(model, byte_tokenizer, source="what is it?")
    assert_close(fixed.sequence_bits(fixed.encode(TEXTS)), [alone("what is it?", text) for text in TEXTS], 1e-3)
    assert fixed.mode == "alone"


def test_masked_rows_that_depend_on_the_batch(byte_tokenizer: ByT5Tokenizer) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = UnderEncoder(BertForMaskedLM(config).eval())
    tokenizer = ByT5Tokenizer(mask_token="<pad>")

    def alone(text: str) -> float:
        ids, total = [*byte_ids(text), 1], 0.0
        for place, token in enumerate(ids[:-1]):
            masked = torch.tensor([[*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]])
            with torch.no_grad():
                logits = model(input_ids=masked).logits[0, place].double()
            total -= torch.log_softmax(logits, dim=-1)[token].item() / np.log(2)
        return total

    scorer = MaskedScorer(model, tokenizer)
    assert_close(scorer.sequence_bits(scorer.encode(TEXTS)), [alone(text) for text in TEXTS], 1e-3)
    assert scorer.mode == "alone"


class ManyRows(Company):
    """Accepts no mask of ancestors, so every open node is a row, and mixes rows when there are many."""

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, **keywords: Any) -> Any:
        return super().forward(input_ids, **keywords)

    def change(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * (1.05 if len(logits) > 8 else 1.0)


@pytest.mark.parametrize("is_checked", [True, False])
def test_what_a_certificate_names_is_scored_again_alone(
    is_checked: bool, byte_tokenizer: ByT5Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line of defense against batches that were wrong before a check of growing batches, or without one."""
    if not is_checked:
        monkeypatch.setattr(BatchCheck, "passes", lambda *_: True)
    template = CanaryTemplate("pin {pin}", pin=Digits(3))
    space = [template.text_at(number) for number in range(1000)]
    costs = expected_bits(ManyRows(), space)
    found = extract(ManyRows(), byte_tokenizer, template, top_k=200)
    assert found.certified and found.mode == "alone"
    assert_close([each.log_perplexity_bits for each in found.candidates], np.sort(costs)[:200], 1e-3)
    own = int(np.argsort(costs)[300])
    bounds = rank_bounds(ManyRows(), byte_tokenizer, space[own], template)
    low, high = brute_force_rank(costs, own)
    assert bounds.certified and low <= bounds.low <= bounds.high <= high


def test_no_certificate_if_a_score_changes_permanently(
    byte_tokenizer: ByT5Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = CausalScorer.alone_bits
    monkeypatch.setattr(CausalScorer, "alone_bits", lambda scorer, encoded: moved(scorer, encoded) + 0.5)
    found = extract(tiny_model("gpt2"), byte_tokenizer, TEMPLATE)
    assert not found.certified and "scored alone" in found.note
    bounds = rank_bounds(tiny_model("gpt2"), byte_tokenizer, "pin 12", TEMPLATE)
    assert not bounds.certified and (bounds.low, bounds.high) == (1, 100)
