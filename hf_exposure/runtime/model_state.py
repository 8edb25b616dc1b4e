"""The state of a live model: its wrappers, device, dtype and sharding, and how a measurement leaves it as found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.runtime.precision import FLOATS, is_packed, weights_kept


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switches to evaluation mode without gradients, and restores each module's own training flag, also on an error.

    It prevents libraries from rearranging weights in such calls.
    """
    flags = [(module, module.training) for module in model.modules()]
    if any(training for _, training in flags):
        model.eval()
    try:
        with torch.no_grad(), weights_kept(module for module, _ in flags):
            yield
    finally:
        for module, training in flags:
            # Do not call module.train(), which would also change children whose flag differs from their parent's.
            if module.training != training:
                module.training = training


def unwrap_model(model: nn.Module) -> nn.Module:
    """`model` without the wrappers of torch.compile and data parallelism; the weights are the same.

    The unwrapped model is not recompiled for every batch shape, and exchanges no buffers with other processes.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def model_device(model: nn.Module) -> torch.device:
    """The device for inputs: that of the first parameter."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def compute_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of hidden states: that of the first float parameter of 16 to 64 bits; float32 if there is none.

    Packed bytes do not count, whatever their dtype is.
    """
    for parameter in model.parameters():
        if parameter.dtype in FLOATS and not is_packed(parameter):
            return parameter.dtype
    return torch.float32


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are spread over processes, which then exchange tensors in every forward pass.

    It recognizes FSDP (`fully_shard` and the older wrapper), tensor parallelism and DeepSpeed's ZeRO-3 by their marks
    on weights.
    """
    return any(
        type(parameter.data).__name__ == "DTensor"
        or hasattr(parameter, "ds_id")
        or hasattr(parameter, "_local_shard")
        or type(parameter).__name__ == "FlatParameter"
        for parameter in model.parameters()
    ) or any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules())


def tensor_parallel_size(model: nn.Module) -> int:
    """The number of processes that compute one forward pass together and must get the same inputs."""
    size = getattr(model, "_tp_size", None) or getattr(model, "tp_size", None)
    return size if isinstance(size, int) and size > 1 else 1


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restores the random states of Python, numpy and torch's CPU generator, so that training does not see a
    change.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Restores training flags, random states and gradients afterwards, also on an error.

    Flags are the training flag of every module, and whether a parameter requires a gradient. Random states are those
    of Python, numpy, torch's CPU generator and the generators of the model's kind of device. A new gradient is dropped
    and a replaced one is restored; an in-place addition to an existing gradient cannot be undone, so use
    `torch.autograd.grad` instead of `backward`.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> with left_as_found(model):
        ...     _ = model.eval()(torch.rand(1, 2)).sum().backward()
        >>> model.training, model.weight.grad is None
        (True, True)
    """
    flags = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    device = model_device(model).type
    generators: Any = None if device == "cpu" else torch.get_device_module(device)
    on_device = generators.get_rng_state_all() if hasattr(generators, "get_rng_state_all") else None
    try:
        with random_states_kept():
            yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter, wanted, gradient in parameters:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
            if parameter.grad is not gradient:
                parameter.grad = gradient
        if on_device is not None:
            generators.set_rng_state_all(on_device)
