"""The tap: the batches that a training loop actually feeds to its model, for any loop."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


def tap_batches(model: nn.Module, receive: Callable[[dict[str, Any]], None]) -> RemovableHandle:
    """Calls `receive` with the named arguments of each training forward pass of `model`, before that pass.

    It is a forward pre-hook, so it sees the inputs of the model after filters, collators, packing and samplers, on
    this process alone. Passes in evaluation mode or without gradients do not count as training. Nothing is copied, and
    nothing waits for the device.

    Limits: if a loop calls the model several times for one batch, the batch is seen several times. Labels that the
    loop does not pass to the model (a Trainer's `label_smoothing_factor` or `compute_loss_func`) are not among the
    arguments. A batch whose gradients are discarded later (a skipped step of mixed precision) counts. Compiled graphs
    of a model's `forward` stay whole, also with `fullgraph=True`; but if the model is a module of torch itself
    (`nn.Sequential`), the graph begins with its hooks, which `fullgraph=True` refuses. A loop that calls
    `model.forward` or a part of the model calls no hook.

    Args:
        model: the model without wrappers; the hook of a wrapper's inner module is called too.
        receive: the function to call; it must not raise.

    Returns:
        A handle whose `remove()` closes the tap.

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


def tap_outputs(model: nn.Module, receive: Callable[[dict[str, Any], Any], None]) -> RemovableHandle:
    """Calls `receive` with the named arguments and the output of each training forward pass, after that pass.

    The limits are those of `tap_batches`. The output has its autograd graph: detach the tensors that you keep.

    Example:
        >>> model, seen = nn.Linear(2, 1), []
        >>> tap = tap_outputs(model, lambda inputs, output: seen.append((tuple(inputs), output.shape)))
        >>> _ = model(torch.ones(3, 2))
        >>> tap.remove(), seen
        (None, [(('input',), torch.Size([3, 1]))])
    """
    names = list(inspect.signature(model.forward).parameters)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def look(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if module.training and torch.is_grad_enabled():
            receive({**dict(zip(names, arguments, strict=False)), **named}, output)

    return model.register_forward_hook(look, with_kwargs=True)


class HostCopies:
    """Asynchronous copies of batches to the CPU; only reading them waits.

    On CUDA, a copy into pinned memory is queued after the device's own work, with an event that shows when it is
    finished. On other devices the copy stays on the device until it is read. In both cases it is the batch at the time
    of `put`, whatever the training loop later writes into its tensors.

    Example:
        >>> copies, batch = HostCopies(), torch.tensor([1, 2])
        >>> copies.put({"ids": batch})
        >>> _ = batch.zero_()
        >>> [{name: value.tolist() for name, value in one.items()} for one in copies.take(wait=True)]
        [{'ids': [1, 2]}]
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[dict[str, torch.Tensor], Any]] = deque()

    def put(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Starts to copy the tensors of one batch."""
        copies, on_cuda = {}, None
        for name, tensor in tensors.items():
            if tensor.device.type == "cuda":
                copies[name], on_cuda = tensor.to("cpu", non_blocking=True), tensor.device
            else:
                copies[name] = tensor.clone()
        event = None if on_cuda is None else torch.cuda.current_stream(on_cuda).record_event()
        self._queue.append((copies, event))

    def take(self, *, wait: bool) -> list[dict[str, npt.NDArray[np.generic]]]:
        """The batches whose copies are finished, in order; with `wait`, all of them."""
        found = []
        while self._queue:
            copies, event = self._queue[0]
            if event is not None and wait:
                event.synchronize()
            elif event is not None and not event.query():
                break
            self._queue.popleft()
            found.append({name: value.cpu().numpy() for name, value in copies.items()})
        return found
