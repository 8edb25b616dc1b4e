"""Two runs on subsets by a Trainer, in one process or several: `subsets_job.py FOLDER BATCH_SIZE`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from job import finish
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments

from hf_exposure import TrainerRecipe, draw_subsets, run_subsets


class Config(PretrainedConfig):
    model_type = "subset-job"


class Classifier(PreTrainedModel):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.linear = nn.Linear(2, 2)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass

    def forward(self, x, labels=None):
        logits = self.linear(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}


def score(model, rows):
    with torch.no_grad():
        logs = model(torch.tensor(rows["x"][:]))["logits"].log_softmax(1)
    return logs[torch.arange(len(rows)), torch.tensor(rows["labels"][:])]


def main() -> None:
    folder, batch = Path(sys.argv[1]), int(sys.argv[2])
    generator = np.random.default_rng(0)
    labels = generator.integers(2, size=40)
    inputs = labels[:, None] + 0.3 * generator.normal(size=(40, 2))
    data = Dataset.from_dict({"x": inputs.tolist(), "labels": labels})
    args = TrainingArguments(
        str(folder / "out"), num_train_epochs=10, per_device_train_batch_size=batch, learning_rate=0.1,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, logging_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    recipe = TrainerRecipe(lambda: Classifier(Config()), args)
    runs = run_subsets(recipe, data, draw_subsets(40, 2, seed=1), store=folder / "runs", score=score, progress=False)
    finish(folder, runs.scores_MN.tolist())


if __name__ == "__main__":
    main()
