"""Tests whether a classifier memorizes random labels: canaries for models that are not language models.

python examples/label_canaries.py

A canary is eight noise inputs with eight random labels. Their labeling is one of 10^8, and can only be known by
memorization. `LabelScorer` treats the labels of the eight inputs as a text, so exposure is measured as for any other
canary, with an exact search for its rank. It prints

labels trained on   0 times an epoch:   0.4 bits of 26.6 on average, 0 of 4 rank first
labels trained on   1 times an epoch:  24.7 bits of 26.6 on average, 2 of 4 rank first
labels trained on   4 times an epoch:  26.6 bits of 26.6 on average, 4 of 4 rank first
labels trained on  16 times an epoch:  26.6 bits of 26.6 on average, 4 of 4 rank first
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional

from hf_exposure import LabelScorer, draw_canaries, label_template, labels_of, measure_exposure

CLASSES, FEATURES, INPUTS = 10, 32, 8
REPETITIONS = (0, 1, 4, 16)


def ordinary_data(rows: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs around one center per class."""
    centers = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(CLASSES, (rows,), generator=generator)
    return centers[labels] + torch.randn(rows, FEATURES, generator=generator), labels


def main(epochs: int, groups: int) -> dict[int, list[float]]:
    """Exposures by how often the inputs of a group are trained on per epoch; groups with 0 are held out."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = ordinary_data(2000, generator)
    canaries = []
    for repetitions in REPETITIONS:
        for group in range(groups):
            # There is one canary set for each group of inputs; its space is all labelings of these inputs.
            drawn = draw_canaries(label_template(INPUTS, CLASSES), {1: 1}, controls=1, seed=1000 * repetitions + group)
            noise = torch.randn(INPUTS, FEATURES, generator=generator)
            canaries.append((repetitions, noise, drawn))
            secret = torch.tensor(labels_of(drawn.inserted[0].text, CLASSES))
            inputs = torch.cat([inputs, noise.repeat(repetitions, 1)])
            labels = torch.cat([labels, secret.repeat(repetitions)])

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()

    exposures: dict[int, list[float]] = {repetitions: [] for repetitions in REPETITIONS}
    for repetitions, noise, drawn in canaries:

        def scorer(classifier: nn.Module, noise: torch.Tensor = noise) -> LabelScorer:
            return LabelScorer(classifier, noise, classes=CLASSES)

        report = measure_exposure(model, None, drawn, scorer=scorer)
        exposures[repetitions].append(report.estimates[0].exposure_bits)
    top = drawn.log2_space_size
    for repetitions, bits in exposures.items():
        mean, first = sum(bits) / len(bits), sum(one > top - 1e-9 for one in bits)
        print(
            f"labels trained on {repetitions:3d} times an epoch: {mean:5.1f} bits of {top:.1f} on average, "
            f"{first} of {len(bits)} rank first"
        )
    return exposures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--groups", type=int, default=4, help="groups of inputs for each repetition count")
    arguments = parser.parse_args()
    main(arguments.epochs, arguments.groups)
