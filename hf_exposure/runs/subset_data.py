"""Rows of any kind of training data: their number, subsets of them, and a hash of all of them.

Supported are `datasets.Dataset`, arrays and tensors, pandas frames, lists, map-style data sets of torch, and tuples or
dicts of these with equally many rows, such as `(images, labels)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, IterableDatasetDict
from numpy.typing import NDArray

from hf_exposure.errors import InputError, described

_BATCH = 1000


def count_rows(argument: str, data: Any) -> int:
    """Returns the number of rows.

    Raises:
        InputError: there are no rows, the parts have unequal lengths, or the data has no length, as for a stream.
    """
    if isinstance(data, (DatasetDict, IterableDatasetDict)):
        remedy = f"Pass one of them: {', '.join(map(repr, data))}."
        raise InputError(argument, "must be one data set, not its splits", type(data).__name__, remedy)
    parts = _parts(data)
    try:
        counts = {len(part) for part in parts} if parts is not None else {len(data)}
    except TypeError:
        remedy = "Load all rows: subsets of a stream cannot be selected."
        raise InputError(argument, "must have a length", type(data).__name__, remedy) from None
    if len(counts) != 1 or counts == {0} or isinstance(data, (str, bytes)):
        rule = "must have at least one row, and equally many in all its parts"
        raise InputError(argument, rule, described(data), "Pass a data set, an array, or (inputs, labels).")
    return int(counts.pop())


def take_rows(data: Any, rows: NDArray[np.int64]) -> Any:
    """Returns the rows with these indices, in the same kind of container if possible."""
    parts = _parts(data)
    if parts is not None:
        taken = [take_rows(part, rows) for part in parts]
        return dict(zip(data, taken, strict=True)) if isinstance(data, Mapping) else tuple(taken)
    if isinstance(data, Dataset):
        return data.select(rows.tolist())
    if hasattr(data, "iloc"):
        return data.iloc[rows]
    if isinstance(data, np.ndarray):
        return data[rows]
    if isinstance(data, torch.Tensor):
        return data[torch.from_numpy(rows).to(data.device)]
    if isinstance(data, Sequence):
        return [data[row] for row in rows.tolist()]
    return torch.utils.data.Subset(data, rows.tolist())


def hash_rows(argument: str, data: Any) -> str:
    """Returns a hash of the contents, equal in all processes, so that a store is only continued with the same data.

    Raises:
        InputError: a row contains objects other than numbers, texts, arrays, images, and lists or mappings of these.
    """
    found = hashlib.sha256()
    _feed(found, argument, data)
    return found.hexdigest()


def _parts(data: Any) -> list[Any] | None:
    """Returns the columns of a tuple or dict of containers; None for a container itself."""
    if isinstance(data, Mapping):
        return list(data.values()) or None
    if isinstance(data, tuple) and data and all(hasattr(part, "__len__") and not _is_row(part) for part in data):
        return list(data)
    return None


def _is_row(part: Any) -> bool:
    """Returns whether a member of a tuple is a row (a text, a mapping) and not a column."""
    return isinstance(part, (str, bytes, Mapping))


def _feed(found: Any, argument: str, value: Any) -> None:
    if isinstance(value, (str, bytes, bool, int, float, type(None))):
        found.update(f"{type(value).__name__}:{value!r};".encode("utf-8", "surrogatepass"))
    elif isinstance(value, torch.Tensor):
        plain = value.detach().cpu()
        try:
            _feed(found, argument, plain.numpy())
        except TypeError:  # numpy has no such numbers, bfloat16 say
            found.update(f"{plain.dtype}{tuple(plain.shape)};".encode())
            found.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind != "O":
        array = np.ascontiguousarray(value)
        found.update(f"{array.dtype.str}{array.shape};".encode())
        found.update(array.tobytes())
    elif isinstance(value, Dataset):
        # As stored by Arrow, without decoding images.
        arrow = value.with_format("arrow")
        for start in range(0, len(arrow), _BATCH):
            table = arrow[start : start + _BATCH]
            found.update(repr(table.to_pydict()).encode("utf-8", "surrogatepass"))
    elif isinstance(value, Mapping):
        found.update(b"{")
        for key, item in value.items():
            _feed(found, argument, key)
            _feed(found, argument, item)
        found.update(b"}")
    elif hasattr(value, "iloc"):
        _feed(found, argument, {str(name): value[name].to_numpy() for name in value} if value.ndim > 1
              else value.to_numpy())  # fmt: skip
    elif isinstance(value, (Sequence, np.ndarray)):
        found.update(b"[")
        for item in value:
            _feed(found, argument, item)
        found.update(b"]")
    elif hasattr(value, "tobytes") and hasattr(value, "size"):  # a PIL image
        found.update(f"{value.size};".encode() + value.tobytes())
    elif hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        try:
            rows = [value[row] for row in range(len(value))]
        except (LookupError, TypeError) as error:
            rule = "must return each of its rows by their number, dataset[0] the first"
            raise InputError(argument, rule, type(value).__name__, "Pass datasets.Dataset, or an array.") from error
        _feed(found, argument, rows)
    else:
        rule = "must contain numbers, texts, arrays, images, and lists or mappings of these"
        remedy = "Pass data_id=, a text that identifies the data."
        raise InputError(argument, rule, type(value).__name__, remedy)
