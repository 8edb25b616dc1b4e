"""A custom measure next to exposure: the loss on rows that are never trained on, and its minimum so far.

python examples/own_measure.py

It prints

step 20: 2.53 bits per token on rows that are not trained on
step 40: 1.10 bits per token on rows that are not trained on
step 60: 0.94 bits per token on rows that are not trained on
exposure at the end: 10.0 bits inserted 16 times
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import (
    ByT5Tokenizer,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

from hf_exposure import CanaryTemplate, Digits, ExposureCallback, MeasureCallback, draw_canaries, insert_canaries
from hf_exposure.measures import PlainRecord, TrainingStart
from hf_exposure.runtime.model_state import evaluating, model_device


class ProbeLoss:
    """The mean loss of a batch of rows, in bits per token."""

    name, larger_is_better, needs_tokenizer = "probe", frozenset(), False

    def __init__(self, batch: dict[str, torch.Tensor]) -> None:
        self.batch, self.lowest = batch, math.inf

    def prepare(self, start: TrainingStart) -> None:
        self.lowest = math.inf  # a new training

    def metric_names(self) -> list[str]:
        return ["eval_probe_bits", "eval_probe_lowest_bits"]

    def measure(self, model: nn.Module) -> PlainRecord:
        with evaluating(model):  # evaluation mode without gradients; the mode is restored
            batch = {name: values.to(model_device(model)) for name, values in self.batch.items()}
            bits = float(model(**batch, labels=batch["input_ids"]).loss) / math.log(2)
        self.lowest = min(self.lowest, bits)
        return PlainRecord(figures={"eval_probe_bits": bits, "eval_probe_lowest_bits": self.lowest})

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}  # so that a resumed run continues from here

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lowest = state["lowest"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--output-dir", default="own-measure")
    options = parser.parse_args()
    transformers.set_seed(0)

    template = CanaryTemplate("The door code is {code}.", code=Digits(4))
    canaries = draw_canaries(template, {1: 2, 16: 2}, controls=8, seed=0)  # a seed: for examples only
    rows = insert_canaries(Dataset.from_dict({"text": [f"Row {i:03} of the data." for i in range(94)]}), canaries)
    tokenizer = ByT5Tokenizer()
    train = rows.map(lambda row: tokenizer(row["text"]), remove_columns="text")
    probe = tokenizer([f"Row {i:03} of the data." for i in range(200, 232)], return_tensors="pt")

    config = GPT2Config(vocab_size=384, n_layer=2, n_head=2, n_embd=64, n_positions=64, bos_token_id=1, eos_token_id=1)
    own = MeasureCallback(ProbeLoss(dict(probe)), strategy="steps", steps=20)
    exposure = ExposureCallback(canaries, strategy="end", references=256)
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=TrainingArguments(
            options.output_dir, max_steps=options.steps, per_device_train_batch_size=16, learning_rate=3e-3,
            report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        ),
        train_dataset=train,
        processing_class=tokenizer,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=[own, exposure],
    )  # fmt: skip
    trainer.train()
    for record in own.records["probe"]:
        figures = record.metrics()
        print(f"step {record.step}: {figures['eval_probe_bits']:.2f} bits per token on rows that are not trained on")
    print(f"exposure at the end: {exposure.report.metrics()['eval_exposure_x16_mean']:.1f} bits inserted 16 times")


if __name__ == "__main__":
    main()
