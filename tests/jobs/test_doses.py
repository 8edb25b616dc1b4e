"""Doses of a job of several processes: the sum of what each of them trained on, on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import results, resumes, run, torchrun

pytest.importorskip("trl")


def check(folder: Path, seeds: range) -> None:
    found = results(run(torchrun(), "doses_job.py", folder, *map(str, seeds), seconds=30 + 10 * len(seeds)), folder)
    for seed in map(str, seeds):
        of_all = [one[seed] for one in found]
        label = of_all[0]["label"]
        expected = [sum(pair) for pair in zip(*(one["own"] for one in of_all), strict=True)]
        for one in of_all:
            assert (one["uncounted"], one["counted"], one["doses"]) == (None, expected, expected), label


@resumes
def test_no_miscount_on_two_processes(tmp_path: Path) -> None:
    check(tmp_path, range(1000, 1003))


@resumes
@pytest.mark.slow
def test_no_miscount_on_two_processes_in_many_pipelines(tmp_path: Path) -> None:
    check(tmp_path, range(1003, 1043))
