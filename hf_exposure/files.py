"""Files and folders that are written completely or not at all, and by default are readable by their owner only.

Contents are written under another name in the same folder, which is then renamed to the target in one step. That name
contains the host and the process: leftovers of a killed process are removed by the next process that writes there, and
files of a live process are kept. The writer also holds a lock: containers that share a folder may share a host name,
and then one container does not see the other's processes.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_exposure.limits import DEEPEST_JSON, LARGEST_JSON_BYTES

try:
    import fcntl
except ImportError:  # Windows, where nothing is ever considered abandoned
    fcntl = None  # type: ignore[assignment]

_HOST = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname()) or "localhost"
_LEFTOVER = re.compile(rf"\.(?P<name>.+)\.hf-exposure-{re.escape(_HOST)}-(?P<pid>\d+)-[0-9a-f]{{8}}(?P<old>\.old)?")
_OLD = ".old"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# The paths that this process is writing. Its process id is not enough, since in a container every run may have the
# same one.
_in_use: set[Path] = set()
# The number of open `owner_only` blocks in all threads, which share one umask, and the umask before the first of them.
_open_blocks: list[int] = []
_umask_lock = threading.Lock()


def read_bytes(path: str | Path, most: int) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it has more than `most`; a device without end has, too.
    """
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"more than {most} bytes")
    return content


def read_json(path: str | Path, *, constants: bool = False) -> Any:
    """The values of a JSON file.

    Args:
        constants: whether to accept NaN and Infinity, which the Trainer writes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON in UTF-8, or is larger or deeper than `limits` allows.
    """
    return parse_json(read_bytes(path, LARGEST_JSON_BYTES), constants=constants)


def parse_json(content: bytes | str, *, constants: bool = False) -> Any:
    """The values of a JSON text; see `read_json`.

    Example:
        >>> parse_json("[1e999]")
        Traceback (most recent call last):
        ValueError: 1e999 is not a finite number
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    options: dict[str, Any] = {} if constants else {"parse_constant": _refuse, "parse_float": _finite}
    try:
        values = json.loads(text, **options)
    except RecursionError:
        raise ValueError("too many nested lists") from None
    level, depth = [values], 0
    while level:
        if depth > DEEPEST_JSON:
            raise ValueError("too many nested lists")
        texts = [item for value in level for item in (value if isinstance(value, dict) else [value])]
        if any(isinstance(item, str) and _has_surrogate(item) for item in texts):
            raise ValueError("a text that UTF-8 cannot encode")
        nested = [value for value in level if isinstance(value, (dict, list))]
        level = [item for value in nested for item in (value.values() if isinstance(value, dict) else value)]
        depth += 1
    return values


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


@contextmanager
def owner_only() -> Iterator[None]:
    """Within this block, new files of this process are readable by their owner only.

    It sets the process's umask, the only setting that files written by other libraries and their processes respect.
    """
    with _umask_lock:
        before = os.umask(0o077)
        _open_blocks.append(_open_blocks[0] if _open_blocks else before)
    try:
        yield
    finally:
        with _umask_lock:
            before = _open_blocks.pop()
            if not _open_blocks:
                os.umask(before)


def write_aside(path: str | Path, content: str | bytes, *, private: bool = False) -> Path:
    """Writes next to `path`, then renames onto it: a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder must exist.
        content: text (UTF-8) or bytes.
        private: whether the file is readable by its owner only, from its creation on; otherwise the process's umask
            applies.
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    clean_up(target.parent)
    with _aside(target) as aside:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file, _locked(aside):
                file.write(data)
                file.close()  # Windows cannot rename an open file
                if private:
                    os.chmod(aside, 0o600)  # the umask may have removed even the owner's rights
                else:
                    umask = os.umask(0)
                    os.umask(umask)
                    os.chmod(aside, 0o666 & ~umask)
                os.replace(aside, target)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
    return target


@contextmanager
def replaced_folder(target: str | Path) -> Iterator[Path]:
    """Yields an empty folder next to `target` that replaces it when the block ends; on a failure it is removed.

    Both are readable by their owner only, and so is everything that any library writes inside the block. The old
    `target` stays complete until the new folder is, and is removed after the exchange, which takes one step on Linux.
    If the system or the file system does not support that, a kill between two renames leaves nothing at `target`, and
    `clean_up` restores the old folder.

    Raises:
        OSError: the folder cannot be created, or cannot replace `target`, which then stays as it was.
    """
    place = Path(target).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    clean_up(place.parent)
    with _aside(place) as aside:
        try:
            with owner_only():
                aside.mkdir()
            with _locked(aside):
                with owner_only():
                    yield aside
                if not os.path.lexists(place):
                    os.rename(aside, place)
                elif not _exchange(aside, place):
                    _replace_in_two_steps(aside, place)
        finally:
            _remove(aside)


