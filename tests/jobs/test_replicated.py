"""Two processes that hold the same model, as `torchrun` and `accelerate launch` start them with a real Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from launch import accelerate_launch, plain, results, resumes, run, torchrun

LAUNCHERS = {"torchrun": torchrun, "accelerate": accelerate_launch}


def agree(first: dict[str, Any], second: dict[str, Any], tolerance: float) -> None:
    """Compares the figures of two measurements, in which None and NaN must agree too."""
    for name, figures in first.items():
        expected = np.array(second[name], dtype=np.float64)
        np.testing.assert_allclose(np.array(figures, dtype=np.float64), expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)])
def test_work_is_shared_and_figures_are_those_of_one_process(launcher: str, tmp_path: Path) -> None:
    done = run(LAUNCHERS[launcher](), "job.py", "replicated", tmp_path)
    first, second = results(done, tmp_path)
    assert first == second and first["world"] == 2
    assert len(first["reports"]) == first["stopped"] >= 2
    for shared, alone in zip(first["reports"], first["alone"], strict=True):
        agree(shared, alone, 1e-3)
    assert first["history"] == [sum(report["exposure_bits"][:3]) / 3 for report in first["reports"]]
    # The best model is the least exposed; training ends after two evaluations in a row without improvement.
    best = int(np.argmin(first["history"])) + 1
    assert first["best"] == [best, first["history"][best - 1]]
    assert first["stopped"] == min(6, best + 2)
    for method, found in first["each"].items():
        agree(found["shared"], found["alone"], 1e-3)
        rows, alone_rows = (sum(shape[0] for shape in found[name]) for name in ("shapes", "alone_shapes"))
        # A search of forty expansions consists mostly of calls of one row, which cannot be shared.
        assert rows < alone_rows * (1 if method == "bounded" else 0.75), (method, rows, alone_rows)


@pytest.mark.parametrize("resume", ["whole", pytest.param("resumes", marks=[resumes, pytest.mark.slow])])
def test_the_baseline_is_measured_by_both_before_the_first_step(resume: str, tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "baseline", tmp_path, resume), tmp_path)
    assert first == second and first["with"]["world"] == 2
    whole, without = first["with"], first["without"]
    assert whole["steps"] == whole["logged"] == [0, 2, 4] and without["steps"] == [2, 4]
    # The baseline of the untrained model is what one process measures alone.
    assert whole["untrained"] == without["untrained"] != whole["weights"]
    agree(whole["reports"][0], whole["alone"], 1e-3)
    assert whole["doses"][0] == 0 and whole["doses"][1] == 6
    # It changes neither the training nor later measurements.
    assert whole["weights"] == without["weights"] and whole["reports"][1:] == without["reports"]
    if resume == "resumes":
        assert first["resumed"]["steps"] == [0, 2, 4] and first["resumed"]["reports"][0] == whole["reports"][0]


def test_a_base_that_changed_is_refused_on_all_processes(tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "base_changes", tmp_path), tmp_path)
    assert first["error"] == second["error"] and "with the adapters off its logits have changed" in first["error"]
    assert first["steps"] == second["steps"] == 2
    assert first["bases"] == second["bases"] and len(first["bases"]) == 1
    np.testing.assert_allclose(first["bases"][0], first["alone"], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_training_is_the_same_to_the_bit(processes: int, tmp_path: Path) -> None:
    done = run(torchrun(2) if processes == 2 else plain(), "job.py", "bit_identical", tmp_path)
    found = results(done, tmp_path, processes)
    assert all(weights["with"] == weights["without"] for weights in found)
    assert len({weights["with"] for weights in found}) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [("nan", "NonFiniteScoreError: the model returned NaN logits"), ("error", "a fault of this device alone")],
)
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_fault_on_one_process_fails_on_all(kind: str, message: str, on_error: str, tmp_path: Path) -> None:
    found = results(run(torchrun(), "job.py", "fails_on_one", tmp_path, kind, "1", on_error), tmp_path)
    for result in found:
        said = result["error"] if on_error == "raise" else "".join(result["warnings"])
        assert message in said, said
        assert result["steps"] == (1 if on_error == "raise" else 2)
        assert len(result["warnings"]) == (0 if on_error == "raise" else 1)
        assert all(np.isnan(result["means"])) and len(result["means"]) == (0 if on_error == "raise" else 2)
    if kind == "error":
        assert "on another process: RuntimeError" in str(found[0]) and "(process 1)" in str(found[0])


@pytest.mark.slow
def test_out_of_memory_on_one_process_halves_the_batch_of_both(tmp_path: Path) -> None:
    healthy, failing = tmp_path / "healthy", tmp_path / "failing"
    measured = []
    for folder, rows in ((healthy, "1000000"), (failing, "8")):
        folder.mkdir()
        measured.append(results(run(torchrun(), "job.py", "fails_on_one", folder, "memory", rows, "raise"), folder))
    expected, found = measured
    # One process may have gone further in the batch that failed on the other; they restart together.
    assert found[0]["rows"][-3:] == found[1]["rows"][-3:] and max(found[0]["rows"]) >= 8
    assert len(found[0]["rows"]) > len(expected[0]["rows"])
    for one, other in zip(found[0]["figures"], expected[0]["figures"], strict=True):
        agree(one, other, 1e-3)
    # Without memory for a single row both give up, and the trainer's batch size is unchanged.
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for result in results(run(torchrun(), "job.py", "fails_on_one", nothing, "memory", "1", "raise"), nothing):
        assert result["error"].startswith("ExposureError: exposure could not be measured") and result["steps"] == 1


@pytest.mark.slow
def test_a_callback_on_one_process_is_refused(tmp_path: Path) -> None:
    done = run(torchrun(), "job.py", "on_one_only", tmp_path, seconds=90)
    assert done.returncode != 0
    assert (
        "ExposureCallback: must be on every one of the 2 processes, got 'none on process 1'. Add it everywhere"
        in done.stdout
    )


@pytest.mark.slow
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_full_disk_of_the_first_process_is_known_to_both(on_error: str, tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "unwritable", tmp_path, on_error), tmp_path)
    assert first["steps"] == second["steps"] == (1 if on_error == "raise" else 2)
    assert first["reports"] == second["reports"] == first["steps"]
    for result in (first, second):
        assert ("No space left on device" in result["error"]) == (on_error == "raise")
