"""Kills processes at random times and checks that every file and folder is complete, old or new, with nothing left
over.

`python -m benchmarks.soak_kills` (`make soak-kills`): 200 SIGKILLs over `hf-exposure insert`, a measurement that saves
its report, `hf-exposure report`, and a training that saves checkpoints and resumes. After each kill the remaining
state is checked, then the same command runs again to its end, and the state is checked once more. For training, the
state is its log of measurements; a resumed run must reach the weights and results of an uninterrupted one.

All work is done in forked children of one process that has already imported torch, so a kill costs about a second
instead of an import. The parent computes nothing, since threads do not survive a fork.

    --kills N       number of kills that happened before their process had ended (200)
    --seed N        seed of the times of the kills (0)
    --no-result     do not write benchmarks/results/soak_kills.json
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import datasets
import torch
import transformers
from datasets import Dataset, load_from_disk
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from benchmarks.record import write_result
from hf_exposure import (
    CanarySet,
    CanaryTemplate,
    Digits,
    ExposureCallback,
    ExposureReport,
    draw_canaries,
    measure_exposure,
)
from hf_exposure.cli import main as command_line
from hf_exposure.errors import InputError
from hf_exposure.records.run_log import EXPOSURE_LOG

TEMPLATE = CanaryTemplate("pin {pin}.", pin=Digits(6))
TOKENIZER = ByT5Tokenizer()
ROWS, STEPS = 400, 4
# The commands of every ten kills.
PLAN = ("insert", "insert", "insert", "measure", "measure", "report", "report", "report", "training", "training")


class Broken(Exception):
    """A state that is neither old nor new."""


def small_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=384,
            n_layer=1,
            n_head=2,
            n_embd=16,
            n_positions=32,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )  # fmt: skip
    )


def typed(*arguments: object) -> None:
    """Runs a command as its entry point does."""
    with (
        patch.object(sys, "argv", ["hf-exposure", *map(str, arguments)]),
        patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: False),
    ):
        command_line()


@dataclass
class Soak:
    """The folder of all files, and the number of the current run, which its output contains."""

    root: Path
    canaries: CanarySet
    turn: int = 0

    @property
    def canary_file(self) -> Path:
        return self.root / "canaries.json"

    # The runs, which end normally or are killed.

    def insert(self) -> None:
        typed(
            "insert", "--dataset", self.root / "data", "--canaries", self.canary_file, "--out",
            self.root / "inserted" / "out", "--seed", self.turn, "--overwrite",
        )  # fmt: skip

    def measure(self) -> None:
        report = measure_exposure(
            small_model(), TOKENIZER, self.canaries, method="sample", references=64, seed=self.turn
        )
        with patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: False):
            report.save(self.root / "measured" / "run")

    def report(self) -> None:
        typed("report", self.root / "runs" / str(self.turn % 2), "--out", self.root / "pages" / "page", "--overwrite")

    def training(self) -> None:
        folder = self.root / "trained"
        ids = [TOKENIZER(canary.text)["input_ids"] for canary in self.canaries.inserted] * 4
        callback = ExposureCallback(self.canaries, strategy="steps", steps=1, method="sample", references=32)
        trainer = Trainer(
            model=small_model(),
            args=TrainingArguments(
                output_dir=str(folder), per_device_train_batch_size=4, max_steps=STEPS, save_strategy="steps",
                save_steps=1, save_total_limit=2, report_to="none", use_cpu=True, disable_tqdm=True, seed=0,
                dataloader_pin_memory=False, logging_strategy="no",
            ),
            train_dataset=[{"input_ids": row, "labels": row} for row in ids],
            processing_class=TOKENIZER,
            data_collator=lambda rows: {name: torch.tensor([row[name] for row in rows]) for name in rows[0]},
            callbacks=[callback],
        )  # fmt: skip
        checkpoint = get_last_checkpoint(str(folder)) if folder.exists() else None
        while checkpoint and not (Path(checkpoint) / "trainer_state.json").exists():
            shutil.rmtree(checkpoint)  # incomplete after a kill; as a user would, take the previous one
            checkpoint = get_last_checkpoint(str(folder))
        trainer.train(resume_from_checkpoint=checkpoint)
        weights = float(sum(parameter.double().abs().sum() for parameter in trainer.model.parameters()))
        figures = [[report.step, [e.exposure_bits for e in report.estimates]] for report in callback.reports]
        (folder / "_found.json").write_text(json.dumps([weights, figures]))

    # These return the turn that a state is from, or None if a reader refuses a mixture, as it must.

    def turn_of_insert(self) -> int | None:
        out = self.root / "inserted" / "out"
        rows = load_from_disk(str(out))["text"][:]
        if len(rows) != ROWS + self.canaries.total_insertions or [r for r in rows if r.startswith("row")] != plain():
            raise Broken(f"{len(rows)} rows")
        if any(rows.count(canary.text) != canary.repetitions for canary in self.canaries):
            raise Broken("canaries are missing or too many")
        refuse_open(out)
        return int(json.loads((out / "exposure_insertion.json").read_text())["seed"])

    def turn_of_measure(self) -> int | None:
        try:
            report = ExposureReport.load(self.root / "measured" / "run")
        except InputError as refusal:
            return self._mixture(refusal)
        refuse_open(self.root / "measured" / "run")
        return int(report.settings["seed"])

    def turn_of_report(self) -> int | None:
        try:
            report = ExposureReport.load(self.root / "pages" / "page")
        except InputError as refusal:
            return self._mixture(refusal)
        refuse_open(self.root / "pages" / "page")
        return self.turn if int(report.settings["seed"]) == self.turn % 2 else self.turn - 1

    def turn_of_training(self) -> int | None:
        steps = [report.step for report in EXPOSURE_LOG.read(self.root / "trained")]
        if steps != list(range(1, len(steps) + 1)) or len(steps) > STEPS:
            raise Broken(f"measurements of steps {steps}")
        if (self.root / "trained" / EXPOSURE_LOG.file_name).exists():
            refuse_open(self.root / "trained" / EXPOSURE_LOG.file_name)
        return self.turn

    def whole_training(self) -> None:
        """Checks that a resumed training has the results of an uninterrupted one."""
        expected, found = ((self.root / name).read_text() for name in ("expected.json", "trained/_found.json"))
        if found != expected:
            raise Broken(f"resumed: {found[:80]}, uninterrupted: {expected[:80]}")

    def _mixture(self, refusal: InputError) -> None:
        if "files of one measurement" not in refusal.rule:
            raise refusal


def plain() -> list[str]:
    return [f"row {number}" for number in range(ROWS)]


def refuse_open(path: Path) -> None:
    for one in (path, *path.rglob("*")):
        if one.stat().st_mode & 0o077:
            raise Broken(f"{one.name} is open to others")


@dataclass
class Tally:
    """The counts of kills and of states."""

    kills: Counter[str] = field(default_factory=Counter)
    too_late: Counter[str] = field(default_factory=Counter)
    old: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    mixtures_noticed: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    leftovers_met: int = 0


def child(work: Callable[[], Any], log: Path, *, kill_after: float | None = None) -> tuple[int, Any]:
    """Runs `work` in a forked child, killed after `kill_after` seconds if given; returns its status and result."""
    reads, writes = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reads)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 1
        try:
            os.write(writes, json.dumps(work()).encode())
            status = 0
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        except BaseException as error:
            os.write(writes, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            sys.stdout.flush()
            atexit._run_exitfuncs()  # as an unforked process does when it ends
            os._exit(status)
    os.close(writes)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    with os.fdopen(reads, "rb") as pipe:
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, json.loads(said) if said else None


def prepare(root: Path) -> Soak:
    """Makes the data, the canaries, and two reports that are rendered in turn."""
    canaries = draw_canaries(TEMPLATE, {1: 2, 4: 2}, controls=3, seed=20_261_128)
    canaries.save(root / "canaries.json")
    Dataset.from_dict({"text": plain()}).save_to_disk(root / "data")
    for seed in (0, 1):
        report = measure_exposure(small_model(), TOKENIZER, canaries, method="sample", references=64, seed=seed)
        with patch("hf_exposure.report.plots.matplotlib_is_installed", lambda: False):
            report.save(root / "runs" / str(seed))
    return Soak(root, canaries)


def hidden(folder: Path) -> list[str]:
    """Names that only unfinished files have."""
    return [path.name for path in folder.rglob("*") if ".hf-exposure-" in path.name or "hf_datasets-" in path.name]


def soak(kills: int, seed: int, root: Path) -> dict[str, Any]:
    draw, log, tally = random.Random(seed), root / "log", Tally()
    status, _ = child(lambda: prepare(root) and None, log)
    assert status == 0, log.read_text()
    state = Soak(root, CanarySet.load(root / "canaries.json"))
    seconds: dict[str, float] = {}
    for name in dict.fromkeys(PLAN):
        started = time.perf_counter()
        status, said = child(getattr(state, name), log)
        assert status == 0, (name, said, log.read_text()[-2000:])
        seconds[name] = time.perf_counter() - started
    (root / "trained" / "_found.json").rename(root / "expected.json")
    turns = dict.fromkeys(PLAN, 0)
    started = time.perf_counter()
    for number in itertools.count():
        if tally.kills.total() == kills:
            break
        name = PLAN[number % len(PLAN)]
        state.turn += 1
        if name == "training":
            shutil.rmtree(root / "trained")
        status, _ = child(getattr(state, name), log, kill_after=draw.random() * 1.1 * seconds[name])
        tally.kills[name] += status == -signal.SIGKILL
        tally.too_late[name] += status == 0
        if status not in (0, -signal.SIGKILL):
            tally.broken.append(f"{name}: ended with status {status}")
        tally.leftovers_met += len(hidden(root))
        look(state, name, turns[name], log, tally)
        status, said = child(getattr(state, name), log)
        if status:
            tally.broken.append(f"{name}: the next run ended with status {status}: {said}")
        look(state, name, state.turn, log, tally, counted=False)
        if name == "training":
            status, said = child(state.whole_training, log)
            tally.broken += [f"training: {said}"] if status else []
        tally.left_behind += [f"{name}: {left}" for left in hidden(root)]
        turns[name] = state.turn
    digits = [TEMPLATE.parse(canary.text)["pin"] for canary in state.canaries]
    said = log.read_text(errors="replace")
    return {
        "killed": dict(tally.kills),
        "ended_before_the_kill": dict(tally.too_late),
        "old_and_whole": dict(tally.old),
        "new_and_whole": dict(tally.new),
        "mixtures_noticed": dict(tally.mixtures_noticed),
        "broken": tally.broken,
        "unfinished_writes_met": tally.leftovers_met,
        "left_behind_after_the_next_run": tally.left_behind,
        "secrets_in_the_output": sum(one in said for one in digits),
        "seconds_of_one_run": {name: round(value, 2) for name, value in seconds.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }


def look(state: Soak, name: str, old: int, log: Path, tally: Tally, *, counted: bool = True) -> None:
    """Counts a state as old or new; after a completed run it must be new."""
    status, turn = child(getattr(state, f"turn_of_{name}"), log)
    if status:
        tally.broken.append(f"{name}, turn {state.turn}: {turn}")
    elif not counted:
        tally.broken += [] if turn == state.turn else [f"{name}: turn {turn} after a full run of turn {state.turn}"]
    elif turn is None:
        tally.mixtures_noticed[name] += 1
    elif turn == state.turn:
        tally.new[name] += 1
    elif turn == old or (name == "report" and turn == state.turn - 1):
        tally.old[name] += 1
    else:
        tally.broken.append(f"{name}: turn {turn} is neither {old} nor {state.turn}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--no-result", action="store_true")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    os.umask(0)
    # Not a TemporaryDirectory, which a child would remove when it ends.
    root = Path(tempfile.mkdtemp())
    (root / "temporary").mkdir()
    tempfile.tempdir = str(root / "temporary")
    try:
        found = soak(chosen.kills, chosen.seed, root)
        found["temporary_files_left"] = sorted(path.name for path in (root / "temporary").iterdir())
    finally:
        tempfile.tempdir = None
        shutil.rmtree(root)
    print(json.dumps(found, indent=1))
    if not chosen.no_result:
        write_result("soak_kills", found)
    if found["broken"] or found["left_behind_after_the_next_run"] or found["secrets_in_the_output"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
