"""One call of a model: the logits at the requested positions only, and its key-value cache for many rows.

With a vocabulary of 150,000, the logits of a batch are far larger than its activations. If that matters, the output
head does not run on the whole batch: a hook takes its input, passes one position, and the head runs on the chosen rows
afterwards, piece by piece. Models that change logits after the head (capping, scaling, slicing) are detected in each
call: the head's output for that one position is replaced by known numbers of many sizes, which the model must return
unchanged. For models that change them, all logits are computed.

A cache that is copied incompletely gives wrong figures without an error, for instance if two copies share a list of
states, or if the keys of one layer stay one row wide. So a cache is repeated for many rows only if all of its layers
and their tensors are of the kinds listed here; with any other cache, the model is called without it.

Shapes: B rows of T positions in one call, V vocabulary entries, n positions that are read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, cache_utils

from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import model_device
from hf_exposure.runtime.precision import coarsest_dtype

# Dynamic layers append along the sequence and keep nothing else, and a dummy represents a layer that shares the keys
# of another. They are looked up by name, since versions differ.
_LAYER_TYPES = tuple(
    getattr(cache_utils, name)
    for name in ("DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer", "DummyLayer")
    if hasattr(cache_utils, name)
)
# The dimension of rows in each tensor that a layer may have.
_ROW_DIMENSION = {"keys": 0, "values": 0, "indexer_keys": 0, "indexer_position_ids": 1}
# Below this size, logits are smaller than a layer's activations, and a second run of the head costs more than it
# saves.
_SMALL_VOCABULARY = 16_384
# The numbers that replace logits to show whether they are changed; a cap or a clamp shows only in large numbers.
_LARGEST_KNOWN = 1e3


class CacheRefused(Exception):
    """The model's cache cannot be repeated, or does not grow like a plain one."""


def returned_cache(output: Any) -> tuple[str, Any]:
    """The cache in a model's output, and the name of the argument that accepts it.

    Since version 5.24, transformers calls it `cache`, and before that `past_key_values`.
    """
    name = "cache" if hasattr(output, "cache") else "past_key_values"
    return name, getattr(output, name, None)


