"""Measures what measuring costs a training run: the demo's model over five epochs, with a measurement after each.

`python -m benchmarks.overhead`: 40 inserted canaries, 64 controls, 4,096 references, by `sample`, `importance` and
`auto`. Training time is the time of the same run minus the measurements. A last run measures after every step, as the
paper does for its Figure 8, with 256 references. Each share is the median of `ROUNDS` rounds, since the speed of a
machine changes from minute to minute; 12 minutes in all.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
import transformers
from datasets import disable_progress_bars
from transformers import (
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.record import write_result
from hf_exposure import CanarySet, ExposureCallback, draw_canaries, insert_canaries, presets
from hf_exposure.demo.inputs import load_model, load_rows

MOST_SHARE = {"sample": 0.05, "importance": 0.10}
METHODS = ("sample", "importance", "auto")
EPOCHS = 5
ROUNDS = 3
TOKENIZER = ByT5Tokenizer()


def draw_overhead_canaries() -> CanarySet:
    """The canaries of all runs: 40 inserted ones and 64 controls."""
    return draw_canaries(presets.random_number(9), {1: 20, 8: 15, 32: 5}, controls=64, seed=0)


def train(canaries: CanarySet, callbacks: list[TrainerCallback], steps: int = -1) -> float:
    """The seconds of a training with the canaries inserted."""
    transformers.set_seed(0)
    rows = insert_canaries(load_rows(None, None, 100_000, 200), canaries, seed=0)
    encoded = rows.map(lambda batch: TOKENIZER(batch["text"]), batched=True, remove_columns=["text"])
    model = load_model("small-gpt2", TOKENIZER, 256)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, num_train_epochs=EPOCHS, max_steps=steps, per_device_train_batch_size=16,
            learning_rate=2e-3, warmup_steps=20, save_strategy="no", report_to="none", disable_tqdm=True,
            logging_strategy="no", dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=encoded,
            data_collator=DataCollatorForLanguageModeling(TOKENIZER, mlm=False),
            processing_class=TOKENIZER,
            callbacks=callbacks,
        )
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def measured(callback: ExposureCallback, steps: int = -1) -> dict[str, Any]:
    """The seconds of each measurement of one run, and their sum divided by the time of training alone."""
    whole = train(callback.canaries, [callback], steps)
    measuring = [report.seconds for report in callback.reports]
    # Preparation (drawing, encoding, auditing the tokenizer) happens once, at the start of training.
    return {
        "whole_seconds": whole,
        "measuring_seconds": measuring,
        "measurements": len(measuring),
        "share_of_training": sum(measuring) / (whole - sum(measuring)),
        "last_mean_bits": callback.reports[-1].metrics()["eval_exposure_mean"],
    }


def round_of(canaries: CanarySet) -> dict[str, dict[str, Any]]:
    """One run with each method after every epoch, and one with a measurement after every step."""
    found = {method: measured(ExposureCallback(canaries, method=method, references=4096)) for method in METHODS}
    each_step = ExposureCallback(canaries, strategy="steps", steps=1, method="sample", references=256)
    return found | {"every_step_256_references": measured(each_step, steps=40)}


def main() -> None:
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    canaries = draw_overhead_canaries()
    rounds: list[dict[str, dict[str, Any]]] = []
    for _ in range(ROUNDS):
        rounds.append(round_of(canaries))
        print({name: round(run["share_of_training"], 4) for name, run in rounds[-1].items()}, flush=True)
    figures: dict[str, Any] = {}
    for name in rounds[0]:
        runs = sorted((one[name] for one in rounds), key=lambda run: run["share_of_training"])
        figures[name] = runs[len(runs) // 2] | {"shares_of_rounds": [one[name]["share_of_training"] for one in rounds]}
    print(write_result("overhead", {**figures, "most_share": MOST_SHARE, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
