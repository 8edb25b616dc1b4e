"""What is typed on the command line, as values."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_exposure.errors import InputError

if TYPE_CHECKING:
    from hf_exposure.canaries import CanarySet, CanaryTemplate

__all__ = ["check_new", "check_runs", "load_canaries", "parse_repetitions", "parse_template"]

_LONGEST_COUNT = 18  # digits


def parse_repetitions(value: str) -> dict[int, int]:
    """`"1:4,8:4"` as {1: 4, 8: 4}: how many canaries at each repetition count.

    Raises:
        InputError: it is not of that form.

    Example:
        >>> parse_repetitions("1:4,64:2")
        {1: 4, 64: 2}
    """
    counts: dict[int, int] = {}
    for part in value.split(","):
        repetitions, _, canaries = part.partition(":")
        if not (_is_count(repetitions) and _is_count(canaries)) or int(repetitions) in counts:
            raise InputError(
                "--repetitions", "must read REPETITIONS:CANARIES,...", value, "Type --repetitions 1:4,8:4,64:4."
            )
        counts[int(repetitions)] = int(canaries)
    return counts


def _is_count(text: str) -> bool:
    """Digits that Python reads as a number, which superscripts are not; and not too many of them."""
    text = text.strip()
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_COUNT


def parse_template(template: str, spaces: Sequence[str]) -> CanaryTemplate:
    """The template of `--template "pin {pin}" --space pin=digits:4`.

    Raises:
        InputError: a space that is not NAME=KIND:SIZE or given twice, or as `CanaryTemplate`.

    Example:
        >>> parse_template("pin {pin}", ["pin=digits:4"]).space_size
        10000
    """
    from hf_exposure.canaries import CanaryTemplate
    from hf_exposure.canaries.spaces import parse_space

    holes = {}
    for space in spaces:
        name, equals, spec = space.partition("=")
        if not equals or not name.isidentifier() or name in holes:
            raise InputError("--space", "must read NAME=KIND:SIZE, once for each hole", space, "Type pin=digits:4.")
        try:
            holes[name] = parse_space(spec)
        except InputError as error:
            raise InputError(f"--space {name}", error.rule, error.value, error.remedy) from None
    try:
        return CanaryTemplate(template, **holes)
    except InputError as error:
        remedy = re.sub(r"^Add (\w+)=Digits\(9\)", r"Add --space \1=digits:9", error.remedy)
        raise InputError(f"--template, {error.argument}", error.rule, error.value, remedy) from None
    except TypeError:
        raise InputError("--space", "must not take that name", list(holes), "Name the hole otherwise.") from None


def load_canaries(path: Path) -> CanarySet:
    """The canaries of a file.

    Raises:
        InputError: no such file, or one that `CanarySet.load` refuses.
    """
    from hf_exposure.canaries import CanarySet

    try:
        return CanarySet.load(path)
    except InputError as error:
        # The command's own option, where the library says "path".
        argument = "--canaries" if error.argument == "path" else f"--canaries, {error.argument}"
        raise type(error)(argument, error.rule, error.value, error.remedy) from None


def check_runs(runs: Iterable[Path]) -> None:
    """Refuses a run that is nowhere, before what reads runs is loaded.

    Raises:
        InputError: no such file or folder.
    """
    for run in runs:
        if not run.exists():
            raise InputError("run", "must be a folder or report that exists", str(run), "Name what --out was given.")


def check_new(out: Path, overwrite: bool, *, is_file: bool = False) -> Path:
    """Refuses, before any work is done, to write where something is, unless told to, or where nothing can be written.

    An empty folder is nothing.

    Raises:
        InputError: it exists, or cannot be made.
    """
    is_empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_empty and not overwrite:
        raise InputError("--out", "must not exist yet", str(out), "Name another, or add --overwrite.")
    place = out.absolute().parent if is_file else out.absolute()
    try:
        while not place.exists():
            place = place.parent
        # Asking for permissions is not enough: there are file systems that refuse their owner.
        with tempfile.TemporaryFile(dir=place):
            return out
    except OSError as error:
        rule = f"must be a {'file' if is_file else 'folder'} that can be made ({error.strerror})"
        raise InputError("--out", rule, str(out), "Name another place.") from None
