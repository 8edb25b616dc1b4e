"""Robust early-learning: only weights that matter now follow the gradient; all others only decay.

Of all weights, the share `1 - noise` with the largest |weight * gradient| is critical: these fit what rows have in
common, while the others would serve to fit wrong labels. What is not critical gets no gradient in that step, so that
the optimizer's weight decay alone moves it towards 0. Training ends where the validation error is lowest.

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
    """Sets gradients of all but the critical weights to 0, and multiplies theirs by `1 - noise`.

    Weights are the parameters with two or more dimensions, as in the authors' code; biases and scales of
    normalization keep their gradients. The critical ones are chosen over all layers together, and ties at the limit
    are all critical.

    Args:
        model: with gradients.
        noise: share of the rows whose label is wrong, or a guess of it.

    Returns:
        How many weights are critical.

    Raises:
        InputError: a share out of range, a model without gradients.

    Example (by hand: |weight * gradient| is 4, 2, 3 and 1, and half of them are critical):
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
    """Robust early-learning as a callback of any `Trainer`.

    It acts after clipping and before each step of the optimizer. The paper uses SGD with momentum and weight decay;
    under Adam, weights without gradient still move by what the optimizer remembers. For the paper's end of training
    set `eval_strategy="epoch"`, `load_best_model_at_end=True` and `metric_for_best_model="loss"`, with a validation
    set that may be as noisy as the rest.

    Args:
        noise: as for `keep_critical_gradients`.

    Attributes:
        critical: number of critical weights in the last step.

    Raises:
        InputError: a share out of range.

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
