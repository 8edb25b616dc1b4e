"""Names on the command line: a mistyped path is found out here, and not by asking the Hub for minutes."""

from __future__ import annotations

import re
from pathlib import Path

from hf_exposure.errors import InputError

__all__ = ["check_data_set", "check_model", "check_tokenizer", "looks_local"]

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
