"""A model built from a configuration without weights: its number of weights, and the memory needed by one call.

The model's own code runs under `FakeTensorMode`, where tensors have shapes, dtypes and lifetimes but no memory.

Shapes: B rows of T new tokens after P cached tokens.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

from hf_exposure.errors import InputError, first_line
from hf_exposure.runs.live_memory import LiveBytes
from hf_exposure.runtime.logits import LogitReader, repeat_cache, returned_cache
from hf_exposure.scoring.forward import Mode


@dataclass(frozen=True)
class CallShape:
    """The sizes of one call.

    Attributes:
        rows, tokens, past: B, T and P.
        shares_past: whether all B rows share one row of P tokens instead of having separate ones.
        has_mask, keeps_cache: whether a 4-D mask is passed, and whether a cache is returned.
    """

    rows: int
    tokens: int
    past: int
    shares_past: bool
    has_mask: bool
    keeps_cache: bool


class _Derived(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class has no annotations
    """Follows tensors through copies, which a division by 1 is too, and notices any other operation: `is_changed`."""

    def __init__(self, sources: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sources, self._copies, self.is_changed = sources, set[int](), False

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        results = function(*args, **(kwargs or {}))
        followed = self._copies | {source.untyped_storage()._cdata for source in self._sources}
        if _tensors(results) and any(tensor.untyped_storage()._cdata in followed for tensor in _tensors(args)):
            is_by_one = function in _BY_ONE and args[1:] == (1,)
            if function.is_view or function in _COPIES or is_by_one:
                self._copies |= {tensor.untyped_storage()._cdata for tensor in _tensors(results)}
            else:
                self.is_changed = True
        return results


_COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
_BY_ONE = (torch.ops.aten.mul.Tensor, torch.ops.aten.div.Tensor)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


@dataclass(frozen=True)
class Skeleton:
    """The model of `config`, without memory for its weights.

    Args:
        config: the configuration of a causal model.
        dtype: dtype of the weights.

    Raises:
        InputError: the configuration does not yield a causal model.

    Example:
        >>> from transformers import GPT2Config
        >>> Skeleton(GPT2Config(), torch.float32).parameters
        124439808
    """

    config: PretrainedConfig
    dtype: torch.dtype
    _fake: FakeTensorMode = field(default_factory=FakeTensorMode, init=False, repr=False)

    @cached_property
    def model(self) -> Any:
        """The model, in evaluation mode."""
        try:
            with self._fake:
                return AutoModelForCausalLM.from_config(self.config, dtype=self.dtype).eval()
        except Exception as error:  # a damaged configuration or its code may fail in any way
            rule = f"must be that of a causal language model ({first_line(error)})"
            raise InputError("config", rule, type(self.config).__name__, "Name a model that writes text.") from None

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The model's parameters, with tied ones listed once."""
        return list(self.model.parameters())

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(weight.numel() for weight in self.weights)

    @property
    def weight_bytes(self) -> int:
        """The size of the weights in bytes."""
        return sum(weight.nbytes for weight in self.weights)

    @cached_property
    def input_embedding(self) -> torch.Size:
        """(V, d), the shape of the table of token embeddings."""
        shape: torch.Size = self.model.get_input_embeddings().weight.shape
        return shape

    @cached_property
    def output_entries(self) -> int:
        """V, the number of logits at each position."""
        head = self.model.get_output_embeddings()
        return self.input_embedding[0] if head is None else len(head.weight)

    def cached_token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers; 0 for a model without a key-value cache."""
        with self._fake, torch.no_grad():
            cache = self._prefix_cache(2)
        # Layers of recurrent models have their own states instead of keys.
        states: list[torch.Tensor | None] = [
            getattr(layer, name, None) for layer in getattr(cache, "layers", []) for name in ("keys", "values")
        ]
        return sum(state.nbytes for state in states if state is not None) // 2

    def fastest_mode(self, tokens: int) -> Mode:
        """Returns the fastest mode whose inputs the model accepts for texts of so many tokens.

        Shapes reveal that a model has no key-value cache, does not accept such a mask, or drops cached tokens outside
        a window. They do not reveal whether the model computes the same values in that mode.
        """
        modes: dict[Mode, CallShape] = {
            "packed": CallShape(2, tokens, tokens, shares_past=True, has_mask=True, keeps_cache=True),
            "cached": CallShape(2, tokens, tokens, shares_past=True, has_mask=False, keeps_cache=True),
        }
        for mode, shape in modes.items():
            try:
                self.call_bytes(shape)
            except InputError:
                continue
            return mode
        return "plain"

    def call_bytes(self, shape: CallShape) -> int:
        """Returns the maximum number of bytes that a call adds to those alive before it.

        The inputs and the given cache are alive before the call. The logits are those that `LogitReader` needs: all of
        them if the model computes with them after its head, as far as its operations show.

        Raises:
            InputError: the model does not accept such inputs.
        """
        log = logging.getLogger("torch._subclasses.fake_tensor")
        level = log.level
        log.setLevel(logging.CRITICAL)
        try:
            return self._traced_bytes(shape)
        except Exception as error:  # a model may refuse a mask, positions or a cache with any error
            rule = f"must be a mode that the model supports ({first_line(error)})"
            kind = type(self.model).__name__
            raise InputError("scoring_mode", rule, kind, "Try scoring_mode='cached', or 'plain'.") from None
        finally:
            log.setLevel(level)

    def _traced_bytes(self, shape: CallShape) -> int:
        known: list[torch.Tensor] = [*self.weights, *self.model.buffers()]
        with self._fake, torch.no_grad(), LiveBytes(known) as memory:
            # The prefix stays alive, since other calls may continue it.
            inputs, _prefix = self._inputs(shape)
            before = memory.live
            memory.restart()
            if not self._reads_rows:
                self.model(**inputs)
            else:
                with LogitReader(self.model).head_postponed():
                    self.model(**inputs)
            added: int = memory.peak - before
            return added

    @cached_property
    def _reads_rows(self) -> bool:
        """Whether the head can be postponed: it is large, and the model does not compute with its logits."""
        reader = LogitReader(self.model)
        with reader.head_postponed() as (_, given), _Derived(given) as derived:
            self.model(input_ids=torch.ones((1, 2), dtype=torch.long))
        return bool(given) and not derived.is_changed

    def _inputs(self, shape: CallShape) -> tuple[dict[str, Any], Any]:
        """Returns the inputs of a call, and the cache of the prefix that all rows share."""
        size = (shape.rows, shape.tokens)
        inputs: dict[str, Any] = {"input_ids": torch.ones(size, dtype=torch.long), "use_cache": shape.keeps_cache}
        prefix = None
        if shape.past:
            rows = 1 if shape.shares_past else shape.rows
            name, cache = self._named_cache(shape.past, rows)
            prefix = cache if shape.shares_past else None
            inputs[name] = repeat_cache(cache, shape.rows) if shape.shares_past else cache
        if shape.has_mask:
            inputs["position_ids"] = torch.ones(size, dtype=torch.long)
            inputs["attention_mask"] = torch.zeros(
                (shape.rows, 1, shape.tokens, shape.past + shape.tokens), dtype=self.dtype
            )
        return inputs, prefix

    def _prefix_cache(self, tokens: int) -> Any:
        return self._named_cache(tokens, 1)[1]

    def _named_cache(self, tokens: int, rows: int) -> tuple[str, Any]:
        return returned_cache(self.model(input_ids=torch.ones((rows, tokens), dtype=torch.long), use_cache=True))
