"""Measures what counting doses costs a training step: the same batches alternate with and without the ledger.

`python -m benchmarks.doses [demo|gpt2]...`: GPT-2's configuration of 124 million parameters with batches of 4 x 128
tokens, and the demo's model with its own batches. More than half of the rows contain a canary, far more than in any
real training run, which makes the search expensive.

Steps with and without the ledger alternate on the same batch in one process. Only the CPU time of this process on one
thread is measured, so other work on the machine has little effect. There are two results. The first is the share of a
step's CPU time spent in the ledger's own code, including the search of all postponed batches. The second is the median
over pairs of the ratio of the times with and without the ledger, with a confidence interval between two of the ordered
ratios. The second result includes the cost of hooks outside the ledger, and is as noisy as the times of steps.

Rule, written before the first run: at 124 million parameters the share is at most 1 %.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from datasets import disable_progress_bars
from torch import nn
from transformers import ByT5Tokenizer, DataCollatorForLanguageModeling, GPT2Config, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import draw_canaries, insert_canaries, presets
from hf_exposure.data.canary_tokens import canary_tokens
from hf_exposure.data.ledger import DoseLedger
from hf_exposure.demo.inputs import load_model, load_rows
from hf_exposure.runtime.tap import tap_batches

MOST_SHARE = 0.01
DEMO_PAIRS, GPT2_PAIRS = 40, 6
TOKENIZER = ByT5Tokenizer()
CANARIES = draw_canaries(presets.random_number(9), {1: 20, 8: 15, 32: 5}, controls=64, seed=0)


def batches(rows: int, tokens: int) -> list[dict[str, torch.Tensor]]:
    """Returns the demo's rows with canaries in random order, packed into rows of `tokens`, or, with 0, padded."""
    texts = insert_canaries(load_rows(None, None, 100_000, 200), CANARIES, seed=0)["text"]
    encoded = [TOKENIZER(text)["input_ids"] for text in texts]
    if tokens:
        flat = [token for ids in encoded for token in ids]
        encoded = [flat[at : at + tokens] for at in range(0, len(flat) - tokens, tokens)]
    collator = DataCollatorForLanguageModeling(TOKENIZER, mlm=False)
    parts = [encoded[at : at + rows] for at in range(0, len(encoded), rows)]
    return [dict(collator([{"input_ids": ids} for ids in part])) for part in parts if len(part) == rows]


class Stopwatch:
    """Adds up the CPU time of a function in this process."""

    def __init__(self, timed: Callable[[Any], Any]) -> None:
        self.seconds, self._timed = 0.0, timed

    def __call__(self, *arguments: Any) -> Any:
        started = time.process_time()
        result = self._timed(*arguments)
        self.seconds += time.process_time() - started
        return result


def median_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Two of the ascending `values` with the median of their distribution between them, and how certain that is.

    Each value lies below that median with probability 1/2. Returns the narrowest pair with the requested
    confidence, or the first and the last value.

    Example:
        >>> median_interval([1.0, 2.0, 3.0])
        (1.0, 3.0, 0.75)
    """
    count = len(values)
    outside = [sum(math.comb(count, k) for k in range(last + 1)) / 2**count for last in range((count + 1) // 2)]
    cut = max((number for number, tail in enumerate(outside) if 1 - 2 * tail >= confidence), default=0)
    return values[cut], values[count - 1 - cut], 1 - 2 * outside[cut]


def side_by_side(model: nn.Module, data: list[dict[str, torch.Tensor]], pairs: int) -> dict[str, Any]:
    """Runs steps with and without the ledger in pairs, with alternating order."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ledger = DoseLedger(canary_tokens(TOKENIZER, tuple(CANARIES), None, target=False), owners=len(CANARIES))
    see, count = Stopwatch(ledger.see), Stopwatch(lambda _: ledger.counts_K4())
    seconds: dict[bool, list[float]] = {True: [], False: []}

    def step(batch: dict[str, torch.Tensor], *, counted: bool) -> None:
        tap = tap_batches(model, see) if counted else None
        started = time.process_time()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds[counted].append(time.process_time() - started)
        if tap is not None:
            tap.remove()

    model.train()
    step(data[0], counted=False)
    seconds[False].clear()
    for pair in range(pairs):
        batch = data[pair % len(data)]
        for counted in (bool(pair % 2), not pair % 2):
            step(batch, counted=counted)
    found = int(count(None)[:, 0].sum())
    medians = {counted: statistics.median(values) for counted, values in seconds.items()}
    ratios = sorted(one / other for one, other in zip(seconds[True], seconds[False], strict=True))
    low, high, confidence = median_interval(ratios)
    own = (see.seconds + count.seconds) / pairs
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens_a_batch": data[0]["input_ids"].numel(),
        "steps_each": pairs,
        "whole_canaries_counted": found,
        "step_seconds": medians[False],
        "counted_step_seconds": medians[True],
        "median_ratio": statistics.median(ratios),
        "median_ratio_low": low,
        "median_ratio_high": high,
        "median_ratio_confidence": confidence,
        "ledger_seconds_a_step": own,
        "of_these_in_the_hook": see.seconds / pairs,
        "share_of_a_step": own / medians[False],
    }


def gpt2() -> dict[str, Any]:
    torch.manual_seed(0)
    return side_by_side(GPT2LMHeadModel(GPT2Config()), batches(4, 128), pairs=GPT2_PAIRS)


def demo() -> dict[str, Any]:
    torch.manual_seed(0)
    return side_by_side(load_model("small-gpt2", TOKENIZER, 256), batches(16, 0), pairs=DEMO_PAIRS)


def main() -> None:
    transformers.logging.set_verbosity_error()
    disable_progress_bars()
    torch.set_num_threads(1)
    figures = {}
    for name in sys.argv[1:] or ["demo", "gpt2"]:
        figures[name] = {"demo": demo, "gpt2": gpt2}[name]()
        print(name, figures[name], flush=True)
    if len(figures) == 2:
        holds = figures["gpt2"]["share_of_a_step"] <= MOST_SHARE
        print(write_result("doses", {**figures, "most_share": MOST_SHARE, "rule_holds": holds,
                                     "threads": torch.get_num_threads()}))  # fmt: skip


if __name__ == "__main__":
    main()
