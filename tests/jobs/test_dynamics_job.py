"""Dynamics on two processes: the figures and the record of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from launch import plain, results, run, torchrun

from hf_exposure import DynamicsRecord


@pytest.mark.parametrize("kind", ["pictures", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_record_what_one_does(kind: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    (alone,) = results(run(plain(), "dynamics_job.py", "texts" if kind == "fsdp" else kind, one), one, processes=1)
    first, second = results(run(torchrun(), "dynamics_job.py", kind, two, seconds=120), two)
    assert first == second and len(first) == len(alone) == (6 if kind == "pictures" else 3)
    for ours, expected in zip(first, alone, strict=True):
        assert ours.keys() == expected.keys()
        np.testing.assert_allclose(list(ours.values()), list(expected.values()), rtol=1e-4, atol=1e-5)
    for name in ("dynamics", "batches"):
        records = [DynamicsRecord.load(folder / "out", name) for folder in (one, two)]
        np.testing.assert_array_equal(records[0].steps_T, records[1].steps_T)
        for figure in ("example_N", "position_N", "label_N", "loss_bits_TN", "correct_TN", "margin_TN"):
            ours, expected = getattr(records[1], figure), getattr(records[0], figure)
            np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
