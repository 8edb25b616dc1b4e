"""Processes that are killed and continue from their last checkpoint: no measurement is lost or duplicated."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from launch import plain, run

pytestmark = pytest.mark.slow


def finished(folder: Path) -> dict[str, Any]:
    done = run(plain(), "resume_job.py", folder)
    assert done.returncode == 0, done.stdout[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = finished(tmp_path_factory.mktemp("whole"))
    assert [step for step, _ in found["log"]] == list(range(1, 9)) and not found["resumed"]
    return found


@pytest.mark.parametrize(
    ("stops", "resumes"),
    [
        (["SIGTERM@5"], True),
        (["SIGKILL@1"], False),  # before any checkpoint
        (["SIGKILL@4"], True),  # measured, and killed before the step is saved
        (["save@6"], True),  # half a checkpoint
        (["SIGKILL@3", "save@6", "SIGTERM@7"], True),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else None,
)
def test_a_killed_run_ends_as_if_it_had_not_been_killed(
    stops: list[str], resumes: bool, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for stop in stops:
        done = run(plain(), "resume_job.py", folder, stop)
        assert done.returncode in (-signal.SIGTERM, -signal.SIGKILL), done.stdout[-4000:]
    assert finished(folder) == {**uninterrupted, "resumed": resumes}
