"""Files with secrets or exact figures are for their owner only under any umask; mixed-up reports are noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from callback_runs import make_callback, make_trainer
from cli.cli_runs import one_line, run
from datasets import Dataset, load_from_disk
from kills import killed_at_each_call
from report_samples import mixed

from hf_exposure import CanarySet, CanaryTemplate, Digits, ExposureReport, draw_canaries
from hf_exposure.errors import InputError
from hf_exposure.files import clean_up
from hf_exposure.records import ReferenceCosts
from hf_exposure.records.identity import IDENTITY, PAGE_FILE, PLOT_FILES, SUMS_FILE, identity_of
from hf_exposure.records.run_log import EXPOSURE_LOG
from hf_exposure.report.page import CAPTIONS
from hf_exposure.report.run import load_run


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def refuse_open(*roots: Path) -> None:
    for root in roots:
        for path in (root, *root.rglob("*")):
            assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"


def whole_report(folder: Path, step: int) -> ExposureReport:
    """A saved report with every plot."""
    report = mixed(step=step, references=ReferenceCosts.of([20.0, 21.0 + step]))
    log = [{"step": 1, "loss": 2.0}, {"step": step, "loss": 1.0}]
    report.save(folder, [mixed(step=1)], training_log=log)
    return report


def test_reports_and_logs(tmp_path: Path) -> None:
    whole_report(tmp_path / "made" / "run", 2)
    assert {path.name for path in (tmp_path / "made" / "run").iterdir()} == {
        "report.json", PAGE_FILE, SUMS_FILE, *PLOT_FILES
    }  # fmt: skip
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / EXPOSURE_LOG.file_name).touch()
    (tmp_path / "log").mkdir()
    EXPOSURE_LOG.append(tmp_path / "log", mixed(step=1))
    EXPOSURE_LOG.append(tmp_path / "open", mixed(step=1))
    refuse_open(
        tmp_path / "made", tmp_path / "log" / EXPOSURE_LOG.file_name, tmp_path / "open" / EXPOSURE_LOG.file_name
    )
    assert set(CAPTIONS) == set(PLOT_FILES)
    there = tmp_path / "open" / "run"
    there.mkdir()
    for name in ("report.json", PAGE_FILE, *PLOT_FILES):
        (there / name).touch(0o666)
    whole_report(there, 2)
    refuse_open(*there.iterdir())  # the folder itself keeps its mode


def test_a_training(tmp_path: Path) -> None:
    callback = make_callback(strategy="end", references=8)
    make_trainer(tmp_path / "run", [callback], max_steps=1).train()
    refuse_open(tmp_path / "run" / EXPOSURE_LOG.file_name)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
    saved = tmp_path / "data"
    Dataset.from_dict({"text": [f"row {number}" for number in range(20)]}).save_to_disk(saved)
    (tmp_path / "rows.txt").write_text("row\n" * 20)
    canaries = tmp_path / "canaries.json"
    drawn = run(
        capsys, "draw", "--template", "number {n}.", "--space", "n=digits:6", "--repetitions", "1:2", "--out", canaries
    )
    assert drawn.status == 0, drawn
    for name, source, more in (
        ("whole", saved, ()),
        ("stream", tmp_path / "rows.txt", ("--stream", "--num-rows", 20)),
    ):
        out = tmp_path / name
        for again in ((), ("--overwrite",)):
            typed = ("insert", "--dataset", source, "--canaries", canaries, "--out", out, *more, *again)
            assert run(capsys, *typed).status == 0
        refuse_open(out)
    measured = run(
        capsys, "measure", "--model", model_folder, "--canaries", canaries, "--references", 8, "--method", "sample",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert measured.status == 0, measured
    shutil.copytree(tmp_path / "run", tmp_path / "run2")
    for runs in (["run"], ["run", "run2"]):
        done = run(capsys, "report", *(tmp_path / name for name in runs), "--out", tmp_path / "page", "--overwrite")
        assert done.status == 0, done
        refuse_open(tmp_path / "page")
    refuse_open(canaries, tmp_path / "run")
    assert load_from_disk(tmp_path / "whole").num_rows == 22


_INSERTS = """
import os, sys
import datasets
from hf_exposure import CanarySet, insert_canaries
datasets.disable_caching()
canaries = CanarySet.load(sys.argv[2])
merged = insert_canaries(datasets.load_from_disk(sys.argv[1]), canaries)
assert merged["text"][:].count(canaries.inserted[0].text) == 2
os.kill(os.getpid(), 9 if sys.argv[3] == "killed" else 0)
"""


@pytest.mark.parametrize("how", ["killed", "done"])
def test_an_insertion_without_cache_leaves_nothing_for_long(how: str, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    Dataset.from_dict({"text": [f"row {number}" for number in range(20)]}).save_to_disk(tmp_path / "data")
    canaries = draw_canaries(CanaryTemplate("number {n}.", n=Digits(9)), {2: 1}, controls=0, seed=5)
    canaries.save(tmp_path / "canaries.json")
    done = subprocess.run(
        [sys.executable, "-c", _INSERTS, str(tmp_path / "data"), str(tmp_path / "canaries.json"), how],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.PIPE,
    )
    assert done.returncode == (-9 if how == "killed" else 0), done.stderr

    def holding_the_canary() -> list[Path]:
        text = canaries.inserted[0].text.encode()
        return [path for path in temporary.rglob("*") if path.is_file() and text in path.read_bytes()]

    if how == "killed":
        assert holding_the_canary()
        refuse_open(*temporary.iterdir())
        clean_up(temporary)  # as the next insertion does
    assert not holding_the_canary()


def test_every_mixture_of_two_reports_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = whole_report(tmp_path / "one", 2), whole_report(tmp_path / "other", 3)
    assert ExposureReport.load(tmp_path / "one").step == one.step
    assert ExposureReport.load(tmp_path / "other" / "report.json").step == other.step
    for name in (PAGE_FILE, *PLOT_FILES, "report.json"):
        mixture = tmp_path / f"with {name}"
        shutil.copytree(tmp_path / "one", mixture)
        shutil.copy(tmp_path / "other" / name, mixture / name)
        for read in (ExposureReport.load, load_run, lambda path: ExposureReport.load(path / "report.json")):
            with pytest.raises(
                InputError, match=r"^path: must hold files of one measurement.* got '.+ of another one, in"
            ):
                read(mixture)
        one_line(run(capsys, "report", mixture, "--out", tmp_path / "page"), "files of one measurement")
        one_line(run(capsys, "push", mixture, "--repo-id", "me/model"), "files of one measurement")
        one_line(run(capsys, "report", mixture, tmp_path / "one", "--out", tmp_path / "page"), "of one measurement")
    other.save(mixture)
    assert ExposureReport.load(mixture).step == 3  # saved again, it is one report


def test_a_report_alone_or_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    whole_report(tmp_path, 2)
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "report.json", tmp_path / "alone")
    assert ExposureReport.load(tmp_path / "alone").step == 2
    values = json.loads((tmp_path / "report.json").read_text())
    assert len(values.pop(IDENTITY)) == 32
    (tmp_path / "report.json").write_text(json.dumps(values))
    assert ExposureReport.load(tmp_path).step == 2


def test_a_report_without_some_plots_removes_those_of_the_one_before(tmp_path: Path) -> None:
    whole_report(tmp_path, 2)
    (tmp_path / "mine.png").touch()
    written = mixed(step=5).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | {"mine.png"}
    assert "references.png" not in {path.name for path in written}


def test_the_id_is_of_the_content() -> None:
    assert identity_of([mixed().to_dict(), []]) == identity_of([mixed().to_dict(), []])
    assert len({identity_of([mixed(step=step).to_dict(), [], []]) for step in range(3)}) == 3


@pytest.mark.parametrize("plots", [False])
def test_a_save_that_is_killed_leaves_one_report_or_a_mixture_that_is_noticed(
    plots: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_exposure.report.plots.matplotlib_is_installed", lambda: plots)
    run = tmp_path / "run"
    seen = set()
    for _ in killed_at_each_call(lambda: mixed(step=2).save(run), lambda: mixed(step=1).save(run)):
        try:
            found = ExposureReport.load(run).step
        except InputError:
            found = None
        seen.add(found)
        page = (run / PAGE_FILE).read_text()
        if found is not None:  # then the page is of that report too
            assert identity_of([mixed(step=found).to_dict(), [], []]) in page
        mixed(step=3).save(run)
        assert sorted(path.name for path in run.iterdir()) == [SUMS_FILE, PAGE_FILE, "report.json"]
    assert seen == {1, 2, None}


def test_a_log_that_is_killed_keeps_every_line_before(tmp_path: Path) -> None:
    log = tmp_path / EXPOSURE_LOG.file_name

    def prepare() -> None:
        log.unlink(missing_ok=True)
        EXPOSURE_LOG.append(tmp_path, mixed(step=1))

    for _ in killed_at_each_call(lambda: EXPOSURE_LOG.append(tmp_path, mixed(step=2)), prepare):
        assert [report.step for report in EXPOSURE_LOG.read(tmp_path)] in ([1], [1, 2])


def test_a_canary_file_that_is_killed_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    template = CanaryTemplate("number {n}.", n=Digits(9))
    old, new = (draw_canaries(template, {1: 2}, controls=1, seed=seed) for seed in (1, 2))
    path = tmp_path / "canaries.json"
    for _ in killed_at_each_call(lambda: new.save(path), lambda: old.save(path)):
        assert CanarySet.load(path) in (old, new)
        refuse_open(*tmp_path.iterdir())
    assert CanarySet.load(path) == new and [left.name for left in tmp_path.iterdir()] == ["canaries.json"]
