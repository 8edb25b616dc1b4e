"""A training that can be stopped from outside: `resume_job.py FOLDER [stop]`; resumes from the last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from callback_runs import logged, make_callback, make_trainer
from job import digest
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from hf_exposure.records.run_log import EXPOSURE_LOG

SAVE_EVERY, STEPS = 2, 8


class StopAt(TrainerCallback):
    """Sends this very process a signal at the end of a step."""

    def __init__(self, sent: signal.Signals, step: int) -> None:
        self.sent, self.step = sent, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.sent)


def die_in_save(step: int) -> None:
    """SIGKILL in the middle of a save: the weights are written, the trainer's state is not."""
    save = Trainer._save_optimizer_and_scheduler

    def killed(trainer: Trainer, folder: str) -> None:
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(trainer, folder)

    Trainer._save_optimizer_and_scheduler = killed


def main() -> None:
    torch.set_num_threads(1)
    folder, stop = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    how, _, step = stop.partition("@")
    callbacks: list[Any] = [make_callback(strategy="steps", steps=1)]
    if how == "save":
        die_in_save(int(step))
    elif how:
        callbacks.append(StopAt(signal.Signals[how], int(step)))
    trainer = make_trainer(
        folder, callbacks, dropout=0.2, max_steps=STEPS, save_strategy="steps", save_steps=SAVE_EVERY
    )
    checkpoint = get_last_checkpoint(str(folder)) if folder.exists() else None
    while checkpoint and not (Path(checkpoint) / "trainer_state.json").exists():
        # The last checkpoint is incomplete, so the one before it is used, as a user would.
        os.rename(checkpoint, folder / f"broken-{Path(checkpoint).name}")
        checkpoint = get_last_checkpoint(str(folder))
    trainer.train(resume_from_checkpoint=checkpoint)
    curve = [{k: v for k, v in entry.items() if k != "eval_exposure_seconds"} for entry in logged(trainer)]
    found = {
        "curve": curve,
        "log": [[report.step, [e.exposure_bits for e in report.estimates]] for report in EXPOSURE_LOG.read(folder)],
        "weights": digest(trainer.model),
        "resumed": checkpoint is not None,
    }
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():  # threads of a remaining process group may abort a process
        torch.distributed.destroy_process_group()
