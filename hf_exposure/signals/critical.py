"""Critical samples: rows with another decision of the model close by.

A row is critical if some point of the box around it, at most `radius` away in each coordinate, is decided otherwise.
The more rows are critical, the denser are the model's decision boundaries where data are, and the more complex is what
it has learned: a network that fits noise has far more of them. Labels play no part.

Whether there is such a point cannot be decided for a network; it can be searched for. The search can only miss one, so
the share of rows found critical is a lower limit on the true share.

Langevin adversarial sample search (LASS) repeats, from the row on: a step against the decision in every coordinate,
some noise, back into the box. What the paper leaves open is fixed as follows.

- *The class and the sign.* With the predicted class k, the step goes against the gradient of its margin,
  `f_k - max_{j != k} f_j`, which is 0 on the boundary. The paper's f_k alone says nothing of the other classes: of the
  rows of random linear classifiers that are critical by the closed form, its gradient finds about seven in ten, that
  of the softmax output (whose sign is that of the log-odds) more than eight, that of the margin nearly all
  (`docs/design/0025-critical-samples.md`). Softmax outputs are also flat in 32 bits where a model is sure of itself.
- *Where.* The gradient is taken where the search is. As printed it is that of the row itself, so that all steps would
  have one direction.
- *Sizes.* Step and noise are shares of the radius: the same search in any units.
- *The end.* After `max_steps` steps. The last `2 / step` of them are without noise: with it, one coordinate in eight
  is off the side that it was sent to, so a search among hundreds of coordinates would stay 1 % inside the box.

Source: Arpit et al., "A Closer Look at Memorization in Deep Networks" (2017), section 4.1 and algorithm 1.

Shapes: N rows, n of a batch, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError, NonFiniteScoreError
from hf_exposure.limits import LARGEST_SEED
from hf_exposure.runtime.model_state import is_sharded
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.signals.movable import MovableRows, by_batches, differentiating

_MOST_STEPS = 1_000_000


def critical_samples(
    model: nn.Module,
    inputs: Any,
    radius: float,
    step: float = 0.25,
    noise: float = 0.2,
    max_steps: int = 100,
    seed: int = 0,
    *,
    argument: str | None = None,
    batch_size: int = 64,
    processes: Processes = SINGLE_PROCESS,
) -> NDArray[np.bool_]:
    """Whether LASS finds another decision of the model within `radius` of each row.

    The model is left as found: training flags, gradients and random states. It is called in evaluation mode. A row's
    answer depends on its place among the rows (through the seed), not on the size of batches or the number of
    processes. The cost is at most `max_steps` forward and backward passes a row, and less for rows that are critical.

    Text is moved at the embeddings of its tokens. The radius is then that of one coordinate of an embedding, in the
    embedding layer's own units; padding stays. It tells models apart only in proportion to the size of embeddings
    (`MovableRows.embedding_scale`: 0.02 to 1 between models), so compare radii as shares of that. Points of the box
    are mostly no tokens: a critical text is one with a decision boundary close by, not one with another text close by.
    The decision of a causal language model is the most probable token after the whole text.

    Args:
        model: returns logits (N, C), or an output with `.logits`; logits of every token (N, T, C) for texts.
        inputs: (N, ...) floats, the model's first argument; or a mapping of its arguments by name, with a float tensor
            or with "input_ids". Labels in it are not used.
        radius: half the side of the box, in the units of the inputs.
        step: how far each coordinate goes in one step, as a share of the radius.
        noise: standard deviation of the noise of each coordinate and step, as a share of the radius.
        max_steps: after which a search ends.
        seed: of the noise.
        argument: the name of what is moved, where a mapping has several float tensors.
        batch_size: rows of one model call; halved where a device runs out of memory.
        processes: those that share the rows. All must make the call, and all get the same answer.

    Returns:
        (N,) bools.

    Raises:
        InputError: arguments out of range, inputs that cannot be moved, a model whose output is no logits, or one
            whose weights are spread over processes.
        NonFiniteScoreError: NaN logits.

    Source: Arpit et al. 2017, section 4.1. Their footnote has a step of 0.25 and noise of 0.2.

    Example (two classes, boundary at x = 0; within 0.5 of it are the first two rows):
        >>> line = nn.Linear(1, 2, bias=False)
        >>> line.weight.data = torch.tensor([[1.0], [-1.0]])
        >>> critical_samples(line, torch.tensor([[0.1], [-0.4], [0.6]]), radius=0.5).tolist()
        [True, True, False]
    """
    rows = MovableRows(model, inputs, argument)
    search = CriticalSearch(radius, step, noise, max_steps, seed)
    whole_number("batch_size", batch_size, 1)
    refuse_sharded(rows.model)
    # Rows that follow each other are often alike, and so is what they cost.
    own = np.arange(processes.shard, rows.num_rows, processes.num_shards)

    def flags() -> NDArray[np.float64]:
        found_N = np.zeros(rows.num_rows)
        with differentiating(rows.model):
            found_N[own] = by_batches(own, batch_size, lambda batch: search.run(rows, batch).tolist())
        return found_N

    return processes.all_reduce_sum(flags).astype(bool)


def refuse_sharded(model: nn.Module) -> None:
    """Refuses a model whose weights are spread over processes: each search ends after another number of calls.

    Raises:
        InputError: it is one.
    """
    if is_sharded(model):
        rule = "must not be spread over processes, which would have to make equally many calls"
        raise InputError("model", rule, type(model).__name__, "Load the weights whole to measure them.")


class CriticalSearch:
    """LASS with its settings, as `critical_samples` describes them.

    Raises:
        InputError: a setting out of range, or neither steps nor noise.
    """

    def __init__(self, radius: float, step: float, noise: float, max_steps: int, seed: int) -> None:
        rule, remedy = "must be finite and above 0", "Write a share of the range of the inputs, such as 0.03."
        self.radius = real_number("radius", radius, rule, remedy, above=0.0)
        rule = "must be a share of the radius from 0 to 2"
        self.step = real_number("step", step, rule, "Write step=0.25.", at_least=0.0, at_most=2.0)
        rule = "must be a share of the radius, at least 0"
        self.noise = real_number("noise", noise, rule, "Write noise=0.2.", at_least=0.0)
        if not self.step and not self.noise:
            raise InputError("step, noise", "must not both be 0", (step, noise), "Write step=0.25.")
        self.max_steps = whole_number("max_steps", max_steps, 1, _MOST_STEPS)
        self.seed = whole_number("seed", seed, 0, LARGEST_SEED)
        across = math.ceil(2.0 / self.step) if self.step else 0
        self._noisy_steps = self.max_steps - min(across, self.max_steps // 2)

    def run(self, rows: MovableRows, batch_n: NDArray[np.integer]) -> NDArray[np.bool_]:
        """(n,) whether another decision is found, for the rows of those numbers, in one go."""
        critical_n = np.zeros(len(batch_n), dtype=bool)
        generators = [np.random.default_rng([self.seed, int(row)]) for row in batch_n]
        moves, movable = rows.unmoved(batch_n).float(), rows.movable(batch_n)
        decided: torch.Tensor | None = None
        active = np.arange(len(batch_n))
        for number in range(self.max_steps + 1):
            moves.requires_grad_()
            logits = rows.logits(batch_n[active], moves)
            _check_logits(logits, batch_n[active])
            decision = logits.argmax(dim=1)
            if decided is None:
                decided = decision
            is_other = decision != decided
            critical_n[active] = is_other.cpu().numpy()
            if number == self.max_steps or critical_n.all():
                break
            gradient = _gradient(_margin(logits, decided).sum(), moves)
            steps = -self.step * gradient.sign().float()
            if number < self._noisy_steps and self.noise:
                drawn = [generators[i].standard_normal(moves.shape[1:], dtype=np.float32) for i in active]
                steps += self.noise * torch.as_tensor(np.stack(drawn), device=steps.device)
            moves = (moves.detach() + self.radius * steps * movable).clamp(-self.radius, self.radius)
            if is_other.any():
                kept = ~is_other
                moves, decided = moves[kept], decided[kept]
                movable = movable[kept] if movable.dim() else movable
                active = active[~critical_n[active]]
        return critical_n


def _margin(logits_nC: torch.Tensor, classes_n: torch.Tensor) -> torch.Tensor:
    own = logits_nC.gather(1, classes_n[:, None])
    others = logits_nC.scatter(1, classes_n[:, None], -math.inf)
    return own[:, 0] - others.max(dim=1).values


def _gradient(value: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    if not value.requires_grad:
        return torch.zeros_like(shift)  # logits that do not depend on the rows at all
    (gradient,) = torch.autograd.grad(value, shift, allow_unused=True)
    return torch.zeros_like(shift) if gradient is None else gradient


def _check_logits(logits_nC: torch.Tensor, rows_n: NDArray[np.integer]) -> None:
    is_nan = logits_nC.isnan().any(dim=1)
    if is_nan.any():
        raise NonFiniteScoreError(int(rows_n[int(is_nan.nonzero()[0, 0])]))
