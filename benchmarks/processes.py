"""Measures the speedup by several processes: measured on 1 and 2, and simulated beyond.

`python -m benchmarks.processes` runs one measurement of uniform references with one core per process. Then the parts
of one process's share of the work are measured separately: the forward passes of a share of the rows (those of process
0 of 8, 64 and 512), and the bytes that a measurement exchanges. The time at P processes is the share's time plus one
exchange, at a stated bandwidth and latency. For a model of 7 billion parameters in shards, every call also gathers the
weights: its calls and bytes are counted on the tree of a million references, and its seconds are arithmetic, not a
measurement.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, draw_canaries
from hf_exposure.measures import ExposureMeter
from hf_exposure.runtime.processes import Processes
from hf_exposure.scoring import CausalScorer, EncodedTexts
from hf_exposure.scoring.forward import ModelShape, choose_row_width, packed_rows
from hf_exposure.scoring.token_tree import TokenTree

TEMPLATE = CanaryTemplate("The random number is {number}", number=Digits(9))
REFERENCES = 4096
MANY_REFERENCES = 10**6
RANKS = (8, 64, 512)
TURNS = 4
# Seconds of a collective of one number, and bytes received per second, for a network between machines.
LATENCY_SECONDS, BYTES_PER_SECOND = 50e-6, 20e9
PARAMETERS_7B = ModelShape(parameters=7_000_000_000, layers=32, hidden=4096, heads=32)
# bfloat16 multiply-adds per second of one accelerator with large matrices.
MULTIPLY_ADDS_PER_SECOND = 2e14


def small_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=384, n_layer=4, n_head=4, n_embd=128, n_positions=64, bos_token_id=1, eos_token_id=1
    )
    return GPT2LMHeadModel(config).eval()


def measure(processes: int, shared: bool = True) -> float:
    """Seconds of one measurement shared by this many real processes, the better of two.

    If not shared, each process does the whole at the same time, which shows how much they slow each other down.
    """
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        multiprocessing.spawn(_measure, (processes, port, folder, shared), nprocs=processes)
        return max(float((Path(folder) / str(rank)).read_text()) for rank in range(processes))


def _measure(rank: int, count: int, port: int, folder: str, shared: bool) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    canaries = draw_canaries(TEMPLATE, {1: 4}, controls=4, seed=0)
    meter = ExposureMeter(canaries, ByT5Tokenizer(), method="sample", references=REFERENCES, across_processes=shared)
    model, seconds = small_model(), []
    for _ in range(3):
        distributed.barrier()
        seconds.append(meter.measure(model).seconds)
    (Path(folder) / str(rank)).write_text(str(min(seconds[1:])))
    distributed.destroy_process_group()


class _OneOfMany(Processes):
    """Process 0 of many simulated ones: it processes its share, and its sums contain only its own values."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_shards = count


def one_share(count: int, texts: list[str]) -> dict[str, Any]:
    """Seconds, calls and tokens of one process among `count`."""
    scorer = CausalScorer(small_model(), ByT5Tokenizer(), mode="packed", processes=_OneOfMany(count))
    encoded = scorer.encode(texts)
    edges = len(encoded.tree.tree.edge_parent_E)
    started = time.perf_counter()
    scorer.sequence_bits(encoded)
    seconds = time.perf_counter() - started
    counts = scorer.counts
    # One float64 for each edge of the tree is summed; barriers exchange two numbers each.
    exchanged = 8 * edges
    exchange_seconds = 4 * LATENCY_SECONDS * math.log2(max(2, count)) + 2 * exchanged / BYTES_PER_SECOND
    return {
        "share_seconds": seconds,
        "calls": counts.calls,
        "tokens": counts.tokens,
        "bytes_summed": exchanged,
        "exchange_seconds": exchange_seconds if count > 1 else 0.0,
        "seconds": seconds + (exchange_seconds if count > 1 else 0.0),
    }


def tree_of_a_million() -> TokenTree:
    """The token tree of 10^6 references of nine digits, without rendering or encoding a million texts."""
    example = CausalScorer(small_model(), ByT5Tokenizer()).encode([TEMPLATE.text_at(0)]).matrix_NL[0]
    numbers = np.random.default_rng(0).choice(10**9, MANY_REFERENCES, replace=False)
    matrix = np.repeat(example[None, :], len(numbers), axis=0)
    # The bytes of digits are consecutive, and the example has only zeros.
    matrix[:, -9:] += (numbers[:, None] // 10 ** np.arange(8, -1, -1) % 10).astype(matrix.dtype)
    return EncodedTexts([""] * len(matrix), matrix, 1).tree.tree


def sharded_plan(count: int, tree: TokenTree) -> dict[str, Any]:
    """The computed calls of one process that scores `tree` by a 7-billion-parameter model in `count` shards."""
    width = choose_row_width(tree, PARAMETERS_7B)
    rows = packed_rows(tree, width)
    share, batch = -(-len(rows) // count), max(1, 65_536 // width)
    calls = -(-share // batch) + 5  # the prefix, and the calls that determine how the model can be read
    gathered = calls * 2 * PARAMETERS_7B.parameters * (count - 1) // count
    computing = share * width * PARAMETERS_7B.parameters / MULTIPLY_ADDS_PER_SECOND
    return {
        "rows": len(rows),
        "row_width": width,
        "rows_of_one": share,
        "calls_of_one": calls,
        "bytes_of_weights_gathered": gathered,
        "bytes_of_figures_summed": 8 * len(tree.edge_parent_E),
        "computing_seconds": computing,
        "gathering_seconds": gathered / BYTES_PER_SECOND,
        "summing_seconds": 2 * 8 * len(tree.edge_parent_E) / BYTES_PER_SECOND,
    }


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"references": REFERENCES, "cores": os.cpu_count()}
    # In turn, and the best of several: the speed of this machine varies by a tenth from one minute to the next.
    turns = [(measure(1), measure(2), measure(2, shared=False)) for _ in range(TURNS)]
    one, two, wholes = (min(column) for column in zip(*turns, strict=True))
    figures["measured_seconds"] = {"1": one, "2": two}
    figures["seconds_of_two_wholes_at_once"] = wholes
    figures["turns"] = turns
    print("measured", figures["measured_seconds"], wholes, "faster by", one / two, flush=True)
    generator = np.random.default_rng(0)
    texts = [TEMPLATE.text_at(int(index)) for index in generator.choice(10**9, REFERENCES, replace=False)]
    figures["simulated"] = {str(count): one_share(count, texts) for count in (1, 2, *RANKS)}
    for count, share in figures["simulated"].items():
        print(count, "processes", share, flush=True)
    tree = tree_of_a_million()
    figures["sharded_7b_of_a_million_references"] = {str(count): sharded_plan(count, tree) for count in RANKS}
    for count, plan in figures["sharded_7b_of_a_million_references"].items():
        print(count, "shards", plan, flush=True)
    figures["assumed"] = {
        "latency_seconds": LATENCY_SECONDS,
        "bytes_per_second": BYTES_PER_SECOND,
        "multiply_adds_per_second": MULTIPLY_ADDS_PER_SECOND,
    }
    print(write_result("processes", figures))


if __name__ == "__main__":
    main()
