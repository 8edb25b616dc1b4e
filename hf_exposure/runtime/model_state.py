"""Borrowing a model for measurement: everything about it is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
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


def unwrap_model(model: nn.Module) -> nn.Module:
    """`model` without what torch.compile and data parallelism put around it: the same weights.

    It is not compiled anew for every shape of a batch, and exchanges no buffers with other processes.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


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


def is_sharded(model: nn.Module) -> bool:
    """Whether processes hold parts of the weights, so that they exchange tensors in every forward pass.

    FSDP (`fully_shard` and the older wrapper), tensor parallelism, DeepSpeed's ZeRO-3: by what they leave on weights.
    """
    return any(
        type(parameter.data).__name__ == "DTensor"
        or hasattr(parameter, "ds_id")
        or hasattr(parameter, "_local_shard")
        or type(parameter).__name__ == "FlatParameter"
        for parameter in model.parameters()
    ) or any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


def tensor_parallel_size(model: nn.Module) -> int:
    """How many processes compute one forward pass together and must be fed the same inputs."""
    size = getattr(model, "_tp_size", None) or getattr(model, "tp_size", None)
    return size if isinstance(size, int) and size > 1 else 1
