"""The examples run as they are written, at their smallest size."""

from __future__ import annotations

import pytest
from launch import ROOT, plain, run, torchrun

TWO = pytest.param(2, marks=pytest.mark.slow)


@pytest.mark.parametrize("processes", [1, TWO])
def test_custom_loop(processes: int) -> None:
    script = ROOT / "examples" / "custom_loop.py"
    done = run(torchrun() if processes == 2 else plain(), script, "--steps", "2", "--measure-every", "1", seconds=60)
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1", "step 2"]
    assert all(line.endswith(f"{processes} processes)") for line in lines)


@pytest.mark.parametrize("processes", [1, TWO])
def test_lora(processes: int) -> None:
    pytest.importorskip("peft")
    script = ROOT / "examples" / "lora.py"
    done = run(torchrun() if processes == 2 else plain(), script, "--steps", "3", seconds=90)
    assert done.returncode == 0, done.stdout[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == ["step 1", "step 2", "step 3"]
    assert all("training added" in line for line in lines)
