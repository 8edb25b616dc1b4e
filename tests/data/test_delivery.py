"""Canaries that arrive are found in any kind of data, and training is not disturbed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from chat_tokenizers import chat_tokenizer
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from tokenizer_styles import tokenizer_in_style
from transformers import DataCollatorForLanguageModeling, default_data_collator

from hf_exposure import (
    CanaryContext,
    CanaryTemplate,
    Digits,
    check_delivery,
    draw_canaries,
    insert_canaries,
    remove_canaries,
)
from hf_exposure.data import check_dataloader
from hf_exposure.errors import InputError

disable_progress_bars()
CANARIES = draw_canaries(CanaryTemplate("It is {pin}.", pin=Digits(6)), {1: 2, 4: 1}, controls=2, seed=0)
TOKENIZER = chat_tokenizer()
TEXTS = Dataset.from_dict({"text": [f"row {row} of some text" for row in range(50)]})
WITH = insert_canaries(TEXTS, CANARIES)


def encode(dataset: Dataset, lead: str = "", **how: Any) -> Dataset:
    return dataset.map(
        lambda row: dict(TOKENIZER(lead + row["text"], **how)), remove_columns="text", load_from_cache_file=False
    )


def counts(report: Any) -> list[tuple[int, int]]:
    return [(one.whole, one.cut) for one in report.canaries]


DELIVERED = [(1, 0), (1, 0), (4, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize("lead", ["", " ", "\n", "It said: "])
def test_whole_rows_are_counted_wherever_they_begin(lead: str) -> None:
    report = check_delivery(encode(WITH, lead), CANARIES, TOKENIZER)
    assert (
        counts(report) == DELIVERED
        and report.problems == ()
        and report.rows == 56
        and report.note == ""
        and report.complete
    )
    assert [one.requested for one in report.canaries] == [1, 1, 4, 0, 0]
    assert [report.doses_per_epoch[canary.id] for canary in CANARIES] == [1.0, 1.0, 4.0, 0.0, 0.0]


def test_selections_shuffles_and_joined_datasets_are_counted_as_they_stand() -> None:
    ids = encode(WITH)
    assert counts(check_delivery(ids.shuffle(seed=0), CANARIES, TOKENIZER)) == DELIVERED
    twice = ids.select([*range(56), *range(56)])
    assert counts(check_delivery(twice, CANARIES, TOKENIZER)) == [(2 * whole, 0) for whole, _ in DELIVERED]
    joined = concatenate_datasets([encode(TEXTS), ids, ids])
    assert counts(check_delivery(joined, CANARIES, TOKENIZER)) == [(2 * whole, 0) for whole, _ in DELIVERED]
    none = ids.select([row for row, text in enumerate(WITH["text"]) if "It is" not in text])
    report = check_delivery(none, CANARIES, TOKENIZER)
    assert counts(report) == [(0, 0)] * 5 and len(report.undelivered) == 3
    assert (
        "3 of 3 inserted canaries: it is not in the training data: insert_canaries was not called"
        in (report.problems[0])
    )


def test_deduplication_and_controls_in_the_data_are_noticed() -> None:
    once = Dataset.from_dict({"text": list(dict.fromkeys(WITH["text"])) + [CANARIES.controls[0].text]})
    report = check_delivery(encode(once), CANARIES, TOKENIZER)
    assert counts(report) == [(1, 0), (1, 0), (1, 0), (1, 0), (0, 0)]
    assert report.problems == (
        "1 of 3 inserted canaries: 1 of 4 rows contain it completely: a filter, deduplication or a cut within the "
        "first tokens removed the others",
        "1 of 2 held-out controls: it is in the training data, so it is no control",
    )


def test_truncation_is_told_from_absence() -> None:
    report = check_delivery(encode(WITH, truncation=True, max_length=10), CANARIES, TOKENIZER)
    assert counts(report) == [(0, 1), (0, 1), (0, 4), (0, 0), (0, 0)]
    assert "4 are cut by truncation or packing: use a longer max_length" in " ".join(report.problems)
    assert all(one.dose_per_epoch == 0 for one in report.undelivered) and len(report.undelivered) == 3


@pytest.mark.parametrize("length", [40, 64])
def test_blocks_of_grouped_texts(length: int) -> None:
    ids = sum(encode(WITH)["input_ids"], [])
    blocks = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    report = check_delivery(Dataset.from_dict({"input_ids": blocks}), CANARIES, TOKENIZER)
    texts = [TOKENIZER.decode(block) for block in blocks]
    assert [one.whole for one in report.canaries] == [sum(text.count(c.text) for text in texts) for c in CANARIES]
    # Each of the six rows is whole, or cut at the end of a block and perhaps again at the start of the next one.
    assert sum(one.whole for one in report.canaries) + sum(one.cut for one in report.canaries) >= 5


class Shaky(torch.utils.data.Dataset):
    """A dataset of the user's own that draws random numbers."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        random.random(), np.random.random(), torch.rand(1)
        return self.rows[row]


