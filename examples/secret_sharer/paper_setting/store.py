"""The models of an experiment that are there: one JSON file each, named by cell and seed."""

from __future__ import annotations

import json
import math
import os
import random
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from examples.secret_sharer import RESULTS
from examples.secret_sharer.paper_setting.derived import DERIVED
from examples.secret_sharer.results import compact, machine, versions

__all__ = [
    "Finished",
    "Task",
    "chosen_rate",
    "experiments",
    "finished",
    "keep_state",
    "kept_state",
    "settings_of",
    "tasks",
    "write_model",
]

FOLDER = RESULTS / "paper_setting"
_EXPERIMENTS = Path(__file__).with_name("experiments.toml")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One model to train: a cell of an experiment, and a seed."""

    experiment: str
    cell: str
    seed: int

    def path(self, folder: Path = FOLDER) -> Path:
        slug = re.sub(r"[^A-Za-z0-9]+", "-", self.cell).strip("-")
        return folder / self.experiment / f"{slug}_{self.seed:02d}.json"


@dataclass(frozen=True)
class Finished:
    """What the queue stored of an experiment.

    Attributes:
        name: of the experiment.
        cells: the models of each cell in the order of their seeds, without gaps: a later seed waits for its elders.
        needed: how many models each cell is to have.
    """

    name: str
    cells: Mapping[str, list[dict[str, Any]]]
    needed: Mapping[str, int]

    @property
    def count(self) -> int:
        return sum(map(len, self.cells.values()))

    @property
    def planned(self) -> int:
        return sum(self.needed.values())

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What claims point into; what is derived of all models together is there once all of them are."""
        derive = DERIVED.get(self.name) if self.count == self.planned else None
        return {"cells": dict(self.cells), "derived": derive(self.cells) if derive else {}}

    def missing_for(self, claim: Mapping[str, Any]) -> tuple[int, int] | None:
        """(models that are there, models needed) where a cell that the claim names is not complete, else None."""
        paths = [path for path in (claim["numbers"], claim.get("minus")) if path and path[:6] == "cells."]
        named = {path.split(".")[1] for path in paths}
        if not named or "*" in named:
            pairs = [(len(self.cells[cell]), needed) for cell, needed in self.needed.items()]
        else:
            pairs = [(len(self.cells[cell]), min(self.needed[cell], int(claim["models"]))) for cell in named]
        short = [(there, needed) for there, needed in pairs if there < needed]
        return (sum(there for there, _ in pairs), sum(needed for _, needed in pairs)) if short else None


def write_model(task: Task, found: Mapping[str, Any], folder: Path = FOLDER, *, text: Mapping[str, Any]) -> Path:
    """Stores a model's figures, with the machine, the versions, and name and hash of the text."""
    path = task.path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"experiment": task.experiment, "cell": task.cell, "seed": task.seed, "text": dict(text)}
    record = {**about, "machine": machine(), "versions": versions(), **found}
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(compact(record) + "\n", encoding="utf-8")
    os.replace(aside, path)
    return path


def keep_state(place: Path, state: dict[str, Any]) -> None:
    """Keeps an unfinished model in its folder: written aside and renamed, so that one or the other is whole."""
    torch.save(state, place / "state.aside")
    (place / "state.aside").replace(place / "state.pt")


def kept_state(place: Path) -> dict[str, Any] | None:
    """What `keep_state` kept last; None where nothing was kept."""
    path = place / "state.pt"
    return torch.load(path, weights_only=True) if path.exists() else None


def experiments() -> dict[str, dict[str, Any]]:
    """Every experiment by name, in the order of the queue."""
    found = tomllib.loads(_EXPERIMENTS.read_text(encoding="utf-8"))
    return dict(sorted(found.items(), key=lambda item: item[1]["stage"]))


def tasks(name: str) -> list[Task]:
    """The models of an experiment, those of the first seeds first."""
    about = experiments()[name]
    cells, first = about["cells"], about.get("first_seed", 0)
    return [
        Task(experiment=name, cell=cell, seed=first + place)
        for place in range(max(cells.values()))
        for cell, models in cells.items()
        if place < models
    ]


def settings_of(task: Task, folder: Path = FOLDER) -> dict[str, Any] | None:
    """How a model is trained and measured; None as long as its learning rate is not chosen."""
    about = experiments()[task.experiment]
    settings = _settings(about) | about.get("variants", {}).get(task.cell, {})
    draw = random.Random(task.seed)
    settings |= {name: draw.choice(options) for name, options in settings.pop("choices", {}).items()}
    if "rates" in about:
        losses = _losses(about["rates"], folder)
        if losses is None:
            return None
        settings["learning_rate"] = chosen_rate(losses, settings)
        if "until_times" in about:
            lowest: dict[str, float] = {}
            for variant, loss in losses:
                way = str({name: value for name, value in variant.items() if name != "learning_rate"})
                lowest[way] = min(loss, lowest.get(way, math.inf))
            settings["until_bits"] = about["until_times"] * max(lowest.values())
    return settings


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    shared = _settings(experiments()[about["like"]]) if "like" in about else {}
    return shared | about.get("settings", {})


def _losses(name: str, folder: Path) -> list[tuple[dict[str, Any], float]] | None:
    """Of an experiment that trains with several rates: what each cell changes, and its lowest validation loss."""
    found = finished(name, folder)
    if found.count < found.planned:
        return None
    variants = experiments()[name]["variants"]
    return [
        (variants[cell], min(model["best_validation_bits"] for model in models))
        for cell, models in found.cells.items()
    ]


def chosen_rate(losses: Sequence[tuple[Mapping[str, Any], float]], settings: Mapping[str, Any]) -> float:
    """The learning rate of the lowest loss among those that agree with the settings on whatever else they change.

    Example:
        >>> losses = [({"width": 8, "learning_rate": 0.1}, 2.0), ({"width": 9, "learning_rate": 0.2}, 1.0)]
        >>> chosen_rate(losses, {"width": 8}), chosen_rate(losses, {"width": 9})
        (0.1, 0.2)
    """
    alike = [
        (loss, float(variant["learning_rate"]))
        for variant, loss in losses
        if all(settings[name] == value for name, value in variant.items() if name != "learning_rate")
    ]
    return min(alike)[1]


def finished(name: str, folder: Path = FOLDER) -> Finished:
    """The models of an experiment that are stored."""
    about = experiments()[name]
    needed, first = about["cells"], about.get("first_seed", 0)
    cells: dict[str, list[dict[str, Any]]] = {cell: [] for cell in needed}
    for task in tasks(name):
        path = task.path(folder)
        if path.exists() and len(cells[task.cell]) == task.seed - first:
            cells[task.cell].append(json.loads(path.read_text(encoding="utf-8")))
    return Finished(name, cells, needed)
