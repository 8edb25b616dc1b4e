"""The examples run as they are written, at their smallest size."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from launch import ROOT, plain, run, torchrun

TWO = pytest.param(2, marks=pytest.mark.slow)


@pytest.mark.parametrize("processes", [1, TWO])
def test_custom_loop(processes: int) -> None:
    script = ROOT / "examples" / "custom_loop.py"
    done = run(torchrun() if processes == 2 else plain(), script, "--steps", "2", "--measure-every", "1")
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1", "step 2"]
    assert all(line.endswith(f"{processes} processes)") for line in lines)


@pytest.mark.parametrize("processes", [1, TWO])
def test_lora(processes: int) -> None:
    pytest.importorskip("peft")
    script = ROOT / "examples" / "lora.py"
    done = run(torchrun() if processes == 2 else plain(), script, "--steps", "3")
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1", "step 2", "step 3"]
    assert all("training added" in line for line in lines)


@pytest.mark.slow
def test_a_job_that_hangs_is_ended_with_all_its_processes(tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(
        "import os, sys, time, pathlib\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    with pytest.raises(AssertionError, match="the job hung for 30 s"):
        run(torchrun(), script, tmp_path, seconds=30)
    for rank in "01":
        number = int((tmp_path / rank).read_text())
        assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE
