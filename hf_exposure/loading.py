"""Loads models, tokenizers and data sets by the names that people type: a folder, a file, or an id on the Hub.

A mistyped path is recognized here, without asking the Hub for minutes (`looks_local`, `check_...`). The messages of
other libraries about a name that does not load have many lines, of which the first says what is wrong; the errors of
this file quote that line. Slow libraries are imported on use, so that a command can refuse bad names before they are
imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_exposure.errors import ExposureError, InputError, MissingDependencyError, first_line
from hf_exposure.files import clean_up

# The Hub's own rule: an id has at most one slash, and does not begin like a path.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_LONGEST_HUB_ID = 96
# Endings of files of data, weights and settings. Names on the Hub may contain dots too (Llama-3.1-8B), but not these
# endings.
_FILE_SUFFIXES = {
    ".arrow", ".bin", ".ckpt", ".csv", ".gguf", ".gz", ".h5", ".json", ".jsonl", ".ndjson", ".npy", ".npz",
    ".parquet", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tsv", ".txt", ".yaml", ".yml", ".zip",
    ".zst",
}  # fmt: skip
_CHECKPOINT = re.compile(r"checkpoint-\d+")
_BUILDERS = {
    ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text",
}  # fmt: skip
_DATA_SET_REMEDY = "Name a folder, a csv, jsonl, parquet or txt file, or a data set on the Hub."
_HEAD_BYTES = 2**16
_BATCH = 1000
# A new file begins after this many rows, so that a long shard of the input becomes several files that workers can
# share.
_MOST_BYTES = 500 * 2**20


def looks_local(name: str) -> bool:
    """Whether `name` can only be a file or folder: it is not a valid id on the Hub, or it ends like a file.

    Example:
        >>> [looks_local(name) for name in ("./gpt", "runs/a/b", "data.jsonl", "checkpoint-500", "gpt2", "me/gpt-1.5")]
        [True, True, True, True, False, False]
    """
    is_hub_id = len(name) <= _LONGEST_HUB_ID and _HUB_ID.fullmatch(name) and not name.endswith((".", "-", ".git"))
    return not is_hub_id or Path(name).suffix.lower() in _FILE_SUFFIXES or _CHECKPOINT.fullmatch(name) is not None


def check_model(option: str, name: str) -> None:
    """Refuses a folder that is missing or contains no model, before anything slow is loaded.

    Raises:
        InputError: the folder is missing or contains no model. Names that may be on the Hub are accepted.
    """
    _check_folder(option, name, "model")
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).exists() for file in ("config.json", "adapter_config.json")):
        rule = "must be a folder with a config.json or adapter_config.json"
        raise InputError(option, rule, name, "Name the folder of a saved model.")


def check_tokenizer_name(option: str, name: str) -> None:
    """Refuses a tokenizer's folder that is missing or empty.

    Raises:
        InputError: the folder or file is missing, or the folder contains no file.
    """
    _check_folder(option, name, "tokenizer")
    if Path(name).is_dir() and not any(file.is_file() for file in Path(name).iterdir()):
        raise InputError(option, "must be a folder with a tokenizer", name, "Name the folder of a saved tokenizer.")


def _check_folder(option: str, name: str, kind: str) -> None:
    folder = Path(name)
    if (looks_local(name) or folder.is_file()) and not folder.is_dir():
        raise InputError(option, "must be a folder that exists", name, f"Name the folder of a saved {kind}.")


def check_data_set(option: str, name: str) -> None:
    """Refuses a data set's file or folder that is missing, or an empty folder.

    Raises:
        InputError: the file or folder is missing, or the folder is empty.
    """
    place = Path(name)
    if looks_local(name) and not place.exists():
        raise InputError(option, "must be a file or folder that exists", name, _DATA_SET_REMEDY)
    if place.is_dir() and not any(place.iterdir()):
        raise InputError(option, "must be a folder with a data set", name, _DATA_SET_REMEDY)


# Models and tokenizers.


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The source of a model, and the settings with which it is loaded. Errors name `option`."""

    name: str
    tokenizer: str | None = None
    dtype: str = "auto"
    device: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    option: str = "--model"

    @property
    def full_name(self) -> str:
        """The name of the model in reports."""
        return self.name

    def check(self) -> None:
        """Checks the names before anything slow is loaded.

        Raises:
            InputError: a folder that is missing or holds no model.
        """
        check_model(self.option, self.name)
        if self.tokenizer is not None:
            check_tokenizer_name("--tokenizer", self.tokenizer)

    def load(self) -> tuple[Any, Any]:
        """The model, in eval mode on its device, and its tokenizer.

        Raises:
            InputError: a folder is missing or contains no model, or the device is unknown.
        """
        self.check()
        import transformers

        transformers.logging.set_verbosity_error()
        if not sys.stderr.isatty():
            transformers.utils.logging.disable_progress_bar()
        tokenizer = self._from("AutoTokenizer", self.tokenizer or self.name)
        model = self._from(self._auto_class(), self.name, dtype=self.dtype)
        return self._on_device(model).eval(), tokenizer

    def load_config(self) -> tuple[Any, Any]:
        """The configuration (that of the base model for an adapter) and the tokenizer, without weights.

        The name may also be that of a config.json file; then the tokenizer must be named too.

        Raises:
            InputError: a folder is missing or contains no model, or a file is given without the name of a tokenizer.
        """
        is_file = Path(self.name).is_file()
        if not is_file:
            self.check()
        elif self.tokenizer is None:
            raise InputError(
                "--tokenizer", "must be given together with a file", None, "Type --tokenizer FOLDER_OR_ID."
            )
        import transformers

        transformers.logging.set_verbosity_error()
        config = self._from("AutoConfig", self.name if is_file else self._base_of_adapter() or self.name)
        return config, self._from("AutoTokenizer", self.tokenizer or self.name)

    def _auto_class(self) -> str:
        """Encoder-decoder and masked models are recognized by their config; all others predict the next token."""
        config = self._from("AutoConfig", self._base_of_adapter() or self.name)
        if getattr(config, "is_encoder_decoder", False):
            return "AutoModelForSeq2SeqLM"
        names = getattr(config, "architectures", None)
        masked = isinstance(names, list) and any("MaskedLM" in str(name) for name in names)
        return "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"

    def _base_of_adapter(self) -> str | None:
        """The base model of a LoRA adapter, whose folder has only an adapter config."""
        if not (Path(self.name) / "adapter_config.json").exists() or (Path(self.name) / "config.json").exists():
            return None
        try:
            from peft import PeftConfig
        except ImportError:
            raise MissingDependencyError('adapters need peft: pip install "hf-exposure[peft]"') from None
        return str(PeftConfig.from_pretrained(self.name).base_model_name_or_path)

    def _from(self, auto_class: str, name: str, **arguments: Any) -> Any:
        # A tokenizer or base model with another name has its own revisions.
        if self.revision and name == self.name:
            arguments["revision"] = self.revision
        option = "--tokenizer" if auto_class == "AutoTokenizer" and self.tokenizer else self.option
        return load_pretrained(auto_class, name, option, trust_remote_code=self.trust_remote_code, **arguments)

    def _on_device(self, model: Any) -> Any:
        import torch

        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            return model.to(self.device or best)
        except (RuntimeError, AssertionError) as error:
            rule = f"must be a device of this machine ({first_line(error)})"
            raise InputError("--device", rule, self.device or best, "Type --device cpu.") from None


@dataclass(frozen=True, kw_only=True)
class EndpointSource(ModelSource):
    """A model behind an API: `name` is its name on the server.

    Attributes:
        endpoint: URL of the API.
        key_variable: name of the environment variable that holds the key.
    """

    endpoint: str
    key_variable: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.name} at {self.endpoint}"

    def check(self) -> None:
        """Checks the options before anything slow is loaded.

        Raises:
            InputError: there is no tokenizer, or an option for models that are loaded here was given.
        """
        if self.tokenizer is None:
            remedy = "Type --tokenizer FOLDER_OR_ID, the tokenizer of the served model."
            raise InputError("--tokenizer", "must be given together with --endpoint", None, remedy)
        check_tokenizer_name("--tokenizer", self.tokenizer)
        for option, value in (("--device", self.device), ("--revision", self.revision)):
            if value is not None:
                raise InputError(option, "does not go with --endpoint", value, "Leave it out.")

    def load(self) -> tuple[Any, Any]:
        """The endpoint, and the tokenizer of the model that it serves.

        Raises:
            InputError: the URL is invalid.
        """
        self.check()
        from hf_exposure.scoring import Endpoint

        assert self.tokenizer is not None
        tokenizer = load_tokenizer(self.tokenizer)
        try:
            return Endpoint(self.endpoint, self.name, key_variable=self.key_variable), tokenizer
        except InputError as error:
            option = {"url": "--endpoint", "key_variable": "--key-variable"}.get(error.argument, error.argument)
            raise InputError(option, error.rule, error.value, error.remedy) from None


def model_source(endpoint: str | None, key_variable: str | None, **where: Any) -> ModelSource:
    """The source of the model of `--model`: a folder, the Hub, or the server of `--endpoint`.

    Raises:
        InputError: `--key-variable` without `--endpoint`.
    """
    if endpoint is not None:
        return EndpointSource(endpoint=endpoint, key_variable=key_variable, **where)
    if key_variable is not None:
        raise InputError(
            "--key-variable", "goes with --endpoint", key_variable, "Type --endpoint URL, or leave it out."
        )
    return ModelSource(**where)


def base_source(name: str | None, **where: Any) -> ModelSource | Literal["without_adapter"] | None:
    """The source of the base model of `--base-model`; "without_adapter" means the measured model without its adapters.

    Example:
        >>> base_source("without_adapter"), base_source(None), base_source("gpt2", device="cpu").option
        ('without_adapter', None, '--base-model')
    """
    if name is None or name == "without_adapter":
        return name  # type: ignore[return-value]  # mypy does not narrow a string that was compared
    return ModelSource(name=name, option="--base-model", **where)


def load_pretrained(auto_class: str, name: str, option: str, **arguments: Any) -> Any:
    """Loads an object by a class of transformers, such as "AutoTokenizer", from a folder or the Hub.

    Raises:
        InputError: `name` is no folder or Hub id that loads; the error names `option`.
        MissingDependencyError: it needs a library that is not installed, as quantized weights may.
    """
    import transformers

    try:
        return getattr(transformers, auto_class).from_pretrained(name, **arguments)
    except MemoryError:
        raise
    except ImportError as error:
        raise MissingDependencyError(f"{option}: {name!r} needs another library: {first_line(error)}") from None
    except Exception as error:  # a folder may contain settings and weights of any kind
        rule = f"must be a folder or Hub id that loads ({first_line(error)})"
        raise InputError(option, rule, name, "Check the name, or name a folder of a saved model.") from None


def load_tokenizer(name: str) -> Any:
    """Loads a tokenizer alone.

    Raises:
        InputError: `name` is no folder or Hub id of a tokenizer.
    """
    check_tokenizer_name("--tokenizer", name)
    return load_pretrained("AutoTokenizer", name, "--tokenizer", trust_remote_code=False)


# Data sets.


def load_data_set(dataset: str, name: str | None, revision: str | None, *, stream: bool = False) -> Any:
    """Loads a folder saved by `save_to_disk`, a file or a folder of files, or a data set on the Hub.

    Raises:
        InputError: the data set does not load, or a saved folder was to be streamed.
    """
    check_data_set("--dataset", dataset)
    from datasets import load_dataset, load_from_disk, logging

    logging.set_verbosity(logging.CRITICAL)  # the error is reported once, below
    path = Path(dataset)
    if not path.exists():
        clean_up(path.absolute().parent)  # an insert may have been killed before it renamed the folder
    saved = is_saved_folder(path)
    if saved and stream:
        rule = "does not go with a folder written by save_to_disk, which is read from the disk as it is"
        raise InputError("--stream", rule, dataset, "Leave --stream out.")
    try:
        if path.is_file():
            builder = _BUILDERS.get(path.suffix.lower())
            if builder is None:
                raise InputError("--dataset", f"must end in {', '.join(_BUILDERS)}", str(path), _DATA_SET_REMEDY)
            if builder == "json":
                _check_rows_of_json(path)
            return load_dataset(builder, data_files={"train": str(path)}, streaming=stream)
        if path.is_dir():
            return load_from_disk(str(path)) if saved else load_dataset(str(path), name, streaming=stream)
        return load_dataset(dataset, name, revision=revision, streaming=stream)
    except InputError:
        raise
    except Exception as error:
        rule = f"must be a data set that loads ({first_line(error)})"
        raise InputError("--dataset", rule, dataset, _DATA_SET_REMEDY) from None


def _check_rows_of_json(path: Path) -> None:
    """Refuses a file that begins with null instead of a row, on which pyarrow ends the whole process."""
    with path.open("rb") as file:
        begins = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not begins.startswith((b"{", b"[")):
        rule = "must begin with a row, which is a JSON object"
        raise InputError("--dataset", rule, str(path), _DATA_SET_REMEDY)


@contextmanager
def read_to_its_end() -> Iterator[None]:
    """A context for code that reads a stream: errors of pyarrow, pandas, fsspec or the Hub's client become an
    `InputError`.

    Their messages may quote a row, so use it within `without_secrets`.

    Raises:
        InputError: rows cannot be read.
    """
    try:
        yield
    except (ExposureError, OSError, MemoryError):
        raise
    except Exception as error:
        rule = f"must be a data set that can be read to its end ({first_line(error)})"
        raise InputError(
            "--dataset", rule, type(error).__name__, "Repair the data, or name another data set."
        ) from None


def is_saved_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote the folder, which is then read without a copy."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def parts_of(dataset: Any) -> dict[str, Any]:
    """A data set's splits by name; a single split is called "train"."""
    return dict(dataset) if isinstance(dataset, dict) else {"train": dataset}


@contextmanager
def without_cache() -> Iterator[None]:
    """Keeps `datasets` from leaving secrets in a copy next to the original, or in a cache that others may read."""
    import datasets

    was_enabled = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was_enabled:
            datasets.enable_caching()


def write_shards(streams: dict[str, Any], folder: Path) -> dict[str, int]:
    """Writes streams as `folder/data/{split}-{number}.parquet`, and returns their numbers of rows.

    `load_dataset(folder, streaming=True)` can read them. There is at least one file for each shard of a stream, so
    that as many workers can share it. One batch at a time is in memory; `IterableDataset.to_parquet` would keep a
    whole shard.

    Raises:
        InputError: the types of the rows change along the stream.
    """
    (folder / "data").mkdir(parents=True)
    return {split: _write_split(stream, folder / "data", split) for split, stream in streams.items()}


def _write_split(stream: Any, folder: Path, split: str) -> int:
    import pyarrow.parquet as pq
    from tqdm import tqdm

    rows = files = 0
    schema = None if stream.features is None else stream.features.arrow_schema
    with tqdm(desc=f"writing {split}", unit=" rows", disable=None, file=sys.stderr, leave=False) as bar:
        for number in range(stream.num_shards):
            with ExitStack() as file:
                size = _MOST_BYTES
                for table in stream.shard(stream.num_shards, number).with_format("arrow").iter(_BATCH):
                    schema = schema or table.schema
                    if size >= _MOST_BYTES:
                        file.close()
                        place = folder / f"{split}-{files:05d}.parquet"
                        writer, size, files = file.enter_context(pq.ParquetWriter(place, schema)), 0, files + 1
                    writer.write_table(_cast(table, schema))
                    size += table.nbytes
                    rows += len(table)
                    bar.update(len(table))
    return rows


def _cast(table: Any, schema: Any) -> Any:
    try:
        return table.select(schema.names).cast(schema)
    except (KeyError, ValueError, TypeError) as error:
        rule = f"must have rows of the same types throughout the stream ({first_line(error)})"
        remedy = "Write it as parquet with one schema first."
        raise InputError("--dataset", rule, ", ".join(schema.names), remedy) from None
