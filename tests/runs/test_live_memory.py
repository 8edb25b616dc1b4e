"""Live bytes, counted by hand, and the bytes that one call of a model keeps, with weights and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
)

from hf_exposure.errors import InputError
from hf_exposure.runs.live_memory import LiveBytes
from hf_exposure.runs.skeleton import CallShape, Skeleton
from hf_exposure.runtime.logits import LogitReader, repeat_cache, returned_cache


def test_views_share_what_is_freed_with_the_last_of_them() -> None:
    weight = torch.zeros(1000)
    with LiveBytes([weight]) as memory:
        rows = torch.zeros((4, 25))  # 400 bytes
        view = rows[1:].T
        seen = weight.view(10, 100)
        assert (memory.live, memory.peak) == (400, 400)
        total = rows + rows
        assert (memory.live, memory.peak) == (800, 800)
        del rows, total, seen
        assert (memory.live, memory.peak) == (400, 800)
        del view
        memory.restart()
        assert (memory.live, memory.peak) == (0, 0)
        torch.logsumexp(torch.zeros((2, 50)), dim=1)  # 400 bytes, a copy of them, and 8
        assert (memory.live, memory.peak) == (0, 808)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("shares_past", [True, False])
def test_a_call_without_weights_keeps_what_one_with_weights_does(family: str, shares_past: bool) -> None:
    model: Any = tiny_model(family)
    skeleton = Skeleton(model.config, torch.float32)
    shape = CallShape(3, 7, 5, shares_past=shares_past, has_mask=True, keeps_cache=True)
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as memory:
        name, cache = returned_cache(model(input_ids=torch.ones((1 if shares_past else 3, 5), dtype=torch.long)))
        inputs = {
            "input_ids": torch.ones((3, 7), dtype=torch.long),
            "position_ids": torch.ones((3, 7), dtype=torch.long),
        }
        given = {name: repeat_cache(cache, 3) if shares_past else cache}
        mask = torch.zeros((3, 1, 7, 12))
        if not shares_past:
            del cache
        before = memory.live
        memory.restart()
        model(**inputs, **given, attention_mask=mask, use_cache=True)
        added = memory.peak - before
    assert skeleton.call_bytes(shape) == added
    assert skeleton.parameters == sum(parameter.numel() for parameter in model.parameters())


_SMALL = {"vocab_size": 50_000, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
_SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
_HEADS = {
    "gpt2": GPT2Config(vocab_size=50_000, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1),
    "llama": LlamaConfig(**_SMALL),
    # These compute with their logits after the head, the last only in appearance.
    "capped": Gemma2Config(**_SMALL, head_dim=8),
    "scaled": CohereConfig(**_SMALL),
    "divided by 1": GraniteConfig(**_SMALL, logits_scaling=1.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head", _HEADS)
def test_the_head_of_a_large_vocabulary_runs_as_the_reader_runs_it(head: str, dtype: torch.dtype) -> None:
    """It needs the logits of one position, and known numbers instead of all others, unless the model changes them."""
    model: Any = AutoModelForCausalLM.from_config(_HEADS[head], dtype=dtype).eval()
    inputs = {"input_ids": torch.ones((8, 32), dtype=torch.long), "use_cache": True}
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as memory:
        LogitReader(model)(**inputs)
    planned = Skeleton(_HEADS[head], dtype).call_bytes(
        CallShape(8, 32, 0, shares_past=False, has_mask=False, keeps_cache=True)
    )
    all_logits = 8 * 32 * 50_000 * dtype.itemsize
    assert (memory.peak > all_logits) == (head in ("capped", "scaled"))
    assert planned == pytest.approx(memory.peak, rel=0.05)


def test_a_token_in_the_cache() -> None:
    # Keys and values, 2 layers, 2 of 4 heads of 8 numbers, 4 bytes each.
    assert Skeleton(tiny_model("llama").config, torch.float32).cached_token_bytes() == 2 * 2 * 2 * 8 * 4
    assert Skeleton(tiny_model("mamba").config, torch.float32).cached_token_bytes() == 0


def test_a_configuration_without_a_causal_model_is_refused() -> None:
    from transformers import ViTConfig

    with pytest.raises(InputError, match="config: must be that of a causal language model"):
        _ = Skeleton(ViTConfig(), torch.float32).model
