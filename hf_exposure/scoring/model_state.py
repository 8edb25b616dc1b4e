"""Borrowing a model for measurement: everything about it is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["borrowed", "compute_dtype", "model_device"]


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; each module's own training flag restored after, also on an error."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            # Not module.train(): that would recurse into children whose flag differs from their parent's.
            module.training = training


def model_device(model: nn.Module) -> torch.device:
    """Where inputs go: the device of the first parameter."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the first 16-, 32- or 64-bit float parameter; float32 where there is none (quantised weights)."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            return parameter.dtype
    return torch.float32
