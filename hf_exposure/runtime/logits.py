"""One call of a model: the logits of only those positions that are read, and its key-value cache for many rows.

A vocabulary of 150,000 makes the logits of a batch far larger than its activations. Where that matters, the output
head is kept from running on the whole batch: a hook takes its input, lets one position through, and the head is run on
the chosen rows afterwards, piece by piece. Models that change logits after the head (capping, scaling, slicing) are
found in each call: the head's output for that one position is replaced by known numbers of many sizes, which must come
out of the model as they are. Such models are read whole.

A cache that is copied in part gives wrong figures without an error: a list of states that two copies share, or keys of
one layer that stay one row wide. So a cache is repeated for many rows only if each of its layers and each tensor in
them is one of those listed here; with any other cache, the model is read without it.

Shapes: B rows of T positions in one call, V vocabulary entries, n positions that are read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, cache_utils

from hf_exposure.errors import InputError
from hf_exposure.runtime.model_state import model_device
from hf_exposure.runtime.precision import coarsest_dtype

# Dynamic layers append along the sequence and keep nothing else, and a dummy stands for a layer that shares the keys
# of another. Looked up by name, since versions differ in what they have.
_LAYER_TYPES = tuple(
    getattr(cache_utils, name)
    for name in ("DynamicLayer", "DynamicSlidingWindowLayer", "DynamicIndexedLayer", "DummyLayer")
    if hasattr(cache_utils, name)
)
# The dimension that counts rows, in each tensor that a layer may hold.
_ROW_DIMENSION = {"keys": 0, "values": 0, "indexer_keys": 0, "indexer_position_ids": 1}
# Below this, logits are smaller than a layer's activations, and a second run of the head costs more than it saves.
_SMALL_VOCABULARY = 16_384
# What replaces logits to show whether they are changed: a cap or a clamp shows in large numbers only.
_LARGEST_KNOWN = 1e3


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


@dataclass
class ForwardCounts:
    """What scoring cost so far: calls of the model, rows and tokens fed, padding included."""

    calls: int = 0
    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Logits:
    """Logits of one call.

    Attributes:
        of: from (n,) flat positions `row * T + slot` to (n, V) logits.
        vocabulary_size: V.
        positions: T.
        cache: the key-value cache that the model returned, if it did.
        cache_name: the keyword by which the model takes it back.
    """

    of: Callable[[torch.Tensor], torch.Tensor]
    vocabulary_size: int
    positions: int
    cache: Any = None
    cache_name: str = ""


class LogitReader:
    """Calls a model and counts what it is fed.

    Attributes:
        counts: so far.
        reads_rows: whether the head runs on chosen rows only, so that memory does not grow with V x batch.
        dtype: the coarsest that the model computes in (`coarsest_dtype`), as far as it has been called: of its layers,
            or of the autocast that a wrapper of its `forward` entered, as Accelerate's does.
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
        taken: list[torch.Tensor] = []
        given: list[torch.Tensor] = []
        output = self._run_headless(self._head, inputs, taken, given)
        if output is None or not self._is_last_step(taken, given, output.logits):
            self._head = None
            return self._whole(self._run(inputs), inputs)
        hidden, head = self._of_tokens(taken[0], inputs).reshape(-1, taken[0].shape[-1]), self._head
        name, cache = returned_cache(output)
        return Logits(lambda position_n: head(hidden[position_n]), output.logits.shape[-1], positions, cache, name)

    def _run_headless(
        self, head: nn.Module, inputs: dict[str, Any], taken: list[torch.Tensor], given: list[torch.Tensor]
    ) -> Any:
        """The model's output with known numbers for logits; None where the model cannot work on those."""
        with (
            head.register_forward_pre_hook(_let_one_position_through(taken)),
            head.register_forward_hook(self._give_known_numbers(taken, given)),
        ):
            try:
                return self._run(inputs)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:
                # What is no matter of the known numbers comes again when the model is read whole.
                return None

    def _give_known_numbers(
        self, taken: list[torch.Tensor], given: list[torch.Tensor]
    ) -> Callable[[nn.Module, tuple[Any, ...], Any], torch.Tensor]:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            given.append(self._known_numbers(output).clone())
            return given[-1].expand(len(taken[-1]), *output.shape[1:])

        return hook

    def _known_numbers(self, like: torch.Tensor) -> torch.Tensor:
        """(V,) numbers of many sizes, of the type and on the device of some logits."""
        known = self._known_V
        if known is None or (len(known), known.dtype, known.device) != (like.shape[-1], like.dtype, like.device):
            known = torch.linspace(-1.0, 1.0, like.shape[-1], device=like.device) ** 3 * _LARGEST_KNOWN
            self._known_V = known = known.to(like.dtype)
        return known

    def _is_last_step(self, taken: list[torch.Tensor], given: list[torch.Tensor], logits: torch.Tensor) -> bool:
        """Whether the head ran once, on hidden states, and the model returns the head's outputs unchanged."""
        if len(taken) != 1 or len(given) != 1 or taken[0].ndim != 3 or logits.shape[-1] != len(given[0]):
            return False
        # The model may have written to what it was given, but not to the numbers that are kept here.
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
        """(B, T, ...) what a model returns for the tokens that it was fed.

        Some return more: a learned prompt, which stands before the tokens, has positions of its own; and a model that
        always returns its whole context (Perceiver) has the rest behind them. The length for fewer tokens tells.
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
            # A table of positions, or of tokens, that is smaller than the configuration says, if it says anything.
            rule = "must fit what the model can read, which it does not declare"
            tokens = f"{inputs['input_ids'].shape[1]} tokens in a row"
            raise InputError("texts", rule, tokens, "Use shorter texts, or the model's own tokenizer.") from error

    def _call(self, inputs: dict[str, Any]) -> Any:
        # A hook in a model that compiles itself would be compiled too.
        if self._is_watched or getattr(self.model, "_compiled_call_impl", None) is not None:
            return self.model(**inputs)
        self._is_watched = True
        # Inside the model's own forward: outside of it, the autocast that it runs under is not to be seen.
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
    # A sharded head is gathered inside the model's own forward pass, and only there.
    is_sharded = type(weight.data).__name__ == "DTensor" or weight.numel() == 0
    return None if is_sharded or weight.shape[0] < _SMALL_VOCABULARY else head
