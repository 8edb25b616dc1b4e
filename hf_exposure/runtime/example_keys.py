"""Keys of examples: a number for each document of a batch, the same in every epoch.

A dataset's index column is the best key, but most loops lose it: a Trainer drops columns that the model does not take,
and TRL's packing keeps only `input_ids` and `labels`. Then the key is a hash of the document's token ids. Equal
documents share it, and a document that packing or truncation has cut has the key of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_exposure.runtime.trained_rows import trained_rows


class KeyKind(StrEnum):
    """The source of a key."""

    INDEX = "index"
    """A column of the dataset."""
    CONTENT = "content"
    """A hash of the example's token ids."""


@dataclass(frozen=True, eq=False)
class ExampleKeys:
    """The examples of a batch, in order.

    Attributes:
        kind: the source of the keys.
        keys_D: one number for each example.
    """

    kind: KeyKind
    keys_D: npt.NDArray[np.uint64]


def content_key(token_ids: Sequence[int] | npt.NDArray[np.integer]) -> int:
    """A 64-bit hash of token ids, the same on every machine: the key of a dataset's row, before any batch has it.

    Among n examples, two share a key by chance with a probability of at most n^2 / 2^65.

    Example:
        >>> content_key([5, 6, 7]) == content_key(np.array([5, 6, 7], dtype=np.int32)) != content_key([5, 6])
        True
    """
    content = np.asarray(token_ids, dtype="<i8").tobytes()
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def example_keys(
    batch: Mapping[str, npt.NDArray[Any]],
    index_column: str = "index",
    *,
    pad_token_id: int | None = None,
    labels_are_text: bool = False,
) -> ExampleKeys:
    """The key of each example: its index if the batch still has one for each row, else the hash of its tokens.

    Padding is not part of an example: tokens that the attention mask leaves out, and `pad_token_id` at both ends.

    Args:
        batch: arrays by the names of a forward pass's arguments, as `trained_rows` takes them.
        index_column: the column with the row numbers of the dataset, whole numbers of at least 0.
        pad_token_id: the tokenizer's padding token, for a batch without an attention mask.
        labels_are_text: whether keys are those of the labels, as for an encoder-decoder model.

    Raises:
        ValueError: there is neither an index nor rows of tokens.

    Example:
        >>> packed = {"input_ids": np.array([[5, 6, 7, 8]]), "position_ids": np.array([[0, 1, 0, 1]])}
        >>> example_keys(packed).keys_D.tolist() == [content_key([5, 6]), content_key([7, 8])]
        True
        >>> example_keys({**packed, "index": np.array([41])}).keys_D.tolist()
        [41]
    """
    index = batch.get(index_column)
    if index is not None and index.ndim == 1 and np.issubdtype(index.dtype, np.integer):
        return ExampleKeys(KeyKind.INDEX, index.astype(np.uint64))
    rows = trained_rows(batch, labels_are_text=labels_are_text)
    keys = []
    for start, end in zip(rows.offsets[:-1], rows.offsets[1:], strict=True):
        present = rows.present_T[start:end] & (rows.values_T[start:end] >= 0)
        ids = rows.values_T[start:end][present]
        if pad_token_id is not None and len(ids):
            kept = np.flatnonzero(ids != pad_token_id)
            ids = ids[kept[0] : kept[-1] + 1] if kept.size else ids[:0]
        if len(ids):
            keys.append(content_key(ids))
    return ExampleKeys(KeyKind.CONTENT, np.array(keys, dtype=np.uint64))
