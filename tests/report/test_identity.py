"""What identifies a report: its facts, its outcome, and one hash of its files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import torch
from report_samples import estimate, mixed, report
from safetensors.torch import load_file, save_file
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.records import Delivery, ExposureReport, Outcome, RunFacts
from hf_exposure.records.sums import verify_files
from hf_exposure.runtime.weights_hash import weights_sha256

WHOLE = Delivery(inserted=4, found=4, trained=4)
MISSING = Delivery(inserted=4, found=4, trained=3)


@pytest.mark.parametrize(
    ("bits", "threshold", "outcome"),
    [
        ([3.0, 5.0], 4.0, Outcome.PASS),  # their mean, 4, is within
        ([3.0, 5.5], 4.0, Outcome.FAIL),
        ([float("nan")], 4.0, Outcome.FAIL),
        ([9.0], None, Outcome.NO_THRESHOLD),
    ],
)
def test_the_outcome_is_the_threshold_s(bits: list[float], threshold: float | None, outcome: Outcome) -> None:
    measured = report(*(estimate(one) for one in bits), run=RunFacts(threshold_bits=threshold), delivery=WHOLE)
    assert measured.outcome is outcome
    assert measured.to_dict()["outcome"] == outcome.value
    assert measured.with_run(name="other").outcome is outcome


def test_each_count_is_held_to_the_threshold_or_all_inserted_together() -> None:
    measured = report(estimate(1.0, 1), estimate(5.0, 8), estimate(9.0, 0), run=RunFacts(threshold_bits=4.0))
    assert measured.outcome is Outcome.FAIL  # the second count has 5
    assert measured.with_run(threshold_of="all inserted").outcome is Outcome.PASS  # the mean of both counts is 3
    # A lower bound within the limit does not show that the exposure is.
    lower = report(estimate(2.0, 1, bound="lower", high_bits=9.0), run=RunFacts(threshold_bits=4.0))
    assert lower.with_run(threshold_of="all inserted").outcome is Outcome.FAIL


def test_an_invalid_run_does_not_pass_and_one_without_inserted_canaries_fails() -> None:
    low = report(estimate(1.0), run=RunFacts(threshold_bits=4.0), delivery=MISSING)
    assert low.outcome is Outcome.INVALID
    assert report(estimate(1.0, 0), run=RunFacts(threshold_bits=4.0)).outcome is Outcome.FAIL


def test_facts_travel_through_the_file_and_two_runs_of_equal_figures_are_equal(tmp_path: Path) -> None:
    facts = RunFacts(
        name="nightly", measured_at="2026-01-02T03:04:05+00:00", command="hf-exposure measure",
        weights_sha256="ab" * 32, threshold_bits=4.0, arguments={"strategy": "epoch"},
    )  # fmt: skip
    mixed(run=facts).save(tmp_path)
    loaded = ExposureReport.load(tmp_path)
    assert loaded.run == facts
    assert report(run=facts) == report(run=RunFacts(name="another"))


def test_the_page_names_what_identifies_the_run(tmp_path: Path) -> None:
    run = RunFacts(
        name="<nightly>", measured_at="2026-01-02T03:04:05+00:00", command="hf-exposure measure --model m",
        weights_sha256="ab" * 32, threshold_bits=4.0, arguments={"strategy": "epoch", "steps": None},
    )  # fmt: skip
    mixed(run=run, dataset={"rows": 12345, "fingerprint": "f00d"}, delivery=WHOLE).save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    said = [
        "&lt;nightly&gt;",
        "2026-01-02T03:04:05",
        "hf-exposure measure --model m",
        "ab" * 32,
        "12,345 rows",
        "f00d",
    ]
    assert [one for one in [*said, "0f" * 32] if one not in page] == []
    assert re.search(r'<strong class="badge"[^>]*>FAIL</strong> [^<]* 4 bits', page)
    identity = json.loads((tmp_path / "report.json").read_text())["measurement_id"]
    assert f"<code>{identity}</code>" in page


def test_the_same_figures_of_another_time_have_the_same_measurement_id(tmp_path: Path) -> None:
    ids = []
    for number, when in enumerate(("2026-01-02T03:04:05+00:00", "2026-01-02T03:04:06+00:00")):
        mixed(run=RunFacts(measured_at=when)).save(tmp_path / str(number))
        ids.append(json.loads((tmp_path / str(number) / "report.json").read_text())["measurement_id"])
    assert ids[0] == ids[1]


def saved(folder: Path) -> Path:
    mixed().save(folder)
    return folder


def test_sums_are_those_of_another_program(tmp_path: Path) -> None:
    saved(tmp_path)
    sums = tmp_path / "SHA256SUMS"
    names = {line[66:] for line in sums.read_text().splitlines()}
    assert names == {path.name for path in tmp_path.iterdir()} - {sums.name}
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", sums.name], cwd=tmp_path, check=True)
    assert verify_files(tmp_path) == hashlib.sha256(sums.read_bytes()).hexdigest()
    assert os.stat(sums).st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["report.json", "report.html", "exposure_by_repetitions.png"])
@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path: Path, name: str, harm: str) -> None:
    path = saved(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content) if harm == "changed" else path.unlink()
    with pytest.raises(InputError, match=rf"{re.escape(name)} (was|is) {harm}"):
        verify_files(tmp_path)


def test_an_added_plot_and_harmed_sums_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "exposure_by_step.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"exposure_by_step.png was added"):
        verify_files(tmp_path)
    (tmp_path / "exposure_by_step.png").unlink()
    (tmp_path / "mine.txt").write_text("notes are no part of a report")
    verify_files(tmp_path)
    sums = tmp_path / "SHA256SUMS"
    whole = sums.read_text()
    for harmed in ("", whole + "junk\n", whole.replace("  report.json", "  ../report.json")):
        sums.write_text(harmed)
        with pytest.raises(InputError, match="SHA256SUMS"):
            verify_files(tmp_path)


def filled_rectangles(document: bytes) -> int:
    """How many rectangles the pages of a PDF file fill."""
    found = 0
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", document, re.DOTALL):
        with contextlib.suppress(zlib.error):  # an image or a font
            found += len(re.findall(rb"\bre [fB]\b", zlib.decompress(packed)))
    return found


def test_vector_plots_and_the_document_carry_the_id_and_leave_with_it(tmp_path: Path) -> None:
    pytest.importorskip("fpdf", reason="needs fpdf2")
    measured = mixed(delivery=WHOLE).with_run(threshold_bits=4.0)
    names = {path.name for path in measured.save(tmp_path, formats=["pdf", "svg"])}
    plots = {"exposure_by_repetitions", "roc"}
    vectors = {f"{plot}.{kind}" for plot in plots for kind in ("svg", "pdf")} | {"report.pdf"}
    assert vectors <= names
    document = (tmp_path / "report.pdf").read_bytes()
    assert document.startswith(b"%PDF-")
    assert filled_rectangles(document) == 1, "the badge is filled, and no cell of a table"
    assert ExposureReport.load(tmp_path) == ExposureReport.load(tmp_path / "report.json")
    verify_files(tmp_path)
    for name in sorted(vectors):
        content = (tmp_path / name).read_bytes()
        identity = json.loads((tmp_path / "report.json").read_text())["measurement_id"].encode()
        assert content.count(identity) == 1
        (tmp_path / name).write_bytes(content.replace(identity, b"0" * 32))
        with pytest.raises(InputError, match=re.escape(name)):
            ExposureReport.load(tmp_path)
        (tmp_path / name).write_bytes(content)
    measured.save(tmp_path)
    assert not vectors & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("formats", ["pdf", ["png"], ["html"]])
def test_formats_that_are_none_are_refused(tmp_path: Path, formats: object) -> None:
    with pytest.raises(InputError, match="formats"):
        mixed().save(tmp_path, formats=formats)  # type: ignore[arg-type]


def test_weights_have_one_hash_in_memory_and_in_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.BatchNorm1d(3))
    expected = hashlib.sha256()
    for name in sorted(first.state_dict()):
        tensor = first.state_dict()[name]
        expected.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
    assert weights_sha256(first) == expected.hexdigest()
    save_file(first.state_dict(), tmp_path / "w.safetensors")
    second = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.BatchNorm1d(3))
    assert weights_sha256(second) != weights_sha256(first)
    second.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert weights_sha256(second) == weights_sha256(first)
    assert weights_sha256(second.bfloat16()) not in (None, weights_sha256(first))
    assert weights_sha256(nn.Linear(2, 2, device="meta")) is None
