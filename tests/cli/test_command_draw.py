"""`hf-exposure draw`."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path

import pytest
from cli_runs import one_line, run

from hf_exposure import CanarySet

DRAW = ("draw", "--template", "pin {pin}.", "--space", "pin=digits:4", "--repetitions", "1:2,8:1")


def test_the_file_is_the_owners_and_the_screen_shows_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "canaries.json"
    done = run(capsys, *DRAW, "--controls", 4, "--out", path)
    assert done.status == 0
    assert "3 canaries to insert into 10 rows, 4 held out, of 10,000 texts 'pin {pin}.'" in done.out
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    canaries = CanarySet.load(path)
    assert canaries.repetition_counts == (1, 8)
    assert not any(canary.text in done.out + done.err for canary in canaries)
    assert str(canaries.seed) not in done.out


def test_json_figures_and_a_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(capsys, *DRAW, "--seed", 123456789, "--out", tmp_path / "a.json", "--json")
    values = json.loads(done.out)
    assert (values["inserted"], values["controls"], values["space_size"]) == (3, 32, 10_000)
    assert "123456789" not in done.out
    run(capsys, *DRAW, "--seed", 123456789, "--out", tmp_path / "b.json")
    assert CanarySet.load(tmp_path / "a.json") == CanarySet.load(tmp_path / "b.json")


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "canaries.json"
    run(capsys, *DRAW, "--out", path)
    before = path.read_bytes()
    one_line(run(capsys, *DRAW, "--out", path), "--out: must not exist yet", "add --overwrite")
    assert path.read_bytes() == before
    assert run(capsys, *DRAW, "--out", path, "--overwrite").status == 0
    assert path.read_bytes() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--space", "pin=digit:4"), "--space pin: must be a kind and its size, got 'digit:4'. Write digits:9"),
        (("--space", "digits:4"), "--space: must read NAME=KIND:SIZE"),
        (("--space", "pin=digits:0"), "--space pin: "),
        (("--space", "pun=digits:4"), "--template, "),
        (("--template", "number {number} and {pin}"), "Add --space "),
        (("--repetitions", "64"), "--repetitions: must read REPETITIONS:CANARIES"),
        (("--controls", "100000"), "template: must have at least as many texts as are drawn"),
        (("--out", "no/such/folder/c.json"), "--out: must be in a folder that exists"),
        (("--controls", "many"), "--controls"),
        (("--sead", "1"), "--sead"),
    ],
)
def test_bad_input(
    change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    typed = dict(zip(DRAW[1::2], DRAW[2::2], strict=True)) | dict([change])
    arguments = [part for pair in typed.items() for part in pair]
    one_line(run(capsys, "draw", *arguments), message)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    done = run(capsys, *DRAW, "--out", tmp_path / "c.json")
    one_line(done, "--out: must be a file that can be made (Permission denied), got ", "Name another place.")
