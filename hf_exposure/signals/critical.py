"""Critical samples: rows close to which the model decides differently.

A row is critical if the model predicts another class at some point at most `radius` away in each coordinate. The more
rows are critical, the denser the model's decision boundaries are near the data, and the more complex the function that
it has learned: a network that fits noise has far more critical samples. Labels are not used.

For a network, it cannot be decided whether such a point exists, but one can search for it. Since the search can only
miss points, the share of rows found critical is a lower limit on the true share.

Langevin adversarial sample search (LASS) starts at the row and repeats three operations: a step against the decision
in every coordinate, added noise, and projection back into the box. The choices that the paper leaves open are as
follows.

- *The class and the sign.* With the predicted class k, the step goes against the gradient of its margin,
  `f_k - max_{j != k} f_j`, which is 0 on the boundary. The paper's f_k alone contains no information about the other
  classes. Of the rows of random linear classifiers that are critical by the closed form, its gradient finds about
  seven in ten, the gradient of the softmax output (which has the sign of the log-odds) more than eight, and the
  gradient of the margin nearly all (`docs/design/0025-critical-samples.md`). In 32 bits, softmax outputs are also flat
  where a model is confident.
- *Where.* The gradient is taken at the current point of the search. The algorithm as printed takes it at the row
  itself, so all steps would have the same direction.
- *Sizes.* Step and noise are shares of the radius, so the search does not depend on the units.
- *The end.* The search ends after `max_steps` steps. The last `2 / step` of them have no noise: with noise, one
  coordinate in eight is away from the side of the box that it was moved to, so a search over hundreds of coordinates
  would stay 1 % inside the box.

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
    """Returns whether LASS finds another decision of the model within `radius` of each row.

    The model is called in evaluation mode; its training flags and gradients and all random states are restored. A
    row's result depends on its position among the rows (through the seed), but not on the batch size or the number of
    processes. The cost is at most `max_steps` forward and backward passes per row, and less for critical rows.

    Text is perturbed at the embeddings of its tokens, except for padding. The radius then applies to each coordinate
    of an embedding, in the units of the embedding layer. Embeddings differ in size between models
    (`MovableRows.embedding_scale`: 0.02 to 1), so compare models at the same radius relative to that size. Most points
    of the box are not embeddings of tokens: a critical text is close to a decision boundary, not necessarily to
    another text. The decision of a causal language model is the most probable token after the whole text.

    Args:
        model: returns logits (N, C), or an output with `.logits`; logits of every token (N, T, C) for texts.
        inputs: (N, ...) floats, the model's first argument; or a mapping of its arguments by name, with a float tensor
            or with "input_ids". Labels in the mapping are not used.
        radius: half the side of the box, in the units of the inputs.
        step: how far each coordinate moves in one step, as a share of the radius.
        noise: standard deviation of the noise that each step adds to each coordinate, as a share of the radius.
        max_steps: number of steps after which a search ends.
        seed: seed of the noise.
        argument: name of the argument to perturb, if the mapping has several float tensors.
        batch_size: rows per model call; halved if the device runs out of memory.
        processes: the processes that share the rows. All must make the call, and all get the same result.

    Returns:
        (N,) bools.

    Raises:
        InputError: an argument is out of range, the inputs cannot be perturbed, the model does not return logits, or
            its weights are sharded over processes.
        NonFiniteScoreError: the model returned NaN.

    Source: Arpit et al. 2017, section 4.1. A footnote there uses a step of 0.25 and noise of 0.2.

    Example (two classes with the boundary at x = 0; the first two rows are within 0.5 of it):
        >>> line = nn.Linear(1, 2, bias=False)
        >>> line.weight.data = torch.tensor([[1.0], [-1.0]])
        >>> critical_samples(line, torch.tensor([[0.1], [-0.4], [0.6]]), radius=0.5).tolist()
        [True, True, False]
    """
    rows = MovableRows(model, inputs, argument)
    search = CriticalSearch(radius, step, noise, max_steps, seed)
    whole_number("batch_size", batch_size, 1)
    refuse_sharded(rows.model)
    # Neighboring rows are often similar, and so are their costs.
    own = np.arange(processes.shard, rows.num_rows, processes.num_shards)

    def flags() -> NDArray[np.float64]:
        found_N = np.zeros(rows.num_rows)
        with differentiating(rows.model):
            found_N[own] = by_batches(own, batch_size, lambda batch: search.run(rows, batch).tolist())
        return found_N

    return processes.all_reduce_sum(flags).astype(bool)


def refuse_sharded(model: nn.Module) -> None:
    """Refuses a model whose weights are sharded over processes, since searches end after different numbers of calls.

    Raises:
        InputError: the model is sharded.
    """
    if is_sharded(model):
        rule = "must not be sharded over processes, which would have to make equally many calls"
        raise InputError("model", rule, type(model).__name__, "Load all weights in one process.")


class CriticalSearch:
    """LASS with its settings; see `critical_samples`.

    Raises:
        InputError: a setting is out of range, or step and noise are both 0.
    """

    def __init__(self, radius: float, step: float, noise: float, max_steps: int, seed: int) -> None:
        rule, remedy = "must be finite and above 0", "Pass a share of the range of the inputs, such as 0.03."
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
        """Returns (n,) whether another decision is found for each of the given rows, all searched in one batch."""
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
