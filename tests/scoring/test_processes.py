"""Two gloo processes that score together: the figures of one, in equally many calls of equal shapes."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hf_exposure import CanaryTemplate, Digits
from hf_exposure.extraction import build_automaton, search_likeliest, search_ranks
from hf_exposure.scoring import CausalScorer
from hf_exposure.scoring.processes import ALONE, Processes

TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(3))
# 7 texts are fewer rows than two processes need; 301 do not divide.
COUNTS = (1, 7, 301)
MODES = ("packed", "cached", "plain")


def _model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=384, n_layer=2, n_head=2, n_embd=32, n_positions=64, initializer_range=0.3, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def _figures(model: torch.nn.Module, processes: Processes) -> dict[str, Any]:
    """Everything that is scored, and the shape of every call of the model."""
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    texts = [TEMPLATE.text_at(index * 7 % 1000) for index in range(max(COUNTS))]
    figures: dict[str, Any] = {}
    for mode in MODES:
        for count in COUNTS:
            scorer = CausalScorer(model, ByT5Tokenizer(), max_batch_tokens=256, mode=mode, processes=processes)
            figures[f"{mode} {count}"] = scorer.sequence_bits(scorer.encode(texts[:count])).tolist()
    scorer = CausalScorer(model, ByT5Tokenizer(), processes=processes)
    automaton = build_automaton(TEMPLATE, scorer.encoder)
    found = search_likeliest(scorer, automaton, top_k=5)
    figures["likeliest"] = [candidate.text for candidate in found.candidates]
    figures["ranks"] = [(bounds.low, bounds.high) for bounds in search_ranks(scorer, automaton, texts[:4])]
    return {"figures": figures, "shapes": shapes, "mode": scorer.mode}


def _run(rank: int, port: int, folder: str, shard: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = _model()
    if shard:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        for layer in model.transformer.h:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    torch.save(_figures(model, Processes.of_job(model)), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def _await(context: Any, seconds: float) -> None:
    """A process that makes one call fewer than the other would wait for ever: it is ended, and the test fails."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if context.join(timeout=1):
            return
    for process in context.processes:
        process.kill()
    pytest.fail("the processes did not finish")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "shard", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["replicated", "fully_shard"]
)
def test_two_processes_give_the_figures_of_one(shard: bool, tmp_path: Path) -> None:
    alone = _figures(_model(), ALONE)
    context = multiprocessing.spawn(_run, (_free_port(), str(tmp_path), shard), nprocs=2, join=False)
    _await(context, seconds=120)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert results[0]["figures"] == results[1]["figures"]
    assert results[0]["shapes"] == results[1]["shapes"]
    for name, figures in alone["figures"].items():
        found = results[0]["figures"][name]
        if name == "likeliest":
            assert found == figures
        else:
            np.testing.assert_allclose(found, figures, atol=1e-3, err_msg=name)
    rows = [sum(shape[0] for shape in result["shapes"]) for result in (alone, results[0])]
    assert rows[1] < 0.75 * rows[0], "the work was not shared"
