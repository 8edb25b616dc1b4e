"""The models of an experiment that are there: one JSON file each, named by cell and seed."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from examples.secret_sharer import RESULTS
from examples.secret_sharer.results import compact, machine, versions

__all__ = ["Finished", "Task", "chosen_rate", "experiments", "finished", "settings_of", "tasks", "write_model"]

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
        cells: the models of each cell in the order of their seeds, without gaps: a later seed waits for its elders.
        needed: how many models each cell is to have.
    """

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
        """What claims point into."""
        return {"cells": dict(self.cells), "derived": {}}

    def missing_for(self, claim: Mapping[str, Any]) -> tuple[int, int] | None:
        """(models that are there, models needed) where a cell that the claim names is not complete, else None."""
        named = [
            path.split(".")[1] for path in (claim["numbers"], claim.get("minus")) if path and path[:6] == "cells."
        ]
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
    if "rates" in about:
        rate = chosen_rate(about["rates"], settings, folder)
        return None if rate is None else settings | {"learning_rate": rate}
    return settings


def _settings(about: Mapping[str, Any]) -> dict[str, Any]:
    shared = _settings(experiments()[about["like"]]) if "like" in about else {}
    return shared | about.get("settings", {})


def chosen_rate(name: str, settings: Mapping[str, Any], folder: Path = FOLDER) -> float | None:
    """The learning rate of the lowest validation loss in an experiment that trains with several; None before its end.

    Its cells change the rate and whatever else it was chosen for; those count that agree with `settings` on the rest.
    """
    variants = experiments()[name]["variants"]
    losses: dict[float, float] = {}
    for task in tasks(name):
        variant = variants[task.cell]
        if any(settings[key] != value for key, value in variant.items() if key != "learning_rate"):
            continue
        path = task.path(folder)
        if not path.exists():
            return None
        losses[variant["learning_rate"]] = json.loads(path.read_text(encoding="utf-8"))["best_validation_bits"]
    return min(losses, key=losses.__getitem__)


def finished(name: str, folder: Path = FOLDER) -> Finished:
    """The models of an experiment that are stored."""
    about = experiments()[name]
    needed, first = about["cells"], about.get("first_seed", 0)
    cells: dict[str, list[dict[str, Any]]] = {cell: [] for cell in needed}
    for task in tasks(name):
        path = task.path(folder)
        if path.exists() and len(cells[task.cell]) == task.seed - first:
            cells[task.cell].append(json.loads(path.read_text(encoding="utf-8")))
    return Finished(cells, needed)
