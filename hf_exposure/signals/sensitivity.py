"""Loss-sensitivity: how much the loss after training depends on each training example.

Let L_t be the mean loss over all examples after t steps of SGD. An example x affects L_t through every update that it
was part of, and through all later updates, which start from other weights. Its sensitivity is `g_t(x) = ||dL_t /
dx||_1`, and the mean over t is the example's loss-sensitivity. On real data it is large for a few examples; on random
data all examples have some.

`loss_sensitivity` computes it exactly, by differentiating the complete training run. A single graph of all updates
would contain all activations of the run. Instead, the weights of each step are kept, and the derivative is propagated
back through one update at a time (`torch.func.vjp` of the update). The result is the same, at the cost of one
vector-Jacobian product per step for all losses together. This is practical for small networks and a few thousand
steps.

`checkpoint_sensitivity` is for larger models: it is the norm of the gradient of an example's own loss with respect to
the example, averaged over checkpoints of a training run with any optimizer. It is meant to rank examples like the
exact form. The first term of the exact derivative, `d/dx <grad L, grad l(x)>` at the checkpoints, was tested too: it
costs more and ranks examples less well (`docs/design/0025-critical-samples.md`).

Both differentiate in evaluation mode: without dropout, and with the running statistics of batch norm.

Source: Arpit et al., "A Closer Look at Memorization in Deep Networks" (2017), section 3.2. Unrolling: Maclaurin et
    al., "Gradient-based Hyperparameter Optimization through Reversible Learning" (2015).

Shapes: N examples, T steps at which the loss is differentiated, C classes, K derivatives propagated back together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_exposure.checks import flag, real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators import gini
from hf_exposure.estimators.arrays import FloatArray
from hf_exposure.limits import LARGEST_SEED
from hf_exposure.runtime.model_state import model_device
from hf_exposure.signals.movable import MovableRows, by_batches, differentiating

Weights = dict[str, torch.Tensor]
RowLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A function from the logits and labels of n rows to (n,) losses."""

_ORDERS = {1: 1.0, 2: 2.0, math.inf: math.inf}


@dataclass(frozen=True, eq=False)
class LossSensitivity:
    """The result of `loss_sensitivity`.

    Attributes:
        steps_T: numbers of updates after which the loss was differentiated, ascending.
        losses_T: mean loss over all examples after each of them.
        norms_TN: ||dL_t / dx|| of each example.
        by_class_TCN: the same for the mean loss over the examples of each class; None without `by_class=True`.
        labels_N: classes of the examples; None without `by_class=True`.
    """

    steps_T: NDArray[np.int64]
    losses_T: FloatArray
    norms_TN: FloatArray
    by_class_TCN: FloatArray | None
    labels_N: NDArray[np.int64] | None

    @property
    def sensitivity_N(self) -> FloatArray:
        """The loss-sensitivity of each example: the mean over all evaluated steps."""
        return np.asarray(self.norms_TN.mean(axis=0))

    @property
    def gini_T(self) -> FloatArray:
        """The Gini coefficient, over examples, of the mean sensitivity up to each step (Figure 3)."""
        running_TN = self.norms_TN.cumsum(axis=0) / np.arange(1, len(self.steps_T) + 1)[:, None]
        return np.array([gini(row) for row in running_TN])

    @property
    def class_matrix_CC(self) -> FloatArray:
        """The sensitivity of the loss of class i (row) to training examples of class j (column), averaged over
        examples and steps (Figure 4); NaN in the columns of classes without examples.

        Raises:
            InputError: `loss_sensitivity` was called without `by_class=True`.
        """
        if self.by_class_TCN is None or self.labels_N is None:
            raise InputError("by_class", "must be True for the class matrix", False, "Pass by_class=True.")
        mean_CN, classes = self.by_class_TCN.mean(axis=0), range(self.by_class_TCN.shape[1])
        columns = [mean_CN[:, self.labels_N == j] for j in classes]
        return np.stack([c.mean(axis=1) if c.size else np.full(len(mean_CN), np.nan) for c in columns], axis=1)


