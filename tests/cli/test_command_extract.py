"""`hf-exposure extract`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run
from transformers import AutoModelForCausalLM, ByT5Tokenizer

from hf_exposure import CanarySet, CanaryTemplate, Digits, log_perplexity

PIN = ("--template", "pin {pin}.", "--space", "pin=digits:2")


def test_the_likeliest_are_those_of_brute_force(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, "extract", "--model", model_folder, *PIN, "--top-k", 3, "--json")
    values = json.loads(done.out)
    template = CanaryTemplate("pin {pin}.", pin=Digits(2))
    texts = [template.text_at(index) for index in range(100)]
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    costs = log_perplexity(model, ByT5Tokenizer(), texts)
    best = sorted(zip(costs.tolist(), texts, strict=True))[:3]
    assert [candidate["text"] for candidate in values["candidates"]] == [text for _, text in best]
    assert values["certified"] is True
    shown = run(capsys, "extract", "--model", model_folder, *PIN, "--top-k", 3).out
    assert "The 3 likeliest secrets (certified: no other secret of the template is likelier" in shown
    assert all(text in shown for _, text in best)


def test_a_canary_file_brings_the_template_and_marks(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = CanaryTemplate("pin {pin}.", pin=Digits(2))
    found = json.loads(run(capsys, "extract", "--model", model_folder, *PIN, "--top-k", 100, "--json").out)
    texts = [candidate["text"] for candidate in found["candidates"]]
    CanarySet.from_secrets(template, texts[:1], repetitions=7).save(tmp_path / "c.json")
    arguments = ("extract", "--model", model_folder, "--canaries", tmp_path / "c.json", "--top-k", 2)
    lines = run(capsys, *arguments).out.splitlines()
    assert lines[1].endswith(f"{texts[0]}  <- inserted 7 times")
    assert lines[2].endswith(texts[1])
    assert run(capsys, *arguments, *PIN).status == 0
    other = run(capsys, *arguments, "--template", "pin {pin}.", "--space", "pin=digits:3")
    one_line(other, "--canaries: must be of the template 'pin {pin}.' and its spaces", "Leave --template and --space")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((), "--template: must be given, or --canaries"),
        (("--template", "pin {pin}.", "--space", "pin=pins:2"), "--space pin: must be a kind and its size"),
        ((*PIN, "--top-k", "0"), "top_k: must be a whole number of at least 1, got 0"),
        ((*PIN, "--model", "./nowhere"), "--model: must be a folder that exists"),
    ],
    ids=["nothing", "space", "top", "model"],
)
def test_bad_input(
    typed: tuple[str, ...], message: str, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_line(run(capsys, "extract", "--model", model_folder, *typed), message)
