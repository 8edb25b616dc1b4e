"""Canaries are scored in the context in which they were inserted, regardless of how it is specified."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run
from datasets import Dataset
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from hf_exposure import CanaryContext, CanarySet, CanaryTemplate, Digits, extract, measure_exposure

QUICK = ("--references", "64", "--method", "sample", "--json")
PROMPT = "Q: my number? A: "


def test_the_record_of_the_insertion_says_where(
    tmp_path: Path,
    model_folder: Path,
    canary_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Dataset.from_dict({"prompt": ["Q: "] * 20, "completion": ["A."] * 20}).save_to_disk(tmp_path / "data")
    inserting = ("--dataset", tmp_path / "data", "--out", tmp_path / "new", "--prompt", PROMPT)
    assert run(capsys, "insert", "--canaries", canary_file, *inserting).status == 0
    measuring = ("measure", "--model", model_folder, "--canaries", canary_file, *QUICK)

    def bits(*typed: object) -> list[float]:
        done = run(capsys, *measuring, *typed)
        assert done.status == 0, done.err
        return [row["log_perplexity_bits"] for row in json.loads(done.out)["estimates"]]

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    canaries = CanarySet.load(canary_file)
    quick = {"references": 64, "method": "sample"}
    direct = measure_exposure(model, ByT5Tokenizer(), canaries, context=CanaryContext(prompt=PROMPT), **quick)
    expected = [estimate.log_perplexity_bits for estimate in direct.estimates]
    assert bits("--dataset", tmp_path / "new") == bits("--prompt", PROMPT) == expected
    assert bits("--dataset", tmp_path / "new", "--prompt", PROMPT) == expected
    assert bits() != expected
    other = run(capsys, *measuring, "--dataset", tmp_path / "new", "--prompt", "Q: ")
    one_line(other, "--prompt, --messages, --source: must be what the canaries were inserted with", "Leave them out")


def test_extract_searches_after_the_prompt(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = ("--template", "pin {pin}.", "--space", "pin=digits:2", "--prompt", PROMPT, "--top-k", 3, "--json")
    found = json.loads(run(capsys, "extract", "--model", model_folder, *typed).out)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    template = CanaryTemplate("pin {pin}.", pin=Digits(2))
    direct = extract(model, ByT5Tokenizer(), template, top_k=3, context=CanaryContext(prompt=PROMPT))
    costs = [candidate["log_perplexity_bits"] for candidate in found["candidates"]]
    assert costs == [candidate.log_perplexity_bits for candidate in direct.candidates]
    alone = extract(model, ByT5Tokenizer(), template, top_k=3)
    assert costs != [candidate.log_perplexity_bits for candidate in alone.candidates]
