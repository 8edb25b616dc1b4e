"""`hf-exposure scan`, and the use of its file by `measure` and `extract`: no secret is ever printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_runs import Done, one_line, run
from conftest import tiny_model
from transformers import ByT5Tokenizer

from hf_exposure import NaturalSecrets

pytest.importorskip("phonenumbers")
pytest.importorskip("detect_secrets")
pytest.importorskip("stdnum")

PLANTED, MAIL = "482913", "qzx@mail7.net"


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return [f"her PIN is {PLANTED}!", "his PIN is 100200!", f"mail {MAIL}!", "nothing at all"]


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory, rows: list[str]) -> Path:
    """A small model that has memorized the first and the third row."""
    folder = tmp_path_factory.mktemp("leaky")
    tokenizer = ByT5Tokenizer()
    model = tiny_model("gpt2", scale=0.1).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(80):
            for row in (rows[0], rows[2]):
                ids = torch.tensor([tokenizer(row, add_special_tokens=False)["input_ids"]])
                model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path, rows: list[str]) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in [*rows, rows[0]]))
    return path


def quiet(done: Done, *files: Path) -> None:
    said = done.out + done.err + "".join(file.read_text() for file in files)
    assert not any(secret in said for secret in (PLANTED, MAIL, "100200", "her PIN")), said


def test_scan_then_measure_then_extract(
    capsys: pytest.CaptureFixture[str], data: Path, leaky: Path, model_folder: Path, tmp_path: Path
) -> None:
    secrets, out = tmp_path / "secrets.json", tmp_path / "run"
    done = run(capsys, "scan", "--dataset", data, "--text-column", "text", "--out", secrets)
    assert done.status == 0 and "Secrets in 5 rows" in done.out, done
    assert secrets.stat().st_mode & 0o77 == 0
    quiet(done)
    found = NaturalSecrets.load(secrets)
    assert [(one.text, one.examples) for one in found] == [(PLANTED, 2), ("100200", 1), (MAIL, 1)]
    as_json = run(capsys, "scan", "--dataset", data, "--out", secrets, "--overwrite", "--json", "--kind", "number")
    assert json.loads(as_json.out)["kinds"] == {"number": {"distinct": 2, "occurrences": 3, "in_one_row": 1}}
    found.save(secrets)

    done = run(
        capsys, "measure", "--model", leaky, "--canaries", secrets, "--out", out, "--base-model", model_folder,
        "--references", 64, "--fail-above", 15,
    )  # fmt: skip
    assert done.status == 1 and "above the threshold of 15 bits" in done.err, done
    quiet(done, out / "secrets_report.json")
    values = json.loads((out / "secrets_report.json").read_text())
    by_id = {one["secret_id"]: one for one in values["secrets"]}
    planted, other, mail = (by_id[one.id] for one in found)
    assert planted["rank_high"] == 1 and planted["exposure_bits"] == pytest.approx(planted["log2_space_size"])
    assert mail["rank_high"] == 1 and other["exposure_bits"] < 12 and planted["base_exposure_bits"] < 15
    assert "2 of 3 natural secrets rank first" in done.out

    values = json.loads(
        run(capsys, "extract", "--model", leaky, "--canaries", secrets, "--max-expansions", 500, "--json").out
    )
    assert [one["place"] for one in values["secrets"]] == [1, None, 1]


def test_a_secret_that_cannot_be_measured_has_a_reason(
    capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path
) -> None:
    data, secrets = tmp_path / "data.txt", tmp_path / "secrets.json"
    data.write_text("PIN 771122\n" + "long words " * 8 + "PIN 482913\n")  # a context of 64 tokens
    assert run(capsys, "scan", "--dataset", data, "--out", secrets).status == 0
    done = run(
        capsys,
        "measure",
        "--model",
        model_folder,
        "--canaries",
        secrets,
        "--references",
        32,
        "--method",
        "sample",
        "--json",
    )
    values = json.loads(done.out)["secrets"]
    assert values[0]["exposure_bits"] is not None
    assert values[1]["exposure_bits"] is None and "cannot be measured" in values[1]["note"]
    quiet(done)
    done = run(capsys, "extract", "--model", model_folder, "--canaries", secrets, "--max-expansions", 5)
    assert done.status == 0 and "cannot be searched for" in done.out and "of 2 natural secrets" in done.out
    quiet(done)


def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], data: Path, model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "secrets.json"
    scan = ["scan", "--dataset", data, "--out", out]
    one_line(run(capsys, "scan", "--dataset", tmp_path / "no.jsonl", "--out", out), "--dataset")
    one_line(run(capsys, *scan, "--text-column", "body"), "--text-column", "body")
    one_line(run(capsys, *scan, "--kind", "cards"), "--kind", "card, ssn")
    one_line(run(capsys, *scan, "--region", "Narnia"), "--region")
    one_line(run(capsys, *scan, "--split", "test"), "--split", "train")
    assert run(capsys, *scan).status == 0
    one_line(run(capsys, *scan), "--out", "--overwrite")
    measure = ["measure", "--model", model_folder, "--canaries", out]
    one_line(run(capsys, *measure, "--prompt", "x"), "--prompt", "goes with canaries")
    one_line(run(capsys, *measure, "--method", "guess"), "method")
    values = json.loads(out.read_text())
    values["rows"] = 3
    out.write_text(json.dumps(values))
    one_line(run(capsys, *measure), "--canaries", "edited by hand")
