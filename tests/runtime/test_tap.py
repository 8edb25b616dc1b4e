"""The tap on training batches, and the state after a measurement."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toy_measures import Classifier

from hf_exposure.runtime.model_state import left_as_found
from hf_exposure.runtime.tap import HostCopies, tap_batches

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


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_that_is_compiled_as_one_graph(in_place: bool) -> None:
    """The tap is called before the graph, which `fullgraph` forbids to break."""
    model, seen = Classifier(), []
    tap = tap_batches(model, seen.append)
    if in_place:
        model.compile(backend="eager", fullgraph=True)
    compiled = model if in_place else torch.compile(model, backend="eager", fullgraph=True)
    for _ in range(2):
        compiled(PIXELS, LABELS)["loss"].backward()
    assert shapes(seen) == [{"pixels": (3, 4), "labels": (3,)}] * 2
    tap.remove()
    compiled(PIXELS, LABELS)
    assert len(seen) == 2


class FakeEvent:
    def __init__(self) -> None:
        self.is_done, self.waits = False, 0

    def query(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        self.is_done, self.waits = True, self.waits + 1


class FakeOnCuda:
    """Stands for a tensor on a device that this machine does not have, and records how it was copied."""

    device = torch.device("cuda", 0)

    def __init__(self, values: list[int]) -> None:
        self.values, self.copied = values, []

    def to(self, device: str, *, non_blocking: bool) -> torch.Tensor:
        self.copied.append((device, non_blocking))
        return torch.tensor(self.values)


def test_nobody_waits_for_a_device_before_the_copies_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[FakeEvent] = []

    def record_event() -> FakeEvent:
        events.append(FakeEvent())
        return events[-1]

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(record_event=record_event))
    copies, batches = HostCopies(), [FakeOnCuda([1]), FakeOnCuda([2]), FakeOnCuda([3])]
    for batch in batches:
        copies.put({"ids": batch})
    assert [batch.copied for batch in batches] == [[("cpu", True)]] * 3
    assert copies.take(wait=False) == []
    events[0].is_done = True
    assert [one["ids"].tolist() for one in copies.take(wait=False)] == [[1]]
    assert [event.waits for event in events] == [0, 0, 0]
    assert [one["ids"].tolist() for one in copies.take(wait=True)] == [[2], [3]]
    assert [event.waits for event in events] == [0, 1, 1]
