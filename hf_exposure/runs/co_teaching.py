"""Co-teaching: two networks, each trained on the rows of a batch on which the other has the smallest losses.

Networks learn patterns shared by many rows before they memorize wrong labels, so a small loss early in training
suggests a correct label. A network that selects rows by its own small losses would reinforce its own mistakes; the
other network makes different ones.

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
    """Returns the share of a batch to train on: 1 - noise * min(epoch / ramp_epochs, 1).

    Args:
        epoch: number of completed epochs. In the first epoch all rows are used.
        noise: share of rows with a wrong label, or an estimate of it.
        ramp_epochs: number of epochs until the full share `noise` is left out.

    Raises:
        InputError: noise is not in [0, 1), ramp_epochs is not above 0, or epoch is negative.

    Source: Han et al. (2018), algorithm 1, line 12: R(T).

    Example:
        >>> [round(keep_share(epoch, noise=0.4), 3) for epoch in (0, 5, 10, 99)]
        [1.0, 0.8, 0.6, 0.6]
    """
    noise, ramp = _checked_schedule(noise, ramp_epochs)
    over = real_number("epoch", epoch, "must be 0 or more", "Count epochs from 0.", at_least=0.0)
    return 1.0 - noise * min(over / ramp, 1.0)


class TwoNetworks(nn.Module):
    """Two classifiers with the same classes and separate weights, for `CoTeachingTrainer`.

    The forward pass returns {"logits": mean logits of both, "first": logits of the first, "second": of the second}.

    Args:
        first, second: classifiers that return logits, or an output with `.logits` or ["logits"].

    Raises:
        InputError: the networks share a parameter.

    Example:
        >>> pair = TwoNetworks(nn.Linear(3, 2), nn.Linear(3, 2))
        >>> pair(torch.ones(5, 3))["logits"].shape
        torch.Size([5, 2])
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        if {*map(id, first.parameters())} & {*map(id, second.parameters())}:
            rule = "must not share parameters"
            raise InputError("first, second", rule, "shared ones", "Make two networks with different initial weights.")
        self.first, self.second = first, second

    def forward(self, *arguments: Any, **named: Any) -> dict[str, torch.Tensor]:
        first, second = (logits_of_rows(network(*arguments, **named)) for network in (self.first, self.second))
        return {"logits": (first + second) / 2.0, "first": first, "second": second}


def co_teaching_loss(
    first_nC: torch.Tensor, second_nC: torch.Tensor, labels_n: torch.Tensor, share: float
) -> torch.Tensor:
    """Returns the sum of the two networks' mean losses, each over the rows on which the other's loss is smallest.

    Args:
        first_nC, second_nC: (n, C) logits of the two networks.
        labels_n: (n,) classes.
        share: the share of rows to train on: `ceil(share * n)` rows, so at least one.

    Example (by hand: with half of two rows, each network trains on the row on which the other has the smaller loss):
        >>> first, second = torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [9.0, 0.0]])
        >>> round(float(co_teaching_loss(first, second, torch.tensor([0, 0]), 0.5) / math.log(2.0)), 4)
        2.0
    """
    losses = [nn.functional.cross_entropy(logits, labels_n, reduction="none") for logits in (first_nC, second_nC)]
    kept = math.ceil(share * len(labels_n) - 1e-9)
    easiest = [loss_n.detach().argsort(stable=True)[:kept] for loss_n in losses]
    return losses[0][easiest[1]].mean() + losses[1][easiest[0]].mean()


class CoTeachingTrainer(Trainer):
    """A `Trainer` of `TwoNetworks` by co-teaching. In evaluation, predictions use the mean of the two networks'
    logits.

    Gradient clipping uses the joint norm of both networks: set `max_grad_norm=0` to keep them independent.

    Args:
        noise, ramp_epochs: as for `keep_share`; only completed epochs count.
        *arguments, **named: arguments of `Trainer`; `model` is a `TwoNetworks`.

    Raises:
        InputError: the model is not a `TwoNetworks`, the schedule is out of range, or a batch has no "labels".

    Source: Han et al. (2018), algorithm 1.

    Example:
        trainer = CoTeachingTrainer(TwoNetworks(make(), make()), args, train_dataset=data, noise=0.4)
    """

    def __init__(self, *arguments: Any, noise: float, ramp_epochs: float = 10.0, **named: Any) -> None:
        self.noise, self.ramp_epochs = _checked_schedule(noise, ramp_epochs)
        super().__init__(*arguments, **named)
        if not isinstance(self.model, TwoNetworks):
            raise InputError("model", "must be a TwoNetworks", type(self.model).__name__, "Pass TwoNetworks(a, b).")
        # The signature of the pair does not show that batches have labels.
        self.label_names = ["labels"]
        self.model_accepts_loss_kwargs = False  # the loss is always a mean over rows

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
    """Returns the (n, classes) logits in a classifier's output."""
    found = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, torch.Tensor) or found.dim() != 2:
        rule = "must return (rows, classes) logits"
        raise InputError("model", rule, type(output).__name__, "Pass a classifier with one label per row.")
    return found


def labels_of_batch(inputs: Mapping[str, Any]) -> torch.Tensor:
    """Returns the (n,) classes of a batch."""
    labels = inputs.get("labels")
    if not isinstance(labels, torch.Tensor) or labels.dim() != 1 or labels.is_floating_point():
        rule = "must be one class per row of a batch"
        raise InputError(
            "labels", rule, type(labels).__name__, 'Name the column "labels", or use a collator that does.'
        )
    return labels


def _checked_schedule(noise: float, ramp_epochs: float) -> tuple[float, float]:
    rule = "must be a share from 0 to below 1"
    share = real_number("noise", noise, rule, "Write noise=0.4.", at_least=0.0, below=1.0)
    return share, real_number("ramp_epochs", ramp_epochs, "must be above 0", "Write ramp_epochs=10.", above=0.0)
