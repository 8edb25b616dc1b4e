"""Training until a model is as good as another, so that exposures are compared at equal utility."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from examples.secret_sharer.training import Training, loss_bits, train
from hf_exposure import CanarySet, measure_exposure

__all__ = ["exposure_figures", "train_to_loss"]


class _Reached(Exception):
    """Thrown out of a training loop by its own callback: the loss is low enough."""


def train_to_loss(
    model: nn.Module,
    rows_NT: torch.Tensor,
    training: Training,
    held_out_NT: torch.Tensor,
    loss: float,
    *,
    every: int = 5,
) -> dict[str, Any]:
    """Trains until the held-out loss is at most `loss` bits per character, looked at every so many batches.

    Returns:
        the batches that it took, the loss, and whether it came that low in `training.epochs`.
    """
    state: dict[str, Any] = {"batches": 0, "reached": False}

    def look(step: int) -> None:
        state["batches"] = step
        if step % every == 0 and loss_bits(model, held_out_NT) <= loss:
            state["reached"] = True
            raise _Reached

    try:
        train(model, rows_NT, training, after_batch=look)
    except _Reached:
        model.eval()
    return state | {"test_loss": loss_bits(model, held_out_NT)}


def exposure_figures(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    canaries: CanarySet,
    *,
    references: int,
    seed: int,
    max_expansions: int = 2000,
) -> dict[str, Any]:
    """The exposure of every inserted canary in bits, in the set's order, their mean, and that of the controls."""
    # A search that has not closed by then gives way to weighted references: as good, at the same cost for all.
    measured = measure_exposure(
        model,
        tokenizer,
        canaries,
        references=references,
        max_expansions=max_expansions,
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
