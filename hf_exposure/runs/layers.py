"""Localizes memorization: resets one layer at a time to an earlier checkpoint, or retrains it.

If memorized examples are lost when a layer gets back its weights from before the memorization, that layer was needed
for them; if they are still predicted correctly, it was not. Conversely, resetting a layer to its initial weights and
retraining it on clean data alone, while all other layers stay fixed, shows whether the others retain what was
memorized.

Shapes: L layers, S checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.runtime.model_state import left_as_found, unwrap_model
from hf_exposure.signals.representations import default_layers

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class LayerScores:
    """Scores of a model with one layer changed at a time.

    Attributes:
        layers: L layer names.
        checkpoints: S checkpoint names; only "retrained" after retraining.
        scores_SL: (S, L) score with that layer changed and all others unchanged.
        unchanged: score of the unchanged model.
    """

    layers: list[str]
    checkpoints: list[str]
    scores_SL: FloatArray
    unchanged: float

    @property
    def lost_SL(self) -> FloatArray:
        """(S, L) `unchanged` minus the score: the part of the score that depends on the layer."""
        return self.unchanged - self.scores_SL


def rewind_layers(
    model: nn.Module,
    states: Mapping[str, State],
    score: Callable[[nn.Module], float],
    layers: Sequence[str] | None = None,
) -> LayerScores:
    """Scores the model with each layer in turn reset to each checkpoint. The model is left unchanged.

    Args:
        model: after training.
        states: `state_dict`s by checkpoint name, such as {"epoch 1": ..., "epoch 2": ...}.
        score: function from a model to a number, such as its accuracy on examples with noisy labels.
        layers: names of modules; by default the blocks of the model (see `hidden_states`). Weights that a layer shares
            with another are reset in both.

    Raises:
        InputError: a layer is not a module with weights, a state lacks its weights, or there are no states.

    Source: Maini et al., "Can Neural Network Memorization Be Localized?", ICML 2023, section 4.2.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> for layer, weight in zip(model, (2.0, 3.0)):
        ...     _ = nn.init.constant_(layer.weight, weight)
        >>> early = {name: torch.ones_like(weight) for name, weight in model.state_dict().items()}
        >>> found = rewind_layers(model, {"start": early}, lambda model: float(model(torch.ones(1, 1))))
        >>> found.unchanged, found.layers, found.scores_SL.tolist()
        (6.0, ['0', '1'], [[3.0, 2.0]])
    """
    bare = unwrap_model(model)
    names = _checked_layers(bare, layers)
    if not isinstance(states, Mapping) or not states:
        raise InputError(
            "states", "must name at least one checkpoint", type(states).__name__, "Pass {'start': state}."
        )
    scores_SL = np.full((len(states), len(names)), math.nan)
    unchanged = _score(bare, score)
    for s, (checkpoint, state) in enumerate(states.items()):
        for place, name in enumerate(names):
            with _layer_of(bare, name, state, checkpoint):
                scores_SL[s, place] = _score(bare, score)
    return LayerScores(names, [str(name) for name in states], scores_SL, unchanged)


def retrain_layers(
    model: nn.Module,
    start: State,
    train: Callable[[nn.Module], None],
    score: Callable[[nn.Module], float],
    layers: Sequence[str] | None = None,
) -> LayerScores:
    """Scores the model after resetting and retraining each layer in turn, with all others frozen.

    The model, including its weights, is left unchanged.

    Args:
        model, score, layers: as for `rewind_layers`.
        start: the `state_dict` to which layers are reset, such as that at initialization.
        train: function that trains the model's parameters that require gradients, on clean examples alone. It must not
            replace parameters.

    Source: Maini et al. 2023, section 4.1.

    Example (only the retrained layer changes):
        >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        >>> start = {name: torch.ones_like(weight) for name, weight in model.state_dict().items()}
        >>> def train(model):
        ...     for weight in model.parameters():
        ...         if weight.requires_grad:
        ...             weight.data += 4.0
        >>> for layer, weight in zip(model, (2.0, 3.0)):
        ...     _ = nn.init.constant_(layer.weight, weight)
        >>> retrain_layers(model, start, train, lambda model: float(model(torch.ones(1, 1)))).scores_SL.tolist()
        [[15.0, 10.0]]
    """
    bare = unwrap_model(model)
    names = _checked_layers(bare, layers)
    scores_SL, unchanged = np.full((1, len(names)), math.nan), _score(bare, score)
    whole = {name: value.detach().clone() for name, value in bare.state_dict().items()}
    for place, name in enumerate(names):
        try:
            with left_as_found(bare), _layer_of(bare, name, start, "start"):
                trained = {id(parameter) for parameter in bare.get_submodule(name).parameters()}
                for parameter in bare.parameters():
                    parameter.requires_grad_(id(parameter) in trained)
                    parameter.grad = None
                with torch.enable_grad():
                    train(bare)
                scores_SL[0, place] = _score(bare, score)
        finally:
            bare.load_state_dict(whole)  # also restores running statistics of other layers
    return LayerScores(names, ["retrained"], scores_SL, unchanged)


@contextmanager
def _layer_of(model: nn.Module, layer: str, state: State, checkpoint: str) -> Iterator[None]:
    """Inside the context, a layer has the weights and buffers of `state`."""
    own = {f"{layer}.{name}": value for name, value in model.get_submodule(layer).state_dict(keep_vars=True).items()}
    for name, value in own.items():
        found = state.get(name) if isinstance(state, Mapping) else None
        if not isinstance(found, torch.Tensor) or found.shape != value.shape:
            rule = f"checkpoint {checkpoint!r} must have {name!r} with shape {tuple(value.shape)}"
            raise InputError("states", rule, type(found).__name__, "Pass state_dicts of this model.")
    before = {name: value.detach().clone() for name, value in own.items()}
    try:
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
        yield
    finally:
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(before[name])


def _score(model: nn.Module, score: Callable[[nn.Module], float]) -> float:
    with left_as_found(model), torch.no_grad():
        return float(score(model))


def _checked_layers(model: nn.Module, layers: Sequence[str] | None) -> list[str]:
    names, modules = list(default_layers(model) if layers is None else layers), dict(model.named_modules())
    for name in names:
        if not name or name not in modules or not modules[name].state_dict():
            rule, remedy = "must name modules with weights", f"Choose from {list(modules)[1:6]} and so on."
            raise InputError("layers", rule, name, remedy)
    if not names:
        raise InputError("layers", "must name at least one layer", names, "Pass names from model.named_modules().")
    return names
