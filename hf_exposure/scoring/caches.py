"""A model's key-value cache for many rows at once, where every part of it is understood.

A cache that is copied in part gives wrong figures without an error: a list of states that two copies share, or keys of
one layer that stay one row wide. So a cache is repeated only if each of its layers and each tensor in them is one of
those listed here; for any other, the model is read without a cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, cache_utils

__all__ = ["CacheRefused", "attention_layers", "repeat_cache", "returned_cache"]

# Dynamic layers append along the sequence and keep nothing else, and a dummy stands for a layer that shares the keys
# of another. Looked up by name, since versions differ in what they have.
_LAYER_TYPES = tuple(
    getattr(cache_utils, name)
    for name in ("DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer", "DummyLayer")
    if hasattr(cache_utils, name)
)
# The dimension that counts rows, in each tensor that a layer may hold.
_ROW_DIMENSION = {"keys": 0, "values": 0, "indexer_keys": 0, "indexer_position_ids": 1}


class CacheRefused(Exception):
    """The model's cache is not one that can be repeated, or does not grow as a plain one does."""


def returned_cache(output: Any) -> tuple[str, Any]:
    """The cache in a model's output, and the name by which the model takes it back.

    Since version 5.24, transformers calls it `cache`, and `past_key_values` before.
    """
    name = "cache" if hasattr(output, "cache") else "past_key_values"
    return name, getattr(output, name, None)


def repeat_cache(cache: Any, rows: int) -> Any:
    """`cache`, which holds one row, for `rows` rows, as views: the model's own concatenation makes the one copy.

    Raises:
        CacheRefused: a cache with a part that is not understood.
    """
    if type(cache) is EncoderDecoderCache:
        parts = (cache.self_attention_cache, cache.cross_attention_cache)
        return EncoderDecoderCache(*(repeat_cache(part, rows) for part in parts))
    if type(cache) is not DynamicCache:
        raise CacheRefused(f"a cache of type {type(cache).__name__}")
    _refuse_tensors(vars(cache), besides=("layers",))
    repeated = copy.copy(cache)
    repeated.layers = [_repeat_layer(layer, rows) for layer in cache.layers]
    return repeated


def attention_layers(cache: Any) -> Iterator[Any]:
    """The layers that hold keys of the text: a layer that shares those of another holds none."""
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    return (layer for layer in cache.layers if layer.keys is not None)


def _repeat_layer(layer: Any, rows: int) -> Any:
    if type(layer) not in _LAYER_TYPES:
        raise CacheRefused(f"a cache with a layer of type {type(layer).__name__}")
    _refuse_tensors(vars(layer), besides=tuple(_ROW_DIMENSION))
    repeated = copy.copy(layer)
    for name, dimension in _ROW_DIMENSION.items():
        tensor = getattr(layer, name, None)
        if tensor is not None and tensor.numel():
            shape = [-1] * tensor.ndim
            shape[dimension] = rows
            setattr(repeated, name, tensor.expand(shape))
    return repeated


def _refuse_tensors(fields: dict[str, Any], besides: tuple[str, ...]) -> None:
    """Tensors of at least one dimension belong to rows, and whatever holds other values may hold tensors."""
    for name, value in fields.items():
        is_state = (isinstance(value, torch.Tensor) and value.ndim > 0) or _holds_anything(value)
        if is_state and name not in besides:
            raise CacheRefused(f"a cache with the field {name}")


def _holds_anything(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, set)) and len(value) > 0
