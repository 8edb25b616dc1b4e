"""The networks of the paper's MNIST part, two hidden layers of rectified linear units, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from examples.closer_look.images import CLASSES, Images

# Adversarial training: half the side of the box (pixels are between 0 and 1) and the number of steps of a search.
BOX, STEPS = 0.1, 4

__all__ = ["Looks", "Training", "look", "network", "train"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of one training.

    Attributes:
        width: units of each of the two hidden layers.
        dropout, input_dropout: rate of dropout of hidden units and of pixels.
        input_noise: standard deviation of Gaussian noise on the pixels, drawn again for each batch.
        weight_decay: weight decay of SGD.
        adversarial: weight of moved images in the loss of a batch. Langevin adversarial sample search
            (`hf_exposure.signals.critical`) moves each image within a box around it for a few steps.
    """

    width: int
    epochs: int
    seed: int
    rate: float = 0.05
    momentum: float = 0.9
    batch: int = 50
    dropout: float = 0.0
    input_dropout: float = 0.0
    input_noise: float = 0.0
    weight_decay: float = 0.0
    adversarial: float = 0.0


@dataclass(frozen=True, eq=False)
class Looks:
    """The output of a network for each example.

    Attributes:
        correct_N: whether the label is the likeliest class.
        probability_N: probability of the label.
        margin_N: the label's logit minus the largest other logit.
    """

    correct_N: npt.NDArray[np.bool_]
    probability_N: npt.NDArray[np.float64]
    margin_N: npt.NDArray[np.float64]


class InputNoise(nn.Module):
    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + self.deviation * torch.randn_like(inputs) if self.training and self.deviation else inputs


def network(pixels: int, training: Training) -> nn.Module:
    """The network before training."""
    torch.manual_seed(training.seed)
    width = training.width
    return nn.Sequential(
        *(InputNoise(training.input_noise), nn.Dropout(training.input_dropout)),
        *(nn.Linear(pixels, width), nn.ReLU(), nn.Dropout(training.dropout)),
        *(nn.Linear(width, width), nn.ReLU(), nn.Dropout(training.dropout)),
        nn.Linear(width, CLASSES),
    )


def train(
    model: nn.Module,
    images: Images,
    training: Training,
    after_epoch: Callable[[int], bool | None] = lambda epoch: None,
) -> None:
    """Trains with SGD. `after_epoch` is called with the number of epochs done; training ends if it returns True."""
    pixels, labels = torch.as_tensor(images.pixels_NP), torch.as_tensor(images.labels_N)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=training.rate, momentum=training.momentum, weight_decay=training.weight_decay
    )
    generator = torch.Generator().manual_seed(training.seed)
    for epoch in range(training.epochs):
        model.train()
        order = torch.randperm(len(labels), generator=generator)
        for rows in order.split(training.batch):
            loss = nn.functional.cross_entropy(model(pixels[rows]), labels[rows])
            if training.adversarial:
                moved = nn.functional.cross_entropy(model(_moved(model, pixels[rows])), labels[rows])
                loss = (1.0 - training.adversarial) * loss + training.adversarial * moved
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        if after_epoch(epoch + 1):
            return


def _moved(model: nn.Module, pixels_nP: torch.Tensor) -> torch.Tensor:
    """Images moved against the network's decision, with steps of 0.25 and noise of 0.2 of the box, as in the paper."""
    model.eval()
    decided_n1 = model(pixels_nP).argmax(dim=1, keepdim=True).detach()
    moves = torch.zeros_like(pixels_nP)
    for _ in range(STEPS):
        moves.requires_grad_()
        logits = model(pixels_nP + moves)
        others = logits.scatter(1, decided_n1, -torch.inf).amax(dim=1, keepdim=True)
        (gradient,) = torch.autograd.grad((logits.gather(1, decided_n1) - others).sum(), moves)
        steps = 0.2 * torch.randn_like(moves) - 0.25 * gradient.sign()
        moves = (moves.detach() + BOX * steps).clamp(-BOX, BOX)
    model.train()
    return pixels_nP + moves


def look(model: nn.Module, images: Images) -> Looks:
    """Evaluates all examples, in evaluation mode."""
    model.eval()
    labels = torch.as_tensor(images.labels_N)[:, None]
    with torch.no_grad():
        logits = model(torch.as_tensor(images.pixels_NP)).double()
    own = logits.gather(1, labels)[:, 0]
    others = logits.scatter(1, labels, -torch.inf).amax(1)
    probability = logits.softmax(1).gather(1, labels)[:, 0]
    return Looks((own > others).numpy(), probability.numpy(), (own - others).numpy())