def shaky_collator(rows: list[dict[str, Any]]) -> dict[str, Any]:
    torch.rand(3)
    ids = [TOKENIZER(row["text"])["input_ids"] if "text" in row else row["input_ids"] for row in rows]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)}


@pytest.mark.parametrize("kind", ["list", "own", "texts", "transform"])
def test_other_datasets_and_no_random_number_is_used(kind: str) -> None:
    ids = encode(WITH)
    data = {
        "list": lambda: ids.to_list(),
        "own": lambda: Shaky(ids.to_list()),
        "texts": lambda: Shaky(WITH.to_list()),
        "transform": lambda: WITH.with_transform(lambda batch: {"input_ids": TOKENIZER(batch["text"])["input_ids"]}),
    }[kind]()
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    report = check_delivery(data, CANARIES, TOKENIZER, collator=shaky_collator)
    after = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    assert counts(report) == DELIVERED and report.problems == ()
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


def test_labels_decide_what_is_trained_on() -> None:
    masked = encode(WITH).map(lambda row: {"labels": [-100] * len(row["input_ids"])})
    report = check_delivery(masked, CANARIES, TOKENIZER, collator=default_data_collator)
    assert [one.trained_share for one in report.canaries[:3]] == [0.0] * 3 and len(report.undelivered) == 3
    assert "3 of 3 inserted canaries: every token is masked out of the loss (label -100)" in report.problems[0]
    half = encode(WITH).map(lambda row: {"labels": row["input_ids"][:-4] + [-100] * 4})
    report = check_delivery(half, CANARIES, TOKENIZER, collator=default_data_collator)
    # 12 of the 13 characters are predicted, and the last 4 have no label.
    assert report.canaries[2].trained_share == pytest.approx(8 / 12)
    assert report.canaries[2].dose_per_epoch == pytest.approx(4 * 8 / 12)


@pytest.mark.parametrize("prompt", ["Q: pin?\n", "Q: pin? ", "Q: pin?"])
def test_a_masked_prompt_is_no_part_of_the_canary(prompt: str) -> None:
    def masked(row: dict[str, Any]) -> dict[str, Any]:
        ids = TOKENIZER(row["text"])["input_ids"]
        asked = len(TOKENIZER(prompt)["input_ids"])
        return {"input_ids": ids, "labels": [-100] * asked + ids[asked:]}

    context = CanaryContext(prompt=prompt)
    canaries = draw_canaries(CanaryTemplate("{pin}.", pin=Digits(6)), {1: 2, 4: 1}, controls=2, seed=0)
    data = insert_canaries(TEXTS, canaries, context=context).map(masked, remove_columns="text")
    for given in (context, None):
        report = check_delivery(data, canaries, TOKENIZER, collator=default_data_collator, context=given)
        assert [(one.whole, one.trained_share) for one in report.canaries[:3]] == [(1, 1.0), (1, 1.0), (4, 1.0)]


