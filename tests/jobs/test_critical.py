"""Critical samples on two processes are those of one, and training is left alone."""

from __future__ import annotations

from pathlib import Path

from launch import results, run, torchrun


def test_critical_samples_in_a_training_of_two_processes(tmp_path: Path) -> None:
    found = results(run(torchrun(), "critical_job.py", tmp_path, seconds=120), tmp_path)
    first = found[0]
    assert first["world"] == 2 and first["history"] == first["figures"] and len(first["figures"]) >= 2
    assert 0 < len(first["alone"]) < 23
    for one in found:
        assert one["records"] == first["records"] and one["records"][-1] == one["alone"] == first["alone"]
        assert one["figures"] == first["figures"]
        # The measure takes gradients and draws noise; the training does not notice.
        assert one["weights"][0] == one["weights"][1]
        assert one["different"].startswith("radius: must be the same on every process of the job")
    assert (tmp_path / "with" / "_critical.jsonl").exists()