def loss_sensitivity(
    model: nn.Module,
    inputs: Any,
    labels: Any,
    steps: int | Sequence[int],
    learning_rate: float,
    batch_size: int | None = None,
    seed: int = 0,
    *,
    by_class: bool = False,
    direct: bool = True,
    norm: float = 1,
    loss: RowLoss | None = None,
    argument: str | None = None,
) -> LossSensitivity:
    """Trains a copy of the model by SGD on the examples, and differentiates its loss with respect to each example.

    The model itself is left unchanged. Memory holds the weights of every step, and T (with `by_class`, T times C)
    derivatives of the size of `inputs`. For text, x is the embeddings of its tokens, as for `critical_samples`.

    Args:
        model: as for `critical_samples`; training starts from its weights.
        inputs: the training examples, as for `critical_samples`.
        labels: (N,) classes, or (N, T) tokens as for a causal language model, -100 where no loss is computed.
        steps: numbers of updates after which to differentiate the loss; a single number means after the last update
            only.
        learning_rate: learning rate of plain SGD.
        batch_size: examples per update, drawn in epochs of random order; by default all examples.
        seed: seed of the order.
        by_class: whether to also differentiate the mean loss of each class; requires labels that are classes.
        direct: whether to include the example's own term in L_t. If False, only the effect of training on it counts.
        norm: 1, 2 or inf.
        loss: function from logits and labels to one loss per row; by default cross-entropy, averaged over tokens.
        argument: as for `critical_samples`.

    Raises:
        InputError: an argument is out of range, the labels do not fit, or `critical_samples` would refuse the inputs.

    Example (one example, one weight, loss by hand: L_1 = (w' x)^2 with w' = w - 2 r w x^2):
        >>> class Line(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor([[1.0, 0.0]]))
        ...     def forward(self, x): return x @ self.w
        >>> square = lambda logits, labels: logits[:, 0] ** 2
        >>> found = loss_sensitivity(Line(), torch.tensor([[2.0]]), [0], steps=1, learning_rate=0.1, loss=square)
        >>> found.losses_T.round(4).tolist(), found.norms_TN.round(4).tolist()     # 2 w' x (w' - 4 r w x^2)
        ([0.16], [[1.12]])
    """
    trained = _Examples(MovableRows(model, inputs, argument), labels, loss)
    wanted = _checked_steps(steps)
    rule, remedy = "must be finite and above 0", "Pass learning_rate=0.1, for example."
    rate = real_number("learning_rate", learning_rate, rule, remedy, above=0.0)
    size = trained.num_rows if batch_size is None else whole_number("batch_size", batch_size, 1)
    if norm not in _ORDERS:
        raise InputError("norm", "must be 1, 2 or infinity", norm, "Write norm=1.")
    if flag("by_class", by_class) and not trained.has_classes:
        raise InputError("by_class", "needs one class per row", True, "Omit it.")
    order = batch_order(trained.num_rows, size, wanted[-1], seed)
    with differentiating(trained.rows.model), sdpa_kernel(SDPBackend.MATH):
        return _unrolled(trained, order, wanted, rate, by_class, flag("direct", direct), _ORDERS[norm])


