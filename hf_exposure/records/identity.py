"""One id in all files of a report, so that mixed files of two measurements in one folder are detected.

The files are written one after the other: a process that is killed in between leaves some files of the new report and
some of the old one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_exposure.errors import InputError

IDENTITY = "measurement_id"
"""The field of `report.json`, the name of a `meta` element of `report.html`, and the keyword of a text in a plot."""

PAGE_FILE, DOCUMENT_FILE, SUMS_FILE = "report.html", "report.pdf", "SHA256SUMS"
PLOT_FILES = (
    "exposure_by_repetitions.png",
    "roc.png",
    "references.png",
    "exposure_by_step.png",
    "exposure_and_loss.png",
)

PLOT_FORMATS = ("png", "svg", "pdf")
"""The first plot is always drawn."""
REPORT_FILES = (
    PAGE_FILE,
    DOCUMENT_FILE,
    *(Path(name).with_suffix(f".{kind}").name for name in PLOT_FILES for kind in PLOT_FORMATS),
)
"""All files of a report next to `report.json`, except the checksums."""

_OF_TIME = ("seconds", "measured_at")

# The id in a page, a PNG, an SVG and a PDF.
_MARK = re.compile(
    rb'<meta name="measurement_id" content="([0-9a-f]{32})">|measurement_id\0([0-9a-f]{32})'
    rb"|<dc:identifier>([0-9a-f]{32})</dc:identifier>|/Keywords \(measurement_id ([0-9a-f]{32})\)"
)
# The id is at the beginning of a page, and before the pixels of a picture; in a PDF it may be anywhere.
_HEAD_BYTES = 8192


def identity_of(content: Any) -> str:
    """The id of a report's content: equal content has the same id.

    The time and duration of a measurement do not count. Only these differ between the processes of a job, which may
    all save their report into one folder.
    """
    canonical = json.dumps(_without_times(content), sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:32]


def _without_times(content: Any) -> Any:
    if isinstance(content, Mapping):
        kept = {name: value for name, value in content.items() if not str(name).endswith(_OF_TIME)}
        return {name: _without_times(value) for name, value in kept.items()}
    return [_without_times(value) for value in content] if isinstance(content, (list, tuple)) else content


def refuse_mixture(path: Path, identity: object) -> None:
    """Raises an `InputError` if a page or plot next to a report belongs to another measurement.

    Args:
        path: the report file, or its folder.
        identity: the id in the report file; without an id, nothing is compared.
    """
    if not isinstance(identity, str):
        return
    folder = path if path.is_dir() else path.parent
    for name in REPORT_FILES:
        if (folder / name).is_file() and _mark_of(folder / name) != identity:
            rule = "must hold files of one measurement: a process was stopped while it wrote, or files were copied"
            remedy = f"Measure again into this folder, or remove {name} if report.json is the one that you want."
            raise InputError("path", rule, f"{name} of another one, in {folder}", remedy)


def _mark_of(file: Path) -> str | None:
    with file.open("rb") as opened:
        found = _MARK.search(opened.read(-1 if file.suffix == ".pdf" else _HEAD_BYTES))
    return None if found is None else next(filter(None, found.groups())).decode()
