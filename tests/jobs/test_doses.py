"""Doses of a job of several processes: the sum of what each of them trained on, on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from launch import plain, results, resumes, run, torchrun

pytest.importorskip("trl")


# Stages of ZeRO, each with an even-numbered pipeline and an odd-numbered one, which stops and resumes:
# padding-free, padded; TRL's bfd_split, a stream with workers; an encoder-decoder, TRL's wrapped packing with gradient
# checkpointing.
ZERO = ("1100:1", "1101:1", "1104:2", "1103:2", "1112:3", "1117:3")
# The class of the optimizer after training shows the stage.
OPTIMIZERS = {"1": "DeepSpeedZeroOptimizer", "2": "DeepSpeedZeroOptimizer", "3": "DeepSpeedZeroOptimizer_Stage3"}


def check(folder: Path, wanted: Sequence[str], processes: int = 2, **environment: str) -> None:
    seconds = 300 + 60 * len(wanted)  # to end a job that hangs
    done = run(torchrun(processes), "doses_job.py", folder, *wanted, seconds=seconds, **environment)
    found = results(done, folder, processes)
    for name in wanted:
        of_all = [one[name] for one in found]
        label, (_, _, stage) = of_all[0]["label"], name.partition(":")
        expected = [sum(pair) for pair in zip(*(one["own"] for one in of_all), strict=True)]
        for one in of_all:
            assert (one["uncounted"], one["counted"], one["doses"]) == (None, expected, expected), label
            if stage:
                assert (one["wrapper"], one["optimizer"]) == ("DeepSpeedEngine", OPTIMIZERS[stage])


@resumes
def test_no_miscount_on_two_processes(tmp_path: Path) -> None:
    check(tmp_path, [str(seed) for seed in range(1000, 1003)])


@resumes
@pytest.mark.slow
def test_no_miscount_on_two_processes_in_many_pipelines(tmp_path: Path) -> None:
    check(tmp_path, [str(seed) for seed in range(1003, 1043)])


@resumes
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_no_miscount_under_deepspeed_zero(processes: int, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    # With ACCELERATE_USE_CPU, accelerate would silently skip DeepSpeed; the argument use_cpu is enough.
    check(tmp_path, ZERO, processes, ACCELERATE_USE_CPU="false", ACCELERATE_USE_DEEPSPEED="true")


@pytest.mark.slow
def test_liger_kernels(tmp_path: Path) -> None:
    """The real fused loss, interpreted by Triton: training without logits gives the same counts as with them."""
    pytest.importorskip("triton")
    pytest.importorskip("liger_kernel")
    (found,) = results(run(plain(), "liger_job.py", tmp_path, TRITON_INTERPRET="1"), tmp_path, processes=1)
    assert found["liger"]["forward"].startswith("liger_kernel") and not found["liger"]["logits"]
    assert found["plain"]["forward"].startswith("transformers") and found["plain"]["logits"]
    for one in found.values():
        assert one["doses"] == one["own"] == [3, 3, 3, 3, 0, 0, 0]
    assert found["liger"]["loss"] == pytest.approx(found["plain"]["loss"], rel=1e-5)
