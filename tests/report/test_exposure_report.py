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
from hf_exposure.records import ReferenceCosts
from hf_exposure.records.exposure_report import report_schema
from hf_exposure.records.run_log import EXPOSURE_LOG


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
        ({"notes": ...}, r"^report: must have the field 'notes', got 'none'\. Restore the file as it was written"),
        ({"template": ...}, r"^report: must have the field 'template'"),
        ({"estimates": [{"canary_id": "x"}]}, r"^report\.estimates\[0\]: must have the field 'repetitions'"),
        ({"estimates": {"a": 1}}, r"^report\.estimates: must be of type array, got {'a': 1}"),
        ({"space_size": "10"}, r"^report\.space_size: must be of type integer, got '10'"),
        ({"space_size": 0}, r"^report\.space_size: must be at least 1, got 0"),
        ({"space_size": True}, r"^report\.space_size: must be of type integer, got True"),
        ({"settings": {}}, r"^report\.settings: must have the field 'confidence_level'"),
        ({"p_value": 1.5}, r"^report\.p_value: must be at most 1, got 1\.5"),
        ({"spaces": {"pin": 3}}, r"^report\.spaces\.pin: must be of type string, got 3"),
        ({"schema_version": "1"}, r"^report\.schema_version: must be of type integer, got '1'"),
        ({"references": {"count": 1}}, r"^report\.references: must have the field 'low_bits'"),
        ({"notes": [None]}, r"^report\.notes\[0\]: must be of type string, got None"),
    ],
)
def test_what_is_no_report_is_refused(change: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in {**mixed().to_dict(), **change}.items() if value is not ...}
    with pytest.raises(InputError, match=message):
        ExposureReport.from_dict(values)


def test_fields_of_later_versions_are_ignored() -> None:
    values = mixed().to_dict()
    values["surprise"] = values["estimates"][0]["surprise"] = 1
    assert same(asdict(ExposureReport.from_dict(values)), asdict(mixed()))


def test_the_document_is_a_json_schema_that_another_validator_agrees_with() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(report_schema())
    validator.check_schema(report_schema())
    references = ReferenceCosts.of(np.linspace(30.0, 40.0, 50))
    good = [mixed().to_dict(), report().to_dict(), mixed(references=references, step=3, epoch=0.5).to_dict()]
    for values in good:
        assert validator.is_valid(values)
    changes: list[dict[str, Any]] = [
        {"notes": None}, {"space_size": 0}, {"space_size": "1"}, {"p_value": 2}, {"spaces": {"a": 1}}, {"step": 1.5},
        {"estimates": [{}]}, {"settings": {}}, {"references": {}}, {"schema_version": 2}, {"format": "x"},
        {"epoch": True}, {"secrets": {"a": 1}}, {"versions": []}, {"step": 3.0},
    ]  # fmt: skip
    for change in changes:
        values = {**good[0], **change}
        if validator.is_valid(values):
            ExposureReport.from_dict(values)
        else:
            with pytest.raises(InputError):
                ExposureReport.from_dict(values)
    assert sum(validator.is_valid({**good[0], **change}) for change in changes) == 1


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


def test_a_saved_report_is_loaded_from_its_folder_and_its_file(tmp_path: Path) -> None:
    references = ReferenceCosts.of(np.linspace(30.0, 40.0, 50))
    original = mixed(step=20, references=references, dataset={"name": "d"})
    original.save(tmp_path)
    for path in (tmp_path, tmp_path / "report.json", str(tmp_path)):
        loaded = ExposureReport.load(path)
        assert same(asdict(loaded), asdict(original))
        assert loaded.references == references
        assert loaded.metrics().keys() == original.metrics().keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"^path: must be a report that can be read \(No such file or directory\), got '.*report\.json'"),
        ("", r"^path: must be complete JSON; this file is damaged or cut off"),
        ('{"format": "hf-exposure report", "estimates": [', r"^path: must be complete JSON"),
        ('{"seconds": NaN}', r"^path: must be complete JSON"),
        ("\xff", r"^path: must be complete JSON"),
        ("[" * 100_000, r"^path: must be complete JSON"),
        ("[1]", r"test_files_\w+: report: must be of format 'hf-exposure report', got 'list'"),
        ("{}", r"test_files_\w+: report: must be of format 'hf-exposure report', got 'dict'"),
    ],
    ids=["missing", "empty", "cut", "nan", "bytes", "deep", "list", "other"],
)
def test_files_that_are_no_reports(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        ExposureReport.load(tmp_path)


def test_secrets_are_written_only_where_asked_for_and_for_the_owner(tmp_path: Path) -> None:
    template = CanaryTemplate("number {number}", number=Digits(9))
    canaries = draw_canaries(template, {1: 2}, controls=1, seed=3)
    other = draw_canaries(template, {1: 2}, controls=1, seed=4)
    rows = [estimate(1.0, c.repetitions, canary_id=c.id) for c in canaries]
    original = report(*rows, manifest_hash=canaries.manifest_hash, template=template.text)
    original.save(tmp_path / "plain")
    original.save(tmp_path / "private", include_secrets=True, canaries=canaries)
    plain, private = (tmp_path / name / "report.json" for name in ("plain", "private"))
    assert "secrets" not in json.loads(plain.read_text())
    assert json.loads(private.read_text())["secrets"] == {canary.id: canary.text for canary in canaries}
    assert private.stat().st_mode & 0o777 == 0o600
    loaded = ExposureReport.load(private)
    assert same(asdict(loaded), asdict(original))
    assert canaries.inserted[0].text not in repr(loaded)
    assert canaries.inserted[0].text not in (tmp_path / "private" / "report.html").read_text()
    with pytest.raises(InputError, match=r"^canaries: must be the set that was measured, .*got None"):
        original.save(tmp_path / "none", include_secrets=True)
    with pytest.raises(InputError, match=r"^canaries: must be the set that was measured, .*another set, of template"):
        original.save(tmp_path / "none", include_secrets=True, canaries=other)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^folder: must be a folder that can be made and written to \((Not|File)"):
        report(estimate(1.0)).save(tmp_path / "file")


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
        EXPOSURE_LOG.append(tmp_path, one)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert {"report.json", EXPOSURE_LOG.file_name, "exposure_by_repetitions.png"} <= set(files)
    secrets = [template.parse(canary.text)["number"] for canary in canaries]
    assert len(secrets) == 10
    assert all(len(secret) == 9 for secret in secrets)
    for name in files:
        content = (tmp_path / name).read_bytes()
        for secret in [*secrets, str(seed), canaries.salt]:
            assert secret.encode() not in content, name
    everything = repr(found)
    assert not any(secret in everything for secret in [*secrets, str(seed)])
    # The scan finds texts that are present: the ids.
    assert canaries.inserted[0].id.encode() in (tmp_path / "report.json").read_bytes()
