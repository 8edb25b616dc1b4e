"""The command-line options of every script, and the images that it trains on: MNIST, or synthetic ones.

The synthetic images are for tests: ten smooth patterns, shifted, mixed and noisy, some more than others.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from examples.closer_look import RESULTS
from hf_exposure.data import NoiseInjector, input_moments

__all__ = ["CLASSES", "Images", "Options", "mnist_images", "noisy", "parse_options"]

CLASSES = 10
Size = Literal["smallest", "small", "second", "full"]
# The seeds of a second study begin here, so that it shares none with the first.
SECOND_SEEDS = 10
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Images:
    """Images as rows of pixels from 0 to 1, with their labels.

    Attributes:
        pixels_NP, labels_N: pixels and labels of N images with P pixels.
        name: name of the data.
    """

    pixels_NP: Floats
    labels_N: npt.NDArray[np.int64]
    name: str

    def __len__(self) -> int:
        return len(self.labels_N)

    def take(self, rows: npt.NDArray[np.int64]) -> Images:
        return Images(self.pixels_NP[rows], self.labels_N[rows], self.name)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options given on the command line.

    Attributes:
        size: "smallest" takes seconds and shows that the script runs; "small" takes minutes on one core, "full" more.
            "second" is a second study, planned after the results of the small one, in scripts that have one.
        mnist: the folder with MNIST's four files; synthetic images if it is not given.
        out: the folder for the result's JSON.
    """

    size: Size
    mnist: Path | None
    out: Path

    def named(self, result: str) -> str:
        """The name under which the result is stored; a second study has its own name."""
        return f"{result}_second" if self.size == "second" else result

    def seeds(self, count: int) -> list[int]:
        first = SECOND_SEEDS if self.size == "second" else 0
        return list(range(first, first + count))

    def draw(self, seed: int, *counts: int) -> list[Images]:
        """Disjoint random parts of the training images, of these sizes; they differ between seeds."""
        whole = _made_up(4 * sum(counts)) if self.mnist is None else mnist_images(self.mnist)
        order = np.random.default_rng([seed, 7]).permutation(len(whole))
        ends = np.cumsum(counts)
        return [whole.take(order[end - count : end]) for end, count in zip(ends, counts, strict=True)]


def parse_options(
    description: str, arguments: list[str] | None = None, sizes: Iterable[str] = ("smallest", "small", "full")
) -> Options:
    """Parses `arguments`, or those of the process. `sizes` are the sizes that the script has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--size", choices=tuple(sizes), default="small")
    parser.add_argument("--mnist", type=Path, help="folder with MNIST in IDX format (default: synthetic images)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result's JSON")
    return Options(**vars(parser.parse_args(arguments)))


def noisy(images: Images, seed: int, *, labels: float = 0.0, inputs: float = 0.0) -> tuple[Images, NoiseInjector]:
    """The images, a share of which have random labels (randY) or Gaussian pixels (randX)."""
    mean, std = input_moments([{"pixels": images.pixels_NP}], "pixels")
    noise = NoiseInjector(
        len(images),
        labels,
        num_labels=CLASSES,
        seed=seed,
        inputs=inputs,
        input_column="pixels",
        mean=mean,
        std=std,
    )
    rows = noise({"pixels": images.pixels_NP, "label": images.labels_N}, range(len(images)))
    return Images(np.stack(rows["pixels"]), np.asarray(rows["label"]), images.name), noise


@functools.cache
def mnist_images(folder: Path) -> Images:
    """MNIST's training images, in the order of its files."""
    pixels = _idx(folder / "train-images-idx3-ubyte.gz", offset=16)
    labels = _idx(folder / "train-labels-idx1-ubyte.gz", offset=8)
    whole = pixels.reshape(len(labels), -1).astype(np.float32) / 255
    return Images(whole, labels.astype(np.int64), f"MNIST {hashlib.sha256(pixels.tobytes()).hexdigest()[:16]}")


def _idx(path: Path, offset: int) -> npt.NDArray[np.uint8]:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), dtype=np.uint8, offset=offset)


def _made_up(count: int, side: int = 12) -> Images:
    generator = np.random.default_rng(0)
    patterns = generator.normal(size=(CLASSES, side, side))
    for axis in (1, 2):
        patterns = sum(np.roll(patterns, shift, axis) for shift in (-1, 0, 1))
    labels = generator.integers(CLASSES, size=count)
    other = patterns[generator.integers(CLASSES, size=count)]
    mixed = patterns[labels] + generator.beta(1, 4, size=(count, 1, 1)) * other
    mixed += generator.normal(size=mixed.shape) * generator.uniform(0.2, 1.5, size=(count, 1, 1))
    scaled = np.clip(0.5 + (mixed - mixed.mean()) / (3 * mixed.std()), 0.0, 1.0)
    return Images(scaled.reshape(count, -1).astype(np.float32), labels.astype(np.int64), "made up")
