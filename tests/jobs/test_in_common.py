"""Processes that draw, insert and measure together: the same canaries in all of them, or one error in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from job import DIFFERENT, FEW
from launch import plain, results, run, torchrun
from test_replicated import agree

SAME = {"set": "canaries", "references": "references", "tokenizer": "tokenizer"}


def test_the_script_of_the_readme_gives_two_processes_the_figures_of_one(tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "readme", tmp_path), tmp_path)
    assert first["world"] == 2
    # Each process measured alone and may round differently; everything else is equal to the last bit.
    for name in first.keys() - {"alone"}:
        assert first[name] == second[name], name
    # One set is inserted, measured and saved, and its secrets were drawn, not derived from a fixed seed.
    same, its_hash, ids = first["set"]
    assert same and ids == first["ids"]
    assert (first["canary_rows"], first["validity"]) == (4 * (1 + 8 + 64), "valid")
    # The last batches of an epoch are filled with repeated rows, so that both processes have equally many.
    more = [dose - 2 * n for dose, n in zip(first["doses"], [1] * 4 + [8] * 4 + [64] * 4 + [0] * 32, strict=True)]
    assert min(more) >= 0 and max(more[12:]) == 0 and sum(more) < 2 * 2 * first["batch"]
    agree(first["shared"], first["alone"], 1e-3)
    agree(first["saved"], first["shared"], 0.0)
    assert its_hash != FEW.manifest_hash and len(set(first["shared"]["exposure_bits"])) > 30


def test_whatever_differs_on_one_process_is_named_on_all(tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "differs", tmp_path), tmp_path)
    for name in first.keys() - {"start rows"}:
        if not name.endswith("alone"):
            np.testing.assert_equal(first[name], second[name], name)
    for method in DIFFERENT:
        agree(first[f"{method} nothing"], first[f"{method} alone"], 1e-3)
        for what, named in SAME.items():
            check_error(first[f"{method} {what}"], named)
    for what, named in {"repetitions": "canaries", "seed": "seed", "context": "context"}.items():
        check_error(first[f"sample {what}"], named)
    assert "got '101 on process 0; 102 on process 1'" in first["sample references"]
    # Sets are distinguished by their hash alone, so no digit of a canary is shown.
    said = "".join(value for value in first.values() if isinstance(value, str))
    assert not any(canary.text in said for canary in FEW)
    for what, named in {"set": "canaries", "tokenizer": "tokenizer", "steps": "steps"}.items():
        steps, error = first[f"start {what}"]
        assert steps == 0
        check_error(error.removeprefix("ProcessesDifferError: "), named)
    assert first["start nothing"] == [2, ""]
    # Rows missing on one process are an error on both.
    assert [found["start rows"][0] for found in (first, second)] == [0, 0]
    assert first["start rows"][1].startswith("ExposureError: on another process: InputError: require_delivery: must")
    assert second["start rows"][1].startswith("InputError: require_delivery: must find every inserted canary trained")


def check_error(error: Any, named: str) -> None:
    assert error.startswith(f"{named}: must be the same on every process of the job, got '"), error
    assert " on process 0; " in error and " on process 1'. " in error


@pytest.mark.parametrize("served_by", ["torchrun", pytest.param("the first process", marks=pytest.mark.slow)])
def test_one_draw_for_all_before_and_after_they_are_connected(served_by: str, tmp_path: Path) -> None:
    """Launchers other than torchrun have no store: the first process opens one, and the process group still works."""
    if served_by == "torchrun":
        found = results(run(torchrun(), "draw_job.py", tmp_path), tmp_path)
    else:
        done = run(plain(), "draw_job.py", tmp_path, "start")
        found = results(done, tmp_path)
    first, second = found
    assert first["sets"] == second["sets"] and first["with_torch"] == [False, True]
    before, again, seeded, seeded_again, known, after = first["sets"]
    # Unseeded draws have different texts; draws with the same seed have the same texts under different ids.
    assert len({before[0], again[0], after[0]}) == 3
    assert seeded[0] == seeded_again[0] and seeded[1] != seeded_again[1]
    assert len({ids for _, ids, _ in first["sets"]}) == len({salt for *_, salt in first["sets"]}) == 6
    # With different seeds each process gets its own draw, and neither waits for the other.
    assert first["other"] != second["other"]