def repeat_cache(cache: Any, rows: int) -> Any:
    """Repeats `cache`, which has one row, for `rows` rows, as views: only the model's own concatenation makes a copy.

    Raises:
        CacheRefused: the cache has an unknown part.
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
    """The layers with keys of the text; a layer that shares the keys of another has none."""
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
    """Refuses tensors with at least one dimension, which belong to rows, and containers, which may contain tensors."""
    for name, value in fields.items():
        is_state = (isinstance(value, torch.Tensor) and value.ndim > 0) or _holds_anything(value)
        if is_state and name not in besides:
            raise CacheRefused(f"a cache with the field {name}")


def _holds_anything(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, set)) and len(value) > 0


@dataclass
class ForwardCounts:
    """The cost of scoring so far: calls of the model, and rows and tokens fed, including padding."""

    calls: int = 0
    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Logits:
    """Logits of one call.

    Attributes:
        of: a function from (n,) flat positions `row * T + slot` to (n, V) logits.
        vocabulary_size: V.
        positions: T.
        cache: the key-value cache that the model returned, if any.
        cache_name: the keyword argument that accepts the cache.
    """

    of: Callable[[torch.Tensor], torch.Tensor]
    vocabulary_size: int
    positions: int
    cache: Any = None
    cache_name: str = ""


class LogitReader:
    """Calls a model and counts its inputs.

    Attributes:
        counts: the counts so far.
        reads_rows: whether the head runs on chosen rows only, so that memory does not grow with V x batch.
        dtype: the coarsest type in which the model has computed so far (`coarsest_dtype`): of its layers, or of the
            autocast that a wrapper of its `forward` enters, like Accelerate's.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.counts = ForwardCounts()
        self.dtype = coarsest_dtype(model)
        self._is_watched = False
        self._head = _output_head(model)
        self._known_V: torch.Tensor | None = None
        self._has_fixed_length: bool | None = None

    @property
    def reads_rows(self) -> bool:
        return self._head is not None

    def __call__(self, **inputs: Any) -> Logits:
        batch, positions = inputs["input_ids"].shape
        self.counts.calls += 1
        self.counts.rows += batch
        self.counts.tokens += batch * positions
        if self._head is None:
            return self._whole(self._run(inputs), inputs)
        with self.head_postponed() as (taken, given):
            output = self._run_headless(inputs)
        if output is None or not self._is_last_step(taken, given, output.logits):
            self._head = None
            return self._whole(self._run(inputs), inputs)
        hidden, head = self._of_tokens(taken[0], inputs).reshape(-1, taken[0].shape[-1]), self._head
        name, cache = returned_cache(output)
        return Logits(lambda position_n: head(hidden[position_n]), output.logits.shape[-1], positions, cache, name)

    @contextmanager
    def head_postponed(self) -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
        """Inside it, the head of a model that `reads_rows` runs on one position, and gives the model known numbers.

        Yields:
            the inputs that the head was given, and the (V,) numbers that it returned for each position; empty until
            the model runs.
        """
        taken: list[torch.Tensor] = []
        given: list[torch.Tensor] = []
        head = self._head
        if head is None:
            yield taken, given
            return
        with (
            head.register_forward_pre_hook(_let_one_position_through(taken)),
            head.register_forward_hook(self._give_known_numbers(taken, given)),
        ):
            yield taken, given

    def _run_headless(self, inputs: dict[str, Any]) -> Any:
        """The model's output with known numbers for logits; None if the model cannot process those."""
        try:
            return self._run(inputs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # An error that does not come from the known numbers occurs again in the full call.
            return None

    def _give_known_numbers(
        self, taken: list[torch.Tensor], given: list[torch.Tensor]
    ) -> Callable[[nn.Module, tuple[Any, ...], Any], torch.Tensor]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            given.append(self._known_numbers(output).clone())
            return given[-1].expand(len(taken[-1]), *output.shape[1:])

        return hook

    def _known_numbers(self, like: torch.Tensor) -> torch.Tensor:
        """(V,) numbers of many sizes, with the type and device of the given logits."""
        known = self._known_V
        if known is None or (len(known), known.dtype, known.device) != (like.shape[-1], like.dtype, like.device):
            known = torch.linspace(-1.0, 1.0, like.shape[-1], device=like.device) ** 3 * _LARGEST_KNOWN
            self._known_V = known = known.to(like.dtype)
        return known

    def _is_last_step(self, taken: list[torch.Tensor], given: list[torch.Tensor], logits: torch.Tensor) -> bool:
        """Whether the head ran once, on hidden states, and the model returns the head's outputs unchanged."""
        if len(taken) != 1 or len(given) != 1 or taken[0].ndim != 3 or logits.shape[-1] != len(given[0]):
            return False
        # The model may have changed its input in place, but not the numbers that are kept here.
        known = self._known_numbers(given[0]).to(logits.dtype)
        if logits.shape[:2] == (len(taken[0]), 1) and logits.stride(0) == 0:
            logits = logits[:1]
        return torch.equal(logits, known.expand_as(logits))

    def _whole(self, output: Any, inputs: dict[str, Any]) -> Logits:
        logits = self._of_tokens(output.logits, inputs)
        flat = logits.reshape(-1, logits.shape[-1])
        name, cache = returned_cache(output)
        return Logits(lambda position_n: flat[position_n], flat.shape[-1], logits.shape[1], cache, name)

    def _of_tokens(self, states: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """(B, T, ...) the part of a model's output that belongs to the tokens of its input.

        Some models return more: a learned prompt before the tokens has its own positions, and a model that always
        returns its whole context (Perceiver) has the rest after them. The length for fewer tokens shows which it is.
        """
        positions = inputs["input_ids"].shape[1]
        if states.shape[1] == positions:
            return states
        if self._has_fixed_length is None and positions > 1:
            shorter = self._run({**inputs, "input_ids": inputs["input_ids"][:, :-1]}).logits
            self._has_fixed_length = shorter.shape[1] == states.shape[1]
        return states[:, :positions] if self._has_fixed_length else states[:, -positions:]

    def _run(self, inputs: dict[str, Any]) -> Any:
        try:
            return self._call(inputs)
        except IndexError as error:
            # The table of positions or tokens is smaller than the configuration says, if it says anything.
            rule = "must fit the limits of the model, which it does not declare"
            tokens = f"{inputs['input_ids'].shape[1]} tokens in a row"
            raise InputError("texts", rule, tokens, "Use shorter texts, or the model's own tokenizer.") from error

    def _call(self, inputs: dict[str, Any]) -> Any:
        # A hook in a model that compiles itself would be compiled too.
        if self._is_watched or getattr(self.model, "_compiled_call_impl", None) is not None:
            return self.model(**inputs)
        self._is_watched = True
        # This runs inside the model's own forward, since its autocast is not visible outside.
        inner = next((part for part in self.model.modules() if not list(part.children())), self.model)
        with inner.register_forward_pre_hook(self._note_autocast):
            return self.model(**inputs)

    def _note_autocast(self, module: nn.Module, _: Any) -> None:
        device = model_device(self.model).type
        if torch.is_autocast_enabled(device) and self.dtype == torch.float32:
            self.dtype = torch.get_autocast_dtype(device)


def _let_one_position_through(taken: list[torch.Tensor]) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        taken.append(arguments[0])
        return (arguments[0][:1, ..., -1:, :], *arguments[1:])

    return hook


def _output_head(model: nn.Module) -> nn.Module | None:
    """The model's output embedding where it is large enough to matter and a plain, unsharded layer."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    weight = getattr(head, "weight", None)
    if not isinstance(head, nn.Module) or not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        return None
    # A sharded head is only gathered inside the model's own forward pass.
    is_sharded = type(weight.data).__name__ == "DTensor" or weight.numel() == 0
    return None if is_sharded or weight.shape[0] < _SMALL_VOCABULARY else head
