"""Ways in which a model computes: compiled, under autocast, with checkpointed gradients, with 8-bit weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils.operations import ConvertOutputsToFp32
from conftest import tiny_model
from torch import nn
from transformers import ByT5Tokenizer

from hf_exposure.scoring import CausalScorer, MaskedScorer, make_scorer

TOKENIZER = ByT5Tokenizer()
TEXTS = [f"pin {number:03d} ok" for number in range(0, 1000, 37)]
MODES = ("packed", "cached", "plain")


def bits(model: nn.Module, mode: Any = None) -> tuple[np.ndarray, CausalScorer]:
    scorer = CausalScorer(model, TOKENIZER, mode=mode)
    return scorer.sequence_bits(scorer.encode(TEXTS)), scorer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast_inside_the_models_forward_is_seen(dtype: torch.dtype) -> None:
    model = tiny_model("llama")
    plain, _ = bits(model)
    # Accelerate prepares a model like this: callbacks get it with its forward wrapped.
    wrapped = torch.autocast("cpu", dtype=dtype)(type(model).forward.__get__(model))
    model.forward = ConvertOutputsToFp32(wrapped)
    found = {mode: bits(model, mode)[0] for mode in MODES}
    scorer = bits(model)[1]
    half = CausalScorer(tiny_model("llama").to(dtype), TOKENIZER)
    assert scorer.tolerance_bits == half.tolerance_bits > CausalScorer(tiny_model("llama"), TOKENIZER).tolerance_bits
    assert scorer.mode == "packed"
    for one, other in itertools.pairwise(MODES):
        assert np.abs(found[one] - found[other]).max() < 3 * scorer.tolerance_bits
    assert 0 < np.abs(found["plain"] - plain).max() < 3.0


def test_autocast_is_seen_by_the_masked_scorer() -> None:
    model = tiny_model("gpt2")
    tokenizer = ByT5Tokenizer()
    tokenizer.mask_token = "<pad>"
    scorer = MaskedScorer(model, tokenizer)
    before = scorer.tolerance_bits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scorer.sequence_bits(scorer.encode(TEXTS[:2]))
    assert scorer.tolerance_bits > before


def test_a_compiled_model_is_not_compiled_for_every_batch() -> None:
    torch.compiler.reset()  # torch gives up on a function that was compiled for too many models
    model = tiny_model("gpt2")
    expected, _ = bits(model)
    compilations: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(input_ids=torch.zeros((1, 4), dtype=torch.long))
    assert (before := len(compilations)) > 0
    scorer = make_scorer(compiled, TOKENIZER)
    np.testing.assert_array_equal(scorer.sequence_bits(scorer.encode(TEXTS)), expected)
    assert len(compilations) == before


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_model_compiled_in_place(backend: str) -> None:
    model = tiny_model("gpt2")
    expected, _ = bits(model)
    model.compile(backend=backend)
    scorer = make_scorer(model, TOKENIZER)
    assert isinstance(scorer, CausalScorer)
    np.testing.assert_allclose(scorer.sequence_bits(scorer.encode(TEXTS)), expected, atol=1e-3)
    assert scorer.mode == "packed"


def test_gradient_checkpointing_does_not_disable_the_cache() -> None:
    model = tiny_model("llama")
    expected, _ = bits(model)
    model.gradient_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    found, scorer = bits(model)
    np.testing.assert_array_equal(found, expected)
    assert scorer.mode == "packed"
    assert model.config.use_cache is False and model.is_gradient_checkpointing and model.training


def _quanto(model: nn.Module) -> nn.Module:
    quanto = pytest.importorskip("optimum.quanto")
    quanto.quantize(model, weights=quanto.qint8)
    quanto.freeze(model)
    return model


def _torchao(model: nn.Module) -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


def _bitsandbytes(model: nn.Module) -> nn.Module:
    layers = pytest.importorskip("bitsandbytes").nn
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                layer = layers.Linear8bitLt(child.in_features, child.out_features, bias=False, has_fp16_weights=False)
                layer.weight = layers.Int8Params(child.weight.data, requires_grad=False, has_fp16_weights=False)
                setattr(parent, name, layer)
    return model.to("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [_quanto, _torchao, _bitsandbytes])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_eight_bit_weights(quantize: Callable[[nn.Module], nn.Module], dtype: torch.dtype) -> None:
    def fresh() -> nn.Module:
        return tiny_model("llama", hidden_size=64, intermediate_size=128).to(dtype)

    expected, unquantized = bits(fresh())
    model = quantize(fresh())
    found = {mode: bits(model, mode)[0] for mode in MODES}
    scorer = bits(model)[1]
    # Weights that are not quantized give the dtype of computation, not int8 weights; bitsandbytes rounds inputs too.
    assert scorer.tolerance_bits == (1.0 if quantize is _bitsandbytes else unquantized.tolerance_bits)
    for mode in MODES:
        assert np.abs(found[mode] - found["plain"]).max() <= 5 * scorer.tolerance_bits, mode
        # It is quantized, but the same model.
        assert 0 < np.abs(found[mode] - expected).max() < 6.0
