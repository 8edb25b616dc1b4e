"""`hf-exposure extract`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
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


def test_a_canary_file_provides_the_template_and_marks(
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


def told(folder: Path) -> Path:
    """A model that generates one pin with certainty: each next character of "pin 42." has probability 1."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    state = model.state_dict()
    ids = ByT5Tokenizer()("pin 42.")["input_ids"]
    with torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
        # Each token has its own direction, from which the head reads the next token; nothing else is computed.
        tokens = sorted(set(ids))
        for place, token in enumerate(tokens):
            state["transformer.wte.weight"][token, place] = 1.0
        state["transformer.ln_f.weight"].fill_(50.0)
        head = torch.zeros_like(state["transformer.wte.weight"])
        for one, following in zip(ids, ids[1:], strict=False):
            head[following, tokens.index(one)] = 1.0
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder / "told")
    ByT5Tokenizer().save_pretrained(folder / "told")
    return folder / "told"


def test_an_attacker_is_told_what_the_model_generates(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = CanaryTemplate("pin {pin}.", pin=Digits(2))
    canaries = CanarySet.from_secrets(template, ["pin 42.", "pin 17."], repetitions=[9, 1])
    canaries.save(tmp_path / "c.json")
    folder = tmp_path / "told"
    AutoModelForCausalLM.from_pretrained(model_folder).save_pretrained(folder)
    arguments = ("extract", "--model", told(folder), "--canaries", tmp_path / "c.json", "--discoverable")
    done = run(capsys, *arguments, "--samples", 8, "--json")
    assert done.status == 0, done.err
    sure, never = json.loads(done.out)["canaries"]
    assert (sure["repetitions"], sure["is_greedy"], sure["samples_needed"], sure["near_samples"]) == (9, True, 1, 8)
    assert sure["bits"] < 0.1 and sure["probability_within_samples"] > 0.99
    assert (never["is_greedy"], never["greedy_edits"], never["near_samples"]) == (False, 2, 0)
    assert never["bits"] > 20
    shown = run(capsys, *arguments, "--samples", 8).out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "Asked with 'pin' (bits, tokens to type and samples are medians):"
    typed = never["argmax_known_tokens"]
    assert sure["argmax_known_tokens"] == 0 < typed
    told_all = " 1 of 1 0 1 of 1 1 of 1 1"
    assert any(line.startswith("inserted 9 times 1 0.") and line.endswith(told_all) for line in lines)
    assert any(line.startswith("inserted once 1 ") and f" 0 of 1 {typed} 0 of 1 0 of 1 " in line for line in lines)
    # It names no canary, so a reader does not see the secrets.
    assert "pin 42." not in shown and "pin 17." not in shown


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (PIN, "--discoverable: asks for the canaries of a file, so it needs --canaries"),
        (("--canaries", "{file}", "--prompt", "a"), "--discoverable: asks with the template's fixed beginning alone"),
        (("--canaries", "{file}", "--probability", "1"), "--probability: must lie between 0 and 1"),
        (("--canaries", "{file}", "--samples", "-1"), "samples: must be a whole number of at least 0"),
        (("--canaries", "{file}", "--temperature", "-1"), "temperature: "),
    ],
    ids=["template", "prompt", "probability", "samples", "temperature"],
)
def test_an_attacker_asks_about_known_texts(
    typed: tuple[str, ...], message: str, model_folder: Path, canary_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = tuple(str(canary_file) if part == "{file}" else part for part in typed)
    one_line(run(capsys, "extract", "--model", model_folder, "--discoverable", *typed), message)
