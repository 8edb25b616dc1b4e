"""Gradients of a label's logit with respect to the inputs, at checkpoints: the input of variance of gradients.

An example whose gradients still change late in training is hard or atypical (Agarwal et al. 2022). The logit is used
instead of the loss because the gradient of a loss near 0 vanishes.

Shapes: T checkpoints, N examples, n of one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.checks import whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, number_array
from hf_exposure.signals.movable import MovableRows, by_batches, differentiating
from hf_exposure.signals.sensitivity import Weights, weights_of


def label_gradients(
    model: nn.Module,
    states: Iterable[Mapping[str, torch.Tensor]],
    inputs: Any,
    labels: Any,
    batch_size: int = 64,
    *,
    argument: str | None = None,
) -> FloatArray:
    """Returns the gradient of each example's label logit with respect to its inputs, at checkpoints of a training run.

    Pass the result to `variance_of_gradients`. The model is called in evaluation mode and left unchanged, with one
    forward and one backward pass per row and checkpoint. For text, the gradient is taken with respect to the
    embeddings of the tokens; the label is then the class, or the token that follows the text.

    Args:
        model: as for `critical_samples`.
        states: `state_dict`s of the model during training, such as those of its checkpoints.
        inputs: (N, ...) examples, as for `critical_samples`.
        labels: (N,) class of each.
        batch_size: rows per model call; halved if the device runs out of memory.
        argument: as for `critical_samples`.

    Returns:
        (T, N, ...) gradients, with the shape of the inputs or of the embeddings of their tokens.

    Raises:
        InputError: there are no states, a state belongs to another model, the labels are not classes, or
            `critical_samples` would refuse the inputs.

    Source: Agarwal, D'souza and Hooker, "Estimating Example Difficulty using Variance of Gradients", CVPR 2022,
        section 2.

    Example (by hand: the logits are x and -x, then 3 x and -3 x, and the label is the second class):
        >>> states = [{"weight": torch.tensor([[w], [-w]]), "bias": torch.zeros(2)} for w in (1.0, 3.0)]
        >>> gradients = label_gradients(nn.Linear(1, 2), states, torch.tensor([[0.5]]), [1])
        >>> gradients.tolist()
        [[[-1.0]], [[-3.0]]]
        >>> from hf_exposure.estimators import variance_of_gradients
        >>> variance_of_gradients(gradients).tolist()
        [1.0]
    """
    rows = MovableRows(model, inputs, argument)
    size = whole_number("batch_size", batch_size, 1)
    labels_N = number_array("labels", labels)
    if labels_N.shape != (rows.num_rows,) or not (labels_N == labels_N.astype(np.int64)).all():
        rule = f"must be ({rows.num_rows},) classes, whole numbers"
        raise InputError("labels", rule, labels_N.shape, "Pass one label per row.")
    found: list[FloatArray] = []
    with differentiating(rows.model):
        for state in states:
            weights = weights_of(rows.model, state)

            def of_batch(rows_n: NDArray[np.integer], weights: Weights = weights) -> list[FloatArray]:
                shift = rows.unmoved(rows_n).requires_grad_()
                logits_nC = rows.logits(rows_n, shift, weights)
                own_n = torch.as_tensor(labels_N[rows_n].astype(np.int64), device=logits_nC.device)
                if not ((own_n >= 0) & (own_n < logits_nC.shape[1])).all():
                    rule = f"must be classes from 0 to {logits_nC.shape[1] - 1}"
                    raise InputError("labels", rule, "others", "Number the classes from 0.")
                # Rows are independent, so the gradient of the sum contains the gradient of each.
                (slope,) = torch.autograd.grad(logits_nC.gather(1, own_n[:, None]).sum(), shift, allow_unused=True)
                slope = torch.zeros_like(shift) if slope is None else slope
                return list(slope.detach().double().cpu().numpy())

            slopes: list[FloatArray] = by_batches(np.arange(rows.num_rows), size, of_batch)
            found.append(np.stack(slopes))
    if not found:
        raise InputError("states", "must have at least one checkpoint", 0, "Pass [model.state_dict()].")
    return np.stack(found)
