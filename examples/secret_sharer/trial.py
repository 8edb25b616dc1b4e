"""One trial: trains a model on a text with canaries, optionally to its lowest loss, and measures every canary."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.training import Corpus, Training, encode_rows, loss_bits, train
from hf_exposure import CanarySet, insert_canaries, measure_exposure

__all__ = ["run_trial"]


def run_trial(
    corpus: Corpus,
    canary_sets: dict[str, CanarySet],
    training: Training,
    *,
    seed: int,
    patience: int | None = None,
    references: int = 4096,
    **model_arguments: Any,
) -> dict[str, Any]:
    """Trains a model and measures how well it memorized each canary.

    Args:
        canary_sets: canary sets by name; all of them are inserted into the same text.
        training: its `epochs` is the maximum; its seed is replaced by `seed`.
        patience: stop after this many epochs without a lower validation loss and use the weights of the lowest. None
            trains all epochs and uses the last weights.
        model_arguments: arguments of `make_model`.

    Returns:
        the validation loss in bits per character, the numbers of parameters and of epochs until the weights used, and
        `exposures`: by the set's name and by repetitions, a list over canaries; 0 repetitions are the controls.
    """
    rows = corpus.train
    for canaries in canary_sets.values():
        rows = insert_canaries(rows, canaries, seed=seed)
    torch.manual_seed(seed)
    model = make_model(vocab_size=len(corpus.tokenizer), **model_arguments)
    losses = _train(model, corpus, rows["text"], replace(training, seed=seed), patience)
    taken = len(losses) if patience is None else _best(losses)
    how = {"references": references, "seed": seed}
    return {
        "seed": seed,
        "parameters": model.num_parameters(),
        "epochs": taken,
        "validation_bits": losses[taken - 1],
        "exposures": {
            name: _by_repetitions(measure_exposure(model, corpus.tokenizer, canaries, **how))
            for name, canaries in canary_sets.items()
        },
    }


def _train(model: Any, corpus: Corpus, rows: list[str], training: Training, patience: int | None) -> list[float]:
    """Validation losses by epoch; with patience, the model gets the weights of the lowest loss."""
    held_out, losses, kept = corpus.held_out, [], {}

    def no_longer_improves(epoch: int) -> bool:
        losses.append(loss_bits(model, held_out))
        if patience is not None and losses[-1] == min(losses):
            kept["weights"] = copy.deepcopy(model.state_dict())
        return patience is not None and epoch - _best(losses) >= patience

    train(model, encode_rows(corpus.tokenizer, rows), training, after_epoch=no_longer_improves)
    if patience is not None:
        model.load_state_dict(kept["weights"])
    return losses


def _best(losses: list[float]) -> int:
    """The epoch with the lowest loss, counted from 1."""
    return 1 + losses.index(min(losses))


def _by_repetitions(report: Any) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for estimate in report.estimates:
        found.setdefault(str(estimate.repetitions), []).append(estimate.exposure_bits)
    return found
