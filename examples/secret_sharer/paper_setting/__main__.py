"""Trains the next models of the paper's experiments that are not stored yet.

`python -m examples.secret_sharer.paper_setting --text-file ptb.valid.txt ptb.test.txt`, or `make paper TEXT=...`. It
can be stopped at any time: a model that was stopped goes on from its last epoch. Several processes share the queue:
each takes a model that no other holds. One thread, and nice, so that other work goes on meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from examples.secret_sharer.paper_setting.store import (
    FOLDER,
    Task,
    experiments,
    settings_of,
    tasks,
    write_model,
)

WORK = Path("build") / "paper_setting"
# Parameters of `mallopt`, from glibc's malloc.h.
_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_MAX = -1, -4


def main(arguments: list[str] | None = None) -> int:
    """Trains models until none is left, or as many as were asked for; returns how many it trained."""
    parser = argparse.ArgumentParser(description="Trains the next models of the paper's experiments.")
    parser.add_argument(
        "--text-file", type=Path, nargs="+", required=True, help="the text: Penn Treebank parts, put one after another"
    )
    parser.add_argument("--experiment", help="only this one; all that can be run unless given")
    parser.add_argument("--cell", help="only this one of the experiments")
    parser.add_argument("--models", type=int, help="end after so many")
    parser.add_argument("--minutes", type=float, help="start no model after so many minutes")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the models' JSON files")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of unfinished models")
    parser.add_argument("--smallest", action="store_true", help="seconds a model, to see that it runs; needs --out")
    options = parser.parse_args(arguments)
    if options.smallest and options.out == FOLDER:
        parser.error("--smallest needs --out: its models are no results")
    if arguments is None:
        os.nice(5)
        torch.set_num_threads(1)
        _keep_freed_memory()
    text = "".join(path.read_text(encoding="utf-8") for path in options.text_file)
    about_text = {
        "name": " + ".join(path.name for path in options.text_file),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "characters": len(text),
    }
    started, trained = time.monotonic(), 0
    for task, settings in _waiting(options.experiment, options.cell, options.out):
        late = options.minutes is not None and time.monotonic() - started > 60 * options.minutes
        if late or (options.models is not None and trained >= options.models):
            break
        with _claimed(task, options.work) as place:
            if place is None or task.path(options.out).exists():  # another process has it, or had it
                continue
            runner = importlib.import_module(
                f"examples.secret_sharer.paper_setting.{experiments()[task.experiment]['runner']}"
            )
            if options.smallest:
                settings |= {name: value for name, value in runner.SMALLEST.items() if name in settings}
            found = runner.train_model(task, settings, text, place)
            write_model(task, {"settings": settings, **found}, options.out, text=about_text)
            for state in place.rglob("state.pt"):
                state.unlink()
            trained += 1
            print(f"{task.experiment}: {task.cell}, seed {task.seed}: done", flush=True)
    return trained


def _keep_freed_memory() -> None:
    """Keeps glibc from returning large tensors to the system: page faults took a quarter of a training step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MALLOC_MMAP_MAX, 0)
        mallopt(_MALLOC_TRIM_THRESHOLD, 2**31 - 1)


def _waiting(only: str | None, cell: str | None, out: Path) -> Iterator[tuple[Task, dict[str, Any]]]:
    """What is not there and can be trained, with its settings; asked for one by one, since each may allow more."""
    for name, about in experiments().items():
        if "runner" in about and only in (None, name):
            for task in tasks(name):
                settings = settings_of(task, out) if cell in (None, task.cell) else None
                if settings is not None and not task.path(out).exists():
                    yield task, settings


@contextmanager
def _claimed(task: Task, work: Path) -> Iterator[Path | None]:
    """The task's folder for unfinished work, held by this process; None where another holds it."""
    place = work / task.path(Path()).with_suffix("")
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when the process ends, however it ends
        except BlockingIOError:
            yield None
            return
        yield place


if __name__ == "__main__":
    main()
