"""Co-teaching: two networks, each trained on the rows of a batch that the other finds easiest.

Networks learn what many rows have in common before they memorize wrong labels, so that a small loss early on speaks
for a label. A network that trusts its own small losses would confirm its own mistakes. The other one's are others.

Source: Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels", NeurIPS 2018,
    algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError


def keep_share(epoch: float, noise: float, ramp_epochs: float = 10.0) -> float:
    """The share of a batch that is trained on: 1 - noise * min(epoch / ramp_epochs, 1).

    Args:
        epoch: whole epochs that are over. In the first one all rows are trained on.
        noise: share of the rows whose label is wrong, or a guess of it.
        ramp_epochs: after how many epochs all of that share is left out.

    Raises:
        InputError: a noise outside 0 to below 1, a ramp that is not above 0, a negative epoch.

    Source: Han et al. (2018), algorithm 1, line 12: R(T).

    Example:
        >>> [round(keep_share(epoch, noise=0.4), 3) for epoch in (0, 5, 10, 99)]
        [1.0, 0.8, 0.6, 0.6]
    """
    noise, ramp = _checked_schedule(noise, ramp_epochs)
    over = real_number("epoch", epoch, "must be 0 or more", "Count epochs from 0.", at_least=0.0)
    return 1.0 - noise * min(over / ramp, 1.0)


class TwoNetworks(nn.Module):
    """Two classifiers of one shape with their own weights, for `CoTeachingTrainer`.

    Called, it returns {"logits": the mean of both, "first": its logits, "second": those of the other}.

    Args:
        first, second: they return logits, or an output with `.logits` or ["logits"].

    Raises:
        InputError: networks that share a parameter.

    Example:
        >>> pair = TwoNetworks(nn.Linear(3, 2), nn.Linear(3, 2))
        >>> pair(torch.ones(5, 3))["logits"].shape
        torch.Size([5, 2])
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        if {*map(id, first.parameters())} & {*map(id, second.parameters())}:
            rule = "must have parameters of their own"
            raise InputError("first, second", rule, "shared ones", "Make two networks: they differ by their start.")
        self.first, self.second = first, second

    def forward(self, *arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        first, second = (logits_of_rows(network(*arguments, **named)) for network in (self.first, self.second))
        return {"logits": (first + second) / 2.0, "first": first, "second": second}


def co_teaching_loss(
    first_nC: torch.Tensor, second_nC: torch.Tensor, labels_n: torch.Tensor, share: float
) -> torch.Tensor:
    """Sum of the two networks' mean losses, each over the rows on which the other's loss is smallest.

    Args:
        first_nC, second_nC: logits of the two networks.
        labels_n: classes.
        share: of the rows to train on: `ceil(share * n)` of them, so that at least one is.

    Example (by hand: with half of two rows each network trains on the row that the other likes better):
        >>> first, second = torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [9.0, 0.0]])
        >>> round(float(co_teaching_loss(first, second, torch.tensor([0, 0]), 0.5) / math.log(2.0)), 4)
        2.0
    """
    losses = [nn.functional.cross_entropy(logits, labels_n, reduction="none") for logits in (first_nC, second_nC)]
    kept = math.ceil(share * len(labels_n) - 1e-9)
    easiest = [loss_n.detach().argsort(stable=True)[:kept] for loss_n in losses]
    return losses[0][easiest[1]].mean() + losses[1][easiest[0]].mean()


class CoTeachingTrainer(Trainer):
    """A `Trainer` of `TwoNetworks` by co-teaching. In evaluation the mean of the two networks' logits decides.

    Clipping looks at the gradients of both networks together: set `max_grad_norm=0` to keep them apart.

    Args:
        noise, ramp_epochs: as for `keep_share`; epochs that are begun do not count until they are over.
        *arguments, **named: those of `Trainer`; `model` is a `TwoNetworks`.

    Raises:
        InputError: a model that is no `TwoNetworks`, a schedule out of range, batches without "labels".

    Source: Han et al. (2018), algorithm 1.

    Example:
        trainer = CoTeachingTrainer(TwoNetworks(make(), make()), args, train_dataset=data, noise=0.4)
    """

    def __init__(self, *arguments: Any, noise: float, ramp_epochs: float = 10.0, **named: Any) -> None:
        self.noise, self.ramp_epochs = _checked_schedule(noise, ramp_epochs)
        super().__init__(*arguments, **named)
        if not isinstance(self.model, TwoNetworks):
            raise InputError("model", "must be a TwoNetworks", type(self.model).__name__, "Pass TwoNetworks(a, b).")
        # The pair's own signature does not tell that batches have labels.
        self.label_names = ["labels"]
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows, whatever the batch

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, *_: Any, **__: Any
    ) -> Any:
        rest = {name: value for name, value in inputs.items() if name != "labels"}
        outputs, labels = model(**rest), labels_of_batch(inputs)
        if model.training:
            share = keep_share(math.floor(self.state.epoch or 0.0), self.noise, self.ramp_epochs)
            loss = co_teaching_loss(outputs["first"], outputs["second"], labels, share)
        else:
            loss = nn.functional.cross_entropy(outputs["logits"], labels)
        return (loss, {"logits": outputs["logits"]}) if return_outputs else loss


def logits_of_rows(output: Any) -> torch.Tensor:
    """(n, classes) logits of what a classifier returns."""
    found = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        rule = "must return (rows, classes) logits"
        raise InputError("model", rule, type(output).__name__, "Pass a classifier with one label for each row.")
    return found


def labels_of_batch(inputs: Mapping[str, Any]) -> torch.Tensor:
    """(n,) classes of a batch."""
    labels = inputs.get("labels")
    if not isinstance(labels, torch.Tensor) or labels.dim() != 1 or labels.is_floating_point():
        rule = "must be one class for each row of a batch"
        raise InputError("labels", rule, type(labels).__name__, "Name the column labels, or use a collator that does.")
    return labels


def _checked_schedule(noise: float, ramp_epochs: float) -> tuple[float, float]:
    rule = "must be a share from 0 to below 1"
    share = real_number("noise", noise, rule, "Write noise=0.4.", at_least=0.0, below=1.0)
    return share, real_number("ramp_epochs", ramp_epochs, "must be above 0", "Write ramp_epochs=10.", above=0.0)
