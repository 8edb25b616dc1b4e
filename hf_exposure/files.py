"""Writing files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["owner_only", "write_aside"]


@contextmanager
def owner_only() -> Iterator[None]:
    """Files that anybody in this process makes meanwhile are readable by their owner alone.

    For files that another library writes: the process's umask, which its own processes inherit, is all that it heeds.
    """
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def write_aside(path: str | Path, content: str | bytes, *, private: bool = False) -> Path:
    """Writes beside `path`, then renames onto it: a reader sees the old file or the new one, never a part.

    Args:
        path: the file; its folder must exist.
        content: text (UTF-8) or bytes.
        private: readable by the owner only, from the first moment on; else as the process's umask says.
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    # mkstemp makes the file with mode 0600, so a private one is never open to others.
    descriptor, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(aside, 0o666 & ~umask)
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return target
