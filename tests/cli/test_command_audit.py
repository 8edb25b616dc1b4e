"""`hf-exposure audit`: all parts on one model and its data, and one verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import one_line, run
from conftest import tiny_model
from transformers import ByT5Tokenizer

from hf_exposure import CanaryTemplate, Digits, draw_canaries
from hf_exposure.records.audit import AuditPart, AuditReport, AuditState
from hf_exposure.report.audit import save_audit

TOKENIZER = ByT5Tokenizer()
PIN = "482913"


def texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdefgh "), 20)) for _ in range(count)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has memorized a few rows, its data, held-out records, canaries, and a model that has not."""
    folder = tmp_path_factory.mktemp("audit")
    canaries = draw_canaries(CanaryTemplate("key {key}", key=Digits(3)), {2: 1}, controls=4, seed=0)
    canaries.save(folder / "canaries.json")
    rows = [*texts(8, 1), f"her PIN is {PIN}", *[canaries.inserted[0].text] * 2]
    for name, kept in (("data", rows), ("held_out", texts(16, 2))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in kept))
    model = tiny_model("gpt2", scale=0.1)
    for name, steps in (("base", 0), ("model", 70)):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(steps):
            ids = [torch.tensor([*head, *TOKENIZER(row)["input_ids"]]) for row in rows for head in ([], [1])]
            labels = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
            model(input_ids=labels.clamp(min=0), labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    return folder


def config_of(folder: Path, world: Path, **changes: Any) -> Path:
    values = {
        "model": world / "model", "base_model": world / "base", "dataset": world / "data.jsonl",
        "held_out": world / "held_out.jsonl", "canaries": world / "canaries.json", "text_column": "text",
        "kind": ["number"], "samples": 12, "length": 24, "least_characters": 12, "references": 64,
        "out": folder / "audit", **changes,
    }  # fmt: skip
    path = folder / "audit.yaml"
    plain = {name: value if isinstance(value, (int, list)) else str(value) for name, value in values.items()}
    path.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in plain.items()))
    return path


def test_all_parts_of_a_leaky_model(capsys: pytest.CaptureFixture[str], world: Path, tmp_path: Path) -> None:
    done = run(capsys, "audit", "--config", config_of(tmp_path, world), "--fail-on-leak")
    assert done.status == 1, done
    assert done.out.startswith("The model reveals some of its training data")
    out = tmp_path / "audit"
    values = json.loads((out / "audit.json").read_text())
    states = {part["name"]: part["state"] for part in values["parts"]}
    assert values["verdict"] == "found"
    assert {states[name] for name in ("exposure", "secrets", "sampling")} == {"found"}, values["parts"]
    assert states["membership"] in ("found", "no verdict")  # pins and canaries are shorter than the held-out records
    for file in (
        "secrets.json",
        "samples.json",
        "secrets_report.json",
        "exposure/report.html",
        "membership/membership.html",
    ):
        assert (out / file).exists() and (out / file).stat().st_mode & 0o77 == 0, file
        assert f'href="{file}"' in (out / "audit.html").read_text(), file
    assert PIN not in done.out + (out / "audit.json").read_text() + (out / "audit.html").read_text()
    one_line(run(capsys, "audit", "--config", tmp_path / "audit.yaml"), "--out", "--overwrite")


def test_parts_without_what_they_need_are_not_run(
    capsys: pytest.CaptureFixture[str], model_folder: Path, world: Path, tmp_path: Path
) -> None:
    done = run(capsys, "audit", "--model", model_folder, "--out", tmp_path / "none", "--json")
    values = json.loads(done.out)
    assert done.status == 0 and values["verdict"] == "not run"
    assert {part["state"] for part in values["parts"]} == {"not run"}
    # The data do not contain the canaries: the run is invalid, whether or not a leak would fail it.
    done = run(
        capsys, "audit", "--model", model_folder, "--out", tmp_path / "invalid", "--dataset", world / "held_out.jsonl",
        "--kind", "number", "--canaries", world / "canaries.json", "--references", 16, "--samples", 0,
    )  # fmt: skip
    assert done.status == 1 and done.out.startswith("No verdict: a part of the audit is inconclusive (exposure)"), done
    typed = ["audit", "--model", model_folder, "--out", tmp_path / "x", "--held-out", "no.jsonl"]
    one_line(run(capsys, *typed), "--held-out")


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        (["found", "no verdict", "not run"], "found"),
        (["not found", "no verdict"], "no verdict"),
        (["not found", "not run"], "not found"),
        (["not run"], "not run"),
        ([], "not run"),
    ],
)
def test_the_verdict_is_that_of_the_worst_part(states: list[str], verdict: str) -> None:
    parts = tuple(AuditPart(name=f"part{n}", state=AuditState(one), summary="") for n, one in enumerate(states))
    scanned = AuditPart(name="scan", state=AuditState.FOUND, summary="")
    assert AuditReport(parts=(scanned, *parts), model="m").verdict == verdict


def test_the_page_rounds_its_figures(tmp_path: Path) -> None:
    figures = {"loss": 1 / 3, "zlib": 0.5, "matched": 12_345}
    part = AuditPart(name="membership", state=AuditState.NOT_FOUND, summary="", figures=figures)
    save_audit(AuditReport(parts=(part,), model="m"), tmp_path)
    page = (tmp_path / "audit.html").read_text()
    assert [f"<code>{shown}</code>" in page for shown in ("0.3333", "0.5", "12345")] == [True] * 3
    assert json.loads((tmp_path / "audit.json").read_text())["parts"][0]["figures"]["loss"] == 1 / 3
