"""The gradient of each example's loss with respect to the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.runtime.model_state import model_device, unwrap_model
from hf_exposure.signals.movable import differentiating


def example_gradients(
    model: nn.Module, inputs: torch.Tensor, labels_N: Any, layers: Sequence[str] | None = None
) -> FloatArray:
    """Returns the gradient of each example's cross-entropy with respect to the weights.

    The network is called in evaluation mode and left unchanged. Each example forms its own batch, so other examples do
    not affect its gradient.

    Args:
        model: a classifier that returns logits, or an output with `.logits` or ["logits"].
        inputs: (N, ...), one row per example.
        labels_N: (N,) classes.
        layers: names of the modules whose weights to use; by default all weights that require gradients.

    Returns:
        (N, P) float64, the parameters in the model's order. The whole array is in memory: choose few layers or few
        examples.

    Raises:
        InputError: a layer is not a module with weights, the labels are not one class per row, or the logits do not
            have shape (N, classes).

    Example (by hand: two classes with logits w x = 0, whose gradient is (p - y) x):
        >>> line = nn.Linear(1, 2, bias=False)
        >>> line.weight.data.zero_()
        tensor([[0.],
                [0.]])
        >>> example_gradients(line, torch.tensor([[2.0], [1.0]]), [0, 1]).tolist()
        [[-1.0, 1.0], [0.5, -0.5]]
    """
    bare = unwrap_model(model)
    named = dict(bare.named_parameters())
    unknown = [layer for layer in layers or [] if not any(name.startswith(f"{layer}.") for name in named)]
    if unknown:
        remedy = f"Choose from {[name for name, _ in bare.named_modules()][1:6]} and so on."
        raise InputError("layers", "must be modules with weights", unknown, remedy)
    wanted = [
        weight
        for name, weight in named.items()
        if weight.requires_grad and (layers is None or any(name.startswith(f"{layer}.") for layer in layers))
    ]
    device = model_device(bare)
    labels = torch.as_tensor(np.asarray(labels_N)).to(device)
    if labels.dim() != 1 or labels.is_floating_point() or len(labels) != len(inputs) or not wanted:
        rule, shape = f"must be {len(inputs)} classes, and the model must have trainable weights", labels.shape
        raise InputError("labels_N", rule, f"{labels.dtype} of shape {tuple(shape)}", "Pass one class per row.")
    rows = []
    with differentiating(bare):
        for row in range(len(inputs)):
            output = bare(inputs[row : row + 1].to(device))
            logits = output["logits"] if isinstance(output, dict) else getattr(output, "logits", output)
            if logits.dim() != 2 or len(logits) != 1:
                rule = "must return (rows, classes) logits"
                raise InputError("model", rule, f"shape {tuple(logits.shape)}", "Pass a classifier.")
            loss = nn.functional.cross_entropy(logits, labels[row : row + 1])
            found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in found]).double().cpu().numpy())
    return np.array(rows)
