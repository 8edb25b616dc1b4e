"""Early-learning regularization (ELR) keeps a network close to its predictions before it began to memorize.

Each training row has a target: a moving average of the network's outputs for it. The regularizer

    strength * mean over rows of log(1 - <p, target>)

decreases as the output p agrees with the target. Its gradient cancels that of the cross-entropy on rows whose label
disagrees with the target, and sustains it on rows whose label agrees.

Source: Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, equations 6
    and 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import nn
from transformers import Trainer

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.runs.co_teaching import labels_of_batch, logits_of_rows

_LEAST = 1e-4
"""Minimum distance of probabilities from 0 and 1, as in the authors' code, so that the logarithm is finite."""


def early_learning_loss(
    logits_nC: torch.Tensor, labels_n: torch.Tensor, targets_nC: torch.Tensor, strength: float = 3.0
) -> torch.Tensor:
    """Returns the mean over rows of the cross-entropy plus `strength * log(1 - <p, target>)`.

    Args:
        logits_nC, labels_n: (n, C) logits of the network, and the (n,) given classes.
        targets_nC: (n, C), with row sums from 0 (no outputs so far) to 1. No gradient flows into the targets.
        strength: lambda in the paper: 3 for 10 classes, 7 for 100.

    Example (by hand: p = 1/2, so log 2 + 3 log(1 - 1/2) = -2 log 2):
        >>> loss = early_learning_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        >>> round(float(loss / torch.log(torch.tensor(2.0))), 4)
        -2.0
    """
    agreement_n = (_probabilities(logits_nC) * targets_nC.detach()).sum(1)
    # After clamping, the probabilities of a row may sum to slightly more than 1.
    return (
        nn.functional.cross_entropy(logits_nC, labels_n)
        + strength * torch.log((1.0 - agreement_n).clamp(min=_LEAST)).mean()
    )


class EarlyLearningTrainer(Trainer):
    """A `Trainer` with early-learning regularization.

    The data set needs a column of row numbers from 0: `train.add_column("row_index", list(range(len(train))))`. Set
    `remove_unused_columns=False` to keep it. The targets are not saved in checkpoints: a resumed training run starts
    with empty targets.

    Args:
        num_labels: number of classes.
        strength: lambda in the paper.
        memory: beta in the paper: the weight of the old target at each update.
        index_column: name of the column of row numbers.
        *arguments, **named: arguments of `Trainer`, including `train_dataset`.

    Attributes:
        targets: (rows, classes) targets so far.

    Raises:
        InputError: an argument is out of range, or a batch has no row numbers or labels.

    Example:
        trainer = EarlyLearningTrainer(model, args, train_dataset=data, num_labels=10)
    """

    def __init__(
        self,
        *arguments: Any,
        num_labels: int,
        strength: float = 3.0,
        memory: float = 0.7,
        index_column: str = "row_index",
        **named: Any,
    ) -> None:
        classes = whole_number("num_labels", num_labels, 2)
        self.strength = real_number("strength", strength, "must be 0 or more", "Write strength=3.", at_least=0.0)
        rule = "must be a share from 0 to below 1"
        self.memory = real_number("memory", memory, rule, "Write memory=0.7.", at_least=0.0, below=1.0)
        self.index_column = index_column
        super().__init__(*arguments, **named)
        if not isinstance(self.train_dataset, Sized):
            remedy = "Pass a data set that is not a stream: each row has a target."
            raise InputError("train_dataset", "must have a length", type(self.train_dataset).__name__, remedy)
        self.targets = torch.zeros(len(self.train_dataset), classes)
        self.model_accepts_loss_kwargs = False  # the loss is always a mean over rows

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, *_: Any, **__: Any
    ) -> Any:
        rest = {name: value for name, value in inputs.items() if name not in ("labels", self.index_column)}
        labels, outputs = labels_of_batch(inputs), model(**rest)
        logits = logits_of_rows(outputs)
        if model.training:
            rows = self._rows(inputs).to(logits.device)
            self.targets = self.targets.to(logits.device)
            said = _probabilities(logits.detach()).float()
            said = said / said.sum(1, keepdim=True)
            self.targets[rows] = self.memory * self.targets[rows] + (1.0 - self.memory) * said
            loss = early_learning_loss(logits, labels, self.targets[rows], self.strength)
        else:
            loss = nn.functional.cross_entropy(logits, labels)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _rows(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        rows = inputs.get(self.index_column)
        if not isinstance(rows, torch.Tensor) or rows.is_floating_point() or int(rows.max()) >= len(self.targets):
            rule = f"must be row numbers from 0 to {len(self.targets) - 1} in each batch"
            raise InputError(
                self.index_column, rule, type(rows).__name__, "Add the column, and set remove_unused_columns=False."
            )
        return rows


def _probabilities(logits_nC: torch.Tensor) -> torch.Tensor:
    return logits_nC.softmax(1).clamp(_LEAST, 1.0 - _LEAST)
