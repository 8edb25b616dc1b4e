"""A mistyped path is reported at once, without the network and before heavy libraries are loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runs import one_line, run

from hf_exposure.loading import looks_local

HEAVY = ("torch", "scipy", "transformers", "datasets", "matplotlib", "huggingface_hub")


@pytest.mark.parametrize(
    "typed",
    [
        ["--help"],
        ["report", "--help"],
        ["report", "nowhere", "--out", "page"],
        ["report", "nowhere", "nowhere2", "--out", "page"],
        ["push", "nowhere", "--repo-id", "me/model"],
        ["measure", "--model", "./nope", "--canaries", "CANARIES"],
        ["measure", "--model", "empty", "--canaries", "CANARIES"],
        ["measure", "--model", "gpt2", "--base-model", "runs/a/b", "--canaries", "CANARIES"],
        ["measure", "--model", "gpt2", "--tokenizer", "tok/", "--canaries", "CANARIES"],
        ["extract", "--model", "checkpoint-500", "--canaries", "CANARIES"],
        ["extract", "--model", "model.safetensors", "--canaries", "CANARIES", "--discoverable"],
        ["insert", "--dataset", "nothing.jsonl", "--canaries", "CANARIES", "--out", "out"],
        ["insert", "--dataset", "empty", "--canaries", "CANARIES", "--out", "out"],
        ["insert", "--dataset", "me/data", "--tokenizer", "../tok", "--canaries", "CANARIES", "--out", "out"],
        ["demo", "--dataset", "nothing.csv"],
        ["demo", "--text-file", "nothing"],
        ["demo", "--model", "~/model"],
        ["demo", "--tokenizer", "a/b/c"],
    ],
    ids=" ".join,
)
def test_it_is_quick_and_loads_nothing_heavy(typed: list[str], canary_file: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [str(canary_file) if word == "CANARIES" else word for word in typed]
    code = (
        f"import sys, json, time; sys.argv = ['hf-exposure', *{arguments!r}]\n"
        "from hf_exposure.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stopped:\n    status = stopped.code\nelse:\n    status = 0\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(json.dumps([status, loaded, time.process_time()]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    status, loaded, seconds = json.loads(done.stdout.splitlines()[-1])
    assert loaded == []
    assert seconds < 2  # processor time, since other work may share the machine
    assert status == (0 if "--help" in typed else 2)
    assert done.stderr.count("\n") == status // 2, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_what_looks_like_a_path() -> None:
    local = (
        "", ".", "./gpt2", "../gpt2", "/models/gpt2", "~/gpt2", "runs/a/b", "gpt2/", "me/model/", "a//b", "a\\b",
        "data.jsonl", "DATA.CSV", "me/data.parquet", "model.safetensors", "checkpoint-500", "my model", "a*b", "a:b",
        "x" * 97, "gpt2.", "gpt2-", "-gpt2", "me/-model", "\u00e9", "https://huggingface.co/gpt2",
    )  # fmt: skip
    on_the_hub = (
        "gpt2", "openai-community/gpt2", "meta-llama/Llama-3.1-8B", "me/model_v1.5", "google/flan-t5-xxl", "wikitext",
        "checkpoint", "checkpoints-5", "me/checkpoint-500", "a.b.c", "tiny-random/phi-4", "0xsojalsec/x", "me/_model",
        "stas/tiny-wmt19-en-de", "HuggingFaceTB/SmolLM2-135M", "json-schema", "csv",
    )  # fmt: skip
    assert [name for name in local if not looks_local(name)] == []
    assert [name for name in on_the_hub if looks_local(name)] == []


def test_other_names_are_one_line(
    canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    started = time.process_time()
    done = run(capsys, "extract", "--model", "nope", "--canaries", canary_file)
    one_line(done, "--model: must be a folder or Hub id")
    typed = ("insert", "--dataset", "nope", "--canaries", canary_file, "--out", tmp_path / "out")
    one_line(run(capsys, *typed), "--dataset: must be a data set that loads")
    assert time.process_time() - started < 10


def test_a_file_without_rows_is_refused_before_it_crashes_the_process(
    canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """pyarrow crashes on a file that begins with null."""
    for content in ("null", "null\n{}", "", "5", '"x"', "\ufeff null"):
        (tmp_path / "rows.jsonl").write_text(content)
        typed = ("insert", "--dataset", tmp_path / "rows.jsonl", "--canaries", canary_file, "--out", tmp_path / "out")
        one_line(run(capsys, *typed), "--dataset: must begin with a row")


@pytest.mark.parametrize(
    "content", ["5", "[]", "{}", '{"architectures": 5}', '{"model_type": "gpt2", "n_embd": "x"}', "[["]
)
def test_a_model_with_other_settings(
    content: str, model_folder: Path, canary_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in model_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(content)
    done = run(capsys, "extract", "--model", tmp_path, "--canaries", canary_file)
    one_line(done, "--model: must be a folder or Hub id")


@pytest.mark.slow
def test_a_network_that_does_not_answer_is_one_line(canary_file: Path) -> None:
    code = "from hf_exposure.cli import main; main()"
    typed = [sys.executable, "-c", code, "extract", "--model", "nope", "--canaries", str(canary_file)]
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    environment.pop("HF_HUB_VERBOSITY", None)
    done = subprocess.run(typed, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("hf-exposure: --model: must be"), done.stderr