def make_private_folder(path: Path) -> None:
    """Creates a folder, readable by its owner only, if it is missing; an existing folder keeps its mode."""
    if not path.is_dir():
        with owner_only():
            path.mkdir(parents=True, exist_ok=True)


def temporary_folder(purpose: str) -> Path:
    """Creates a temporary folder that only its owner may read. It is removed when this process ends.

    After a kill, the next process that creates such a folder removes it.
    """
    parent = Path(tempfile.gettempdir())
    clean_up(parent)
    folder = _name_for(parent / purpose)
    folder.mkdir(mode=0o700)
    _in_use.add(folder)
    lock = _lock(folder)
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # a forked process inherits this function, but its parent still needs the folder
            _remove(folder)
            if lock is not None:
                os.close(lock)

    atexit.register(remove)
    return folder


def clean_up(folder: str | Path) -> None:
    """Removes leftovers of killed processes of this host and user from `folder`, and finishes their renames.

    A folder whose replacement was interrupted between two renames is restored first. Errors are ignored, since nothing
    depends on the cleaning.
    """
    with suppress(OSError):
        left = [(entry, found) for entry in os.scandir(folder) if (found := _LEFTOVER.fullmatch(entry.name))]
        dead = [(Path(entry.path), found) for entry, found in left if _is_abandoned(entry, int(found["pid"]))]
        for path, found in dead:
            target = path.with_name(found["name"])
            if found["old"] and not os.path.lexists(target):
                with suppress(OSError):
                    os.rename(path, target)
        for path, _ in dead:
            _remove(path)


def _is_abandoned(entry: os.DirEntry[str], pid: int) -> bool:
    # On Windows, os.kill would end the process, so there is no way to test whether it is alive.
    if os.name != "posix" or entry.stat(follow_symlinks=False).st_uid != os.getuid():
        return False
    if pid == os.getpid():
        return Path(entry.path).absolute() not in _in_use and not _is_locked(entry.path)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return not _is_locked(entry.path)
    except OSError:
        return False
    return False


def _lock(path: str | Path) -> int | None:
    """Returns a descriptor that holds a lock on a file or folder until it is closed, at the latest when its process
    ends.

    None if there are no such locks, as on Windows and some file systems.

    Raises:
        BlockingIOError: another process holds it.
    """
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if descriptor is not None:
            os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


def _is_locked(path: str | Path) -> bool:
    try:
        descriptor = _lock(path)
    except BlockingIOError:
        return True
    if descriptor is not None:
        os.close(descriptor)
    return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        descriptor = _lock(path)
    except BlockingIOError:  # another process is testing right now whether it is locked
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def files_sha256(place: str | Path) -> str:
    """SHA-256 over a file, or over the names and contents of all files under a folder, sorted by name.

    Caches that `datasets` leaves next to its files are ignored.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "a.txt").write_text("abc")
        >>> files_sha256(folder / "a.txt")[:12], len(files_sha256(folder))
        ('ba7816bf8f01', 64)
    """
    place = Path(place)
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    for file in files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256")
        if file == place:
            return content.hexdigest()
        if not file.name.startswith("cache-"):
            digest.update(f"{content.hexdigest()}  {file.relative_to(place).as_posix()}\n".encode())
    return digest.hexdigest()


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Waits until no other process is in such a block for that folder. Without locks, it does not wait."""
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """Yields a name next to `target` that identifies the writer."""
    aside = _name_for(target.absolute())
    _in_use.add(aside)
    try:
        yield aside
    finally:
        _in_use.discard(aside)


def _name_for(target: Path) -> Path:
    return target.with_name(f".{target.name}.hf-exposure-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}")


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; returns False if the system cannot do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    done = bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)
    code = ctypes.get_errno()
    if not done and code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM):
        raise OSError(code, os.strerror(code), str(other))
    return done


def _replace_in_two_steps(aside: Path, place: Path) -> None:
    old = aside.with_name(aside.name + _OLD)
    _in_use.add(old)
    try:
        with _locked(place):
            os.rename(place, old)
            try:
                os.rename(aside, place)
            except BaseException:
                os.rename(old, place)
                raise
            _remove(old)
    finally:
        _in_use.discard(old)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
