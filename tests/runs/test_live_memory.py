"""Live bytes, counted by hand, and the bytes that one call of a model keeps, with weights and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_model

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


def test_the_head_of_a_large_vocabulary_runs_as_the_reader_runs_it() -> None:
    """It needs the logits of one position, and known numbers instead of all others."""
    model: Any = tiny_model("gpt2", vocab_size=200_000)
    mask = torch.zeros((8, 1, 32, 32))
    inputs = {"input_ids": torch.ones((8, 32), dtype=torch.long), "position_ids": torch.arange(32).expand(8, -1)}
    with torch.no_grad(), LiveBytes([*model.parameters(), *model.buffers()]) as memory:
        LogitReader(model)(**inputs, attention_mask=mask, use_cache=True)
    shape = CallShape(8, 32, 0, shares_past=False, has_mask=True, keeps_cache=True)
    planned = Skeleton(model.config, torch.float32).call_bytes(shape)
    assert planned == pytest.approx(memory.peak, rel=0.02)
    assert planned < 8 * 200_000 * 4, "the logits of a position of each row alone would need this"


def test_a_token_in_the_cache() -> None:
    # Keys and values, 2 layers, 2 of 4 heads of 8 numbers, 4 bytes each.
    assert Skeleton(tiny_model("llama").config, torch.float32).cached_token_bytes() == 2 * 2 * 2 * 8 * 4
    assert Skeleton(tiny_model("mamba").config, torch.float32).cached_token_bytes() == 0


def test_a_configuration_without_a_causal_model_is_refused() -> None:
    from transformers import ViTConfig

    with pytest.raises(InputError, match="config: must be that of a causal language model"):
        _ = Skeleton(ViTConfig(), torch.float32).model
