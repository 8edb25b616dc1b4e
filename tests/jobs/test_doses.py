"""Doses of a job of several processes: the sum of what each of them trained on, on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from launch import plain, results, resumes, run, torchrun

pytest.importorskip("trl")


# Padding-free, padded, a stream with workers, TRL's bfd_split, an encoder-decoder, and TRL's wrapped packing with
# gradient checkpointing; those of an odd number stop and resume.
VARIED = (1100, 1101, 1103, 1104, 1112, 1117)


def check(folder: Path, seeds: Sequence[int], processes: int = 2, stage: str = "plain") -> None:
    # With ACCELERATE_USE_CPU, accelerate would leave DeepSpeed out without a word: use_cpu of the arguments is enough.
    zero = {} if stage == "plain" else {"ACCELERATE_USE_CPU": "false", "ACCELERATE_USE_DEEPSPEED": "true"}
    done = run(
        torchrun(processes), "doses_job.py", folder, stage, *map(str, seeds), seconds=90 + 40 * len(seeds), **zero
    )
    found = results(done, folder, processes)
    for seed in map(str, seeds):
        of_all = [one[seed] for one in found]
        label = of_all[0]["label"]
        assert (of_all[0]["engine"] == "DeepSpeedEngine") == (stage != "plain"), label
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


@resumes
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("stage", ["1", "2", "3"])
def test_no_miscount_under_deepspeed_zero(stage: str, processes: int, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    check(tmp_path, VARIED, processes, stage)


@pytest.mark.slow
def test_liger_kernels(tmp_path: Path) -> None:
    """The real fused loss, which Triton interprets: a training without logits has the counts of one with them."""
    pytest.importorskip("triton")
    pytest.importorskip("liger_kernel")
    (found,) = results(run(plain(), "liger_job.py", tmp_path, TRITON_INTERPRET="1"), tmp_path, processes=1)
    assert found["liger"]["forward"].startswith("liger_kernel") and not found["liger"]["logits"]
    assert found["plain"]["forward"].startswith("transformers") and found["plain"]["logits"]
    for one in found.values():
        assert one["doses"] == one["own"] == [3, 3, 3, 3, 0, 0, 0]
    assert found["liger"]["loss"] == pytest.approx(found["plain"]["loss"], rel=1e-5)
