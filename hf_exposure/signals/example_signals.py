"""Signals of each label in a batch, computed from the logits: loss, probability, correctness and margin.

A classifier has one label per row, a language model one per token. The logits of a token are at the preceding position
in a causal model and at the token's own position in other models.

Shapes: B rows of S positions, V classes or vocabulary entries, n labels, F signals per label.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import torch
from torch import nn
from transformers.models.auto import modeling_auto

from hf_exposure.errors import InputError

FIGURES = ("loss_bits", "probability", "correct", "margin")
"""The signals of each label, in this order."""
NO_LABEL = -100
_LOG2_E = 1.0 / math.log(2.0)
_ENTRIES_AT_ONCE = 2**24
_AT_THE_TOKEN = frozenset(
    name
    for kind in ("MASKED_LM", "TOKEN_CLASSIFICATION")
    for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES").values()
) - frozenset(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


class Alignment(StrEnum):
    """Where the logits of a label are found."""

    ROW = "row"
    """One label per row: a classifier."""
    SAME = "same"
    """At the token's own position: a masked model, an encoder-decoder model, a token classifier."""
    NEXT = "next"
    """At the preceding position: a causal language model."""


def alignment_of(model: nn.Module, labels: torch.Tensor, shift_labels: bool | None = None) -> Alignment:
    """Returns how the labels of a batch are aligned with the logits of a model.

    Args:
        model: any module; for models of transformers, the configuration tells their kind.
        labels: (B,) classes, or (B, S) tokens.
        shift_labels: for token labels, whether the logits of each are at the preceding position. This is the default
            for all models except encoder-decoder models, masked models and token classifiers of transformers.

    Raises:
        InputError: the labels are not integers, or have another shape (regression, several labels per row).

    Example:
        >>> alignment_of(nn.Linear(2, 3), torch.tensor([0, 2])).value
        'row'
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.ndim not in (1, 2):
        rule = "must be one class per row, or one token per position"
        raise InputError("labels", rule, f"{labels.dtype} of shape {tuple(labels.shape)}", "Measure classifiers only.")
    if labels.ndim == 1:
        return Alignment.ROW
    if shift_labels is None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        is_encoder_decoder = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
        shift_labels = not is_encoder_decoder and type(inner).__name__ not in _AT_THE_TOKEN
    return Alignment.NEXT if shift_labels else Alignment.SAME


def scored_places(labels: torch.Tensor, alignment: Alignment) -> torch.Tensor:
    """Returns (n, 2): row and position of each label, in order; the position is -1 for labels of whole rows.

    Example:
        >>> scored_places(torch.tensor([[5, 6, -100]]), Alignment.NEXT).tolist()
        [[0, 1]]
    """
    if alignment is Alignment.ROW:
        rows = torch.nonzero(labels != NO_LABEL)
        return torch.cat([rows, torch.full_like(rows, -1)], dim=1)
    counts = labels != NO_LABEL
    if alignment is Alignment.NEXT:
        counts = counts.clone()
        counts[:, 0] = False  # no position predicts it
    return torch.nonzero(counts)


def logits_of(output: Any) -> torch.Tensor:
    """Returns the logits from a model's output: an object with `.logits`, a mapping, a tuple, or the logits
    themselves.

    Raises:
        InputError: the output is something else.
    """
    found = output["logits"] if isinstance(output, dict) and "logits" in output else getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        # (loss, logits, ...) if the labels were passed.
        found = next((value for value in found if isinstance(value, torch.Tensor) and value.ndim >= 2), found[0])
    if not isinstance(found, torch.Tensor) or found.ndim < 2:
        remedy = "Return an output with .logits."
        raise InputError("model", "must return logits", type(output).__name__, remedy)
    return found


def example_signals(logits: torch.Tensor, labels: torch.Tensor, places: torch.Tensor, alignment: Alignment) -> Any:
    """Returns (n, F) float32 signals of each label, on the logits' device.

    `correct` is 1.0 if the label's logit is larger than all others; a tie counts as incorrect. The margin is the
    difference from the largest other logit. The loss is in bits.

    Args:
        logits: (B, V), or (B, S, V).
        labels: as for `alignment_of`.
        places: (n, 2), from `scored_places`, on the logits' device.
        alignment: of the labels with the logits.

    Raises:
        InputError: a label is outside the range of classes, or there are fewer than two classes.

    Example:
        >>> labels = torch.tensor([1])
        >>> example_signals(torch.tensor([[0.0, 0.0]]), labels, torch.tensor([[0, -1]]), Alignment.ROW).tolist()
        [[1.0, 0.5, 0.0, 0.0]]
    """
    classes = logits.shape[-1]
    if classes < 2:
        raise InputError("model", "must have at least two classes", classes, "Measure classifiers only.")
    row_n, position_n = places.unbind(1)
    if alignment is Alignment.ROW:
        label_n = labels[row_n]
    else:
        label_n = labels[row_n, position_n]
        position_n = position_n - 1 if alignment is Alignment.NEXT else position_n
    if len(label_n) and bool(((label_n < 0) | (label_n >= classes)).any()):
        remedy = "Pass labels that the model has classes for; -100 is ignored."
        raise InputError("labels", f"must lie from 0 to {classes - 1}", "others", remedy)
    chosen = logits[row_n] if alignment is Alignment.ROW else None
    parts = []
    at_once = max(1, _ENTRIES_AT_ONCE // classes)
    for first in range(0, len(label_n), at_once):
        part = slice(first, first + at_once)
        own = logits[row_n[part], position_n[part]] if chosen is None else chosen[part]
        parts.append(_figures(own, label_n[part]))
    return torch.cat(parts) if parts else logits.new_zeros((0, len(FIGURES)), dtype=torch.float32)


def signals_in_place(logits: torch.Tensor, labels: torch.Tensor, alignment: Alignment) -> torch.Tensor:
    """Returns (B, F) or (B, S, F) signals, one entry per place for a label; NaN where there is no label.

    The signals are those of `example_signals`, but the number of labels is not read from the device, so a training
    step need not wait. A label outside the model's classes also gives NaN.

    Example:
        >>> signals_in_place(torch.zeros(2, 2), torch.tensor([1, -100]), Alignment.ROW)[:, 1].tolist()
        [0.5, nan]
    """
    if alignment is Alignment.NEXT:
        nothing = logits.new_full((len(labels), 1, len(FIGURES)), torch.nan, dtype=torch.float32)
        return torch.cat([nothing, signals_in_place(logits[:, :-1], labels[:, 1:], Alignment.SAME)], dim=1)
    classes = logits.shape[-1]
    label_n, flat = labels.reshape(-1), logits.reshape(-1, classes)
    is_class_n = (label_n >= 0) & (label_n < classes)
    at_once = max(1, _ENTRIES_AT_ONCE // classes)
    known_n = label_n.clamp(0, classes - 1)
    starts = range(0, max(len(label_n), 1), at_once)
    figures = torch.cat([_figures(flat[at : at + at_once], known_n[at : at + at_once]) for at in starts])
    return figures.where(is_class_n[:, None], torch.nan).reshape(*labels.shape, len(FIGURES))


def _figures(logits_nV: torch.Tensor, label_n: torch.Tensor) -> torch.Tensor:
    chosen, place = logits_nV.float(), label_n[:, None].long()
    own = chosen.gather(1, place)[:, 0]
    log_probability = own - chosen.logsumexp(1)
    margin = own - chosen.scatter(1, place, -torch.inf).amax(1)
    return torch.stack((-_LOG2_E * log_probability, log_probability.exp(), (margin > 0).float(), margin), dim=1)
