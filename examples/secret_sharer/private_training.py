"""DP-SGD with Opacus: each row's gradient is clipped separately, noise is added to the sum, and epsilon is computed.

Two data sets are neighbors here if one has one row more than the other (add or remove one). Batches are Poisson
samples: each row is in each batch with the same probability. `epsilon_lower_bound` audits the same adjacency: a canary
is one row that a coin added.

It needs opacus. For an LSTM, per-row gradients need Opacus's own layer, which has the same weights but is slower.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from examples.secret_sharer.training import OPTIMIZERS

__all__ = ["Privacy", "PrivateTraining", "noise_for", "spent_epsilon", "train_privately", "with_private_layers"]


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """How a model is trained privately.

    Attributes:
        batch_size: rows in a batch on average; rows are drawn, so batches differ in size. noise: standard deviation of
        the noise divided by `clip`; with 0, gradients are only clipped and epsilon is infinite. clip: largest norm of
        one row's gradient.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str
    noise: float
    clip: float = 1.0
    seed: int = 0

    def steps(self, rows: int) -> int:
        """Total number of batches."""
        return self.epochs * math.ceil(rows / self.batch_size)


def with_private_layers(model: nn.Module) -> nn.Module:
    """The model with Opacus's LSTM instead of torch's, with the same weights."""
    fixed: nn.Module = ModuleValidator.fix(model)
    return fixed


class PrivateTraining:
    """A model under private training, epoch by epoch.

    Args:
        model: made by `with_private_layers`; trained in place.
        watched: a row whose gradient's norm is kept.

    Attributes:
        watched_norms: of the watched row, in each batch that drew it, before clipping.
        rows_seen, rows_clipped: rows that batches drew, and those of them whose gradient was longer than `clip`.
    """

    def __init__(self, model: nn.Module, rows_NT: torch.Tensor, privacy: Privacy, watched: int = -1) -> None:
        torch.manual_seed(privacy.seed)
        self.privacy, self._watched = privacy, watched
        self._drawing = torch.Generator().manual_seed(privacy.seed)
        self._noise = torch.Generator().manual_seed(privacy.seed + 1)
        rows = TensorDataset(rows_NT, torch.arange(len(rows_NT)))
        loader = DataLoader(rows, batch_size=privacy.batch_size, generator=self._drawing)
        optimizer = OPTIMIZERS[privacy.optimizer](model.parameters(), lr=privacy.learning_rate)
        model.train()
        with _quiet():
            self._engine = PrivacyEngine(accountant="rdp")
            self.model, self._optimizer, self._loader = self._engine.make_private(
                module=model,
                optimizer=optimizer,
                data_loader=loader,
                noise_multiplier=privacy.noise,
                max_grad_norm=privacy.clip,
                noise_generator=self._noise,
            )
        self.watched_norms: list[float] = []
        self.rows_seen = self.rows_clipped = 0

    def epoch(self) -> None:
        """As many batches as cover the rows once on average."""
        self.model.train()
        with _quiet():
            for batch_BT, places_B in self._loader:
                self._optimizer.zero_grad(set_to_none=True)
                if len(batch_BT):
                    _mean_of_rows(self.model, batch_BT).backward()
                    self._count(places_B)
                else:  # a batch that drew nobody has its noise too, or it would say so
                    for weight in self.model.parameters():
                        weight.grad_sample = weight.new_zeros((0, *weight.shape))
                self._optimizer.step()

    def booked(self, delta: float) -> float:
        """The epsilon at `delta` that Opacus booked so far, batch by batch; inf without noise."""
        with _quiet():
            return float(self._engine.get_epsilon(delta)) if self.privacy.noise else math.inf

    def close(self) -> None:
        """Takes Opacus off the model and leaves it in evaluation mode."""
        self.model.remove_hooks()
        self.model.eval()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on after an epoch."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "drawing": self._drawing.get_state(),
            "noise": self._noise.get_state(),
            "booked": self._engine.accountant.history,
            "watched_norms": self.watched_norms,
            "rows": [self.rows_seen, self.rows_clipped],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict` of a training with the same arguments."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._drawing.set_state(state["drawing"])
        self._noise.set_state(state["noise"])
        self._engine.accountant.history = state["booked"]
        self.watched_norms = state["watched_norms"]
        self.rows_seen, self.rows_clipped = state["rows"]

    def _count(self, places_B: torch.Tensor) -> None:
        by_weight = [sample.flatten(1).norm(dim=1) for sample in self._optimizer.grad_samples]
        norms_B = torch.stack(by_weight).norm(dim=0)
        self.rows_seen += len(norms_B)
        self.rows_clipped += int((norms_B > self.privacy.clip).sum())
        self.watched_norms += norms_B[places_B == self._watched].tolist()


def _quiet() -> warnings.catch_warnings[None]:
    """Opacus advises a cryptographic noise source, and torch its own hooks: neither matters to an experiment."""
    return warnings.catch_warnings(action="ignore")


def train_privately(model: nn.Module, rows_NT: torch.Tensor, privacy: Privacy, delta: float) -> float:
    """Trains `model`, made by `with_private_layers`, in place.

    Returns:
        the epsilon at `delta` that Opacus booked; inf without noise.
    """
    training = PrivateTraining(model, rows_NT, privacy)
    for _ in range(privacy.epochs):
        training.epoch()
    training.close()
    return training.booked(delta)


def _mean_of_rows(model: nn.Module, batch_BT: torch.Tensor) -> torch.Tensor:
    """The mean over rows of each row's loss in nats per character, so that a row's term depends on that row alone."""
    logits_BTV = model(input_ids=batch_BT[:, :-1].clamp(min=0)).logits
    targets = batch_BT[:, 1:]
    losses = functional.cross_entropy(logits_BTV.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).sum(1).mean() / targets.shape[1]


def spent_epsilon(privacy: Privacy, rows: int, delta: float) -> float:
    """The epsilon of Opacus's accountant (Renyi differential privacy) for the whole training."""
    accountant = RDPAccountant()
    accountant.history = [(privacy.noise, 1 / math.ceil(rows / privacy.batch_size), privacy.steps(rows))]
    with _quiet():  # "optimal order is the smallest": at an epsilon of 10^8 it is
        return float(accountant.get_epsilon(delta))


def noise_for(epsilon: float, rows: int, delta: float, privacy: Privacy) -> float:
    """The least noise, within 1 in 1,000, at which the training spends at most `epsilon`."""
    low, high = math.log(1e-6), math.log(1e3)
    while high - low > 1e-3:
        middle = 0.5 * (low + high)
        spent = spent_epsilon(replace(privacy, noise=math.exp(middle)), rows, delta)
        low, high = (low, middle) if spent <= epsilon else (middle, high)
    return math.exp(high)
