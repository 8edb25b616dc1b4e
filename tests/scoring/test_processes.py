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
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ByT5Tokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_exposure import CanaryTemplate, Digits
from hf_exposure.extraction import UniformPaths, build_automaton, draw_proposals, search_likeliest, search_ranks
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring import CausalScorer, MaskedScorer, Seq2SeqScorer, make_scorer

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
    # Draws depend on the figures: they are equal only if the figures are equal to the last bit.
    draws = draw_proposals(scorer, automaton, 132, UniformPaths(TEMPLATE, 0), np.random.default_rng(0))
    figures["draws"], figures["draws' bits"] = list(draws.texts), draws.hole_bits_N.tolist()
    # A search that ends at its second step, so most of the last batch belongs to no process.
    figures["cut short"] = [
        (bounds.low, bounds.high)
        for bounds in search_ranks(scorer, automaton, texts[:4], max_expansions=2, batch_size=7)
    ]
    return {"figures": figures, "shapes": shapes, "mode": scorer.mode}


def _other_families(processes_of: Any) -> dict[str, Any]:
    """Scores batch by batch: encoder-decoder pairs with a source each, and a masked model."""
    translator, masked = _translator(), _masked()
    texts = [TEMPLATE.text_at(index * 7 % 1000) + "!" * (index % 5) for index in range(23)]
    shapes: list[tuple[int, ...]] = []
    for model in (translator, masked):
        model.register_forward_pre_hook(
            lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
        )
    found = {}
    for count in (1, 2, 23):
        scorer = Seq2SeqScorer(
            translator, ByT5Tokenizer(), source=lambda text: text[::-1] + "?" * (len(text) % 3), max_batch_tokens=100,
            processes=processes_of(translator),
        )  # fmt: skip
        found[f"translated {count}"] = scorer.sequence_bits(scorer.encode(texts[:count])).tolist()
        tokenizer = ByT5Tokenizer()
        tokenizer.mask_token = "<pad>"
        masked_scorer = MaskedScorer(masked, tokenizer, max_batch_tokens=100, processes=processes_of(masked))
        found[f"masked {count}"] = masked_scorer.sequence_bits(masked_scorer.encode(texts[:count])).tolist()
    return {"figures": found, "shapes": shapes}


def _translator() -> torch.nn.Module:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        initializer_factor=3.0,
    )  # fmt: skip
    return T5ForConditionalGeneration(config)


def _masked() -> torch.nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=384, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    return BertForMaskedLM(config)


def _run(rank: int, port: int, folder: str, shard: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if not shard:
        torch.save(_other_families(Processes.of_job), Path(folder) / f"{rank} others.pt")
        torch.save(_failures(rank), Path(folder) / f"{rank} failures.pt")
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


class _Failing(torch.nn.Module):
    """Fails on process 1 alone."""

    def __init__(self, rank: int, fault: str) -> None:
        super().__init__()
        self.inner, self.fault = _model(), fault if rank == 1 else ""
        self.config, self.rows = self.inner.config, []

    def forward(self, **inputs: Any) -> Any:
        self.rows.append(len(inputs["input_ids"]))
        output = self.inner(**inputs)
        if self.fault == "nan":
            output.logits = output.logits * float("nan")
        if self.fault == "error":
            raise ValueError("a broken device")
        if self.fault == "memory" and self.rows[-1] > 4:
            raise torch.OutOfMemoryError("no room")
        return output


def _failures(rank: int) -> dict[str, Any]:
    """How each process sees a fault of process 1, and whether they can still score together after it."""
    texts = [TEMPLATE.text_at(index * 7 % 1000) for index in range(60)]
    found: dict[str, Any] = {}
    for fault in ("nan", "error", "memory"):
        model = _Failing(rank, fault)
        processes = Processes.of_job(model)
        try:
            with processes.barrier():
                scorer = make_scorer(model, ByT5Tokenizer(), processes=processes)
                found[fault] = scorer.sequence_bits(scorer.encode(texts)).tolist()
        except Exception as error:
            found[fault] = f"{type(error).__name__}: {error}"
        found[f"{fault} rows"] = model.rows
    # Between two barriers: in code that calls no model.
    processes = Processes.of_job(_model())
    try:
        with processes.barrier():
            if rank == 1:
                raise MemoryError("no room on the host")
            processes.all_reduce_min(3)
    except Exception as error:
        found["between"] = f"{type(error).__name__}: {error}"
    scorer = CausalScorer(_model(), ByT5Tokenizer(), processes=Processes.of_job(_model()))
    found["after"] = scorer.sequence_bits(scorer.encode(texts)).tolist()
    return found


def _await(context: Any, seconds: float) -> None:
    """A process that makes one call fewer than the other would deadlock: it is ended, and the test fails."""
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
    alone = _figures(_model(), SINGLE_PROCESS)
    context = multiprocessing.spawn(_run, (_free_port(), str(tmp_path), shard), nprocs=2, join=False)
    _await(context, seconds=120)
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert results[0]["figures"] == results[1]["figures"]
    assert results[0]["shapes"] == results[1]["shapes"]
    for name, figures in alone["figures"].items():
        found = results[0]["figures"][name]
        if name in ("likeliest", "draws"):
            assert found == figures
        else:
            np.testing.assert_allclose(found, figures, atol=1e-3, err_msg=name)
    rows = [sum(shape[0] for shape in result["shapes"]) for result in (alone, results[0])]
    assert rows[1] < 0.75 * rows[0], "the work was not shared"
    if not shard:
        _check_other_families([torch.load(tmp_path / f"{rank} others.pt") for rank in range(2)])
        _check_failures([torch.load(tmp_path / f"{rank} failures.pt") for rank in range(2)])


def _check_other_families(results: list[dict[str, Any]]) -> None:
    alone = _other_families(lambda _: SINGLE_PROCESS)
    assert results[0] == results[1]
    for name, figures in alone["figures"].items():
        np.testing.assert_allclose(results[0]["figures"][name], figures, atol=1e-3, err_msg=name)
    rows = [sum(shape[0] for shape in result["shapes"]) for result in (alone, results[0])]
    assert rows[1] < 0.6 * rows[0], "the work was not shared"


def _check_failures(results: list[dict[str, Any]]) -> None:
    alone = CausalScorer(_model(), ByT5Tokenizer())
    texts = [TEMPLATE.text_at(index * 7 % 1000) for index in range(60)]
    expected = alone.sequence_bits(alone.encode(texts))
    first, second = results
    assert first["nan"] == second["nan"] and first["nan"].startswith("NonFiniteScoreError: the model returned NaN")
    assert first["error"] == "ExposureError: on another process: ValueError: a broken device (process 1)"
    assert second["error"] == "ValueError: a broken device"
    for result in results:
        np.testing.assert_allclose(result["memory"], expected, atol=1e-3)
        np.testing.assert_allclose(result["after"], expected, atol=1e-3)
    # Both used smaller batches though one had memory: that one only finished its last large batch.
    rows = [result["memory rows"] for result in results]
    assert max(rows[0]) > 4 and max(rows[1]) > 4
    assert rows[0][-3:] == rows[1][-3:] and max(rows[0][-3:]) <= 4
    assert first["between"] == "OutOfMemoryError: on another process: MemoryError: no room on the host (process 1)"
    assert second["between"] == "MemoryError: no room on the host"
