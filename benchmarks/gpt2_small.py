"""Compares a complete measurement of GPT-2 small, from its config, with the same calls of the model alone.

`python -m benchmarks.gpt2_small` measures nine digits with 4,096 references by `method="auto"` under GPT-2's own
tokenizer (from a package index, `proofs.production_tokenizers`), with random weights. Bare forward passes are calls
of the model with the same numbers of rows and tokens as the calls of the measurement, including the head and logits
but without caches: the cost of the model without this package. Times are processor seconds of one thread; memory is
the increase of the process's memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, draw_canaries, measure_exposure
from proofs.production_tokenizers import CACHE, SOURCES

TEMPLATE = CanaryTemplate("The random number is {number}", number=Digits(9))
MOST_TIMES, MOST_BYTES = 1.2, 10**9


class PeakMemory:
    """Records the peak of the process's bytes above the initial ones, sampled a hundred times per second."""

    def __enter__(self) -> PeakMemory:
        self._process, self._stop = psutil.Process(), threading.Event()
        self._before = self._process.memory_info().rss
        self.peak = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.peak = max(self.peak, self._process.memory_info().rss - self._before)


def shapes_of_calls(model: nn.Module, work: Callable[[], Any]) -> list[tuple[int, int]]:
    """Rows and tokens of every call of the model by `work`."""
    shapes: list[tuple[int, int]] = []

    def note(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        shapes.append(tuple(named["input_ids"].shape))

    with model.register_forward_pre_hook(note, with_kwargs=True):
        work()
    return shapes


def bare_forwards(model: nn.Module, shapes: list[tuple[int, int]]) -> None:
    """Calls the model alone."""
    with torch.no_grad():
        for rows, tokens in shapes:
            model(input_ids=torch.zeros((rows, tokens), dtype=torch.long))


def processor_seconds(work: Callable[[], Any]) -> float:
    """Processor seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    torch.set_num_threads(1)
    (source,) = (one for one in SOURCES if one.name == "GPT-2")
    tokenizer = source.load(CACHE)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    canaries = draw_canaries(TEMPLATE, {1: 4, 8: 4}, controls=8, seed=0)

    def whole() -> Any:
        return measure_exposure(model, tokenizer, canaries, method="auto", references=4096, seed=0)

    shapes = shapes_of_calls(model, whole)
    # Alternating, so that other work on the machine affects both.
    pairs = []
    peak = 0
    for _ in range(3):
        bare = processor_seconds(lambda: bare_forwards(model, shapes))
        with PeakMemory() as memory:
            ours = processor_seconds(whole)
        peak = max(peak, memory.peak)
        pairs.append({"bare_seconds": bare, "measurement_seconds": ours, "times": ours / bare})
        print(pairs[-1], memory.peak, flush=True)
    figures = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "calls": len(shapes),
        "tokens": sum(rows * tokens for rows, tokens in shapes),
        "runs": pairs,
        "peak_bytes_beyond_the_weights": peak,
        "most_times": MOST_TIMES,
        "most_bytes": MOST_BYTES,
    }
    print(write_result("gpt2_small", figures))


if __name__ == "__main__":
    main()
