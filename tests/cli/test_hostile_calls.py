"""Random calls with hostile arguments: a few of the thousands that `make soak-calls` makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def soak(calls: int, seed: int) -> dict[str, object]:
    typed = [
        sys.executable,
        "-m",
        "benchmarks.hostile_calls",
        "--calls",
        str(calls),
        "--seed",
        str(seed),
        "--no-record",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(typed, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    counted: dict[str, object] = json.loads(done.stdout)
    return counted


@pytest.mark.parametrize("calls", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_call_succeeds_or_says_what_is_wrong(calls: int) -> None:
    counted = soak(calls, seed=5)
    assert counted["calls"] == calls
    api, command_line = counted["api"], counted["command_line"]
    assert isinstance(api, dict) and isinstance(command_line, dict)
    assert api.keys() <= {"success", "refused", "documented error"}
    assert command_line.keys() <= {"status 0", "status 1", "status 2"}
    assert api["refused"] > api.get("success", 0)  # the arguments are hostile
    assert command_line["status 0"]


def test_the_script_notices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A call that raises another error, hangs or shows a secret does not pass."""
    from benchmarks import hostile_calls
    from benchmarks.hostile_calls import Call, World, api_call

    world = World(tmp_path, None, None, None, None, None, ("662375",))

    def verdict_of(call: object) -> str:
        monkeypatch.setattr(World, "calls", lambda self: [Call("call", call, {"a": 1})])
        monkeypatch.setattr(World, "own_values", lambda self: [int])
        return api_call(0, 0, world).verdict

    def hang(a: object) -> None:
        while True:
            pass

    def leak(a: object) -> None:
        print("the code is 662375")

    def quote(a: object) -> None:
        try:
            raise KeyError("the code is 662375")
        except KeyError as error:
            raise hostile_calls.InputError("a", "must be b", "c", "Do d.") from error

    monkeypatch.setattr(hostile_calls, "CPU_SECONDS", 0.2)
    assert verdict_of(lambda a: None) == ""
    assert verdict_of(lambda a: {}[5]) == "KeyError: KeyError(5)"
    assert verdict_of(hang) == "hang"
    assert verdict_of(leak) == verdict_of(quote) == "a secret is shown"
