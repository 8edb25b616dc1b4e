"""Tests quantized weights against brute force: `python -m benchmarks.quantized`, with torchao and bitsandbytes
installed.

Each small random model is saved, and loaded with its linear layers in 8 or 4 bits. Every text of a space of 1,000 is
then scored alone by a bare call of the model. These costs are compared with the package's scores, the costs of the
five texts from `extract`, and the bounds of `rank_bounds` for four of them. `benchmarks/results/quantized.json` has
the largest differences, and whether they are within the scorer's stated tolerance.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    ByT5Tokenizer,
    TorchAoConfig,
)

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, extract, rank_bounds
from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import evaluating
from hf_exposure.scoring import make_scorer

TOKENIZER = ByT5Tokenizer()
TEMPLATE = CanaryTemplate("pin {pin} ok", pin=Digits(3))
TEXTS = [f"pin {number:03d} ok" for number in range(1000)]
PLACES = (0, 3, 20, 200)
_SHAPE = {"vocab_size": 384, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_SHAPE, "intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 128},
    "gpt2": {"vocab_size": 384, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
# GPT-2's layers are not nn.Linear, so torchao leaves them unchanged.
LIBRARIES = {"llama": ("bitsandbytes", "torchao"), "gpt2": ("bitsandbytes",)}
# The type of unquantized weights, and the standard deviation of the weights.
VARIANTS = {"llama": (("float32", 0.1), ("bfloat16", 0.1), ("float32", 0.3)), "gpt2": (("float32", 0.1),)}


def kinds() -> Iterator[tuple[str, str, Any]]:
    """The library, a description, and the configuration."""
    from torchao import quantization as ao

    four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    yield "bitsandbytes", "4-bit weights (NF4)", BitsAndBytesConfig(**four_bits)
    more = {"bnb_4bit_compute_dtype": torch.bfloat16, "bnb_4bit_use_double_quant": True}
    yield "bitsandbytes", "4-bit weights (NF4, bfloat16, as for QLoRA)", BitsAndBytesConfig(**four_bits, **more)
    eight_bits = {"load_in_8bit": True, "llm_int8_threshold": 0.0}
    yield "bitsandbytes", "8-bit weights and inputs, no outliers", BitsAndBytesConfig(**eight_bits)
    eight_bits = {"load_in_8bit": True, "llm_int8_threshold": 2.0}
    yield "bitsandbytes", "8-bit weights and inputs, outliers of a batch apart", BitsAndBytesConfig(**eight_bits)
    group = ao.PerGroup(32)
    yield "torchao", "8-bit weights", TorchAoConfig(ao.Int8WeightOnlyConfig())
    yield "torchao", "4-bit weights", TorchAoConfig(ao.IntxWeightOnlyConfig(torch.int4, granularity=group))
    both = ao.Int8DynamicActivationInt8WeightConfig
    yield "torchao", "8-bit weights and inputs, a scale for each token", TorchAoConfig(both())
    mixed = ao.Int8DynamicActivationIntxWeightConfig(torch.int4, weight_granularity=group)
    yield "torchao", "4-bit weights, 8-bit inputs, a scale for each token", TorchAoConfig(mixed)
    whole = TorchAoConfig(both(granularity=ao.PerTensor()))
    yield "torchao", "8-bit weights and inputs, one scale for a batch", whole


def main() -> None:
    """Measures all kinds, prints a line for each, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run only kinds whose description contains this, and write nothing")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = [
        row(family, library, kind, settings, dtype, scale)
        for family in FAMILIES
        for library, kind, settings in kinds()
        if library in LIBRARIES[family] and only in kind
        for dtype, scale in VARIANTS[family]
    ]
    if not only:
        installed = {name: metadata.version(name) for name in ("torchao", "bitsandbytes")}
        print(write_result("quantized", {"texts": len(TEXTS), "libraries": installed, "rows": rows}))


def row(family: str, library: str, kind: str, settings: Any, dtype: str, scale: float) -> dict[str, Any]:
    """One model: random weights of standard deviation `scale`, quantized."""
    started = time.perf_counter()
    model = quantized(family, settings, dtype, scale)
    scorer = make_scorer(model, TOKENIZER)
    found_N = scorer.sequence_bits(scorer.encode(TEXTS))
    alone_N = alone_bits(model)
    figures: dict[str, Any] = {
        "family": family,
        "library": library,
        "kind": kind,
        "dtype": dtype,
        "weight_scale": scale,
        "mode": scorer.mode,
        "tolerance_bits": scorer.tolerance_bits,
        "mean_bits": float(alone_N.mean()),
        "score_difference_bits": float(np.abs(found_N - alone_N).max()),
        "searched": not scorer.why_no_search,
    }
    if not scorer.why_no_search:
        try:
            figures |= search(model, alone_N)
        except InputError:  # the search revealed more than scoring whole texts
            figures["searched"] = False
    figures["seconds"] = round(time.perf_counter() - started, 1)
    print(figures, flush=True)
    return figures


def search(model: nn.Module, alone_N: np.ndarray) -> dict[str, Any]:
    """The five likeliest texts and the bounds of four ranks, compared with scoring every text alone."""
    cost_of = dict(zip(TEXTS, alone_N.tolist(), strict=True))
    likeliest = extract(model, TOKENIZER, TEMPLATE, top_k=5)
    costs = [cost_of[each.text] for each in likeliest.candidates]
    order_N = np.argsort(alone_N)
    bounds = [rank_bounds(model, TOKENIZER, TEXTS[order_N[place]], TEMPLATE) for place in PLACES]
    return {
        "top_5_certified": likeliest.certified,
        "top_5_difference_bits": max(
            abs(each.log_perplexity_bits - cost) for each, cost in zip(likeliest.candidates, costs, strict=True)
        ),
        "top_5_excess_bits": float(np.abs(np.sort(costs) - alone_N[order_N[:5]]).max()),
        "ranks": [[each.low, place + 1, each.high] for each, place in zip(bounds, PLACES, strict=True)],
        "ranks_certified": all(each.certified for each in bounds),
        "ranks_right": all(each.low <= place + 1 <= each.high for each, place in zip(bounds, PLACES, strict=True)),
    }


def quantized(family: str, settings: Any, dtype: str, scale: float) -> nn.Module:
    """Returns a small model with random weights, saved and loaded again with `settings`."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=scale)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded: nn.Module = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=dtype)
    return loaded.eval()


def alone_bits(model: nn.Module) -> np.ndarray:
    """(N,) bits of every text, by a bare call of the model for each."""
    bits = []
    with evaluating(model):
        for text in TEXTS:
            ids = torch.tensor(TOKENIZER(text, add_special_tokens=False)["input_ids"])
            log_p = torch.log_softmax(model(input_ids=ids[None]).logits[0, :-1].double(), dim=-1)
            bits.append(-log_p.gather(1, ids[1:, None]).sum().item() / math.log(2.0))
    return np.array(bits)


if __name__ == "__main__":
    main()
