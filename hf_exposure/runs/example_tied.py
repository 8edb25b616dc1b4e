"""Example-tied dropout: units tied to single examples absorb memorization, and are dropped at test time.

A share of a layer's units is always active. Each training example has a few of the remaining units of its own, the
same in every epoch; all others are dropped while the example trains. Patterns common to many examples can be learned
by the shared units; details of one example are learned most easily by its own units. Without the examples' own units,
a network keeps the patterns and loses what it memorized.

Source: Maini et al., "Can Neural Network Memorization Be Localized?", ICML 2023, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.limits import LARGEST_SEED


class ExampleTied(nn.Module):
    """A model with example-tied dropout on the outputs of some layers.

    Call it with `row_index`, the numbers of the training examples in the batch, to use the examples' own units: always
    in training, and afterwards to see what was memorized. Without `row_index`, only the shared units are active,
    scaled up to the magnitude of the outputs in training. With a `Trainer`, give the data set a column "row_index" and
    set `remove_unused_columns=False`.

    Args:
        model: the model to wrap. Hooks stay on its layers until `remove()` is called.
        layers: names of modules to whose outputs dropout applies: (n, ..., units), or (n, channels, height, width).
        num_rows: number of training examples.
        shared: share of units that are always active.
        own: share of units tied to an example, drawn separately for each example, so examples may overlap.
        seed: seed of the draws.

    Raises:
        InputError: a name is not a module, or the shares are out of range. In calls: `row_index` is missing in
            training mode, is outside 0..num_rows - 1 or does not have one number per row, or the output of a layer is
            not a tensor or has too few units for the shares.

    Example:
        >>> tied = ExampleTied(nn.Sequential(nn.Linear(3, 10), nn.Linear(10, 2)), ["0"], num_rows=4)
        >>> tied(torch.ones(2, 3), row_index=torch.tensor([3, 0])).shape, tied.eval()(torch.ones(5, 3)).shape
        (torch.Size([2, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        num_rows: int,
        shared: float = 0.2,
        own: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_rows = whole_number("num_rows", num_rows, 1)
        rule = "must be above 0 and below 1"
        self.shared = real_number("shared", shared, rule, "Write shared=0.2.", above=0.0, below=1.0)
        rule, most = "must be above 0 and, with shared, at most 1", 1.0 - self.shared
        self.own = real_number("own", own, rule, "Write own=0.1.", above=0.0, at_most=most)
        self.seed = whole_number("seed", seed, 0, LARGEST_SEED)
        modules = dict(model.named_modules())
        unknown = [name for name in layers if not name or name not in modules]
        if unknown or not layers:
            remedy = f"Choose from {list(modules)[1:6]} and so on."
            raise InputError("layers", "must be names of modules of the model", unknown or layers, remedy)
        self.model = model
        self._rows: torch.Tensor | None = None
        self._units: dict[tuple[int, int], torch.Tensor] = {}
        self._handles = [
            modules[name].register_forward_hook(lambda module, _, output, number=number: self._drop(number, output))
            for number, name in enumerate(layers)
        ]

    def forward(self, *arguments: Any, row_index: Any = None, **named: Any) -> Any:
        if row_index is None:
            if self.training:
                rule = "must be given in training, since each example has its own units"
                raise InputError("row_index", rule, None, "Pass the numbers of the batch's examples.")
            self._rows = None
        else:
            self._rows = torch.as_tensor(row_index).long().cpu().flatten()
            if not len(self._rows) or int(self._rows.min()) < 0 or int(self._rows.max()) >= self.num_rows:
                rule = f"must be numbers from 0 to {self.num_rows - 1}"
                raise InputError("row_index", rule, "others", "Pass the numbers of the batch's examples.")
        try:
            return self.model(*arguments, **named)
        finally:
            self._rows = None

    def remove(self) -> nn.Module:
        """Removes the dropout and returns the model."""
        for handle in self._handles:
            handle.remove()
        return self.model

    def mask(self, layer: int, units: int, rows: torch.Tensor | None) -> torch.Tensor:
        """Returns (n, units) floats, 1 for the active units of each row; without rows (1, units), scaled.

        Args:
            layer: index in `layers`: every layer has its own draws.
        """
        kept, own = round(self.shared * units), round(self.own * units)
        if not kept or not own or kept + own > units:
            rule = f"must have at least one unit for each of the shares {self.shared} and {self.own}"
            raise InputError("layers", rule, f"{units} units", "Choose a wider layer or larger shares.")
        if rows is None:
            mask = torch.zeros(1, units)
            mask[:, :kept] = (kept + own) / kept
            return mask
        if (layer, units) not in self._units:
            generator = np.random.default_rng([self.seed, layer])
            drawn = [kept + generator.permutation(units - kept)[:own] for _ in range(self.num_rows)]
            self._units[layer, units] = torch.as_tensor(np.stack(drawn))
        mask = torch.zeros(len(rows), units)
        mask[:, :kept] = 1.0
        return mask.scatter_(1, self._units[layer, units][rows], 1.0)

    def _drop(self, layer: int, output: Any) -> torch.Tensor:
        if not isinstance(output, torch.Tensor) or output.dim() < 2:
            rule = "must return a tensor with a dimension of units"
            raise InputError("layers", rule, type(output).__name__, "Name a module inside it.")
        axis = 1 if output.dim() == 4 else output.dim() - 1
        if self._rows is not None and len(self._rows) != len(output):
            rule = f"must be {len(output)} numbers, one per row of the batch"
            raise InputError("row_index", rule, len(self._rows), "Pass the numbers of the batch's examples.")
        mask = self.mask(layer, output.shape[axis], self._rows).to(output.device, output.dtype)
        shape = [mask.shape[0], *([1] * (output.dim() - 1))]
        shape[axis] = mask.shape[1]
        return output * mask.reshape(shape)
