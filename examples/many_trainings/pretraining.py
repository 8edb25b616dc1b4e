"""Random-label pre-training: whether memorizing arbitrary labels helps a network to learn the true ones afterwards.

python -m examples.many_trainings.pretraining --data FOLDER_OF_MNIST --store FOLDER

A network memorizes random labels of all training images; its last layer is reinitialized, and it is trained on the
true labels of the same images. It is compared with the same network without the first stage. Meanwhile the first
layer's weights are compared with the principal components of the images.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from examples.many_trainings.study import Options, draw_images, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure.estimators import principal_alignment


@dataclass(frozen=True, kw_only=True)
class Size:
    rows: int
    tests: int
    seeds: int
    pretraining: int
    fine_tuning: int
    width: int = 256


SIZES = {
    "smallest": Size(rows=100, tests=50, seeds=3, pretraining=5, fine_tuning=2, width=128),
    "small": Size(rows=1000, tests=1000, seeds=8, pretraining=60, fine_tuning=20),
}
LOOKS = (0, 1, 2, 5, 10, 20, 40, 60)


def network(inputs: int, width: int) -> nn.Sequential:
    """A network with two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )  # fmt: skip


def epoch(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One pass over all rows, in random order."""
    for rows in torch.randperm(len(labels)).split(50):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(pixels[rows]), labels[rows]).backward()
        optimizer.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def accuracy(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(pixels).argmax(1) == labels).float().mean())


def half_size(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Images of 28 by 28 pixels as means of 2 by 2 pixels; other images unchanged."""
    if pixels.shape[1] != 784:
        return pixels
    return pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = each_seed(options, size.seeds, lambda seed: _one_seed(options, size, seed))
    settings = {"rows": size.rows, "seeds": size.seeds, "pretraining_epochs": size.pretraining}
    settings |= {"fine_tuning_epochs": size.fine_tuning, "width": size.width, "tests": size.tests}
    data = "made up" if options.data is None else "MNIST, 14 by 14"
    write_result(options, "pretraining", data=data, settings=settings, figures={"runs": runs}, cost=watch.read())


def _one_seed(options: Options, size: Size, seed: int) -> dict[str, Any]:
    raw, classes, _ = draw_images(options.data, size.rows + size.tests, 60 + seed)
    pixels, labels = torch.as_tensor(half_size(raw)), torch.as_tensor(classes)
    rows, truth = pixels[: size.rows], labels[: size.rows]
    test, test_labels = pixels[size.rows :], labels[size.rows :]
    torch.manual_seed(seed)
    fresh = network(pixels.shape[1], size.width)
    head = network(pixels.shape[1], size.width)[-1]
    random = torch.randint(10, (size.rows,))
    pretrained = copy.deepcopy(fresh)
    optimizer, looks = sgd(pretrained), []
    for done in range(size.pretraining + 1):
        if done in LOOKS:
            found = principal_alignment(rows.numpy(), pretrained[0].weight.detach().numpy(), seed=seed)
            figures = {"epoch": done, "transfer": found.transfer, "misalignment": found.misalignment}
            figures |= {"if_aligned": found.if_aligned, "if_rotated": found.if_rotated}
            looks.append(figures | {"fitted": accuracy(pretrained, rows, random)})
        epoch(pretrained, rows, random, optimizer)
    curves: dict[str, list[float]] = {}
    for name, model in (("pretrained", pretrained), ("fresh", copy.deepcopy(fresh))):
        model[-1] = copy.deepcopy(head)
        torch.manual_seed(1000 + seed)
        optimizer, curves[name] = sgd(model), []
        for _ in range(size.fine_tuning):
            epoch(model, rows, truth, optimizer)
            curves[name].append(accuracy(model, test, test_labels))
    last = looks[-1]
    return {
        "looks": looks,
        "turned_less_aligned": last["if_rotated"] - last["misalignment"],
        "transfer_gain": last["transfer"] - looks[0]["transfer"],
        "misalignment_late_minus_early": last["misalignment"] - looks[min(3, len(looks) - 1)]["misalignment"],
        "fitted": last["fitted"],
        "first_epoch_gain": curves["pretrained"][0] - curves["fresh"][0],
        "final_gain": curves["pretrained"][-1] - curves["fresh"][-1],
        "final_fresh": curves["fresh"][-1],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
