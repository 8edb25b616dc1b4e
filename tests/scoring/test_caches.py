"""A key-value cache is repeated only where each part of it is understood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer

from hf_exposure.runtime.logits import CacheRefused, attention_layers, repeat_cache, returned_cache


def filled(layers: int = 2, cache: Any = None) -> Any:
    cache = DynamicCache() if cache is None else cache
    for layer in range(layers):
        keys = torch.arange(12.0).reshape(1, 2, 3, 2) + layer
        cache.update(keys, keys + 100, layer)
    return cache


def test_every_row_has_the_same_keys_and_the_original_keeps_its_own() -> None:
    cache = filled()
    rows = repeat_cache(cache, 4)
    for layer, other in zip(cache.layers, rows.layers, strict=True):
        assert other.keys.shape == other.values.shape == (4, 2, 3, 2)
        for row in range(4):
            assert torch.equal(other.keys[row], layer.keys[0]) and torch.equal(other.values[row], layer.values[0])
    rows.update(torch.zeros(4, 2, 1, 2), torch.zeros(4, 2, 1, 2), 0)
    assert cache.layers[0].keys.shape == (1, 2, 3, 2), "what a call appends is not seen by the next one"
    assert rows.layers[0].keys.shape == (4, 2, 4, 2)


def test_both_parts_of_an_encoder_decoder_cache() -> None:
    both = EncoderDecoderCache(filled(), filled(1))
    rows = repeat_cache(both, 3)
    assert [layer.keys.shape[0] for layer in rows.self_attention_cache.layers] == [3, 3]
    assert [layer.keys.shape[0] for layer in rows.cross_attention_cache.layers] == [3]
    assert len(list(attention_layers(rows))) == 2


def test_layers_that_share_the_keys_of_another_hold_none() -> None:
    cache = filled(1)
    cache.layers.append(DynamicLayer())
    rows = repeat_cache(cache, 3)
    assert rows.layers[1].keys is None and len(list(attention_layers(rows))) == 1


class ListBesideLayers(DynamicCache):
    """Keeps its states like a family with linear attention."""


class OtherLayer(DynamicLayer):
    """A layer with unknown contents."""


def with_field(where: str, value: Any) -> Any:
    cache = filled()
    (cache if where == "cache" else cache.layers[1]).states = value
    return cache


@pytest.mark.parametrize(
    "cache",
    [
        filled(cache=ListBesideLayers()),
        with_field("cache", [torch.zeros(1, 4)]),
        with_field("cache", torch.zeros(1, 4)),
        with_field("layer", torch.zeros(1, 4)),
        with_field("layer", {0: torch.zeros(1, 4)}),
        ((torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 3, 2)),),
        EncoderDecoderCache(filled(), with_field("layer", torch.zeros(1, 4))),
        None,
    ],
    ids=["subclass", "list", "tensor", "layer tensor", "layer dictionary", "tuples", "cross attention", "none"],
)
def test_what_is_not_understood_is_refused(cache: Any) -> None:
    with pytest.raises(CacheRefused):
        repeat_cache(cache, 2)


def test_a_layer_of_an_unknown_kind_is_refused() -> None:
    cache = filled(1)
    other = OtherLayer()
    other.update(torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 3, 2))
    cache.layers.append(other)
    with pytest.raises(CacheRefused, match="OtherLayer"):
        repeat_cache(cache, 2)


def test_the_keyword_is_the_one_that_the_output_has() -> None:
    new = type("Output", (), {"cache": 1, "past_key_values": 2})()
    old = type("Output", (), {"past_key_values": 2})()
    assert returned_cache(new) == ("cache", 1)
    assert returned_cache(old) == ("past_key_values", 2)
    assert returned_cache(object()) == ("past_key_values", None)
