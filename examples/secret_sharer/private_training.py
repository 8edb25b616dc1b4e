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

import torch
from opacus import PrivacyEngine
from opacus.accountants import RDPAccountant
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from examples.secret_sharer.training import OPTIMIZERS

__all__ = ["Privacy", "noise_for", "spent_epsilon", "train_privately", "with_private_layers"]


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


def train_privately(model: nn.Module, rows_NT: torch.Tensor, privacy: Privacy, delta: float) -> float:
    """Trains `model`, made by `with_private_layers`, in place.

    Returns:
        the epsilon at `delta` that Opacus's accountant computes; inf without noise.
    """
    torch.manual_seed(privacy.seed)
    generator = torch.Generator().manual_seed(privacy.seed)
    loader = DataLoader(TensorDataset(rows_NT), batch_size=privacy.batch_size, generator=generator)
    optimizer = OPTIMIZERS[privacy.optimizer](model.parameters(), lr=privacy.learning_rate)
    model.train()
    with warnings.catch_warnings():
        # Opacus recommends a cryptographic noise source, and torch its own hooks; neither matters in an experiment.
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant="rdp")
        private, optimizer, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=loader,
            noise_multiplier=privacy.noise,
            max_grad_norm=privacy.clip,
            noise_generator=torch.Generator().manual_seed(privacy.seed + 1),
        )
        for _ in range(privacy.epochs):
            for (batch_BT,) in loader:
                optimizer.zero_grad(set_to_none=True)
                if len(batch_BT):
                    _mean_of_rows(private, batch_BT).backward()
                else:  # an empty batch also gets noise, or it would reveal that it is empty
                    for weight in private.parameters():
                        weight.grad_sample = weight.new_zeros((0, *weight.shape))
                optimizer.step()
        booked = float(engine.get_epsilon(delta)) if privacy.noise else math.inf
    private.remove_hooks()
    model.eval()
    return booked


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "optimal order is the smallest", which is right at an epsilon of 10^8
        return float(accountant.get_epsilon(delta))


def noise_for(epsilon: float, rows: int, delta: float, privacy: Privacy) -> float:
    """The least noise, within 1 in 1,000, at which the training spends at most `epsilon`."""
    low, high = math.log(1e-6), math.log(1e3)
    while high - low > 1e-3:
        middle = 0.5 * (low + high)
        spent = spent_epsilon(replace(privacy, noise=math.exp(middle)), rows, delta)
        low, high = (low, middle) if spent <= epsilon else (middle, high)
    return math.exp(high)
