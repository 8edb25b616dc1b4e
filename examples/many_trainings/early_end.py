"""Robust early-learning with its paper's stopping rule: the lowest error on a validation set, which is also noisy.

python -m examples.many_trainings.early_end --data FOLDER_OF_MNIST --store FOLDER

Each network, with or without critical updates, is evaluated at the epoch of its own lowest validation error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from examples.many_trainings.robust_training import Network, Rows, without_numbers
from examples.many_trainings.study import Options, draw_images, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure import NoiseInjector
from hf_exposure.runs import CriticalUpdates


@dataclass(frozen=True, kw_only=True)
class Size:
    rows: int
    validation: int
    tests: int
    seeds: int
    epochs: int
    width: int = 128
    noise: float = 0.4


SIZES = {
    "smallest": Size(rows=100, validation=40, tests=100, seeds=2, epochs=2, width=16),
    "small": Size(rows=1000, validation=500, tests=1000, seeds=6, epochs=30),
}


class Watch(TrainerCallback):
    """Validation error and test accuracy after each epoch."""

    def __init__(self, validation: Rows, test: Rows) -> None:
        self.validation, self.test = validation, test
        self.errors: list[float] = []
        self.accuracies: list[float] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        with torch.no_grad():
            right = [
                (named["model"](rows.pixels)["logits"].argmax(1) == rows.labels).float().mean().item()
                for rows in (self.validation, self.test)
            ]
        self.errors.append(1.0 - right[0])
        self.accuracies.append(right[1])


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()
    runs = each_seed(options, size.seeds, lambda seed: _one_seed(options, size, seed))
    settings = {"rows": size.rows, "validation": size.validation, "noise": size.noise, "epochs": size.epochs}
    settings |= {"width": size.width, "seeds": size.seeds, "tests": size.tests}
    data = "made up" if options.data is None else "MNIST"
    write_result(options, "early_end", data=data, settings=settings, figures={"runs": runs}, cost=watch.read())


def _one_seed(options: Options, size: Size, seed: int) -> dict[str, Any]:
    noisy = size.rows + size.validation
    pixels, labels, _ = draw_images(options.data, noisy + size.tests, 100 + seed)
    noise = NoiseInjector(num_rows=noisy, labels=size.noise, num_labels=10, seed=seed)
    given = np.asarray(noise({"label": labels[:noisy].tolist()}, list(range(noisy)))["label"], dtype=np.int64)
    data = Rows(pixels[: size.rows], given[: size.rows])
    validation, test = Rows(pixels[size.rows : noisy], given[size.rows :]), Rows(pixels[noisy:], labels[noisy:])
    found: dict[str, Any] = {}
    for method in ("plain", "critical_updates"):
        torch.manual_seed(seed)
        args = TrainingArguments(
            str(options.store / "trainer"), num_train_epochs=size.epochs, per_device_train_batch_size=100, optim="sgd",
            learning_rate=0.5, lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=1e-4, seed=seed,
            save_strategy="no", logging_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            dataloader_pin_memory=False, remove_unused_columns=False,
        )  # fmt: skip
        watch = Watch(validation, test)
        own = [watch] if method == "plain" else [watch, CriticalUpdates(float(noise.changed[: size.rows].mean()))]
        model = Network(pixels.shape[1], size.width)
        trainer = Trainer(model, args, train_dataset=data, callbacks=own, data_collator=without_numbers)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        best = int(np.argmin(watch.errors))
        found[method] = {"epoch": best + 1, "at_the_end_chosen": watch.accuracies[best], "last": watch.accuracies[-1]}
    return found


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
