"""Rows of a token tree through a model: inputs built, logits read, next-token bits returned.

Shapes: B rows of W slots in a batch, P prefix tokens, V vocabulary entries, E edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hf_exposure.runtime.logits import LogitReader, Logits, repeat_cache
from hf_exposure.runtime.model_state import compute_dtype, model_device
from hf_exposure.runtime.processes import ALONE, Processes
from hf_exposure.scoring.token_tree import IntArray, TokenTree

# Which fed vertices travel in one row of a batch.
#
# A row is a contiguous piece of the preorder together with the path of ancestors that leads to its first vertex: every
# vertex's ancestors are then in its row. The pieces decide everything else. Short pieces that are chains need no mask;
# long ones share their ancestors and the prefix cache, and need an ancestor mask.

_WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class ModelShape:
    """What the cost model needs to know of a model.

    Attributes:
        parameters: those that every token passes through (input embeddings left out).
        layers, hidden, heads: of the transformer.
    """

    parameters: int
    layers: int
    hidden: int
    heads: int


@dataclass(frozen=True)
class Rows:
    """R rows over the preorder: row r holds the path to `start[r]` and then the vertices `start[r] : stop[r]`."""

    start: IntArray
    stop: IntArray
    path_length: IntArray

    @property
    def width(self) -> IntArray:
        return self.path_length + self.stop - self.start

    def __len__(self) -> int:
        return len(self.start)

    def slots(self, tree: TokenTree, chosen: IntArray, width: int) -> IntArray:
        """(B, W) fed vertex in each slot of the chosen rows, `tree.size` where a slot is empty."""
        start, stop, path = self.start[chosen], self.stop[chosen], self.path_length[chosen]
        offset = np.arange(width)[None, :] - path[:, None]
        slots = start[:, None] + offset
        slots[offset >= (stop - start)[:, None]] = tree.size
        ancestor = tree.parent[start]
        while (above := ancestor >= 0).any():
            # An ancestor's slot is its depth: the path runs from the top down.
            slots[np.flatnonzero(above), tree.depth[ancestor[above]] - 1] = ancestor[above]
            ancestor = np.where(above, tree.parent[ancestor], -1)
        return slots


def chain_rows(tree: TokenTree) -> Rows:
    """One row per bottom vertex, each a plain chain from the top: right for any causal model."""
    is_bottom = tree.end == np.arange(1, tree.size + 1)
    stop = np.flatnonzero(is_bottom) + 1
    start = np.concatenate([[0], stop]).astype(np.int64)[:-1]
    return Rows(start, stop, tree.depth[start] - 1)


def packed_rows(tree: TokenTree, width: int) -> Rows:
    """Rows of at most `width` slots (more only where a path alone needs them), filled in preorder."""
    starts, at = [], 0
    path = tree.depth - 1
    while at < tree.size:
        starts.append(at)
        at += max(1, width - int(path[at]))
    start = np.array(starts, dtype=np.int64)
    stop = np.append(start, tree.size).astype(np.int64)[1:]
    return Rows(start, stop, path[start])


def choose_row_width(tree: TokenTree, shape: ModelShape) -> int:
    """The row width with the least estimated work, in multiply-adds.

    A row of W slots after P prefix tokens costs W passes through the weights, W x (W + P) attention pairs, and a copy
    of the prefix's keys and values; rows repeat the path to their first vertex. Longer rows waste attention on pairs
    that the mask forbids, shorter ones repeat paths and copies.
    """
    prefix, mean_path = len(tree.prefix), float(tree.depth.mean()) - 1.0
    per_pair, per_copied_token = _attention_work(shape)

    def work(width: int) -> float:
        own = width - mean_path
        if own < 1:
            return float("inf")
        rows = max(1.0, tree.size / own)
        slots = min(width, tree.size + mean_path)
        return rows * (slots * shape.parameters + slots * (slots + prefix) * per_pair + prefix * per_copied_token)

    longest_path = int(tree.depth.max())
    return max(min(_WIDTHS, key=work), longest_path)


def choose_row_samples(prefix: int, length: int, shape: ModelShape) -> int:
    """How many samples share a row whose cache is kept, with the least estimated work.

    At each step a row copies its prefix's and its own keys and values, and each sample's token attends to all of them:
    long rows spare copies of the prefix, short ones attention.
    """
    per_pair, per_copied_token = _attention_work(shape)
    best = math.sqrt(prefix * per_copied_token / (max(1, length) * per_pair))
    return max(8, min(64, round(best)))


def _attention_work(shape: ModelShape) -> tuple[int, int]:
    """Work per attended pair (softmax and mask traffic too), and per copied cache token, in multiply-adds."""
    return shape.layers * (2 * shape.hidden + 12 * shape.heads), shape.layers * 2 * shape.hidden * 8


Mode = Literal["packed", "cached", "plain", "alone"]
_LOG2_E = 1.0 / math.log(2.0)
# Log-sum-exp goes through float32 in pieces of this many logits, so a large vocabulary never doubles its memory.
_LOGITS_PER_PIECE = 2**24


@dataclass(frozen=True)
class Prefix:
    """The shared prefix after its one forward pass.

    Attributes:
        bits: (P,) bits of each prefix token given those before it; NaN at 0, where nothing is before.
        last_logits: (1, V) logits after the prefix; None for an empty one.
        cache: the model's own key-value cache, None in plain mode.
        cache_name: the keyword by which the model takes it back.
    """

    bits: np.ndarray
    last_logits: torch.Tensor | None
    cache: Any = None
    cache_name: str = ""


def encode_prefix(reader: LogitReader, prefix: IntArray, mode: Mode) -> Prefix:
    """Feeds the shared prefix once."""
    bits = np.full(len(prefix), np.nan)
    if not len(prefix):
        return Prefix(bits, None)
    ids = torch.as_tensor(prefix, device=model_device(reader.model))[None]
    logits = reader(input_ids=ids) if mode == "plain" else reader(input_ids=ids, use_cache=True)
    at = torch.arange(len(prefix), device=ids.device)
    bits[1:] = bits_at(logits, at[:-1], at[:-1], ids[0, 1:])
    cache = None if mode == "plain" else logits.cache
    return Prefix(bits, logits.of(at[-1:]), cache, logits.cache_name)


def edge_bits(
    reader: LogitReader,
    tree: TokenTree,
    rows: Rows,
    prefix: Prefix,
    mode: Mode,
    batch_rows: int,
    processes: Processes = ALONE,
) -> np.ndarray:
    """(E,) float64 bits of every edge of `tree`; NaN for edges at the end of an empty prefix.

    With several processes each feeds its part of the rows, and all get all figures.
    """
    at_root = int(np.searchsorted(tree.edge_parent, 0))
    share = -(-len(rows) // processes.shares)

    def own_part() -> np.ndarray:
        bits = np.zeros(len(tree.edge_parent))
        for first in range(0, share, batch_rows):
            batch = processes.share * share + np.arange(first, min(first + batch_rows, share))
            is_real = (batch < min((processes.share + 1) * share, len(rows))) & (batch < len(rows))
            # The last rows stand in for those that this process lacks: its calls are as many and as large as the
            # others'.
            batch = np.minimum(batch, len(rows) - 1)
            width = int((rows.width if processes.shares > 1 else rows.width[batch]).max())
            found, edges = _score_batch(reader, tree, rows, prefix, mode, batch, is_real, width)
            bits[edges] = found
        if at_root and prefix.last_logits is not None and processes.share == 0:
            bits[:at_root] = _root_bits(tree, prefix.last_logits, at_root)
        return bits

    bits = processes.sum_of(own_part)
    if prefix.last_logits is None:
        bits[:at_root] = np.nan
    return bits


def _root_bits(tree: TokenTree, last_logits: torch.Tensor, at_root: int) -> np.ndarray:
    """Bits of the first tokens after the prefix."""
    tokens = torch.as_tensor(tree.edge_token[:at_root], device=last_logits.device)
    zero = torch.zeros_like(tokens)
    at_end = Logits(lambda rows: last_logits[rows], last_logits.shape[-1], 1)
    return bits_at(at_end, zero[:1], zero, tokens)


def _score_batch(
    reader: LogitReader,
    tree: TokenTree,
    rows: Rows,
    prefix: Prefix,
    mode: Mode,
    batch: IntArray,
    is_real: npt.NDArray[np.bool_],
    width: int,
) -> tuple[np.ndarray, slice]:
    """Bits of the edges below the real rows of a batch, which are consecutive, and where those edges stand."""
    slots = rows.slots(tree, batch, width)
    inputs, skipped = _inputs(reader.model, tree, slots, prefix, mode)
    logits = reader(**inputs)
    real = batch[is_real]
    if not len(real):
        return np.zeros(0), slice(0, 0)
    first_vertex, stop_vertex = int(rows.start[real[0]]), int(rows.stop[real[-1]])
    edges = slice(*np.searchsorted(tree.edge_parent, [first_vertex, stop_vertex]).tolist())
    # Ancestors and empty slots are not read: a vertex is read in the one row that holds it as its own.
    is_own = (slots >= rows.start[batch, None]) & (slots < rows.stop[batch, None]) & is_real[:, None]
    own_row, own_slot = np.nonzero(is_own)
    device = inputs["input_ids"].device
    found = bits_at(
        logits,
        torch.as_tensor(own_row * logits.positions + own_slot + skipped, device=device),
        torch.as_tensor(tree.edge_parent[edges] - first_vertex, device=device),
        torch.as_tensor(tree.edge_token[edges], device=device),
    )
    return found, edges


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
        inputs[prefix.cache_name] = repeat_cache(prefix.cache, len(slots))
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


def bits_at(logits: Logits, rows: torch.Tensor, parents: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
    """-log2 softmax of `tokens` (E,) at the flat positions `rows[parents]`; `parents` ascend."""
    pieces = []
    step = max(1, _LOGITS_PER_PIECE // logits.vocabulary_size)
    bounds = torch.searchsorted(parents, torch.arange(0, len(rows) + step, step, device=parents.device)).tolist()
    for piece, first in enumerate(range(0, len(rows), step)):
        chosen = logits.of(rows[first : first + step])
        if chosen.dtype != torch.float64:
            chosen = chosen.float()
        normaliser = torch.logsumexp(chosen, dim=-1)
        edges = slice(bounds[piece], bounds[piece + 1])
        local = parents[edges] - first
        pieces.append((normaliser[local] - chosen[local, tokens[edges]]) * _LOG2_E)
    if not pieces:
        return np.zeros(0)
    return torch.cat(pieces).double().cpu().numpy()
