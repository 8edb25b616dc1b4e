"""Gradients of a label's logit with respect to the inputs, at checkpoints; variance of gradients is made of them.

An example whose gradients still move late in training is hard or atypical (Agarwal et al. 2022). The gradient is that
of the logit, not of the loss: a loss that is nearly 0 has no gradient left to say anything.

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
    """The gradient of each example's label logit with respect to its inputs, at checkpoints of a training.

    `variance_of_gradients` takes what is returned. The model is left as found, and called in evaluation mode: one
    forward and one backward pass a row and checkpoint. Text is moved at the embeddings of its tokens; the label is
    then the class, or the token that follows the text.

    Args:
        model: as for `critical_samples`.
        states: `state_dict`s of the model during training, such as those of its checkpoints.
        inputs: the examples, as for `critical_samples`.
        labels: (N,) class of each.
        batch_size: rows of one model call; halved where a device runs out of memory.
        argument: as for `critical_samples`.

    Returns:
        (T, N, ...) gradients, as wide as the inputs or as the embeddings of their tokens.

    Raises:
        InputError: no state, one of another model, labels that are no classes, and what `critical_samples` refuses.

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
        raise InputError("labels", rule, labels_N.shape, "Pass one label a row.")
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
                # Rows are apart, so the gradient of the sum holds that of each.
                (slope,) = torch.autograd.grad(logits_nC.gather(1, own_n[:, None]).sum(), shift, allow_unused=True)
                slope = torch.zeros_like(shift) if slope is None else slope
                return list(slope.detach().double().cpu().numpy())

            slopes: list[FloatArray] = by_batches(np.arange(rows.num_rows), size, of_batch)
            found.append(np.stack(slopes))
    if not found:
        raise InputError("states", "must have at least one checkpoint", 0, "Pass [model.state_dict()].")
    return np.stack(found)
