"""Measures on two processes: equal figures on both, the rows that each has seen, a kill, and a failure on one."""

from __future__ import annotations

from pathlib import Path

from launch import results, resumes, run, torchrun


def test_membership_of_two_processes_is_that_of_one(tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "membership", tmp_path, seconds=120), tmp_path)
    assert first["shared"] == second["shared"]
    for found in (first, second):
        for group in ("members", "held_out"):
            assert found["shared"][group] == found["alone"][group]
        for name, one in found["shared"]["statistics"].items():
            alone = found["alone"]["statistics"][name]
            assert one["auc"] == alone["auc"] and one["most_exposed"] == alone["most_exposed"], name
        assert found["shared rows"] < 0.75 * found["alone rows"]
        assert "members: must be the same on every process" in found["different"]


@resumes
def test_measures_of_two_processes_agree_resume_and_fail_together(tmp_path: Path) -> None:
    first, second = results(run(torchrun(), "job.py", "measures", tmp_path, seconds=120), tmp_path)
    for name in ("whole", "resumed", "failing"):
        for what in ("records", "curve", "steps"):
            assert first[name][what] == second[name][what], (name, what)
    whole, resumed = first["whole"], first["resumed"]
    # Twelve rows per epoch, half of them on each process.
    figures = [record["figures"] for record in whole["records"]["tally"]]
    assert [(f["eval_tally_taken"], f["eval_tally_rows"]) for f in figures] == [(1, 12), (2, 24)]
    assert [found["whole"]["own rows"] for found in (first, second)] == [12, 12]
    # Killed after the first epoch was measured and logged, but before it was saved.
    assert first["killed"]["error"].startswith("Killed") and len(first["killed"]["records"]["tally"]) == 1
    assert (resumed["records"], resumed["curve"], resumed["error"]) == (whole["records"], whole["curve"], "")
    assert [found["resumed"]["own rows"] for found in (first, second)] == [12, 12]
    # A fault on process 1 in the first of three measurements fails on both; the other measure continues.
    for found in (first, second):
        failing = found["failing"]
        assert [record["step"] for record in failing["records"]["fails"]] == [4, 6]
        assert [record["step"] for record in failing["records"]["toy"]] == [2, 4, 6]
        assert len(failing["warnings"]) == 1 and "ValueError: a fault of this device alone" in failing["warnings"][0]
        assert "a fault of this device alone" in found["strict"]["error"] and found["strict"]["steps"] == 2
        assert found["different"]["error"].startswith(
            "ProcessesDifferError: measures: must be the same on every process of the job, got 'toy on process 0; "
            "toy, tally on process 1'"
        )
    assert "on another process" in first["failing"]["warnings"][0]
