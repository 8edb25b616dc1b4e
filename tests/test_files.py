"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hf_exposure.files import write_aside


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_text_and_bytes(tmp_path: Path) -> None:
    assert write_aside(tmp_path / "a", "é\n") == tmp_path / "a"
    write_aside(tmp_path / "b", b"\x00\xff")
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"\xc3\xa9\n", b"\x00\xff")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("umask", "private", "expected"), [(0o022, False, 0o644), (0o077, False, 0o600), (0, True, 0o600)]
)
def test_who_may_read_it(tmp_path: Path, umask: int, private: bool, expected: int) -> None:
    before = os.umask(umask)
    try:
        write_aside(tmp_path / "a", "x", private=private)
        assert os.umask(umask) == umask  # left as it was
    finally:
        os.umask(before)
    assert mode(tmp_path / "a") == expected


def test_a_private_file_replaces_an_open_one_privately(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o644)
    write_aside(tmp_path / "a", "new", private=True)
    assert mode(tmp_path / "a") == 0o600


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_aside(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"
