"""Hidden states of any model, layer by layer: the input of the comparisons and probes in `hf_exposure.estimators`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.checks import whole_number
from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import evaluating, random_states_kept
from hf_exposure.signals.movable import MovableRows, by_batches

Reduce = Literal["last", "mean", "flat"] | Callable[[torch.Tensor], torch.Tensor]


def hidden_states(
    model: nn.Module,
    inputs: Any,
    layers: Sequence[str] | None = None,
    reduce: Reduce | None = None,
    batch_size: int = 64,
    *,
    argument: str | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Returns the outputs of a model's layers for each row.

    The model is called in evaluation mode without gradients and left unchanged; hooks are removed, also on an error.

    Args:
        model: any module; its output is not used.
        inputs: as for `critical_samples`: floats (N, ...) or a mapping of arguments.
        layers: names of modules, as in `model.named_modules()`. By default the blocks of the model's longest
            `ModuleList` (the layers of a transformer); without one, all modules with weights and no submodules.
        reduce: how to reduce states with more than one dimension per row. "last" takes the last unmasked token, "mean"
            the mean over unmasked tokens (for images over positions, channels first), "flat" all values. A function
            receives the states (n, ...) of a batch and returns (n, D). The default is "last" for tokens and "flat"
            otherwise.
        batch_size: rows per model call; halved if the device runs out of memory.
        argument: as for `critical_samples`.

    Returns:
        {layer: (N, D) float32}, in the model's order. If a layer is called several times, its last call counts.

    Raises:
        InputError: a name is not a module of the model, a layer was not called or does not return a tensor with one
            row per example, or `critical_samples` would refuse the inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> {name: states.shape for name, states in hidden_states(model, torch.ones(4, 3)).items()}
        {'0': (4, 5), '2': (4, 2)}
    """
    rows = MovableRows(model, inputs, argument)
    size = whole_number("batch_size", batch_size, 1)
    modules = dict(rows.model.named_modules())
    names = list(default_layers(rows.model) if layers is None else layers)
    for name in names:
        if name not in modules:
            rule = "must be names of modules of the model"
            raise InputError("layers", rule, name, f"Choose from {list(modules)[1:6]} and so on.")
    if not names:
        raise InputError("layers", "must name at least one layer", names, "Pass names from model.named_modules().")
    how: Any = ("last" if rows.are_tokens else "flat") if reduce is None else reduce
    if not callable(how) and how not in ("last", "mean", "flat"):
        raise InputError("reduce", "must be 'last', 'mean', 'flat' or a function", how, "Omit it.")

    def of_batch(batch: NDArray[np.integer]) -> list[list[NDArray[np.float32]]]:
        with _caught({name: modules[name] for name in names}) as caught:
            rows.run(batch)
        mask = rows.read_mask(batch)
        reduced = [_reduced(name, caught.get(name), how, len(batch), mask, rows.are_tokens) for name in names]
        return [list(of_row) for of_row in zip(*reduced, strict=True)]

    with evaluating(rows.model), random_states_kept():
        found = by_batches(np.arange(rows.num_rows), size, of_batch)
    return {name: np.stack([of_row[place] for of_row in found]) for place, name in enumerate(names)}


def default_layers(model: nn.Module) -> list[str]:
    """Returns the blocks of the longest `ModuleList`; without one, all modules with weights and no submodules."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if lists:
        name, longest = max(lists, key=lambda named: len(named[1]))
        return [f"{name}.{number}" if name else str(number) for number in range(len(longest))]
    return [
        name
        for name, module in model.named_modules()
        if name and not any(module.children()) and any(True for _ in module.parameters())
    ]


@contextmanager
def _caught(modules: dict[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """Records the output of each module's last call inside the context, by name."""
    caught: dict[str, Any] = {}

    def catch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            caught[name] = output[0] if isinstance(output, (tuple, list)) and output else output

        return hook

    handles = [module.register_forward_hook(catch(name)) for name, module in modules.items()]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _reduced(
    name: str, states: Any, how: Any, count: int, mask: torch.Tensor | None, are_tokens: bool
) -> NDArray[np.float32]:
    if not isinstance(states, torch.Tensor) or states.dim() < 2 or len(states) != count:
        shown = f"shape {tuple(states.shape)}" if isinstance(states, torch.Tensor) else type(states).__name__
        rule = f"{name!r} must be called, and must return a tensor with one row per example"
        raise InputError("layers", rule, shown, "Omit it, or name a module inside it.")
    states = states.detach()
    if callable(how):
        states = how(states)
        if not isinstance(states, torch.Tensor) or states.dim() != 2 or len(states) != count:
            raise InputError(
                "reduce", f"must return ({count}, D)", type(states).__name__, "Return one row per example."
            )
    elif states.dim() > 2 and how != "flat":
        states = _over_tokens(states, how, mask) if are_tokens else _over_places(name, states, how)
    flat: NDArray[np.float32] = states.reshape(count, -1).float().cpu().numpy()
    return flat


def _over_tokens(states: torch.Tensor, how: str, mask: torch.Tensor | None) -> torch.Tensor:
    length = states.shape[1]
    if mask is None or mask.shape[1] != length:
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    if how == "last":
        last = (mask * torch.arange(1, length + 1, device=mask.device)).argmax(dim=1)
        return states[torch.arange(len(states), device=states.device), last]
    weights = mask.to(states.dtype)[..., None]
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _over_places(name: str, states: torch.Tensor, how: str) -> torch.Tensor:
    if how == "last":
        raise InputError("reduce", f"'last' is for tokens, and {name!r} has none", how, "Use 'mean' or 'flat'.")
    return states.flatten(2).mean(dim=2)
