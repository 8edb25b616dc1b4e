"""Rows of records and the signals of their tokens, against direct calls of the model."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from chat_tokenizers import chat_tokenizer
from conftest import character_tokenizer, merging_tokenizer, tiny_model
from datasets import Dataset
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import log_perplexity
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.runtime.precision import parameter_count
from hf_exposure.signals import EncodedRecords, SignalReader, encode_records

TEXTS = ["one", "another text", "a", "the third of all texts is longer", "bb", "another text"]
CHAT = [{"role": "user", "content": "hi?"}, {"role": "assistant", "content": "ok!"}]


def by_hand(model: nn.Module, ids: list[int], first: int) -> np.ndarray:
    """(T, 4) signals like the reader's, computed one token at a time in float64."""
    logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    rows = []
    for place in range(first, len(ids)):
        log_p = torch.log_softmax(logits[place - 1], dim=-1) / math.log(2)
        p = 2.0**log_p
        mean = sum(float(a * b) for a, b in zip(p, log_p, strict=True))
        variance = sum(float(a * (b - mean) ** 2) for a, b in zip(p, log_p, strict=True))
        rows.append([float(log_p[ids[place]]), mean, variance, float(int(log_p.argmax()) == ids[place])])
    return np.array(rows)


def read(model: nn.Module, records: EncodedRecords, **options: Any) -> dict[int, Any]:
    return dict(SignalReader(model, **options).read(records))


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "bloom", "mamba", "lstm"])
@pytest.mark.parametrize("max_batch_tokens", [None, 40])
def test_signals_are_those_of_each_text_alone(family: str, max_batch_tokens: int | None) -> None:
    model = tiny_model(family)
    records = encode_records("members", TEXTS, ByT5Tokenizer())
    found = read(model, records, max_batch_tokens=max_batch_tokens)
    assert sorted(found) == [0, 1, 2, 3, 4]  # nothing is predicted in the text of one byte
    assert records.left_out == 1 and records.number_N.tolist() == [0, 1, 3, 4, 5]
    with torch.no_grad():
        for row, signals in found.items():
            expected = by_hand(model, records.ids[row].tolist(), int(records.first_scored_N[row]))
            got = [signals.log_probability_T, signals.mean_T, signals.variance_T, signals.is_likeliest_T]
            np.testing.assert_allclose(np.stack(got, axis=1), expected, rtol=1e-3, atol=1e-3)
    texts = [TEXTS[number] for number in records.number_N]
    bits = log_perplexity(model, ByT5Tokenizer(), texts)
    sums = [-found[row].log_probability_T.sum() for row in range(5)]
    np.testing.assert_allclose(sums, bits, atol=1e-2)
    sizes = [8 * len(zlib.compress(text.encode())) for text in texts]
    assert [found[row].compressed_bits for row in range(5)] == sizes


def test_a_model_that_mixes_its_rows_is_read_row_by_row() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model("gpt2")

        def forward(self, input_ids: torch.Tensor) -> Any:
            output = self.inner(input_ids=input_ids)
            output.logits = output.logits + output.logits.mean(dim=0, keepdim=True) * (len(input_ids) > 1)
            return output

    model, records = Mixing().eval(), encode_records("members", TEXTS, ByT5Tokenizer())
    reader = SignalReader(model)
    found = dict(reader.read(records))
    with torch.no_grad():
        for row, signals in found.items():
            expected = by_hand(model, records.ids[row].tolist(), 1)
            np.testing.assert_allclose(signals.log_probability_T, expected[:, 0], atol=1e-3)


def test_special_tokens_before_a_text_are_context_and_those_after_it_are_not_scored() -> None:
    tokenizer = character_tokenizer("abc", special=True)
    records = encode_records("members", ["ab", "c"], tokenizer)
    assert [ids.tolist() for ids in records.ids] == [[0, 3, 4], [0, 5]] and records.first_scored_N.tolist() == [1, 1]


def test_unknown_characters_are_read_as_training_reads_them() -> None:
    records = encode_records("members", ["axb"], character_tokenizer("ab"))
    assert records.ids[0].tolist() == [3, 2, 4]


def test_pairs_score_the_completion() -> None:
    tokenizer = merging_tokenizer()
    records = encode_records("members", [{"prompt": "pin 1", "completion": "23 no"}], tokenizer)
    whole = tokenizer("pin 123 no")["input_ids"]
    prompt = tokenizer("pin 1")["input_ids"]
    # The last token of the prompt merges with the completion: it is scored with it.
    shared = next(place for place, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b)
    assert records.ids[0].tolist() == whole and records.first_scored_N.tolist() == [shared]
    assert records.compressed_bits_N.tolist() == [8 * len(zlib.compress(b"23 no"))]


def test_chats_and_conversational_pairs() -> None:
    tokenizer = chat_tokenizer()
    written = tokenizer.apply_chat_template(CHAT, tokenize=False)
    whole = tokenizer(written, add_special_tokens=False)["input_ids"]
    pair = {"prompt": CHAT[:1], "completion": CHAT[1:]}
    records = encode_records("members", [{"messages": CHAT}, CHAT, pair], tokenizer)
    assert all(ids.tolist() == whole for ids in records.ids)
    before = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert records.first_scored_N.tolist() == [1, 1, len(tokenizer(before, add_special_tokens=False)["input_ids"])]
    assert records.digests[0] == records.digests[1] != records.digests[2]


def test_rows_of_a_dataset_and_of_a_context() -> None:
    data = Dataset.from_dict({"body": ["abcdef", "abcdefgh"], "label": [0, 1]})
    records = encode_records("held_out", data, ByT5Tokenizer(), text_column="body", max_tokens=6)
    assert [len(ids) for ids in records.ids] == [6, 6] and (records.cut, records.left_out) == (1, 0)
    assert records.compressed_bits_N.tolist() == [8 * len(zlib.compress(b"abcdef"))] * 2
    assert records.digests[0] == records.digests[1] and len(records.without({records.digests[0]})) == 0
    assert "abc" not in repr(records)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ("abc", "must be records in a list"),
        (["fine", 3], "another value at record 1"),
        ([{"text": None}], "another value at record 0"),
        ([{"prompt": "a", "completion": 3}], "others at record 0"),
        ([CHAT], "must have a chat template"),
        (["abc \ud800"], "UTF-8"),
    ],
)
def test_other_records_are_refused_without_a_quote(records: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        encode_records("members", records, ByT5Tokenizer())
    assert "hi?" not in str(caught.value) and "abc" not in str(caught.value)


def test_excluded_tokens_and_nan() -> None:
    class Fixed(nn.Module):
        def __init__(self, logits: list[float]) -> None:
            super().__init__()
            self.row = nn.Parameter(torch.tensor(logits))

        def forward(self, input_ids: torch.Tensor) -> Any:
            class Output:
                logits = self.row.expand(*input_ids.shape, -1)

            return Output()

    tokenizer = character_tokenizer("ab")  # tokens 3 and 4
    model = Fixed([-math.inf, -math.inf, -math.inf, 0.0, -math.inf])
    records = encode_records("members", ["aab"], tokenizer)
    signals = read(model, records)[0]
    assert signals.log_probability_T.tolist() == [0.0, -math.inf]
    assert signals.mean_T.tolist() == signals.variance_T.tolist() == [0.0, 0.0]
    assert signals.is_likeliest_T.tolist() == [True, False]
    assert parameter_count(model) == 5
    with pytest.raises(NonFiniteScoreError, match="record 0"):
        read(Fixed([math.nan] * 5), records)
