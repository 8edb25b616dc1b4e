"""Chats, pairs, sources and token ids: a canary's row equals the row that its trainer would make."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from chat_tokenizers import CHATML, WITH_BOS, chat_tokenizer
from conftest import character_tokenizer
from datasets import Dataset, disable_progress_bars

from hf_exposure import (
    CanaryContext,
    CanaryInserter,
    CanaryTemplate,
    Digits,
    draw_canaries,
    insert_canaries,
    remove_canaries,
)
from hf_exposure.errors import InputError

disable_progress_bars()
CANARIES = draw_canaries(CanaryTemplate("It is {pin}", pin=Digits(6)), {1: 2, 4: 1}, controls=2, seed=0)
TEXTS = sorted(canary.text for canary in CANARIES.inserted for _ in range(canary.repetitions))
CHAT = CanaryContext(prompt=[{"role": "user", "content": "My PIN?"}])
SAID = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def new_rows(dataset: Dataset, **how: Any) -> list[dict[str, Any]]:
    """The rows that insertion adds; checks that removal removes exactly those."""
    out = insert_canaries(dataset, CANARIES, **how)
    assert out.features == dataset.features and len(out) == len(dataset) + 6
    how.pop("source_column", None)
    assert remove_canaries(out, CANARIES, **how).to_list() == dataset.to_list()
    rest = dataset.to_list()
    added = []
    for row in out.to_list():
        if rest and row == rest[0]:
            rest.pop(0)
        else:
            added.append(row)
    assert not rest
    return added


def test_chats() -> None:
    rows = new_rows(Dataset.from_dict({"messages": [SAID] * 20, "n": list(range(20))}), context=CHAT)
    assert [row["messages"][0] for row in rows] == [{"role": "user", "content": "My PIN?"}] * 6
    assert sorted(row["messages"][1]["content"] for row in rows) == TEXTS
    assert {row["messages"][1]["role"] for row in rows} == {"assistant"}


def test_messages_with_more_keys() -> None:
    named = [{**message, "name": None} for message in SAID]
    named[0]["name"] = "Ada"
    rows = new_rows(Dataset.from_dict({"messages": [named] * 20}), context=CHAT)
    assert sorted(row["messages"][1]["content"] for row in rows) == TEXTS


@pytest.mark.parametrize("chat", [True, False])
def test_prompts_and_completions(chat: bool) -> None:
    prompt, completion = (SAID[:1], SAID[1:]) if chat else ("hello", "good day")
    context = CHAT if chat else CanaryContext(prompt="My PIN? ")
    data = Dataset.from_dict({"prompt": [prompt] * 20, "completion": [completion] * 20})
    rows = new_rows(data, context=context)
    assert all(row["prompt"] == (CHAT.prompt_messages() if chat else "My PIN? ") for row in rows)
    completions = [row["completion"][0]["content"] if chat else row["completion"] for row in rows]
    assert sorted(completions) == TEXTS


def test_a_prompt_before_a_text() -> None:
    rows = new_rows(Dataset.from_dict({"text": ["row"] * 20}), context=CanaryContext(prompt="Q: pin? A: "))
    assert sorted(row["text"] for row in rows) == ["Q: pin? A: " + text for text in TEXTS]


def test_sources_and_targets() -> None:
    data = Dataset.from_dict({"source": ["bonjour"] * 20, "target": ["hello"] * 20})
    rows = new_rows(data, text_column="target", source="C'est {pin}")
    assert sorted(row["target"] for row in rows) == TEXTS
    assert all(row["source"] == row["target"].replace("It is", "C'est") for row in rows)
    other = data.rename_column("source", "fr")
    rows = new_rows(other, text_column="target", source="le code", source_column="fr")
    assert {row["fr"] for row in rows} == {"le code"}


def tokenized(tokenizer: Any, *extra: str) -> Dataset:
    rows = [dict(tokenizer(f"row {'x' * row}")) for row in range(20)]
    columns = {"labels": "input_ids", "token_type_ids": "attention_mask"}
    return Dataset.from_list([{**row, **{name: row[columns[name]] for name in extra}} for row in rows])


@pytest.mark.parametrize("extra", [(), ("labels",), ("labels", "token_type_ids")], ids=len)
def test_token_ids_are_the_tokenizers_own(extra: tuple[str, ...]) -> None:
    tokenizer = character_tokenizer("row xItis0123456789", special=True)
    dataset = tokenized(tokenizer, *extra).select_columns(["input_ids", "attention_mask", *extra])
    rows = new_rows(dataset, tokenizer=tokenizer)
    assert sorted(tokenizer.decode(row["input_ids"][1:-1]).replace(" ", "") for row in rows) == [
        text.replace(" ", "") for text in TEXTS
    ]
    for row in rows:
        assert (row["input_ids"][0], row["input_ids"][-1]) == (0, 1)  # <s> and </s>, as the tokenizer puts them
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert row.get("labels", row["input_ids"]) == row["input_ids"]
        assert not any(row.get("token_type_ids", ()))


@pytest.mark.parametrize("template", [CHATML, WITH_BOS], ids=["plain", "bos"])
def test_token_ids_of_a_chat_are_the_chat_templates_own(template: str) -> None:
    tokenizer = chat_tokenizer(template, adds_bos=True)

    def ids(messages: list[dict[str, str]], **more: Any) -> list[int]:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **more)["input_ids"]

    dataset = Dataset.from_list(
        [{"input_ids": (one := ids(SAID)) + [9] * n, "labels": one + [9] * n} for n in range(20)]
    )
    rows = new_rows(dataset, tokenizer=tokenizer, context=CHAT)
    assert sorted(map(str, (row["input_ids"] for row in rows))) == sorted(
        str(ids(CHAT.messages(text))) for text in TEXTS
    )
    asked = len(ids(CHAT.prompt_messages(), add_generation_prompt=True))
    for row in rows:
        assert row["labels"] == [-100] * asked + row["input_ids"][asked:]


def test_blocks_keep_their_length() -> None:
    tokenizer = chat_tokenizer()
    blocks = Dataset.from_dict(
        {"input_ids": [[9] * 16] * 20, "labels": [[9] * 16] * 20, "attention_mask": [[1] * 16] * 20}
    )
    for row in new_rows(blocks, tokenizer=tokenizer):
        assert (
            row["input_ids"]
            == tokenizer(next(t for t in TEXTS if tokenizer.decode(row["input_ids"][:12]) == t))["input_ids"] + [0] * 4
        )
        assert row["labels"] == row["input_ids"][:12] + [-100] * 4 and row["attention_mask"] == [1] * 12 + [0] * 4


def test_pairs_of_token_ids() -> None:
    tokenizer = chat_tokenizer()
    data = Dataset.from_list([{"input_ids": [9] * (n + 1), "labels": [8] * (2 * n + 1)} for n in range(20)])
    rows = new_rows(data, tokenizer=tokenizer, source="C'est {pin}")
    assert sorted(tokenizer.decode(row["labels"]) for row in rows) == TEXTS
    for row in rows:
        assert tokenizer.decode(row["input_ids"]) == tokenizer.decode(row["labels"]).replace("It is", "C'est")


def test_streams_of_token_ids() -> None:
    tokenizer = chat_tokenizer()
    blocks = Dataset.from_dict({"input_ids": [[9] * 16] * 20}).to_iterable_dataset(num_shards=2)
    out = insert_canaries(blocks, CANARIES, tokenizer=tokenizer, num_rows=20)
    rows = [row["input_ids"] for row in out]
    assert len(rows) == 26 and {len(ids) for ids in rows} == {16}
    assert [row["input_ids"] for row in remove_canaries(out, CANARIES, tokenizer=tokenizer)] == [[9] * 16] * 20


@pytest.mark.parametrize("kind", ["dataset", "stream"])
def test_each_canary_is_tokenized_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, seen = chat_tokenizer(), []
    encode = type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, text, **how: seen.append(text) or encode(self, text, **how)
    )
    data = Dataset.from_dict({"input_ids": [[9] * 16] * 20})
    out = insert_canaries(
        data if kind == "dataset" else data.to_iterable_dataset(), CANARIES, tokenizer=tokenizer, num_rows=20
    )
    assert len(list(out)) == 26
    assert sorted(seen) == sorted(canary.text for canary in CANARIES.inserted)


@pytest.mark.parametrize("kind", ["dataset", "stream", "columns"])
@pytest.mark.parametrize("length", [None, 16])
def test_a_length_counts_the_tokens_of_its_own_row(kind: str, length: int | None) -> None:
    tokenizer = chat_tokenizer()
    ids = [[9] * (length or row + 1) for row in range(20)]
    data = Dataset.from_dict({"input_ids": ids, "length": [len(one) for one in ids]})
    if kind == "columns":
        inserter = CanaryInserter(CANARIES, 20, tokenizer=tokenizer, row_length=length)
        out: Any = data.map(inserter, batched=True, with_indices=True, batch_size=7)
    else:
        chosen = data if kind == "dataset" else data.to_iterable_dataset(num_shards=2)
        out = insert_canaries(chosen, CANARIES, tokenizer=tokenizer, num_rows=20)
    rows = list(out)
    assert len(rows) == 26 and all(row["length"] == len(row["input_ids"]) for row in rows)


def test_a_length_of_something_else_is_copied() -> None:
    data = Dataset.from_dict({"input_ids": [[9] * (row + 1) for row in range(20)], "length": ["long"] * 20})
    assert {row["length"] for row in new_rows(data, tokenizer=chat_tokenizer())} == {"long"}


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_values_for_each_token_are_refused(stream: bool) -> None:
    tokenizer = chat_tokenizer()
    ids = [[9] * (row + 1) for row in range(20)]
    columns = {"input_ids": ids, "tags": [[1, 2]] * 20, "loss_mask": [[1] * len(one) for one in ids]}
    data = Dataset.from_dict(columns)
    chosen = data.to_iterable_dataset() if stream else data
    with pytest.raises(InputError) as caught:
        insert_canaries(chosen, CANARIES, tokenizer=tokenizer, num_rows=20)
    assert "dataset: has one value per token (input_ids)" in str(caught.value)
    assert "got 'loss_mask'. Drop the column ('loss_mask'), or insert canaries before tokenizing." in str(caught.value)
    rows = new_rows(data.remove_columns("loss_mask"), tokenizer=tokenizer)
    assert all(row["tags"] == [1, 2] for row in rows)


def test_a_text_next_to_a_prompt_and_a_completion_is_the_canarys() -> None:
    data = Dataset.from_dict({name: ["some words"] * 20 for name in ("text", "prompt", "completion")})
    with pytest.warns(
        UserWarning, match="canaries are inserted into the column 'text' only; 'prompt' and 'completion'"
    ):
        insert_canaries(data, CANARIES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        insert_canaries(data.remove_columns("text"), CANARIES)
        insert_canaries(data.remove_columns("prompt"), CANARIES)


TOKENS = {"input_ids": [[9] * 4, [9] * 5] * 10}


@pytest.mark.parametrize(
    ("columns", "how", "message"),
    [
        (TOKENS, {}, "It is tokenized already: pass tokenizer=, or insert before tokenizing."),
        ({"text": ["a"] * 20}, {"tokenizer": True}, "tokenizer: must be a Hugging Face tokenizer, got 'bool'"),
        ({"messages": [SAID] * 20}, {}, "It holds chats: pass context=CanaryContext(prompt="),
        ({"messages": [SAID] * 20}, {"text_column": "messages"}, "text_column: must be a column of strings: messages"),
        ({"text": ["a"] * 20}, {"context": CHAT}, "context: with messages goes with columns 'messages', or 'prompt'"),
        ({"text": ["a"] * 20}, {"context": "Q: "}, "context: must be a CanaryContext, got 'str'"),
        ({"text": ["a"] * 20}, {"source": "x"}, "source_column: must be a column of the dataset (text), got 'source'"),
        (
            {"text": ["a"] * 20},
            {"source": "x", "context": CHAT},
            "context: must not be given together with source",
        ),
        ({"text": ["a"] * 20}, {"source": "{oops}"}, "source: may have only the template's holes, plain: pin"),
    ],
    ids=["tokens", "tokenizer", "messages", "named", "no-chat", "context", "source", "both", "hole"],
)
def test_a_dataset_of_another_kind_is_refused(columns: dict[str, Any], how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        insert_canaries(Dataset.from_dict(columns), CANARIES, **how)
    assert message in str(caught.value)


def test_a_canary_longer_than_the_blocks_is_refused() -> None:
    blocks = Dataset.from_dict({"input_ids": [[9] * 8] * 20})
    with pytest.raises(InputError) as caught:
        insert_canaries(blocks, CANARIES, tokenizer=chat_tokenizer())
    received = f"canary {CANARIES.inserted[0].id}. It takes 12: use a shorter template"
    assert f"must fit the dataset's rows, which all have 8 tokens, got {received}" in str(caught.value)
    with pytest.raises(InputError, match="tokenizer: goes with a dataset that is already tokenized"):
        insert_canaries(Dataset.from_dict({"text": ["a"] * 20}), CANARIES, tokenizer=chat_tokenizer())


def test_rows_with_the_canaries_source_are_no_canaries() -> None:
    """All canaries share one source: a canary's row is identified by its labels, not by the encoder's input."""
    tokenizer = chat_tokenizer()
    source = tokenizer("Say it")["input_ids"]
    data = Dataset.from_list([{"input_ids": source, "labels": [8] * (n + 1)} for n in range(20)])
    out = insert_canaries(data, CANARIES, tokenizer=tokenizer, source="Say it")
    assert len(out) == 26 and all(row["input_ids"] == source for row in out)
    kept = remove_canaries(out, CANARIES, tokenizer=tokenizer, source="Say it")
    assert kept.to_list() == data.to_list()
