"""Rows of a token tree through a model: inputs built, logits read, next-token bits returned.

Shapes: B rows of W slots in a batch, P prefix tokens, V vocabulary entries, E edges.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from hf_exposure.scoring.model_state import compute_dtype, model_device
from hf_exposure.scoring.packing import Rows
from hf_exposure.scoring.token_tree import IntArray, TokenTree

__all__ = ["ForwardCounts", "Mode", "Prefix", "edge_bits", "encode_prefix"]

Mode = Literal["packed", "cached", "plain"]
_LOG2_E = 1.0 / math.log(2.0)
# Log-sum-exp goes through float32 in pieces of this many logits, so a large vocabulary never doubles its memory.
_LOGITS_PER_PIECE = 2**24


@dataclass
class ForwardCounts:
    """What scoring cost so far: calls of the model, rows and tokens fed, padding included."""

    calls: int = 0
    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Prefix:
    """The shared prefix after its one forward pass.

    Attributes:
        bits: (P,) bits of each prefix token given those before it; NaN at 0, where nothing is before.
        last_logits: (1, V) logits after the prefix; None for an empty one.
        cache: the model's own key-value cache, None in plain mode.
    """

    bits: np.ndarray
    last_logits: torch.Tensor | None
    cache: Any


def encode_prefix(model: nn.Module, prefix: IntArray, mode: Mode, counts: ForwardCounts) -> Prefix:
    """Feeds the shared prefix once."""
    bits = np.full(len(prefix), np.nan)
    if not len(prefix):
        return Prefix(bits, None, None)
    ids = torch.as_tensor(prefix, device=model_device(model))[None]
    output = model(input_ids=ids) if mode == "plain" else model(input_ids=ids, use_cache=True)
    counts.calls, counts.rows, counts.tokens = counts.calls + 1, counts.rows + 1, counts.tokens + ids.numel()
    logits = output.logits[0]
    at = torch.arange(len(prefix) - 1, device=logits.device)
    bits[1:] = _bits_at(logits, at, at, ids[0, 1:])
    return Prefix(bits, logits[-1:], None if mode == "plain" else output.past_key_values)


def edge_bits(
    model: nn.Module, tree: TokenTree, rows: Rows, prefix: Prefix, mode: Mode, batch_rows: int, counts: ForwardCounts
) -> np.ndarray:
    """(E,) float64 bits of every edge of `tree`; NaN for edges at the end of an empty prefix."""
    bits = np.full(len(tree.edge_parent), np.nan)
    at_root = int(np.searchsorted(tree.edge_parent, 0))
    if at_root and prefix.last_logits is not None:
        tokens = torch.as_tensor(tree.edge_token[:at_root], device=prefix.last_logits.device)
        zero = torch.zeros_like(tokens)
        bits[:at_root] = _bits_at(prefix.last_logits, zero[:1], zero, tokens)
    for first in range(0, len(rows), batch_rows):
        last = min(first + batch_rows, len(rows))
        edges = slice(*np.searchsorted(tree.edge_parent, [rows.start[first], rows.stop[last - 1]]))
        bits[edges] = _score_batch(model, tree, rows, prefix, mode, slice(first, last), edges, counts)
    return bits


def _score_batch(
    model: nn.Module,
    tree: TokenTree,
    rows: Rows,
    prefix: Prefix,
    mode: Mode,
    batch: slice,
    edges: slice,
    counts: ForwardCounts,
) -> np.ndarray:
    slots = rows.slots(tree, batch.start, batch.stop)
    inputs, skipped = _inputs(model, tree, slots, prefix, mode)
    logits = model(**inputs).logits
    counts.calls += 1
    counts.rows += len(slots)
    counts.tokens += inputs["input_ids"].numel()
    # Ancestors and empty slots are not read: a vertex is read in the one row that holds it as its own.
    is_own = (slots >= rows.start[batch, None]) & (slots < rows.stop[batch, None])
    own_row, own_slot = np.nonzero(is_own)
    flat = own_row * logits.shape[1] + own_slot + skipped
    parents = tree.edge_parent[edges] - rows.start[batch.start]
    device = logits.device
    return _bits_at(
        logits.reshape(-1, logits.shape[-1]),
        torch.as_tensor(flat, device=device),
        torch.as_tensor(parents, device=device),
        torch.as_tensor(tree.edge_token[edges], device=device),
    )


def _inputs(
    model: nn.Module, tree: TokenTree, slots: IntArray, prefix: Prefix, mode: Mode
) -> tuple[dict[str, Any], int]:
    """Keyword arguments for one call, and how many slots the prefix takes in front of each row."""
    device = model_device(model)
    # Empty slots repeat a real token: any id in the vocabulary does, and none looks like padding.
    filler = tree.token[:1]
    ids = torch.as_tensor(np.append(tree.token, filler)[slots], device=device)
    if mode == "plain":
        head = torch.as_tensor(tree.prefix, device=device).expand(len(slots), -1)
        return {"input_ids": torch.cat([head, ids], dim=1)}, len(tree.prefix)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": prefix.cache is not None}
    if prefix.cache is not None:
        inputs["past_key_values"] = _repeat_cache(prefix.cache, len(slots))
    if mode == "packed":
        depth = np.append(tree.depth, 1)[slots]
        inputs["position_ids"] = torch.as_tensor(len(tree.prefix) + depth - 1, device=device)
        inputs["attention_mask"] = _ancestor_mask(tree, slots, device, compute_dtype(model))
    return inputs, 0


def _ancestor_mask(tree: TokenTree, slots: IntArray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, W, P + W) additive mask: a slot sees the prefix, its ancestors and itself."""
    vertex = torch.as_tensor(slots, device=device)
    # Empty slots hold the number M, whose "subtree" is [M, M + 1): they see each other and are seen by none.
    end = torch.as_tensor(np.append(tree.end, tree.size + 1)[slots], device=device)
    sees = (vertex[:, None, :] <= vertex[:, :, None]) & (vertex[:, :, None] < end[:, None, :])
    mask = torch.zeros((len(slots), 1, slots.shape[1], len(tree.prefix) + slots.shape[1]), dtype=dtype, device=device)
    mask[:, 0, :, len(tree.prefix) :].masked_fill_(~sees, torch.finfo(dtype).min)
    return mask


def _repeat_cache(cache: Any, times: int) -> Any:
    """`cache` for `times` rows, as views: the model's own concatenation makes the one copy."""
    repeated = copy.copy(cache)
    repeated.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in repeated.layers:
        layer.keys = layer.keys.expand(times, *layer.keys.shape[1:])
        layer.values = layer.values.expand(times, *layer.values.shape[1:])
    return repeated


def _bits_at(logits: torch.Tensor, rows: torch.Tensor, parents: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    """-log2 softmax of `tokens` (E,) under row `rows[parents]` of `logits` (any, V); `parents` ascend."""
    pieces = []
    step = max(1, _LOGITS_PER_PIECE // logits.shape[-1])
    bounds = torch.searchsorted(parents, torch.arange(0, len(rows) + step, step, device=parents.device)).tolist()
    for piece, first in enumerate(range(0, len(rows), step)):
        chosen = logits[rows[first : first + step]]
        if chosen.dtype != torch.float64:
            chosen = chosen.float()
        normaliser = torch.logsumexp(chosen, dim=-1)
        edges = slice(bounds[piece], bounds[piece + 1])
        local = parents[edges] - first
        pieces.append((normaliser[local] - chosen[local, tokens[edges]]) * _LOG2_E)
    if not pieces:
        return np.zeros(0)
    return torch.cat(pieces).double().cpu().numpy()
