"""Measures the package's own Python code with production tokenizers, under a model so small that its cost is
negligible.

`python -m benchmarks.own_time` prints processor time in units: one unit is 300 forward passes of the same model (2
layers, width 32, one row of 8 tokens), measured in the same process before and after. Tokenizers come from package
indexes (`proofs.production_tokenizers`).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, draw_canaries, extract, measure_exposure, rank_bounds
from hf_exposure.extraction import build_automaton
from hf_exposure.scoring import CausalScorer, Encoder
from proofs.production_tokenizers import CACHE, SOURCES

TEMPLATE = CanaryTemplate("The random number is {number}", number=Digits(9))
RANK_IN = CanaryTemplate("my pin is {a}.", a=Digits(4))
SHORT = CanaryTemplate("my pin is {a}.", a=Digits(3))


def processor_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Returns processor seconds of this process, and the result."""
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def tiny_model(tokenizer: Any) -> GPT2LMHeadModel:
    """Returns a model with two layers of width 32 and random weights."""
    torch.manual_seed(0)
    entries = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
    config = GPT2Config(vocab_size=entries, n_layer=2, n_head=2, n_embd=32, n_positions=128)
    return GPT2LMHeadModel(config).eval()


def unit_seconds(model: GPT2LMHeadModel) -> float:
    """300 forward passes of one row of 8 tokens."""
    ids = torch.arange(8)[None]

    def passes() -> None:
        with torch.no_grad():
            for _ in range(300):
                model(input_ids=ids)

    passes()
    return min(processor_seconds(passes)[0] for _ in range(3))


def measure(name: str) -> dict[str, Any]:
    """The table rows of one tokenizer, in units."""
    (source,) = (one for one in SOURCES if one.name == name)
    tokenizer = source.load(CACHE)
    model = tiny_model(tokenizer)
    unit = unit_seconds(model)
    canary = draw_canaries(TEMPLATE, {1: 1}, controls=0, seed=0).inserted[0].text
    canaries = draw_canaries(TEMPLATE, {1: 4, 8: 4}, controls=8, seed=0)
    rows: dict[str, float] = {}

    def rank() -> Any:
        return rank_bounds(model, tokenizer, canary, TEMPLATE, max_expansions=300)

    rows["rank_bounds, 300 expansions, first call"], first = processor_seconds(rank)
    found = [processor_seconds(rank) for _ in range(3)]
    rows["rank_bounds, 300 expansions, second call"] = min(seconds for seconds, _ in found)
    assert all((one.low, one.high) == (first.low, first.high) for _, one in found)

    def build() -> Any:
        return build_automaton(TEMPLATE, Encoder.of(tokenizer), also=[canary])

    rows["the automaton of a template seen before"] = min(processor_seconds(build)[0] for _ in range(5))

    def expand_one() -> Any:
        return rank_bounds(model, tokenizer, canary, TEMPLATE, max_expansions=1)

    rows["rank_bounds, 1 expansion, a template seen before"] = min(processor_seconds(expand_one)[0] for _ in range(3))

    def whole() -> Any:
        return measure_exposure(model, tokenizer, canaries, method="auto", references=4096, seed=0)

    rows["measure_exposure, auto, 4,096 references, first call"], _ = processor_seconds(whole)
    rows["measure_exposure, auto, 4,096 references, second call"] = min(processor_seconds(whole)[0] for _ in range(2))
    passes = extract(model, tokenizer, SHORT, top_k=8)
    ranked = RANK_IN.text_at(7777)
    rank_bounds(model, tokenizer, ranked, RANK_IN)
    in_suffix, exact = processor_seconds(lambda: rank_bounds(model, tokenizer, ranked, RANK_IN))

    def score_all() -> int:
        """Brute force: every whole text, in plain batches."""
        scorer = CausalScorer(model, tokenizer, mode="plain")
        bits = scorer.sequence_bits(scorer.encode([RANK_IN.text_at(index) for index in range(RANK_IN.space_size)]))
        return int((bits <= bits[7777] + scorer.tolerance_bits).sum())

    def score_all_as_anyone_would() -> int:
        """Brute force without this package: whole texts of equal length in batches, with all logits."""
        ids = tokenizer([RANK_IN.text_at(index) for index in range(RANK_IN.space_size)])["input_ids"]
        bits_N = torch.empty(len(ids))
        for length in {len(row) for row in ids}:
            of_length = torch.tensor([number for number, row in enumerate(ids) if len(row) == length])
            for chosen in of_length.split(64):
                batch = torch.tensor([ids[number] for number in chosen])
                with torch.no_grad():
                    logs = torch.log_softmax(model(input_ids=batch).logits[:, :-1], dim=-1)
                bits_N[chosen] = -logs.gather(2, batch[:, 1:, None])[..., 0].sum(dim=1) / math.log(2)
        return int((bits_N <= bits_N[7777]).sum())

    by_force, rank_of_all = processor_seconds(score_all)
    as_anyone, rank_by_logits = processor_seconds(score_all_as_anyone_would)
    assert exact.low <= rank_of_all <= exact.high
    # In single precision, a few texts with nearly equal scores are ordered differently.
    assert exact.low - 10 <= rank_by_logits <= exact.high + 10
    return {
        "tokenizer": name,
        "entries": len(tokenizer),
        "unit_seconds": unit,
        "units": {row: round(seconds / unit, 3) for row, seconds in rows.items()},
        "seconds": {row: round(seconds, 4) for row, seconds in rows.items()},
        "extract, three digits and a suffix, top 8": {
            "forward_passes": passes.forward_passes,
            "model_rows": passes.model_rows,
            "texts": [one.text for one in passes.candidates],
        },
        "a rank in 10^4 with a suffix": {
            "expansions": exact.expansions,
            "model_rows": exact.model_rows,
            "forward_passes": exact.forward_passes,
            "units": round(in_suffix / unit, 3),
            "units of scoring all texts in plain batches": round(by_force / unit, 3),
            "units of all texts by the model's own logits": round(as_anyone / unit, 3),
            "certified": exact.certified,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizers", nargs="*", default=["GPT-2", "Llama 3", "o200k", "Gemma 3"])
    parser.add_argument("--name", default="own_time", help="of the file in benchmarks/results")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in chosen.tokenizers:
        rows.append(measure(name))
        print(rows[-1], flush=True)
        write_result(chosen.name, {"rows": rows})


if __name__ == "__main__":
    main()
