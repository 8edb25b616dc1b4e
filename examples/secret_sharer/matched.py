"""Trains models until they are as good as another one, so that exposures are compared at equal utility."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from examples.secret_sharer.training import Training, loss_bits, train
from hf_exposure import CanarySet, measure_exposure

__all__ = ["exposure_figures", "plot_at_equal_loss", "train_to_loss"]


def train_to_loss(
    model: nn.Module,
    rows_NT: torch.Tensor,
    training: Training,
    held_out_NT: torch.Tensor,
    loss: float,
    *,
    every: int = 5,
) -> dict[str, Any]:
    """Trains until the held-out loss, evaluated at regular intervals, is at most `loss` bits per character.

    Returns:
        the number of batches, the loss, and whether the loss was reached within `training.epochs`.
    """
    state: dict[str, Any] = {"batches": 0, "reached": False}

    def is_low_enough(step: int) -> bool:
        reached = step % every == 0 and loss_bits(model, held_out_NT) <= loss
        state.update(batches=step, reached=reached)
        return reached

    train(model, rows_NT, training, after_batch=is_low_enough)
    return state | {"test_loss": loss_bits(model, held_out_NT)}


def exposure_figures(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    canaries: CanarySet,
    *,
    references: int,
    seed: int,
) -> dict[str, Any]:
    """Exposures of the inserted canaries in bits, in the set's order, their mean, and the mean of the controls."""
    measured = measure_exposure(
        model,
        tokenizer,
        canaries,
        references=references,
        precision_bits=0.5,
        seed=seed,
    )
    bits = [one.exposure_bits for one in measured.inserted]
    held_out = [one.exposure_bits for one in measured.controls]
    return {
        "mean_exposure": sum(bits) / len(bits),
        "mean_control": sum(held_out) / len(held_out) if held_out else None,
        "exposures": bits,
    }


def plot_at_equal_loss(title: str, by_name: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Mean exposure against held-out loss: a point for each run, with a series per setting."""
    series = []
    for name, runs in by_name.items():
        x, y = [run["test_loss"] for run in runs], [run["mean_exposure"] for run in runs]
        series.append({"name": name, "kind": "points", "x": x, "y": y})
    return {"title": title, "x": "held-out loss (bits per character)", "y": "mean exposure (bits)", "series": series}
