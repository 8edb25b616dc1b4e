"""A cheap model that is scored like the real one, and counts the calls of a measurement.

It has the configuration, the number of weights, the vocabulary and the kinds of inputs of the real model, so scoring,
draws and search make the same calls as with that model. Its logits are random numbers that are determined by a token
and its position and spread like those of an untrained model: nothing is memorized.

Shapes: B rows of T tokens, V vocabulary entries, hidden size d.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PretrainedConfig

from hf_exposure.runs.live_memory import LiveBytes
from hf_exposure.runs.skeleton import CallShape, Skeleton
from hf_exposure.scoring.forward import Mode

_WIDTH = 8
_STATES = 4096
# Large primes, so that neighboring tokens and positions get different states.
_TOKEN_STEP, _POSITION_STEP = 1_000_003, 7919


@dataclass
class Call:
    """One call of the model.

    Attributes:
        shape: the sizes of the call.
        stage: the part of the measurement that made it.
        bytes_before: bytes of tensors alive when it began, without caches.
        cached_before, cached_after: tokens in live caches before and after it, summed over layers.
        bytes_behind: peak bytes alive between its end and the next call, without caches.
        own_seconds: processor time of this thread between the previous call and this one, without the model's head.
    """

    shape: CallShape
    stage: str
    bytes_before: int
    cached_before: int
    own_seconds: float
    cached_after: int = 0
    bytes_behind: int = 0

    @property
    def tokens(self) -> int:
        """Number of input tokens, including padding."""
        return self.shape.rows * self.shape.tokens


class _TimedHead(nn.Module):
    """The layer that returns the logits. It records its time, and has no parameters that would be counted."""

    weight: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.seconds = 0.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        started = time.thread_time()
        logits = nn.functional.linear(hidden, self.weight)
        self.seconds += time.thread_time() - started
        return logits


class StandIn(nn.Module):
    """The stand-in for a skeleton's model.

    Args:
        skeleton: the skeleton of the real model.
        mode: the fastest mode that the real model supports: inputs of faster modes are refused, as the real model
            would.
        memory: counts the bytes that are alive around the calls.

    Attributes:
        calls: the calls so far.
        stage: the part of the measurement that makes the next calls.
        wants_parts: whether the parts of a measurement run separately.
    """

    states: torch.Tensor

    def __init__(self, skeleton: Skeleton, mode: Mode, memory: LiveBytes) -> None:
        super().__init__()
        self.config = skeleton.config
        self.begin(wants_parts=True)
        self._mode, self._memory, self._cached = mode, memory, 0
        text = skeleton.config.get_text_config()
        self._layers = self.layers_of(skeleton.config)
        generator = torch.Generator().manual_seed(0)
        states = torch.randn((_STATES, _WIDTH), generator=generator)
        self.register_buffer("states", nn.functional.normalize(states, dim=1).to(skeleton.dtype))
        # Spread like those of an untrained model: a normalized hidden state times rows of small random numbers.
        spread = (getattr(text, "initializer_range", None) or 0.02) * (
            getattr(text, "hidden_size", None) or 256
        ) ** 0.5
        head = torch.randn((skeleton.output_entries, _WIDTH), generator=generator) * spread
        self.head = _TimedHead(head.to(skeleton.dtype))
        entries, width = skeleton.input_embedding
        self.embedding = nn.Embedding(entries, width, dtype=skeleton.dtype, device="meta")
        self.embedding.weight = _of_one_number((entries, width), skeleton.dtype)
        rest = max(0, skeleton.parameters - entries * width)
        self.rest = _of_one_number((rest,), skeleton.dtype)

    @staticmethod
    def layers_of(config: PretrainedConfig) -> int:
        """Returns the number of layers in the model's caches."""
        layers: int = getattr(config.get_text_config(), "num_hidden_layers", None) or 1
        return layers

    def get_input_embeddings(self) -> nn.Module:
        """Returns the embedding table, of which only the size is realistic."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Module:
        """Returns the layer that computes the logits."""
        return self.head

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> SimpleNamespace:
        rows, tokens = input_ids.shape
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        keeps_cache = use_cache and self._mode != "plain"
        has_mask = attention_mask is not None and attention_mask.ndim == 4
        shares_past = past > 0 and past_key_values.layers[0].keys.stride(0) == 0
        shape = CallShape(rows, tokens, past, shares_past, has_mask, keeps_cache)
        own_seconds = self._end_call()
        call = Call(shape, self.stage, self._memory.live, self._cached, own_seconds)
        self.calls.append(call)
        if has_mask and self._mode != "packed":
            raise ValueError("takes no 4-D mask")
        if position_ids is None:
            position_ids = torch.arange(past, past + tokens)
        state = self.states[(input_ids * _TOKEN_STEP + position_ids * _POSITION_STEP) % _STATES]
        cache = self._grown(past_key_values, rows, tokens) if keeps_cache else None
        output = SimpleNamespace(logits=self.head(state), past_key_values=cache)
        call.cached_after = self._cached
        self._memory.restart()
        self.head.seconds, self._ended = 0.0, time.thread_time()
        return output

    def begin(self, *, wants_parts: bool) -> None:
        """Clears all calls at the start of a measurement."""
        self.calls: list[Call] = []
        self.stage, self.wants_parts = "", wants_parts
        self._ended = time.thread_time()

    def finished_calls(self) -> list[Call]:
        """Returns the calls of the measurement that has just ended."""
        own_seconds = self._end_call()
        if self.calls:
            self.calls[-1].own_seconds += own_seconds
        return self.calls

    def _end_call(self) -> float:
        """Records the peak bytes alive since the last call; returns the seconds since then."""
        if self.calls:
            self.calls[-1].bytes_behind = self._memory.peak
        seconds, self.head.seconds = time.thread_time() - self._ended - self.head.seconds, 0.0
        return seconds

    def _grown(self, cache: Any, rows: int, tokens: int) -> Any:
        """Extends the cache by one number per new token, whose lifetime is observed."""
        cache = DynamicCache() if cache is None else cache
        for layer in range(self._layers):
            new = torch.zeros((rows, 1, tokens, 1), dtype=self.head.weight.dtype)
            keys, _ = cache.update(new, new.clone(), layer)
            self._cached += keys.shape[0] * keys.shape[2]
            weakref.finalize(keys.untyped_storage(), self._drop, keys.shape[0] * keys.shape[2])
        return cache

    def _drop(self, tokens: int) -> None:
        self._cached -= tokens


def _of_one_number(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """Returns a parameter of any shape that needs the memory of one number."""
    return nn.Parameter(torch.zeros(1, dtype=dtype).expand(shape), requires_grad=False)
