"""The demo's training text, cut into rows."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, DatasetDict, IterableDataset, get_dataset_config_names, load_dataset, load_from_disk

from hf_exposure.errors import InputError


def load_rows(text_file: Path | None, dataset: str | None, most_bytes: int, row_characters: int) -> Dataset:
    """Rows of about `row_characters` from the first `most_bytes` of a text: a column `text`.

    The text is that of `text_file`, or of a dataset's `text` column, or the language reference that comes with
    Python (`pydoc_data.topics`), which every machine has.

    Raises:
        InputError: both are given, a file that cannot be read, a dataset without a `text` column, an empty text.
    """
    if text_file is not None and dataset is not None:
        raise InputError("--text-file", "cannot be combined with --dataset", str(text_file), "Give one of them.")
    text = _python_reference()
    if text_file is not None:
        try:
            text = Path(text_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "--text-file",
                f"must be a readable UTF-8 file ({error})",
                str(text_file),
                "Give another path, or leave it out.",
            ) from None
    if dataset is not None:
        text = _dataset_text(dataset, most_bytes)
    text = text.encode("utf-8")[:most_bytes].decode("utf-8", errors="ignore")
    rows = [text[i : i + row_characters] for i in range(0, len(text), row_characters)]
    rows = [row for row in rows if row.strip()]
    if not rows:
        option = "--dataset" if dataset is not None else "--text-file"
        raise InputError(option, "must hold some text", str(dataset or text_file), "Give another, or leave it out.")
    return Dataset.from_dict({"text": rows})


def _python_reference() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def _dataset_text(name: str, most_bytes: int) -> str:
    """The first `most_bytes` of a local folder or of a Hub dataset's training split, which is streamed."""
    loaded = _open_dataset(name)
    if isinstance(loaded, (DatasetDict, dict)):
        loaded = loaded["train"] if "train" in loaded else next(iter(loaded.values()))
    parts: list[str] = []
    size = 0
    for row in loaded:
        if "text" not in row:
            raise InputError("--dataset", "must have a column named 'text'", sorted(row), "Use --text-file instead.")
        parts.append(row["text"])
        size += len(row["text"].encode("utf-8")) + 1
        if size >= most_bytes:
            break
    return "\n".join(parts)


def _open_dataset(name: str) -> Dataset | DatasetDict | IterableDataset:
    if Path(name).is_dir() and (list(Path(name).glob("*.arrow")) or (Path(name) / "dataset_dict.json").exists()):
        return load_from_disk(name)
    # Several configurations and none named: the first will do, since only its first bytes are read.
    try:
        configurations = get_dataset_config_names(name)
        configuration = configurations[0] if configurations and "default" not in configurations else None
        return load_dataset(name, configuration, split="train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        rule = f"must be a folder or Hub id that loads ({str(error).strip().splitlines()[0]})"
        raise InputError("--dataset", rule, name, "Use --text-file, or leave both out.") from None
