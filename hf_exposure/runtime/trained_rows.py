"""The contents of a training batch: its tokens, the starts of its documents, and the tokens that count in the loss.

The labels decide. If a token has a label, the model learns to predict the label, whatever the input is there (a mask,
noise). If it has none (-100), the input is the text, and does not count in the loss.

Shapes: B rows of S positions; T = B x S tokens, one row after the other; D documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

NO_LOSS = -100
_READ = ("input_ids", "labels", "shift_labels", "position_ids", "attention_mask", "cu_seq_lens_q", "seq_idx")

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainedRows:
    """The tokens of batches, document by document. A row of a batch is one document or, if packed, several.

    Attributes:
        values_T: token ids.
        trained_T: whether the token has a label and something before it predicts it, so that it counts in the loss.
        present_T: whether the token is part of the text, that is, not left out by an attention mask.
        offsets: (D + 1,) the start of each document, and T.

    Example:
        >>> ids, labels = np.array([[5, 6, 7, 5]]), np.array([[5, -100, 7, 5]])
        >>> rows = trained_rows({"input_ids": ids, "labels": labels, "position_ids": np.array([[0, 1, 2, 0]])})
        >>> rows.offsets.tolist(), rows.trained_T.tolist()
        ([0, 3, 4], [False, False, True, False])
    """

    values_T: Integers
    trained_T: npt.NDArray[np.bool_]
    present_T: npt.NDArray[np.bool_]
    offsets: Integers

    @classmethod
    def joined(cls, parts: Iterable[TrainedRows]) -> TrainedRows:
        """Concatenates the rows of several batches."""
        listed = list(parts)
        first = np.cumsum([0, *(len(one.values_T) for one in listed)])
        offsets = [one.offsets[:-1] + start for one, start in zip(listed, first, strict=False)]
        return cls(
            np.concatenate([np.zeros(0, np.int64), *(one.values_T for one in listed)]),
            np.concatenate([np.zeros(0, np.bool_), *(one.trained_T for one in listed)]),
            np.concatenate([np.zeros(0, np.bool_), *(one.present_T for one in listed)]),
            np.concatenate([np.zeros(0, np.int64), *offsets, first[-1:]]),
        )


def sequence_tensors(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The arguments of a forward pass that `trained_rows` reads. Nothing waits for the device."""
    found = {name: inputs[name] for name in _READ if isinstance(inputs.get(name), torch.Tensor)}
    # A 4-D mask is as large as the square of a row, and has nothing that is read here.
    return {name: value.detach() for name, value in found.items() if value.ndim <= 2}


def trained_rows(batch: Mapping[str, npt.NDArray[Any]], *, labels_are_text: bool = False) -> TrainedRows:
    """The documents of one batch.

    A document begins with each row, where `position_ids` do not increase by one, where a 2-D `attention_mask` or
    `seq_idx` changes its value, and at the positions in `cu_seq_lens_q`. The first token of a document is not
    predicted from the document, so it does not count, except in an encoder-decoder model, whose decoder has a start
    token. `shift_labels`, each one position before its token, override `labels`, as in a model's loss.

    Args:
        batch: (B, S) arrays by the names of a forward pass's arguments. Without `labels` nothing counts.
        labels_are_text: whether the labels are the text, as for an encoder-decoder model, whose inputs are another
            text.

    Raises:
        ValueError: there is not one label for each token.
    """
    labels, ids = batch.get("labels"), None if labels_are_text else batch.get("input_ids")
    if (shifted := batch.get("shift_labels")) is not None:
        labels = np.full(shifted.shape, NO_LOSS, dtype=np.int64)
        labels[..., 1:] = shifted[..., :-1]
    text = labels if ids is None else ids
    if text is None or text.ndim != 2:
        raise ValueError("no rows of tokens")
    if labels is None:
        labels = np.full_like(text, NO_LOSS)
    if labels.shape != text.shape:
        raise ValueError("no label for each token")
    values = np.where(labels == NO_LOSS, text, labels).astype(np.int64, copy=False)
    starts = np.zeros(text.shape, dtype=np.bool_)
    starts[:, :1] = True
    present = np.ones(text.shape, dtype=np.bool_)
    if ids is not None:
        positions, mask, ends, numbers = map(batch.get, ("position_ids", "attention_mask", "cu_seq_lens_q", "seq_idx"))
        if positions is not None and positions.shape[-1:] == text.shape[-1:] and positions.ndim == 2:
            starts[:, 1:] |= np.diff(positions, axis=1) != 1  # one row of positions applies to all rows
        if mask is not None and mask.shape == text.shape:
            starts[:, 1:] |= np.diff(mask.astype(np.int64), axis=1) != 0
            present = mask != 0
        if numbers is not None and numbers.shape == text.shape:
            starts[:, 1:] |= np.diff(numbers, axis=1) != 0
        if ends is not None and len(text) == 1:
            starts[0, ends[ends < text.shape[1]].astype(np.int64)] = True
    trained = labels != NO_LOSS
    if not labels_are_text:
        trained &= ~starts
    offsets = np.append(np.flatnonzero(starts), starts.size)
    return TrainedRows(values.ravel(), trained.ravel(), present.ravel(), offsets)
