"""`SHA256SUMS`: the files of a report and their checksums, under one content hash.

`sha256sum --check SHA256SUMS` reads the file, so that a report can be checked without this package.
Its own SHA-256 is the content hash: a single line to file, sign or write down, which covers every byte of the report.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from hf_exposure.errors import InputError
from hf_exposure.files import read_bytes, write_aside
from hf_exposure.limits import LARGEST_JSON_BYTES
from hf_exposure.records.exposure_report import REPORT_FILE
from hf_exposure.records.identity import REPORT_FILES, SUMS_FILE

_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\n]+)")
_REMEDY = "Measure or save the report again, or restore the folder from a copy."


def write_sums(folder: Path, names: Iterable[str]) -> Path:
    """Writes the checksums of the files of a report in `folder`, sorted by name."""
    lines = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names))
    return write_aside(folder / SUMS_FILE, lines, private=True)


def verify_files(folder: str | Path) -> str:
    """Compares the files of a report with their checksums, and returns the report's content hash.

    Args:
        folder: a folder that `report.save` wrote. Other files in it are ignored, except those with the name of a
            report file: if such a file is not in the list, it was added later.

    Returns:
        64 hexadecimal digits.

    Raises:
        InputError: there are no checksums, or a file is missing, was changed, or was added.
    """
    place = Path(folder)
    sums = place / SUMS_FILE
    try:
        content = read_bytes(sums, LARGEST_JSON_BYTES)
    except OSError as error:
        rule = f"must be a folder that holds {SUMS_FILE} ({error.strerror})"
        raise InputError("run", rule, str(folder), "Name a folder that report.save or measure --out wrote.") from None
    listed: dict[str, str] = {}
    for line in content.decode("utf-8", errors="replace").splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise InputError("run", f"must have a complete {SUMS_FILE}", str(folder), _REMEDY)
        listed[found[2]] = found[1]
    if REPORT_FILE not in listed:
        raise InputError("run", f"must list {REPORT_FILE} in {SUMS_FILE}", str(folder), _REMEDY)
    wrong = [f"{name} {state}" for name in listed if (state := _state(place / name, listed[name]))]
    wrong += [f"{name} was added" for name in REPORT_FILES if name not in listed and (place / name).exists()]
    if wrong:
        raise InputError("run", "must hold the files as they were written", ", ".join(wrong), _REMEDY)
    return hashlib.sha256(content).hexdigest()


def _state(path: Path, expected: str) -> str:
    """What is wrong with a file; "" if nothing is."""
    if not path.is_file():
        return "is missing"
    return "" if sha256_of(path) == expected else "was changed"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