@pytest.mark.parametrize("kept", [7, 4])
def test_a_collator_that_truncates_is_a_problem(kept: int) -> None:
    def truncating(rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [row["input_ids"][:kept] for row in rows]
        return {"input_ids": torch.tensor(ids), "labels": torch.tensor(ids)}

    report = check_delivery(encode(WITH), CANARIES, TOKENIZER, collator=truncating)
    assert [one.dose_per_epoch for one in report.canaries[:3]] == [0.0] * 3 and len(report.undelivered) == 3
    assert "not in the collated rows: the collator cuts or changes them" in report.problems[0]
    loader = torch.utils.data.DataLoader(encode(WITH), collate_fn=truncating)
    with pytest.raises(InputError, match="require_delivery.*the collator cuts or changes"):
        check_dataloader(loader, CANARIES, TOKENIZER, require=True)


@pytest.mark.parametrize("kept", range(1, 10))
def test_cuts_of_short_canaries_are_named(kept: int) -> None:
    tokenizer = tokenizer_in_style("qwen")
    canaries = draw_canaries(CanaryTemplate("the number is {n}", n=Digits(6)), {1: 4, 4: 4}, controls=2, seed=1)
    texts = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    assert {len(row) for row in ids} == {10}  # three words, a space and six digits
    halves = [half for row in ids for half in ([500] * 9 + row[:kept], row[kept:] + [500] * 9)]
    report = check_delivery(Dataset.from_dict({"input_ids": halves}), canaries, tokenizer)
    assert all(one.whole == 0 and one.cut >= one.requested for one in report.canaries[:8])
    assert all("cut by truncation or packing" in problem for problem in report.problems)
    # Truncation keeps the beginnings only: they identify a canary from the third digit on.
    starts = Dataset.from_dict({"input_ids": [row[:kept] for row in ids]})
    report = check_delivery(starts, canaries, tokenizer)
    if kept >= 7:
        assert [one.cut for one in report.canaries[:8]] == [1] * 4 + [4] * 4
    if kept <= 4:
        assert "it was cut within its first tokens" in report.problems[0]


def test_a_masked_language_model_trains_on_its_share() -> None:
    TOKENIZER.mask_token = "<unk>"
    collator = DataCollatorForLanguageModeling(TOKENIZER, mlm=True, mlm_probability=0.3)
    state = torch.get_rng_state()
    report = check_delivery(encode(WITH), CANARIES, TOKENIZER, collator=collator)
    assert [one.trained_share for one in report.canaries[:3]] == [0.3] * 3 and torch.equal(
        state, torch.get_rng_state()
    )


def test_targets_of_an_encoder_decoder() -> None:
    pairs = Dataset.from_dict({"source": ["bonjour"] * 30, "target": ["good day"] * 30})
    data = insert_canaries(pairs, CANARIES, "target", source="C'est {pin}")
    data = data.map(
        lambda row: {**TOKENIZER(row["source"]), "labels": TOKENIZER(text_target=row["target"])["input_ids"]},
        remove_columns=["source", "target"],
    )
    assert counts(check_delivery(data, CANARIES, TOKENIZER, source="C'est {pin}")) == DELIVERED
    assert counts(check_delivery(data, CANARIES, TOKENIZER))[0] == (0, 0)


def test_a_stream_is_not_read_unless_asked() -> None:
    stream = encode(WITH).to_iterable_dataset(num_shards=2)
    report = check_delivery(stream, CANARIES, TOKENIZER)
    assert (
        report.canaries == ()
        and report.doses_per_epoch == {}
        and not report.complete
        and "a stream cannot be read" in report.note
    )
    head = check_delivery(stream, CANARIES, TOKENIZER, max_rows=56)
    assert counts(head) == DELIVERED and head.note == "only the first 56 rows were read"
    assert check_delivery(stream, CANARIES, TOKENIZER, max_rows=1).problems == ()


def test_a_long_dataset_outside_arrow_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_exposure.data.delivery_rows._MOST_ROWS", 3)
    report = check_delivery(encode(WITH).to_list(), CANARIES, TOKENIZER)
    assert report.note == "only the first 3 of 56 rows were read" and report.rows == 3 and not report.complete
    assert report.problems == () and report.undelivered == () and report.doses_per_epoch == {}
    # Three rows without a canary prove nothing, but a warning mentions them.
    assert report.counted() is None
    loader = torch.utils.data.DataLoader(encode(TEXTS).to_list(), collate_fn=default_data_collator)
    with pytest.warns(UserWarning, match="none was found, but only the first 3 of 50 rows were read"):
        check_dataloader(loader, CANARIES, TOKENIZER)


def test_what_cannot_be_searched_says_why() -> None:
    assert (
        "it has no column 'input_ids': pass the trainer's collator" in check_delivery(WITH, CANARIES, TOKENIZER).note
    )
    assert "its rows are of type int" in check_delivery([1, 2], CANARIES, TOKENIZER).note

    def fails(rows: list[Any]) -> None:
        raise KeyError("oops")

    report = check_delivery(WITH, CANARIES, TOKENIZER, collator=fails)
    assert "its collator fails on a single row (KeyError: 'oops')" in report.note
    with pytest.raises(InputError, match="canaries: must be a CanarySet"):
        check_delivery(WITH, [1], TOKENIZER)


def test_a_context_that_merges_with_the_canary_is_followed() -> None:
    from conftest import merging_tokenizer

    tokenizer = merging_tokenizer()
    canaries = draw_canaries(CanaryTemplate("123{pin}.", pin=Digits(4)), {1: 3}, controls=0, seed=0)
    context = CanaryContext(prompt="is 12")
    data = insert_canaries(TEXTS, canaries, context=context)
    ids = data.map(lambda row: {"input_ids": tokenizer(row["text"])["input_ids"]}, remove_columns="text")
    assert [one.whole for one in check_delivery(ids, canaries, tokenizer, context=context).canaries] == [1, 1, 1]
    assert remove_canaries(data, canaries, context=context)["text"][:] == TEXTS["text"][:]


@pytest.mark.slow
def test_a_million_rows_take_seconds() -> None:
    import time

    generator = np.random.default_rng(0)
    rows = Dataset.from_dict({"input_ids": generator.integers(0, 100, size=(1_000_000, 30)).tolist()})
    data = insert_canaries(rows.select(range(999_999)).flatten_indices(), CANARIES, tokenizer=TOKENIZER)
    began = time.perf_counter()
    assert counts(check_delivery(data, CANARIES, TOKENIZER)) == DELIVERED
    assert time.perf_counter() - began < 30
