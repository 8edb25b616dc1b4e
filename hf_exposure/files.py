"""Writing files whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_exposure.limits import DEEPEST_JSON, LARGEST_JSON_BYTES

__all__ = ["owner_only", "parse_json", "read_bytes", "read_json", "write_aside"]


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
        constants: let NaN and Infinity pass, which the Trainer writes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON in UTF-8, or larger or deeper than `limits` says.
    """
    return parse_json(read_bytes(path, LARGEST_JSON_BYTES), constants=constants)


def parse_json(content: bytes | str, *, constants: bool = False) -> Any:
    """The values of a JSON text; see `read_json`.

    Example:
        >>> parse_json("[1e999]")
        Traceback (most recent call last):
        ValueError: 1e999 is no finite number
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    options: dict[str, Any] = {} if constants else {"parse_constant": _refuse, "parse_float": _finite}
    try:
        values = json.loads(text, **options)
    except RecursionError:
        raise ValueError("too many lists inside each other") from None
    level, depth = [values], 0
    while level:
        if depth > DEEPEST_JSON:
            raise ValueError("too many lists inside each other")
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
    raise ValueError(f"{name} is no finite number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


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
