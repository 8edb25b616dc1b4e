"""Leaving a training as it was found, whatever is computed on its model in between."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.runtime.model_state import model_device


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Restores training flags, random states and gradients afterwards, also on an error.

    Flags are those of every module, and whether a parameter wants a gradient. Random states are those of Python,
    numpy, torch's CPU generator and the generators of the model's kind of device. A gradient that appeared is dropped
    and one that was replaced is put back; what was added in place to one that was there cannot be taken back, so use
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
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    device = model_device(model).type
    generators: Any = None if device == "cpu" else torch.get_device_module(device)
    on_device = generators.get_rng_state_all() if hasattr(generators, "get_rng_state_all") else None
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        for parameter, wanted, gradient in parameters:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
            if parameter.grad is not gradient:
                parameter.grad = gradient
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if on_device is not None:
            generators.set_rng_state_all(on_device)
