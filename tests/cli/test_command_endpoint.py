"""`hf-exposure measure` and `extract` with `--endpoint`: a model on a server, identified by its name there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import one_line, run
from conftest import tiny_model
from endpoint_server import CompletionsServer, serving
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, draw_canaries, extract, measure_exposure

MODEL, TOKENIZER = tiny_model("gpt2"), ByT5Tokenizer()
TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(2))
CANARIES = draw_canaries(TEMPLATE, {1: 2}, controls=2, seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoint")
    TOKENIZER.save_pretrained(folder / "tokenizer")
    CANARIES.save(folder / "canaries.json")
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[CompletionsServer]:
    with serving(MODEL, TOKENIZER) as one:
        yield one


def test_measure(server: CompletionsServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--endpoint", server.url, "--model", "tiny", "--tokenizer", folder / "tokenizer")
    done = run(capsys, "measure", *where, "--canaries", folder / "canaries.json", "--json")
    assert done.status == 0, done.err
    report = json.loads(done.out)
    assert report["model"]["name"] == f"tiny at {server.url}"
    here = [estimate.exposure_bits for estimate in measure_exposure(MODEL, TOKENIZER, CANARIES).estimates]
    assert [one["exposure_bits"] for one in report["estimates"]] == pytest.approx(here, abs=1e-4)


def test_extract(server: CompletionsServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--endpoint", server.url, "--model", "tiny", "--tokenizer", folder / "tokenizer")
    done = run(capsys, "extract", *where, "--canaries", folder / "canaries.json", "--top-k", 3, "--json")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["certified"] and found["model"] == f"tiny at {server.url}"
    here = extract(MODEL, TOKENIZER, TEMPLATE, top_k=3).candidates
    assert [one["text"] for one in found["candidates"]] == [one.text for one in here]


def test_what_is_refused(server: CompletionsServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = ("--model", "tiny", "--canaries", folder / "canaries.json")
    named = (*served, "--tokenizer", folder / "tokenizer")
    one_line(run(capsys, "measure", *served, "--endpoint", server.url), "--tokenizer", "together with --endpoint")
    one_line(run(capsys, "measure", *named, "--key-variable", "KEY"), "--key-variable", "goes with --endpoint")
    one_line(run(capsys, "measure", *named, "--endpoint", "localhost"), "--endpoint", "must begin with http")
    one_line(run(capsys, "measure", *named, "--endpoint", server.url, "--device", "cpu"), "--device")
    one_line(
        run(capsys, "measure", *named, "--endpoint", "http://example.com/v1", "--key-variable", "KEY"), "https://"
    )
    one_line(run(capsys, "measure", *named, "--endpoint", server.url, "--key-variable", "NO_SUCH"), "export NO_SUCH=")
    one_line(run(capsys, "measure", "--model", "big", *named[2:], "--endpoint", server.url), "It serves ['tiny']")
    one_line(run(capsys, "extract", *named, "--endpoint", server.url, "--discoverable"), "--endpoint", "logits")
