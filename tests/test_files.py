"""Files and folders are written completely or not at all, even if the process is killed, and only for their owner."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from kills import killed_at_each_call

import hf_exposure.files
from hf_exposure.files import clean_up, make_private_folder, owner_only, replaced_folder, temporary_folder, write_aside


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


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


OLD, NEW = {"a": "old", "in/b": "old"}, {"a": "new", "in/b": "new", "c": "new"}


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)


def replace_folder(target: Path) -> None:
    with replaced_folder(target) as aside:
        fill(aside, NEW)


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchanged", "in two steps"])
def test_a_killed_replacement_leaves_the_old_or_the_new_folder(exchanges: bool, tmp_path: Path) -> None:
    target = tmp_path / "data"

    def prepare() -> None:
        shutil.rmtree(target, ignore_errors=True)
        fill_new(target, OLD)

    def fill_new(folder: Path, files: dict[str, str]) -> None:
        folder.mkdir()
        fill(folder, files)

    found = []
    refuse = patch.object(hf_exposure.files, "_exchange", lambda one, other: False)
    with patch.object(hf_exposure.files, "_exchange", hf_exposure.files._exchange) if exchanges else refuse:
        for _ in killed_at_each_call(lambda: replace_folder(target), prepare):
            if exchanges and sys.platform == "linux":
                assert contents(target) in (OLD, NEW)  # before any clean-up
            clean_up(tmp_path)  # as the next run does
            assert names_in(tmp_path) == ["data"]
            assert contents(target) in (OLD, NEW)
            found.append(contents(target))
        assert found.count(OLD) > 3 and found.count(NEW) > 3
        # The last child completed its work.
        assert contents(target) == NEW and names_in(tmp_path) == ["data"]
        replace_folder(tmp_path / "made")
        assert contents(tmp_path / "made") == NEW


def test_a_killed_write_leaves_the_old_or_the_new_file(tmp_path: Path, open_umask: None) -> None:
    target = tmp_path / "a"

    def prepare() -> None:
        target.write_text("old")
        target.chmod(0o600)

    for _ in killed_at_each_call(lambda: write_aside(target, "new", private=True), prepare):
        assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
        clean_up(tmp_path)
        assert names_in(tmp_path) == ["a"] and target.read_text() in ("old", "new")
    assert target.read_text() == "new"


def test_a_first_write_that_is_killed_leaves_no_file_or_a_whole_one(tmp_path: Path) -> None:
    target = tmp_path / "a"
    for _ in killed_at_each_call(lambda: write_aside(target, "new"), lambda: target.unlink(missing_ok=True)):
        assert not target.exists() or target.read_text() == "new"
        write_aside(tmp_path / "b", "")  # the next run, of another file
        assert set(names_in(tmp_path)) <= {"a", "b"}


def test_folders_are_for_their_owner_alone(tmp_path: Path, open_umask: None) -> None:
    replace_folder(tmp_path / "deep" / "data")
    make_private_folder(tmp_path / "one" / "two")
    (tmp_path / "shared").mkdir()
    make_private_folder(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o777  # the mode is somebody else's decision
    for path in (*(tmp_path / "deep" / "data").rglob("*"), tmp_path / "deep" / "data", tmp_path / "one" / "two"):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path
    assert os.umask(0) == 0


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, {"data/a": "old"})
    with pytest.raises(ZeroDivisionError), replaced_folder(tmp_path / "data") as aside:
        fill(aside, NEW)
        raise ZeroDivisionError
    assert (names_in(tmp_path), contents(tmp_path)) == (["data"], {"data/a": "old"})
    with (
        patch.object(hf_exposure.files, "_exchange", lambda one, other: False),
        patch.object(os, "rename", fails_the_second_time(os.rename)),
        pytest.raises(OSError, match="No space"),
    ):
        replace_folder(tmp_path / "data")
    assert (names_in(tmp_path), contents(tmp_path)) == (["data"], {"data/a": "old"})


def fails_the_second_time(function: object) -> object:
    calls = []

    def call(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return function(*arguments)  # type: ignore[operator]

    return call


def test_a_file_or_a_link_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    fill(tmp_path, {"far/a": "old"})
    (tmp_path / "link").symlink_to(tmp_path / "far")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling"):
        replace_folder(tmp_path / name)
        assert contents(tmp_path / name) == NEW
    assert names_in(tmp_path) == ["dangling", "far", "file", "link"] and contents(tmp_path / "far") == {"a": "old"}


def leftover(folder: Path, pid: int, host: str = hf_exposure.files._HOST, name: str = "data") -> Path:
    path = folder / f".{name}.hf-exposure-{host}-{pid}-0123abcd"
    path.mkdir()
    (path / "secret").write_text("1")
    return path


def dead_process() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_what_a_live_process_writes_is_left_alone(tmp_path: Path) -> None:
    writer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom hf_exposure.files import replaced_folder\n"
            "with replaced_folder(sys.argv[1]) as aside:\n    (aside / 'a').touch()\n    time.sleep(60)",
            str(tmp_path / "data"),
        ]
    )
    try:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob(".data.*/a")) and time.monotonic() < deadline:
            time.sleep(0.01)
        clean_up(tmp_path)
        (aside,) = tmp_path.iterdir()
        assert re.fullmatch(rf"\.data\.hf-exposure-.+-{writer.pid}-[0-9a-f]{{8}}", aside.name)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert names_in(tmp_path) == [aside.name]
        replace_folder(tmp_path / "other")  # the next run
        assert names_in(tmp_path) == ["other"]
    finally:
        writer.kill()
        writer.wait()


def test_only_what_is_known_to_be_abandoned_is_removed(tmp_path: Path) -> None:
    gone = dead_process()
    others = [leftover(tmp_path, gone, host="elsewhere"), leftover(tmp_path, os.getppid())]
    (tmp_path / ".data.hf-exposure-notes").mkdir()  # not a name of ours
    with patch.object(os, "getuid", lambda: -1):
        foreign = leftover(tmp_path, gone)
        clean_up(tmp_path)
        assert foreign.exists()
    # In a container the next run may have the same process id as the last one.
    leftover(tmp_path, os.getpid(), name="same")
    with replaced_folder(tmp_path / "new") as aside:
        clean_up(tmp_path)
        assert aside.exists()
    assert set(names_in(tmp_path)) == {".data.hf-exposure-notes", "new", *(path.name for path in others)}
    clean_up(tmp_path / "nowhere")


def test_an_old_folder_is_put_back_only_where_nothing_is(tmp_path: Path) -> None:
    for there in (False, True):
        old = leftover(tmp_path, dead_process())
        old.rename(f"{old}.old")
        clean_up(tmp_path)
        assert contents(tmp_path) == ({"data/secret": "2"} if there else {"data/secret": "1"})
        (tmp_path / "data" / "secret").write_text("2")


def test_a_temporary_folder_goes_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys\nfrom hf_exposure.files import temporary_folder\n"
        "folder = temporary_folder('canaries')\n(folder / 'a').touch()\nprint(oct(folder.stat().st_mode & 0o777))\n"
        "if os.fork() == 0:\n    sys.exit()\nos.wait()\nassert (folder / 'a').exists()\n"
        "if sys.argv[1] == 'killed':\n    os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for how, left in (("done", 0), ("killed", 1)):
        run = subprocess.run([sys.executable, "-c", code, how], env=environment, capture_output=True, text=True)
        assert "0o700" in run.stdout or how == "killed", run.stderr
        assert len(names_in(tmp_path)) == left
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (own,) = [temporary_folder("canaries")]
    assert names_in(tmp_path) == [own.name]


def test_what_a_process_of_another_container_writes_is_left_alone(tmp_path: Path) -> None:
    """With the same host name, its process id may belong to no process here, or to this process."""
    gone = dead_process()
    names = [leftover(tmp_path, gone), leftover(tmp_path, os.getpid())]
    old = leftover(tmp_path, gone, name="other").rename(tmp_path / f"{names[0].name.replace('data', 'other')}.old")
    lock = "[fcntl.flock(os.open(name, os.O_RDONLY), fcntl.LOCK_EX) for name in sys.argv[1:]]"
    code = f"import fcntl, os, sys, time\n{lock}\nprint('held', flush=True)\ntime.sleep(60)"
    typed = [sys.executable, "-c", code, *map(str, [*names, old])]
    with subprocess.Popen(typed, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        clean_up(tmp_path)
        assert set(tmp_path.iterdir()) == {*names, old}
        holder.kill()
    clean_up(tmp_path)
    assert names_in(tmp_path) == ["other"]  # a folder interrupted between two renames is restored


@pytest.mark.parametrize("writes", ["folder", "file", "temporary"])
def test_whoever_writes_holds_a_lock(writes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    locked: list[bool] = []

    def look() -> None:
        locked.extend(hf_exposure.files._is_locked(path) for path in tmp_path.iterdir())

    if writes == "folder":
        with replaced_folder(tmp_path / "data"):
            look()
    elif writes == "file":
        with patch.object(os, "replace", lambda *names: (look(), os.rename(*names))):
            write_aside(tmp_path / "a", "x")
    else:
        temporary_folder("data")
        look()
    assert locked == [True]


def test_threads_share_a_umask(tmp_path: Path, open_umask: None) -> None:
    """Whichever block ends first, the others' files stay private, and the umask is restored at the end."""
    first, second = owner_only(), owner_only()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    (tmp_path / "a").touch()
    second.__exit__(None, None, None)
    (tmp_path / "b").touch()
    assert (mode(tmp_path / "a"), mode(tmp_path / "b")) == (0o600, 0o666)
