"""The report as figures to log, as JSON and as files."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import estimate, mixed, report
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Digits, ExposureReport, draw_canaries, measure_exposure
from hf_exposure.errors import InputError
from hf_exposure.report.run_log import FILE_NAME, append_report


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def same(left: Any, right: Any) -> bool:
    """Equality in which NaN equals NaN."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)


def test_metrics_by_hand() -> None:
    figures = report(
        estimate(9.0, 8, rank_high=1), estimate(5.0, 8, rank_high=2), estimate(1.0, 1), estimate(2.0, 0)
    ).metrics()
    assert figures == {
        "eval_exposure_mean": 5.0,
        "eval_exposure_median": 5.0,
        "eval_exposure_max": 9.0,
        "eval_exposure_controls_mean": 2.0,
        "eval_exposure_p_value": 0.25,
        "eval_exposure_rank1_fraction": pytest.approx(1 / 3),
        "eval_exposure_x1_mean": 1.0,
        "eval_exposure_x8_mean": 7.0,
        "eval_exposure_seconds": 1.5,
    }
    assert {type(value) for value in figures.values()} == {float}


def test_metrics_without_controls_and_without_canaries() -> None:
    assert set(report(estimate(3.0, 2)).metrics()) == {
        "eval_exposure_mean",
        "eval_exposure_median",
        "eval_exposure_max",
        "eval_exposure_rank1_fraction",
        "eval_exposure_x2_mean",
        "eval_exposure_seconds",
    }
    empty = report().metrics()
    assert math.isnan(empty["eval_exposure_mean"])
    assert math.isnan(empty["eval_exposure_rank1_fraction"])


def test_an_undefined_figure_makes_the_mean_undefined() -> None:
    figures = mixed().metrics()
    assert math.isnan(figures["eval_exposure_mean"])
    assert math.isnan(figures["eval_exposure_max"])
    assert figures["eval_exposure_x8_mean"] == 7.0


@pytest.mark.parametrize(
    "original",
    [
        mixed(),
        mixed(step=30, epoch=1.5, notes=("a", "b")),
        mixed(p_value=math.nan, auc=0.75, auc_low=math.nan),
        report(estimate(1.0, 1), space_size=267_735**4, step=None, epoch=None),
        report(),
    ],
)
def test_a_report_survives_json(original: ExposureReport) -> None:
    restored = ExposureReport.from_dict(strict_json(json.dumps(original.to_dict(), allow_nan=False)))
    assert same(asdict(restored), asdict(original))
    assert isinstance(restored.estimates, tuple)
    assert isinstance(restored.notes, tuple)
    assert restored.space_size == original.space_size
    assert (restored.step, restored.epoch) == (original.step, original.epoch)
    for was, now in zip(original.estimates, restored.estimates, strict=True):
        assert (was.rank_low, was.rank_high) == (now.rank_low, now.rank_high)


def test_numpy_values_become_plain(tmp_path: Path) -> None:
    figures = estimate(np.float64(2.0), 1, rank_low=np.int64(3), low_bits=np.float32(1.5), high_bits=np.inf)
    values = report(figures).to_dict()
    (row,) = values["estimates"]
    assert (type(row["exposure_bits"]), type(row["rank_low"]), type(row["low_bits"])) == (float, int, float)
    assert row["high_bits"] is None
    json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schema_version": 2},
            r"^schema_version: must be at most 1 for this version .*, got 2\. Upgrade: ",
        ),
        ({"format": "another"}, r"^report: must be of format 'hf-exposure report'"),
        ({"notes": ...}, r"^report: must hold the fields that to_dict writes, got .*notes"),
        ({"estimates": [{"canary_id": "x"}]}, r"^report: must hold the fields that to_dict writes, got .*repetitions"),
        ({"estimates": [{"surprise": 1}]}, r"^report: must hold the fields that to_dict writes, got .*surprise"),
        ({"template": ...}, r"^report: must hold the fields that to_dict writes, got .*template"),
    ],
)
def test_what_is_no_report_is_refused(change: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in {**mixed().to_dict(), **change}.items() if value is not ...}
    with pytest.raises(InputError, match=message):
        ExposureReport.from_dict(values)


def test_a_list_is_no_report() -> None:
    with pytest.raises(InputError, match=r"^report: must be of format 'hf-exposure report', got 'list'"):
        ExposureReport.from_dict([])  # type: ignore[arg-type]


def test_save_writes_valid_json_with_its_history(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    history = [mixed(step=step, epoch=step / 10) for step in (10, 20)]
    written = mixed(step=20, epoch=2.0).save(folder, history)
    assert folder / "report.json" in written
    assert all(path.is_file() for path in written)
    document = strict_json((folder / "report.json").read_text())
    assert [entry["step"] for entry in document["history"]] == [10, 20]
    assert document["history"][0]["eval_exposure_x8_mean"] == 7.0
    assert document["history"][0]["eval_exposure_mean"] is None
    assert same(asdict(ExposureReport.from_dict(document)), asdict(mixed(step=20, epoch=2.0)))


def test_a_failure_while_saving_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(step=1).save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        mixed(step=2).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_secret_is_in_what_is_saved(tmp_path: Path) -> None:
    seed = 7_318_529_604_113
    template = CanaryTemplate("number {number}", number=Digits(9))
    canaries = draw_canaries(template, {1: 3, 4: 3}, controls=4, seed=seed)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16, n_positions=32))
    found = [measure_exposure(model, ByT5Tokenizer(), canaries, references=32, method=m) for m in ("sample", "auto")]
    found[0].save(tmp_path, found)
    for one in found:
        append_report(tmp_path, one)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert {"report.json", FILE_NAME, "exposure_by_repetitions.png"} <= set(files)
    secrets = [template.parse(canary.text)["number"] for canary in canaries]
    assert len(secrets) == 10
    assert all(len(secret) == 9 for secret in secrets)
    for name in files:
        content = (tmp_path / name).read_bytes()
        for secret in [*secrets, str(seed), canaries.salt]:
            assert secret.encode() not in content, name
    everything = repr(found)
    assert not any(secret in everything for secret in [*secrets, str(seed)])
    # The scan finds what is there: the ids are.
    assert canaries.inserted[0].id.encode() in (tmp_path / "report.json").read_bytes()
