"""Robust early-learning: only critical weights follow the gradient; all others only decay.

The share `1 - noise` of weights with the largest |weight * gradient| is critical: these weights fit patterns shared by
many rows, while the others would fit wrong labels. The other weights get no gradient in that step, so only the
optimizer's weight decay moves them, towards 0. Training ends at the lowest validation error.

Source: Xia et al., "Robust early-learning: Hindering the memorization of noisy labels", ICLR 2021, equations 3 to 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError


def keep_critical_gradients(model: nn.Module, noise: float) -> int:
    """Sets the gradients of all noncritical weights to 0, and multiplies those of critical weights by `1 - noise`.

    Weights are the parameters with two or more dimensions, as in the authors' code; biases and scales of
    normalization keep their gradients. Critical weights are chosen over all layers together, and all weights tied at
    the threshold are critical.

    Args:
        model: a model with gradients.
        noise: share of rows with a wrong label, or an estimate of it.

    Returns:
        The number of critical weights.

    Raises:
        InputError: `noise` is not in [0, 1), or the model has no gradients.

    Example (by hand: |weight * gradient| is 4, 2, 3 and 1, and half of the weights are critical):
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[4.0, 2.0], [3.0, 1.0]])
        >>> layer.weight.grad = torch.ones(2, 2)
        >>> keep_critical_gradients(layer, noise=0.5), layer.weight.grad.tolist()
        (2, [[0.5, 0.0], [0.5, 0.0]])
    """
    share = _checked_noise(noise)
    weights = [
        (weight.detach(), weight.grad)
        for weight in model.parameters()
        if weight.grad is not None and weight.dim() >= 2
    ]
    if not weights:
        raise InputError("model", "must have weights with gradients", "none", "Call it after loss.backward().")
    matter = torch.cat([(weight * gradient).abs().flatten() for weight, gradient in weights])
    least = matter.topk(max(1, round((1.0 - share) * matter.numel()))).values[-1]
    critical = 0
    for weight, gradient in weights:
        is_critical = (weight * gradient).abs() >= least
        gradient.mul_(is_critical * (1.0 - share))
        critical += int(is_critical.sum())
    return critical


class CriticalUpdates(TrainerCallback):
    """Robust early-learning as a callback for any `Trainer`.

    It acts after clipping and before each optimizer step. The paper uses SGD with momentum and weight decay; with
    Adam, weights without a gradient still move because of the optimizer's moments. For the paper's stopping rule, set
    `eval_strategy="epoch"`, `load_best_model_at_end=True` and `metric_for_best_model="loss"`, with a validation set
    that may be as noisy as the rest.

    Args:
        noise: as for `keep_critical_gradients`.

    Attributes:
        critical: number of critical weights in the latest step.

    Raises:
        InputError: `noise` is not in [0, 1).

    Example:
        Trainer(model, args, train_dataset=data, callbacks=[CriticalUpdates(noise=0.4)])
    """

    def __init__(self, noise: float) -> None:
        self.noise = _checked_noise(noise)
        self.critical = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self.critical = keep_critical_gradients(named["model"], self.noise)


def _checked_noise(noise: float) -> float:
    rule = "must be a share from 0 to below 1"
    return real_number("noise", noise, rule, "Write noise=0.4.", at_least=0.0, below=1.0)
