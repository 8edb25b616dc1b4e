"""A run in two processes is the run in one with batches twice as large, and is written once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from launch import plain, results, run, torchrun


@pytest.mark.slow  # three starts of torch; `test_processes_of_one_run_write_once` is the quick one
def test_a_run_in_two_processes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = results(run(plain(), "subsets_job.py", tmp_path / "one", "10"), tmp_path / "one", 1)
    two = results(run(torchrun(), "subsets_job.py", tmp_path / "two", "5"), tmp_path / "two")
    assert two[0] == two[1]
    assert np.array(two[0]) == pytest.approx(np.array(one[0]), abs=1e-4)
    assert np.array(one[0]).shape == (2, 40) and np.ptp(np.array(one[0]), axis=0).max() > 1e-3
    names = {path.name for path in (tmp_path / "two" / "runs").iterdir()}
    assert names == {"store.json", "masks.npy", "run-000000.arrow", "run-000001.arrow"}
