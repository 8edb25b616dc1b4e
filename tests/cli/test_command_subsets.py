"""`hf-exposure subsets`: a recipe, runs by number, and the summary of the store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cli_runs import one_line, run, start_interruptible

from hf_exposure import draw_subsets, load_subset_runs

RECIPE = """
import numpy as np

def dataset():
    return np.array([0.0, 1.0, 2.0, 3.0, 4.0, 30.0])

def test():
    return np.array([5.0])

def train(subset):
    return float(np.mean(subset)) + 1e-3 * np.random.rand()

def score(model, rows):
    return -np.abs(rows - model)
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.py"
    path.write_text(RECIPE)
    return path


def test_runs_by_number_and_then_the_rest(capsys, recipe, tmp_path):
    store = tmp_path / "runs"
    done = run(capsys, "subsets", recipe, "--store", store, "--models", 8, "--index", 3)
    assert done.status == 0 and "1 of 8 runs are finished" in done.out and "Still missing: 7 runs, about" in done.out
    done = run(capsys, "subsets", recipe, "--store", store, "--models", 8, "--json", "--top", 2)
    found, runs = json.loads(done.out), load_subset_runs(store)
    assert found["finished"] == 8 and found["missing"] == 0 and len(found["rows"]) == 2
    assert (runs.included_MN == draw_subsets(6, 8)).all() and runs.test_scores_MK.shape == (8, 1)
    memorization = runs.memorization()
    best = int(memorization.memorization_N.argmax())
    assert found["rows"][0] == {
        "memorization": pytest.approx(memorization.memorization_N[best]),
        "low": pytest.approx(memorization.low_N[best]),
        "high": pytest.approx(memorization.high_N[best]),
        "row": best,
    }
    assert "%" in done.err and "8/8" in done.err
    assert run(capsys, "subsets", recipe, "--store", store, "--status").out.startswith("8 of 8 runs")


def test_masks_of_the_recipe(capsys, recipe, tmp_path):
    recipe.write_text(RECIPE + "\nmasks = ~np.eye(6, dtype=bool)\n")
    assert run(capsys, "subsets", recipe, "--store", tmp_path / "runs").status == 0
    assert (load_subset_runs(tmp_path / "runs").included_MN == ~np.eye(6, dtype=bool)).all()


def test_bad_input_is_one_line(capsys, recipe, tmp_path):
    one_line(run(capsys, "subsets", tmp_path / "none.py", "--store", tmp_path / "runs"), "RECIPE.py")
    one_line(run(capsys, "subsets", recipe, "--store", tmp_path / "runs", "--status"), "store")
    run(capsys, "subsets", recipe, "--store", tmp_path / "runs", "--models", 4, "--index", 0)
    assert run(capsys, "subsets", recipe, "--store", tmp_path / "runs", "--models", 5).status == 2
    recipe.write_text("dataset = [1, 2]\n")
    one_line(run(capsys, "subsets", recipe, "--store", tmp_path / "other"), "must define train")


def test_a_failing_recipe_is_reported_with_its_place_and_with_debug_a_traceback(capsys, recipe, tmp_path):
    store = ("--store", tmp_path / "runs", "--models", 4, "--index", 1)
    recipe.write_text(RECIPE + "\ndef train(subset):\n    return len(subset.columns)\n")
    failed = run(capsys, "subsets", recipe, *store)
    place = f"line {RECIPE.count(chr(10)) + 3}"
    assert failed.status == 2 and f"1 run failed: 1 (AttributeError in recipe.py, {place})." in failed.err
    assert "Traceback" not in failed.err
    assert "has no attribute 'columns'" in run(capsys, "subsets", recipe, *store, "--debug").err
    recipe.write_text("def train(:\n")
    assert "SyntaxError in recipe.py, line 1." in run(capsys, "subsets", recipe, *store).err
    recipe.write_text("import no_such_module\n")
    assert "ModuleNotFoundError (no_such_module) in recipe.py, line 1." in run(capsys, "subsets", recipe, *store).err


def test_diverged_runs_are_reported_with_their_reasons(capsys, recipe, tmp_path):
    recipe.write_text(RECIPE + "\ndef score(model, rows):\n    return np.full(len(rows), np.nan)\n")
    done = run(capsys, "subsets", recipe, "--store", tmp_path / "runs", "--models", 7)
    assert "0 of 7 runs are finished" in done.out
    assert "7 runs diverged and count in no figure: 0 (6 of 6 scores are not finite), 1 (" in done.out
    assert "and 2 more." in done.out


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGTERM")
def test_a_scheduler_that_terminates_it_leaves_no_workers(recipe, tmp_path):
    pytest.importorskip("joblib")
    pytest.importorskip("cloudpickle")
    recipe.write_text(
        RECIPE + "\ndef train(subset, other=train):\n    import time\n    time.sleep(1)\n    return other(subset)\n"
    )
    store = tmp_path / "runs"
    code = "from hf_exposure.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "subsets", str(recipe), "--store", str(store), "--models", "40", "--jobs", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        limit = time.monotonic() + 240
        while not list(store.glob("run-*")):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        # The pipe stays open while a worker holds it.
        _, err = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 143 and "interrupted" in err, err


def test_an_interrupt_that_a_library_turns_into_an_import_error_is_one(recipe, tmp_path):
    recipe.write_text(
        "import os, signal\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('half of it') from None\n"
    )
    code = "from hf_exposure.cli import main; main()"
    process = start_interruptible(
        [sys.executable, "-c", code, "subsets", str(recipe), "--store", str(tmp_path / "runs")]
    )
    _, err = process.communicate()
    assert process.returncode == 130 and "interrupted" in err, err


def test_a_recipe_that_uses_ray_reaches_its_workers_by_value(capsys, recipe, tmp_path, monkeypatch):
    seen = []
    rays = SimpleNamespace(register_pickle_by_value=seen.append)
    monkeypatch.setitem(sys.modules, "ray.cloudpickle", rays)
    run(capsys, "subsets", recipe, "--store", str(tmp_path / "runs"), "--models", "2", "--index", "0")
    assert [module.__file__ for module in seen] == [str(recipe)]


def test_in_separate_processes(recipe, tmp_path):
    pytest.importorskip("joblib")
    pytest.importorskip("cloudpickle")
    command = [sys.executable, "-c", "from hf_exposure.cli import main; main()", "subsets", recipe]
    done = subprocess.run(
        [*map(str, command), "--store", str(tmp_path / "runs"), "--models", "4", "--jobs", "2"],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert load_subset_runs(tmp_path / "runs").missing == []
