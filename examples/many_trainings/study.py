"""Code shared by the studies: the command line, images, and results as JSON next to their rules."""

from __future__ import annotations

import argparse
import json
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.closer_look.images import mnist_images
from examples.many_trainings import RESULTS
from examples.secret_sharer.claims import check_claim
from examples.secret_sharer.results import compact, machine, versions

__all__ = ["Options", "draw_images", "draw_lines", "each_seed", "parse_options", "write_result"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options given on the command line.

    Attributes:
        size: "smallest" takes seconds and shows that the script runs; "small" takes minutes on one core.
        data: a folder with MNIST's files, or a text file; synthetic data if it is not given.
        store: folder of the runs, from which an interrupted study continues.
        out: folder for the result's JSON.
        jobs: number of parallel runs.
    """

    size: str
    data: Path | None
    store: Path
    out: Path
    jobs: int


def parse_options(description: str, arguments: list[str] | None = None) -> Options:
    """Parses `arguments`, or those of the process."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--size", choices=("smallest", "small"), default="small")
    parser.add_argument(
        "--data", type=Path, help="folder with MNIST in IDX format, or a text file (default: synthetic data)"
    )
    parser.add_argument("--store", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result's JSON")
    parser.add_argument("--jobs", type=int, default=1)
    return Options(**vars(parser.parse_args(arguments)))


def draw_images(
    folder: Path | None, count: int, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], str]:
    """`count` random images as rows of pixels from 0 to 1, their labels, and the name of the data."""
    generator = np.random.default_rng(seed)
    if folder is None:
        centers = generator.normal(size=(10, 64))
        labels = generator.integers(10, size=count)
        return (centers[labels] + generator.normal(size=(count, 64)) * 1.5).astype(np.float32), labels, "made up"
    whole = mnist_images(folder)
    chosen = whole.take(generator.permutation(len(whole))[:count])
    return chosen.pixels_NP, chosen.labels_N, "MNIST"


def draw_lines(file: Path | None, count: int, least: int = 30) -> tuple[list[str], str]:
    """The first `count` lines with at least `least` characters, cut to 60 characters, and the name of the text."""
    if file is None:
        words = np.random.default_rng(0).choice(["on", "a", "red", "hill", "they", "sat", "by", "sea"], (count, 14))
        return [" ".join(row)[:60] for row in words], "made up"
    lines = [line.strip().lower()[:60].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    chosen = [line for line in dict.fromkeys(lines) if len(line) >= least][:count]
    if len(chosen) < count:
        raise SystemExit(f"{file} has {len(chosen)} lines of at least {least} characters; {count} are needed")
    return chosen, file.name


def each_seed(options: Options, seeds: int, one: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of `one` for each seed. Each is stored at once, so an interrupted study can continue."""
    options.store.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in range(seeds):
        path, aside = options.store / f"seed-{seed}.json", options.store / f".seed-{seed}.{os.getpid()}"
        if not path.exists():
            aside.write_text(json.dumps(one(seed)), encoding="utf-8")
            os.replace(aside, path)
        found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def write_result(
    options: Options,
    name: str,
    *,
    data: str,
    settings: dict[str, Any],
    figures: dict[str, Any],
    cost: dict[str, float],
) -> None:
    """Writes `{name}.json` and prints whether the rules in `results/{name}.toml` hold."""
    record = {
        "result": name,
        "size": options.size,
        "data": data,
        "settings": settings,
        "cost": cost,
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path, aside = options.out / f"{name}.json", options.out / f".{name}.{os.getpid()}"
    aside.write_text(compact(record) + "\n", encoding="utf-8")
    os.replace(aside, path)
    for words in tomllib.loads((RESULTS / f"{name}.toml").read_text(encoding="utf-8"))["claims"]:
        made = check_claim(words, figures)
        print(f"holds: {made.holds}  {words['sentence']}  {made.spread}")
