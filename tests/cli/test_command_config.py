"""`--config file.yaml`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import one_line, run

CONFIG = """
template: "pin {pin}."
space: [pin=digits:4]
repetitions: {1: 2, 8: 1}
controls: 5
coin-flips: 2
"""


def test_the_file_gives_defaults_and_what_is_typed_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    done = run(
        capsys, "draw", "--config", tmp_path / "c.yaml", "--coin-flips", 0, "--out", tmp_path / "c.json", "--json"
    )
    assert done.status == 0, done.err
    values = json.loads(done.out)
    assert (values["inserted"], values["controls"], values["rows_to_insert"]) == (3, 5, 10)
    assert values["template"] == "pin {pin}."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("controlls: 3", "controlls: must be an option of this command, got 3. Did you mean controls?"),
        ("zzz: 3", "zzz: must be an option of this command, got 3. Use one of as_json, coin_flips"),
        ("config: other.yaml", "config: must be an option of this command"),
        ("trust_remote_code: true", "trust_remote_code: must be typed: a file cannot switch it on, got True."),
        ("trust-remote-code: true", "must be typed"),
        ("- a\n- b", "--config: must hold `option: value` lines"),
        ("a: [", "--config: must be YAML"),
        ("controls: many", "--controls"),
        (None, "--config: must be a readable file (No such file or directory)"),
    ],
    ids=["typo", "unknown", "nested", "trust", "dashes", "list", "broken", "type", "missing"],
)
def test_bad_files(content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        (tmp_path / "c.yaml").write_text(content)
    arguments = ("--template", "pin {pin}.", "--space", "pin=digits:4", "--repetitions", "1:2")
    one_line(run(capsys, "draw", *arguments, "--config", tmp_path / "c.yaml", "--out", tmp_path / "o"), message)
    assert not (tmp_path / "o").exists()
