"""Early-learning regularization (ELR): a network is kept at what it believed before it began to memorize.

For each training row a target remembers the mean of what the network has said of it. The regularizer

    strength * mean over rows of log(1 - <p, target>)

falls as the output p agrees with the target. Its gradient makes up for that of the cross-entropy on rows whose label
the network does not believe, and keeps it alive on those whose label it does.

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
"""Probabilities are kept this far from 0 and 1, as in the authors' code: the logarithm stays finite."""


def early_learning_loss(
    logits_nC: torch.Tensor, labels_n: torch.Tensor, targets_nC: torch.Tensor, strength: float = 3.0
) -> torch.Tensor:
    """Cross-entropy plus `strength * log(1 - <p, target>)`, the mean over rows.

    Args:
        logits_nC, labels_n: of the network, and the classes given.
        targets_nC: rows of sums from 0 (nothing is remembered) to 1. No gradient flows into them.
        strength: lambda of the paper: 3 for 10 classes, 7 for 100.

    Example (by hand: p = 1/2, so log 2 + 3 log(1 - 1/2) = -2 log 2):
        >>> loss = early_learning_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[1.0, 0.0]]))
        >>> round(float(loss / torch.log(torch.tensor(2.0))), 4)
        -2.0
    """
    agreement_n = (_probabilities(logits_nC) * targets_nC.detach()).sum(1)
    # A row of probabilities that were kept away from 0 may sum to a little above 1.
    return (
        nn.functional.cross_entropy(logits_nC, labels_n)
        + strength * torch.log((1.0 - agreement_n).clamp(min=_LEAST)).mean()
    )


class EarlyLearningTrainer(Trainer):
    """A `Trainer` with early-learning regularization.

    The data set needs a column of row numbers from 0, and `remove_unused_columns=False` keeps it; `add_column` makes
    it: `train.add_column("row_index", list(range(len(train))))`. What is remembered of the rows is not in checkpoints:
    a training that is resumed begins to remember again.

    Args:
        num_labels: classes.
        strength: lambda of the paper.
        memory: beta of the paper: how much of the target is kept at each look at a row.
        index_column: of row numbers.
        *arguments, **named: those of `Trainer`, `train_dataset` among them.

    Attributes:
        targets: (rows, classes) what is remembered.

    Raises:
        InputError: figures out of range; batches without row numbers or labels.

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
            remedy = "Pass a data set that is no stream: each row is remembered."
            raise InputError("train_dataset", "must have a length", type(self.train_dataset).__name__, remedy)
        self.targets = torch.zeros(len(self.train_dataset), classes)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over rows, whatever the batch

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
