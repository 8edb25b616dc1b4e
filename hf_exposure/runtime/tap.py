"""The tap: what a training loop really feeds its model, batch by batch, whoever wrote the loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def tap_batches(model: nn.Module, receive: Callable[[dict[str, Any]], None]) -> RemovableHandle:
    """Calls `receive` with the named arguments of each training forward pass of `model`, before that pass.

    It is a forward pre-hook, so it sees what reaches the model after filters, collators, packing and samplers, on this
    process alone. Passes in evaluation mode or without gradients are not training. Nothing is copied, and the
    device is not waited for.

    Limits: a loop that calls the model several times for one batch is seen several times. Labels that the loop keeps
    for itself (a Trainer's `label_smoothing_factor` or `compute_loss_func`) are not among the arguments. A batch whose
    gradients are thrown away afterwards (a skipped step of mixed precision) counts. Under `torch.compile` each call
    leaves the compiled graph.

    Args:
        model: without wrappers; the hook of a wrapper's inner module is called too.
        receive: must not raise.

    Returns:
        its `remove()` closes the tap.

    Example:
        >>> model, seen = nn.Linear(2, 1), []
        >>> tap = tap_batches(model, seen.append)
        >>> _ = model(torch.ones(3, 2)), model.eval()(torch.ones(5, 2))
        >>> tap.remove()
        >>> [{name: tuple(value.shape) for name, value in batch.items()} for batch in seen]
        [{'input': (3, 2)}]
    """
    names = list(inspect.signature(model.forward).parameters)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def look(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if module.training and torch.is_grad_enabled():
            receive({**dict(zip(names, arguments, strict=False)), **named})

    return model.register_forward_pre_hook(look, with_kwargs=True)
