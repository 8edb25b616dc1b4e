"""Sampling finds planted texts and the number of rows that contain them; matches equal those of a simple search."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import one_line, run
from conftest import tiny_model
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure import CanarySet, CanaryTemplate, Digits, extract_by_sampling, scan
from hf_exposure.data.verbatim import longest_matches
from hf_exposure.errors import InputError

TOKENIZER = ByT5Tokenizer()
ONCE, TWICE = "the vault PIN is 482913 now", "blue cats sleep by day 771"
DATA = [f"x {ONCE} y", f"one {TWICE}", f"{TWICE} two", "nothing of that kind"]


def by_hand(text: str, rows: list[str], least: int) -> tuple[int, int]:
    """Length of the longest part of a text that occurs in a row, and the number of rows that contain it."""
    parts = {
        text[start:stop]
        for start in range(len(text))
        for stop in range(start + least, len(text) + 1)
        if any(text[start:stop] in row for row in rows)
    }
    longest = max(map(len, parts), default=0)
    counts = {sum(part in row for row in rows) for part in parts if len(part) == longest}
    return longest, max(counts, default=0) if len(counts) <= 1 else -1


def test_matches_are_those_of_a_plain_search() -> None:
    rng = random.Random(0)
    compared = 0
    for _ in range(60):
        texts = ["".join(rng.choice("abc\u00e9\U0001f600") for _ in range(rng.randint(0, 30))) for _ in range(5)]
        rows = ["".join(rng.choice("abc\u00e9\U0001f600") for _ in range(rng.randint(0, 80))) for _ in range(6)]
        for least in (1, 3, 5):
            matches = longest_matches(texts, lambda rows=rows: rows, least_characters=least)  # type: ignore[misc]
            for text, found in zip(texts, matches, strict=True):
                longest, count = by_hand(text, rows, least)
                assert found.length == longest
                if count >= 0:  # several longest parts may occur in different numbers of rows
                    assert found.rows == count
                    compared += 1
    assert compared > 500


def test_a_match_may_continue_where_a_shorter_one_began() -> None:
    [found] = longest_matches(["aaaaaaaaab"], lambda: ["aaaa aaaaaab", "aaaaab"], least_characters=4)
    assert (found.start, found.stop, found.rows) == (3, 10, 1)


@pytest.fixture(scope="module")
def overfitted() -> nn.Module:
    model = tiny_model("gpt2", scale=0.1).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(70):
            for text in (ONCE, TWICE):
                ids = torch.tensor([[1, *TOKENIZER(text)["input_ids"]]])  # the end token before and after it
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def test_planted_texts_are_found_with_their_number_of_rows(overfitted: nn.Module) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    arguments: dict[str, Any] = {"samples": 30, "length": 40, "least_characters": 20, "seed": 3}
    secrets = CanarySet.from_secrets(CanaryTemplate("PIN is {pin}", pin=Digits(6)), ["PIN is 482913", "PIN is 000000"])
    found = extract_by_sampling(overfitted, TOKENIZER, DATA, secrets=secrets, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    by_text = {one.text: one for one in found.texts}
    assert {ONCE, TWICE} <= set(by_text)
    assert (by_text[ONCE].examples, by_text[TWICE].examples) == (1, 2)
    assert by_text[ONCE].match == ONCE and sum(one.times for one in found.texts) <= 30
    assert found.rows == 4 and found.by_examples[1] >= 1 and found.by_examples[2] >= 1
    assert found.secrets_found == (secrets.inserted[0].id,)
    assert found.precision_at(2) == 1.0 and len(found.matched) >= 2
    scores = [one.score for one in found.texts]
    assert scores == sorted(scores, reverse=True)
    again = extract_by_sampling(overfitted, TOKENIZER, DATA, secrets=secrets, **arguments)
    assert again.texts == found.texts
    # In data that the model never saw nothing matches. Texts are returned only on request.
    other = extract_by_sampling(overfitted, TOKENIZER, ["quite other data that is as long as that"], **arguments)
    assert not other.matched and other.precision_at(10) == 0.0
    assert ONCE not in json.dumps(found.to_dict()) and ONCE in json.dumps(found.to_dict(include_texts=True))
    assert "482913" not in repr(found)
    prompted = extract_by_sampling(
        overfitted, TOKENIZER, DATA, prompts=["the vault"], base_model=tiny_model("gpt2", scale=0.1),
        rank_by="base_calibrated", **arguments,
    )  # fmt: skip
    assert all(one.text.startswith("the vault") for one in prompted.texts)
    assert any("PIN is 482913" in one.text for one in prompted.texts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rank_by": "luck"}, "rank_by: must be one of"),
        ({"rank_by": "error_zone"}, "Pass base_model"),
        ({"samples": 0}, "samples"),
        ({"length": 0}, "length"),
        ({"least_characters": 0}, "least_characters"),
        ({"prompts": ["x" * 128]}, "leave room"),
        ({"dataset": iter(["a"])}, "read twice"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"dataset": DATA, "samples": 2, "length": 4, **arguments}
    with pytest.raises(InputError, match=said):
        extract_by_sampling(tiny_model("gpt2"), TOKENIZER, **given)


def test_the_command_prints_no_text(overfitted: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    model, data, out = tmp_path / "model", tmp_path / "data.jsonl", tmp_path / "found.json"
    overfitted.save_pretrained(model)
    TOKENIZER.save_pretrained(model)
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in DATA))
    scan(DATA, kinds=["number"]).save(tmp_path / "secrets.json")
    typed = ["extract", "--model", model, "--by-sampling", "--samples", 30, "--length", 40, "--least-characters", 20]
    done = run(capsys, *typed, "--dataset", data, "--out", out, "--canaries", tmp_path / "secrets.json")
    assert done.status == 0 and "of the 4 rows" in done.out and "1 of 1 known secrets" in done.out, done
    assert not any(text in done.out + done.err for text in (ONCE, TWICE, "482913"))
    assert out.stat().st_mode & 0o77 == 0 and ONCE in out.read_text()
    one_line(run(capsys, *typed), "--by-sampling", "training data")
    one_line(run(capsys, *typed, "--dataset", data, "--base-model", "without_adapter"), "--base-model")
