"""Noise-robust training by the recipes in `hf_exposure.runs`: memorization of wrong labels, and test accuracy.

python -m examples.many_trainings.robust_training --data FOLDER_OF_MNIST --store FOLDER
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from examples.many_trainings.study import Options, draw_images, each_seed, parse_options, write_result
from examples.secret_sharer.results import Stopwatch
from hf_exposure import NoiseInjector
from hf_exposure.runs import CoTeachingTrainer, CriticalUpdates, EarlyLearningTrainer, TwoNetworks

METHODS = ("plain", "co_teaching", "early_learning", "critical_updates")


@dataclass(frozen=True, kw_only=True)
class Size:
    rows: int
    tests: int
    seeds: int
    epochs: int
    width: int = 128
    noise: float = 0.4


SIZES = {
    "smallest": Size(rows=120, tests=100, seeds=2, epochs=2, width=16),
    "small": Size(rows=1000, tests=1000, seeds=4, epochs=40),
}


class Network(nn.Module):
    """A network with one hidden layer."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 10))

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        logits = self.layers(pixels)
        return {"logits": logits} if labels is None else {
            "loss": nn.functional.cross_entropy(logits, labels), "logits": logits
        }  # fmt: skip


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Images with the given labels, and their row numbers."""

    def __init__(self, pixels: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
        self.pixels, self.labels = torch.as_tensor(pixels), torch.as_tensor(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pixels": self.pixels[row], "labels": self.labels[row], "row_index": row}


def run(options: Options) -> None:
    size, watch = SIZES[options.size], Stopwatch()

    def one(seed: int) -> dict[str, Any]:
        return _one_seed(options, size, seed)

    runs = each_seed(options, size.seeds, one)
    settings = {"rows": size.rows, "noise": size.noise, "epochs": size.epochs, "width": size.width}
    settings |= {"seeds": size.seeds, "tests": size.tests}
    data = "made up" if options.data is None else "MNIST"
    write_result(options, "robust_training", data=data, settings=settings, figures={"runs": runs}, cost=watch.read())


def _one_seed(options: Options, size: Size, seed: int) -> dict[str, Any]:
    pixels, labels, _ = draw_images(options.data, size.rows + size.tests, 40 + seed)
    noise = NoiseInjector(num_rows=size.rows, labels=size.noise, num_labels=10, seed=seed)
    columns = noise({"label": labels[: size.rows].tolist()}, list(range(size.rows)))
    given = np.asarray(columns["label"], dtype=np.int64)
    data, test = Rows(pixels[: size.rows], given), torch.as_tensor(pixels[size.rows :])
    wrong = torch.as_tensor(noise.changed)
    found: dict[str, Any] = {}
    for method in METHODS:
        torch.manual_seed(seed)
        model = _trained(method, data, options, size, seed, float(noise.changed.mean()))
        model.eval()
        with torch.no_grad():
            tests, own = (model(pixels=inputs)["logits"].argmax(1) for inputs in (test, data.pixels))
        found[method] = {
            "test_accuracy": float((tests.numpy() == labels[size.rows :]).mean()),
            "wrong_labels_learned": float((own == data.labels)[wrong].float().mean()),
            "wrong_rows_right": float((own.numpy() == labels[: size.rows])[noise.changed].mean()),
            "clean_rows_right": float((own == data.labels)[~wrong].float().mean()),
        }
    return found


def _trained(method: str, data: Rows, options: Options, size: Size, seed: int, noise: float) -> nn.Module:
    args = TrainingArguments(
        str(options.store / "trainer"), num_train_epochs=size.epochs, per_device_train_batch_size=100, optim="sgd",
        learning_rate=0.5, lr_scheduler_type="constant", max_grad_norm=0.0, weight_decay=1e-4, seed=seed,
        save_strategy="no", logging_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
        dataloader_pin_memory=False, remove_unused_columns=method != "early_learning",
    )  # fmt: skip
    inputs = data.pixels.shape[1]
    if method == "co_teaching":
        pair = TwoNetworks(Network(inputs, size.width), Network(inputs, size.width))
        args.remove_unused_columns = False
        trainer: Trainer = CoTeachingTrainer(
            pair, args, train_dataset=data, noise=noise, ramp_epochs=10, data_collator=without_numbers
        )
    elif method == "early_learning":
        trainer = EarlyLearningTrainer(Network(inputs, size.width), args, train_dataset=data, num_labels=10)
    else:
        callbacks = [CriticalUpdates(noise)] if method == "critical_updates" else []
        trainer = Trainer(
            Network(inputs, size.width), args, train_dataset=data, callbacks=callbacks, data_collator=without_numbers
        )
        args.remove_unused_columns = False
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer.model


def without_numbers(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in ("pixels", "labels")}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
