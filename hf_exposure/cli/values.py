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


# Names on the command line: a mistyped path is found out here, and not by asking the Hub for minutes.

# The Hub's own rule: one slash at most, and no path begins so.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_LONGEST_HUB_ID = 96
# What files of data, weights and settings end in. Names on the Hub hold dots too (Llama-3.1-8B), but do not end so.
_FILE_SUFFIXES = {
    ".arrow", ".bin", ".ckpt", ".csv", ".gguf", ".gz", ".h5", ".json", ".jsonl", ".ndjson", ".npy", ".npz",
    ".parquet", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tsv", ".txt", ".yaml", ".yml", ".zip",
    ".zst",
}  # fmt: skip
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def looks_local(name: str) -> bool:
    """Whether `name` can only be a file or folder: it is no id of the Hub, or it ends as files do.

    Example:
        >>> [looks_local(name) for name in ("./gpt", "runs/a/b", "data.jsonl", "checkpoint-500", "gpt2", "me/gpt-1.5")]
        [True, True, True, True, False, False]
    """
    is_hub_id = len(name) <= _LONGEST_HUB_ID and _HUB_ID.fullmatch(name) and not name.endswith((".", "-", ".git"))
    return not is_hub_id or Path(name).suffix.lower() in _FILE_SUFFIXES or _CHECKPOINT.fullmatch(name) is not None


def check_model(option: str, name: str) -> None:
    """Refuses a folder that is missing or holds no model, before anything heavy is loaded.

    Raises:
        InputError: as said; names that may be on the Hub pass.
    """
    folder = Path(name)
    if (looks_local(name) or folder.is_file()) and not folder.is_dir():
        raise InputError(option, "must be a folder that exists", name, "Name the folder of a saved model.")
    if folder.is_dir() and not any((folder / file).exists() for file in ("config.json", "adapter_config.json")):
        rule = "must be a folder with a config.json or adapter_config.json"
        raise InputError(option, rule, name, "Name the folder of a saved model.")


def check_tokenizer(option: str, name: str) -> None:
    """The same for a tokenizer.

    Raises:
        InputError: a folder or file that is missing, or a folder without a file in it.
    """
    folder = Path(name)
    if (looks_local(name) or folder.is_file()) and not folder.is_dir():
        raise InputError(option, "must be a folder that exists", name, "Name the folder of a saved tokenizer.")
    if folder.is_dir() and not any(file.is_file() for file in folder.iterdir()):
        raise InputError(option, "must be a folder with a tokenizer", name, "Name the folder of a saved tokenizer.")


def check_data_set(option: str, name: str) -> None:
    """The same for a data set: a file, or a folder with something in it.

    Raises:
        InputError: a file or folder that is missing, or an empty folder.
    """
    remedy = "Name a folder, a csv, jsonl, parquet or txt file, or a data set on the Hub."
    place = Path(name)
    if looks_local(name) and not place.exists():
        raise InputError(option, "must be a file or folder that exists", name, remedy)
    if place.is_dir() and not any(place.iterdir()):
        raise InputError(option, "must be a folder with a data set", name, remedy)


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
