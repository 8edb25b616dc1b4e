"""Compares the predictions of `hf-exposure cost` with actual measurements, for three sizes and three vocabularies.

`python -m benchmarks.cost_planner [SIZE ...]` plans from the configuration, then builds the model with random weights
and measures exposures by "auto" and "bounded" in separate processes. It compares tokens, passes, peak bytes of
tensors, and times. The predicted time is the time of the planned tokens at the rate of bare forward passes, which are
timed in the measuring process with the batch shapes of the measurement, plus the planned time of the package's own
code. Processor time is measured, so other processes have little effect.

The tokenizers of GPT-2 and Llama 3 are those of `proofs.production_tokenizers`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, ByT5Tokenizer, GPT2Config, LlamaConfig, PretrainedConfig

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, ExposureMeter, draw_canaries, plan_cost
from hf_exposure.runs.live_memory import LiveBytes
from hf_exposure.runtime.logits import repeat_cache, returned_cache
from hf_exposure.scoring.forward import attention_mask
from proofs.production_tokenizers import CACHE, SOURCES

TEMPLATE = CanaryTemplate("The random number is {number}", number=Digits(9))
CANARIES = draw_canaries(TEMPLATE, {1: 10, 4: 10, 16: 10, 64: 10}, controls=64, seed=0)
REFERENCES, BUDGET = 4096, 1024
SIZES = ("1 million", "10 million", "124 million")


def inputs_of(size: str) -> tuple[PretrainedConfig, Any]:
    """A configuration and a tokenizer: bytes, GPT-2's, or one with at least 128,000 entries."""
    known = {source.name: source for source in SOURCES}
    if size == "1 million":
        sizes = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 128}
        return GPT2Config(vocab_size=384, bos_token_id=0, eos_token_id=1, **sizes), ByT5Tokenizer()
    if size == "10 million":
        tokenizer = known["Llama 3"].load(CACHE)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=256, num_hidden_layers=24,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        return config, tokenizer
    return GPT2Config(), known["GPT-2"].load(CACHE)


class Shape(NamedTuple):
    """Rows of new tokens after cached ones, and whether a 4-D mask is passed."""

    rows: int
    length: int
    past: int
    is_masked: bool


