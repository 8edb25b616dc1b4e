"""The tap on training batches, and what a measurement leaves behind."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_measures import Classifier

from hf_exposure.runtime.model_state import left_as_found
from hf_exposure.runtime.tap import tap_batches

PIXELS, LABELS = torch.ones(3, 4), torch.tensor([0, 1, 0])


def shapes(seen: list[dict[str, Any]]) -> list[dict[str, tuple[int, ...]]]:
    return [{name: tuple(value.shape) for name, value in batch.items()} for batch in seen]


def test_training_passes_are_seen_by_name_and_others_are_not() -> None:
    model, seen = Classifier(), []
    tap = tap_batches(model, seen.append)
    model(PIXELS, labels=LABELS)
    with torch.no_grad():
        model(PIXELS[:2])
    model.eval()(PIXELS[:1])
    model.train()(pixels=PIXELS)
    assert shapes(seen) == [{"pixels": (3, 4), "labels": (3,)}, {"pixels": (3, 4)}]
    assert seen[0]["pixels"] is PIXELS  # nothing is copied
    tap.remove()
    model(PIXELS)
    assert len(seen) == 2


@pytest.mark.parametrize("wrapped", ["data parallel", "compiled"])
def test_a_wrapped_model_is_seen_through(wrapped: str) -> None:
    model, seen = Classifier(), []
    whole = nn.DataParallel(model) if wrapped == "data parallel" else torch.compile(model, backend="eager")
    tap = tap_batches(model, seen.append)
    for rows in (3, 2, 3):
        whole(pixels=PIXELS[:rows], labels=LABELS[:rows])["loss"].backward()
    assert [len(batch["labels"]) for batch in seen] == [3, 2, 3]
    tap.remove()


def test_everything_is_left_as_found_after_an_error_too() -> None:
    model = Classifier()
    model.layers[1].eval()
    model.layers[2].bias.requires_grad_(False)
    model.layers[0].weight.grad = kept = torch.ones(8, 4)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    with pytest.raises(ValueError, match="on purpose"), left_as_found(model):
        model.train()
        model.requires_grad_(True)
        model(torch.rand(3, 4), LABELS)["loss"].backward()
        model.layers[0].weight.grad = torch.zeros(8, 4)
        random.random(), np.random.rand()
        raise ValueError("on purpose")
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, True, True, False]
    assert model.layers[0].weight.grad is kept and all(p.grad is None for p in list(model.parameters())[1:])
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