def batch_order(num_rows: int, batch_size: int, steps: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Returns the rows of each update: each epoch has all rows once, in random order; its last batch may be
    smaller.
    """
    generator = np.random.default_rng(whole_number("seed", seed, 0, LARGEST_SEED))
    batches: list[NDArray[np.int64]] = []
    while len(batches) < steps:
        shuffled = generator.permutation(num_rows)
        batches.extend(shuffled[start : start + batch_size] for start in range(0, num_rows, batch_size))
    return batches[:steps]


def checkpoint_sensitivity(
    model: nn.Module,
    states: Iterable[Mapping[str, torch.Tensor]],
    inputs: Any,
    labels: Any,
    batch_size: int = 64,
    *,
    norm: float = 1,
    loss: RowLoss | None = None,
    argument: str | None = None,
) -> FloatArray:
    """Approximates loss-sensitivity by input gradients at checkpoints, for training runs that cannot be
    differentiated.

    It takes one forward and one backward pass per row and checkpoint. It is meant for ranking examples: its values
    have other units than those of `loss_sensitivity`.

    Args:
        model, inputs, labels, norm, loss, argument: as for `loss_sensitivity`. The model is left unchanged.
        states: `state_dict`s of the model during training, including the initial weights.
        batch_size: rows per model call.

    Returns:
        (N,) means over the checkpoints of ||dl(x) / dx||, where l(x) is the example's own loss.

    Raises:
        InputError: as for `loss_sensitivity`; or there are no states, or a state belongs to another model.

    Example (by hand, two classes with equal logits: the gradient for label 0 is 0.5 (w_1 - w_0)):
        >>> model = nn.Linear(1, 2)
        >>> state = {"weight": torch.tensor([[1.0], [-1.0]]), "bias": torch.zeros(2)}
        >>> checkpoint_sensitivity(model, [state], torch.zeros(1, 1), [0]).tolist()
        [1.0]
    """
    trained = _Examples(MovableRows(model, inputs, argument), labels, loss)
    if norm not in _ORDERS:
        raise InputError("norm", "must be 1, 2 or infinity", norm, "Write norm=1.")
    size = whole_number("batch_size", batch_size, 1)
    norms: list[FloatArray] = []
    with differentiating(trained.rows.model):
        for state in states:
            weights = weights_of(trained.rows.model, state)

            def of_batch(rows_n: NDArray[np.integer], weights: Weights = weights) -> list[float]:
                shift = trained.rows.unmoved(rows_n).requires_grad_()
                # Rows are independent, so the gradient of the sum contains the gradient of each.
                total = trained.losses(rows_n, shift, weights).sum()
                (slope,) = torch.autograd.grad(total, shift, allow_unused=True)
                found = _norms(torch.zeros_like(shift) if slope is None else slope, _ORDERS[norm])
                return [float(one) for one in found]

            norms.append(np.array(by_batches(np.arange(trained.num_rows), size, of_batch)))
    if not norms:
        raise InputError("states", "must have at least one checkpoint", 0, "Pass [model.state_dict()].")
    return np.asarray(np.mean(norms, axis=0))


class _Examples:
    """Rows with their labels and loss."""

    def __init__(self, rows: MovableRows, labels: Any, loss: RowLoss | None) -> None:
        try:
            self.labels = torch.as_tensor(np.asarray(labels)).to(model_device(rows.model))
        except (TypeError, ValueError, RuntimeError):
            raise InputError("labels", "must be whole numbers", type(labels).__name__, "Pass class numbers.") from None
        has_shape = self.labels.dim() in (1, 2) and len(self.labels) == rows.num_rows
        if not has_shape or (loss is None and self.labels.is_floating_point()):
            rule = f"must be ({rows.num_rows},) classes, or tokens for each row"
            shown = f"{self.labels.dtype} of shape {tuple(self.labels.shape)}"
            raise InputError("labels", rule, shown, "Pass one label per row.")
        self.rows, self.num_rows, self._loss = rows, rows.num_rows, loss
        self.has_classes = self.labels.dim() == 1 and not self.labels.is_floating_point()

    def losses(self, rows_n: NDArray[np.integer], shift: torch.Tensor, weights: Weights) -> torch.Tensor:
        """Returns (n,) losses of perturbed rows."""
        labels = self.labels[torch.as_tensor(rows_n, device=self.labels.device)]
        if self._loss is not None:
            return self._loss(self.rows.all_logits(rows_n, shift, weights), labels)
        if labels.dim() == 1:
            return nn.functional.cross_entropy(self.rows.logits(rows_n, shift, weights), labels, reduction="none")
        logits, targets = self.rows.all_logits(rows_n, shift, weights)[:, :-1], labels[:, 1:]
        each = nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=-100)
        return each.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)


def _unrolled(
    trained: _Examples,
    order: list[NDArray[np.int64]],
    wanted: list[int],
    rate: float,
    by_class: bool,
    direct: bool,
    norm: float,
) -> LossSensitivity:
    every = np.arange(trained.num_rows)
    still_N = trained.rows.unmoved(every)

    def update(weights: Weights, shift: torch.Tensor, rows_n: NDArray[np.int64]) -> Weights:
        slopes = torch.func.grad(lambda w: trained.losses(rows_n, shift, w).mean())(weights)
        return {name: weight - rate * slopes[name] for name, weight in weights.items()}

    weights = {name: p.detach() for name, p in trained.rows.model.named_parameters() if p.is_floating_point()}
    kept = [weights]
    for rows_n in order:
        weights = {name: w.detach() for name, w in update(weights, still_N[rows_n], rows_n).items()}
        kept.append(weights)

    # One derivative of the mean loss, then one of each class's loss.
    shares = [torch.full((trained.num_rows,), 1.0 / trained.num_rows, dtype=still_N.dtype, device=still_N.device)]
    if by_class:
        classes = range(int(trained.labels.max()) + 1)
        shares += [(trained.labels == i) / (trained.labels == i).sum().clamp(min=1) for i in classes]
    share_KN = torch.stack([share.to(still_N.dtype) for share in shares])

    number = {step: place for place, step in enumerate(wanted)}
    losses_T, count = np.zeros(len(wanted)), len(share_KN)
    found = torch.zeros((len(wanted), count, *still_N.shape), dtype=still_N.dtype, device=still_N.device)
    adjoints: Weights = {}
    started: list[int] = []
    for step in range(wanted[-1], -1, -1):
        if step in number:
            derived: Any = torch.func.vjp(lambda w, x: share_KN @ trained.losses(every, x, w), kept[step], still_N)
            values, pull = derived
            losses_T[number[step]] = float(values[0].detach())
            slopes, own = torch.func.vmap(pull)(torch.eye(count, dtype=values.dtype, device=values.device))
            if direct:
                found[number[step]] += own.detach()
            adjoints = {n: torch.cat([adjoints[n], s]) if adjoints else s for n, s in slopes.items()}
            started.append(number[step])
        if not step:
            break
        rows_n = order[step - 1]
        derived = torch.func.vjp(lambda w, x, r=rows_n: update(w, x, r), kept[step - 1], still_N[rows_n])
        pull = derived[1]
        adjoints, moved = torch.func.vmap(pull)(adjoints)
        adjoints = {name: adjoint.detach() for name, adjoint in adjoints.items()}
        index = torch.as_tensor(rows_n, device=found.device)
        for place, part in zip(started, moved.detach().split(count), strict=True):
            found[place].index_add_(1, index, part)
    norms_TKN = _norms(found.flatten(0, 2), norm).reshape(len(wanted), count, -1)
    return LossSensitivity(
        steps_T=np.array(wanted, dtype=np.int64),
        losses_T=losses_T,
        norms_TN=norms_TKN[:, 0],
        by_class_TCN=norms_TKN[:, 1:] if by_class else None,
        labels_N=trained.labels.cpu().numpy().astype(np.int64) if by_class else None,
    )


def weights_of(model: nn.Module, state: Mapping[str, torch.Tensor]) -> Weights:
    """Returns the floating-point weights of a state under the model's own names."""
    weights: Weights = {}
    for name, parameter in model.named_parameters():
        found = state.get(name) if isinstance(state, Mapping) else None
        if not isinstance(found, torch.Tensor) or found.shape != parameter.shape:
            rule = f"must have {name!r} with shape {tuple(parameter.shape)}"
            raise InputError("states", rule, type(found).__name__, "Pass state_dicts of this model.")
        if parameter.is_floating_point():
            weights[name] = found.detach().to(parameter.device, parameter.dtype)
    return weights


def _norms(values: torch.Tensor, order: float) -> FloatArray:
    """Returns the norm of each row."""
    flat = values.detach().flatten(1).double()
    return np.asarray(torch.linalg.vector_norm(flat, ord=order, dim=1).cpu().numpy())


def _checked_steps(steps: int | Sequence[int] | ArrayLike) -> list[int]:
    several = [steps] if np.ndim(steps) == 0 else list(steps)  # type: ignore[arg-type]
    wanted = [whole_number("steps", step, 0) for step in several]
    if not wanted or wanted != sorted(set(wanted)):
        raise InputError(
            "steps", "must be ascending, with at least one step", several[:8], "Write range(0, 1001, 100)."
        )
    return wanted