class Watch:
    """Counts the tokens fed to a model and its processor time, including its head on chosen rows."""

    def __init__(self, model: nn.Module) -> None:
        self.shapes: Counter[Shape] = Counter()
        self.seconds, self._started, self._depth = 0.0, 0.0, 0
        self._hooks = [model.register_forward_pre_hook(self._count, with_kwargs=True)]
        for module in (model, model.get_output_embeddings()):
            self._hooks += [module.register_forward_pre_hook(self._begin), module.register_forward_hook(self._end)]

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        cache = next((named[name] for name in ("past_key_values", "cache") if named.get(name) is not None), None)
        mask = named.get("attention_mask")
        self.shapes[
            Shape(*named["input_ids"].shape, 0 if cache is None else cache.get_seq_length(), mask is not None)
        ] += 1

    def _begin(self, *_: Any) -> None:
        self._depth += 1
        if self._depth == 1:
            self._started = time.process_time()

    def _end(self, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.process_time() - self._started

    @property
    def tokens(self) -> int:
        """The number of tokens fed so far."""
        return sum(shape.rows * shape.length * count for shape, count in self.shapes.items())


def bare_seconds(model: nn.Module, shapes: Counter[Shape]) -> float:
    """Processor time of forward passes of random tokens in these shapes, with the head on every position."""
    total = 0.0
    with torch.no_grad():
        for shape, count in shapes.items():
            times = []
            for _ in range(1 if shape.rows * shape.length > 512 else 3):
                inputs = inputs_of_call(model, shape)
                started = time.process_time()
                hidden = model.base_model(**inputs)[0].flatten(0, 1)
                # The head runs piece by piece, since all logits at once would not fit.
                for piece in hidden.split(max(1, 2**24 // model.config.vocab_size)):
                    model.get_output_embeddings()(piece)
                times.append(time.process_time() - started)
            total += median(times) * count
    return total


def inputs_of_call(model: nn.Module, shape: Shape) -> dict[str, Any]:
    """Returns random tokens, after a cache of random ones."""
    inputs: dict[str, Any] = {"input_ids": torch.randint(0, model.config.vocab_size, (shape.rows, shape.length))}
    if shape.past:
        head = torch.randint(0, model.config.vocab_size, (1, shape.past))
        name, cache = returned_cache(model(input_ids=head, use_cache=True))
        inputs |= {name: repeat_cache(cache, shape.rows), "use_cache": True}
    if shape.is_masked:
        sees = torch.ones((shape.length, shape.length), dtype=torch.bool).tril().expand(shape.rows, -1, -1)
        sees = torch.nn.functional.pad(sees, (shape.past, 0), value=True)
        inputs["attention_mask"] = attention_mask(sees, 0, torch.float32)
        inputs["position_ids"] = (shape.past + torch.arange(shape.length)).expand(shape.rows, -1)
    return inputs


def resident_bytes(field: str) -> int:
    """Returns VmRSS or VmHWM of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def measured(model: nn.Module, tokenizer: Any, method: str, **settings: int) -> dict[str, Any]:
    """Measures the memory of a first measurement and the time of a second one."""
    meter = ExposureMeter(CANARIES, tokenizer, method=method, **settings)
    before = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    with LiveBytes([*model.parameters(), *model.buffers()]) as memory:
        meter.measure(model)
    resident = resident_bytes("VmHWM") - before
    with Watch(model) as watch:
        started = time.process_time()
        report = meter.measure(model)
        whole = time.process_time() - started
    return {
        "tokens": watch.tokens,
        "passes": watch.shapes.total(),
        "seconds": whole,
        "seconds_in_the_model": watch.seconds,
        "seconds_of_bare_forwards": bare_seconds(model, watch.shapes),
        "tensor_bytes": memory.peak,
        "resident_bytes": resident,
        "scoring_mode": report.scoring_mode,
    }


def compared(planned: dict[str, Any], peak_bytes: int, found: dict[str, Any]) -> dict[str, Any]:
    """Compares the plan with the measurement, with ratios of predicted to measured values."""
    rate = found["tokens"] / found["seconds_of_bare_forwards"]
    predicted = {
        "tokens": planned["tokens"],
        "passes": planned["passes"],
        "seconds": planned["tokens"] / rate + planned["own_seconds"],
        "seconds_in_the_model": planned["tokens"] / rate,
        "tensor_bytes": peak_bytes,
    }
    ratios = {name: predicted[name] / found[name] for name in predicted}
    return {"predicted": predicted, "measured": found, "predicted_by_measured": ratios}


SETTINGS: dict[str, dict[str, int]] = {
    "auto": {"references": REFERENCES, "max_expansions": BUDGET},
    "bounded": {"max_expansions": BUDGET},
}


def planned_for(size: str) -> dict[str, Any]:
    """The plans of both methods, as plain values."""
    config, tokenizer = inputs_of(size)
    started = time.process_time()
    plans = {name: plan_cost(config, tokenizer, CANARIES, name, **some).to_dict() for name, some in SETTINGS.items()}
    return {**plans, "planning_seconds": time.process_time() - started}


def measured_of(size: str) -> dict[str, Any]:
    """The measurements by both methods, as plain values."""
    config, tokenizer = inputs_of(size)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    found = {name: measured(model, tokenizer, name, **some) for name, some in SETTINGS.items()}
    del found["bounded"]["resident_bytes"]  # this includes memory that drawing needed
    return {**found, "vocabulary": len(tokenizer)}


def in_a_process(part: str, size: str) -> dict[str, Any]:
    """Runs one part in a separate process, since memory freed by another part would distort the result."""
    command = [sys.executable, "-m", "benchmarks.cost_planner", size, "--part", part]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=[*SIZES, []], default=[])
    parser.add_argument("--part", choices=["plan", "measure"], help="of one size, in this process, as JSON")
    typed = parser.parse_args()
    if typed.part:
        print(json.dumps({"plan": planned_for, "measure": measured_of}[typed.part](typed.sizes[0])))
        return
    figures: dict[str, Any] = {}
    for size in typed.sizes or SIZES:
        plan, found = in_a_process("plan", size), in_a_process("measure", size)
        auto, bounded = plan["auto"], plan["bounded"]
        figures[size] = {
            "parameters": auto["parameters"],
            "vocabulary": found["vocabulary"],
            "planning_seconds": plan["planning_seconds"],
            "in_full": {**auto["full"], "tensor_bytes": auto["peak_bytes"]},
            "auto_where_nothing_is_memorized": compared(
                auto["unmemorized"], auto["unmemorized_peak_bytes"], found["auto"]
            ),
            "bounded_to_its_budget": compared(bounded["full"], bounded["peak_bytes"], found["bounded"]),
        }
        for row in ("auto_where_nothing_is_memorized", "bounded_to_its_budget"):
            ratios = figures[size][row]["predicted_by_measured"]
            print(size, row, {name: round(ratio, 3) for name, ratio in ratios.items()})
    if not typed.sizes:
        print(write_result("cost_planner", {"sizes": figures}))


if __name__ == "__main__":
    main()
