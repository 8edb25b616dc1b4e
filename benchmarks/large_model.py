"""Benchmarks scoring and search on a model with a billion parameters, made from its config, on a machine with a GPU.

`python -m benchmarks.large_model` builds a Llama-shaped bfloat16 model with 128,256 vocabulary entries and random
weights and measures, side by side: 4,096 nine-digit candidates and all 10^5 five-digit ones against plain batches of
whole texts; the model alone on the batches of the scorer (tokens per second); and the time per expansion of this
package's search against one node per call. `--small` runs the same on a model of a hundred thousand parameters,
anywhere.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM

from benchmarks.growth import Recorder
from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits
from hf_exposure.extraction import build_automaton, enumerate_texts, search_likeliest
from hf_exposure.scoring import CausalScorer, EncodedTexts

TOKENIZER = ByT5Tokenizer()
NINE, FIVE = (CanaryTemplate("The random number is {number}", number=Digits(count)) for count in (9, 5))
SAMPLED, PLAIN_TEXTS, PLAIN_BATCH, EXPANSIONS = 4096, 2048, 256, 512
LARGE = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 2048,
}  # fmt: skip
SMALL = {**LARGE, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "vocab_size": 17_000}


def build(sizes: dict[str, int], device: str) -> LlamaForCausalLM:
    """Returns random weights, in bfloat16 on a GPU and in float32 elsewhere."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.05)).to(dtype).eval()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the second of two runs, with the device synchronized, and its result."""
    for _ in range(2):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return time.perf_counter() - started, result


def plain_bits(model: nn.Module, ids: np.ndarray) -> np.ndarray:
    """(N,) bits of texts of equal length: whole texts in batches, with log-softmax of all logits."""
    totals = []
    for first in range(0, len(ids), PLAIN_BATCH):
        rows = torch.as_tensor(ids[first : first + PLAIN_BATCH], device=next(model.parameters()).device).long()
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=rows).logits[:, :-1].float(), dim=-1)
        totals.append(log_p.gather(2, rows[:, 1:, None])[..., 0].double().sum(dim=1).cpu())
    return -torch.cat(totals).numpy() / np.log(2)


def bare_seconds(model: nn.Module, encoded: EncodedTexts) -> float:
    """Calls the model alone, including its head, on the batches of the scorer."""
    recorder = Recorder(model)
    scorer = CausalScorer(recorder, TOKENIZER, mode="packed")
    scorer.sequence_bits(encoded)
    prefix = len(encoded.tree.tree.prefix_P)

    def again() -> None:
        with torch.no_grad():
            for inputs in recorder.calls:
                cache = inputs.get("past_key_values")
                if cache is not None and cache.get_seq_length() > prefix:
                    cache.crop(prefix - cache.get_seq_length())
                model(**inputs)

    return timed(again)[0]


def against_plain(model: nn.Module, encoded: EncodedTexts) -> dict[str, Any]:
    """Returns seconds of this package, of the baseline (from some of the texts) and of the bare model, and tokens
    per second.
    """
    part = encoded.matrix_NL[:: max(1, len(encoded) // PLAIN_TEXTS)][:PLAIN_TEXTS]
    plain, expected = timed(lambda: plain_bits(model, part))
    scorers: list[CausalScorer] = []

    def score() -> np.ndarray:
        scorers.append(CausalScorer(model, TOKENIZER))
        return scorers[-1].sequence_bits(encoded)

    ours, found = timed(score)
    bare = bare_seconds(model, encoded)
    tokens = scorers[-1].counts.tokens
    found = found[:: max(1, len(encoded) // PLAIN_TEXTS)][:PLAIN_TEXTS]
    return {
        "texts": len(encoded),
        "seconds": ours,
        "plain_seconds": plain * len(encoded) / len(part),
        "plain_is_scaled_from": len(part),
        "ratio": plain * len(encoded) / len(part) / ours,
        "bare_forward_seconds": bare,
        "tokens_fed": tokens,
        "tokens_per_second": tokens / ours,
        "share_of_bare_tokens_per_second": bare / ours,
        "largest_difference_bits": float(np.abs(found - expected).max()),
        "noise_bits_stated": scorers[-1].tolerance_bits,
    }


def search_ratio(model: nn.Module) -> dict[str, Any]:
    """Returns seconds per expansion with one node per call and with batches, for nine digits."""
    scorer = CausalScorer(model, TOKENIZER)
    automaton = build_automaton(NINE, scorer.encoder)
    few = EXPANSIONS // 4
    one, single = timed(lambda: search_likeliest(scorer, automaton, batch_size=1, max_expansions=few))
    many, batched = timed(lambda: search_likeliest(scorer, automaton, batch_size=256, max_expansions=8 * EXPANSIONS))
    per_one, per_many = one / single.expansions, many / batched.expansions
    return {"unbatched_ms": 1e3 * per_one, "batched_ms": 1e3 * per_many, "ratio": per_one / per_many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="use a tiny model, to run the benchmark on any machine")
    small = parser.parse_args().small
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(SMALL if small else LARGE, device)
    draw, scorer = random.Random(0), CausalScorer(model, TOKENIZER)
    nine = scorer.encode([NINE.text_at(draw.randrange(NINE.space_size)) for _ in range(SAMPLED)])
    five = enumerate_texts(build_automaton(FIVE, scorer.encoder), scorer.encoder.first_scored)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype),
        "candidates": against_plain(model, nine),
        "whole_space": against_plain(model, five),
        "search": search_ratio(model),
    }
    print(figures)
    if not small:
        print(write_result("large_model", figures))


if __name__ == "__main__":
    main()
