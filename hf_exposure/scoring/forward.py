"""Feeds the rows of a token tree to a model: chooses rows, builds inputs, reads logits, and returns next-token bits.

A row is a contiguous piece of the preorder together with the path of ancestors that leads to its first vertex: all
ancestors of a vertex are then in its row. Short pieces that are chains need no mask; long ones share their ancestors
and the prefix cache, and need an ancestor mask.

Shapes: R rows, B of them with W slots each in a batch, P prefix tokens, M fed vertices, E edges, n positions that are
read, V vocabulary entries.
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
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring.token_tree import IntArray, TokenTree

Mode = Literal["packed", "cached", "plain", "alone"]
"""The scoring modes, which `CausalScorer` explains."""

# Row widths to choose from.
_WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
_LOG2_E = 1.0 / math.log(2.0)
# Log-sum-exp is computed in float32 in pieces of this many logits, so that a large vocabulary does not double its
# memory. On a CPU the pieces are small enough that the allocator reuses the same memory without a system call.
_LOGITS_PER_PIECE = 2**24
_LOGITS_PER_PIECE_ON_CPU = 2**20
# On a CPU it takes a third of the time if the pieces stay in the processor's cache.
_CACHED_LOGITS = 2**18


@dataclass(frozen=True)
class ModelShape:
    """The facts about a model that the cost model needs.

    Attributes:
        parameters: the number of parameters that every token passes through (without input embeddings).
        layers, hidden, heads: those of the transformer.
    """

    parameters: int
    layers: int
    hidden: int
    heads: int


@dataclass(frozen=True)
class Rows:
    """R rows over the preorder: row r contains the path to vertex `start_R[r]`, then the vertices up to
    `stop_R[r]`.

    Attributes:
        start_R, stop_R: the first vertex of each row, and the one after its last.
        path_length_R: the number of vertices above the first one.
        gap: the number of empty slots after the first slot of each row, which make it as wide as rows of larger trees.
    """

    start_R: IntArray
    stop_R: IntArray
    path_length_R: IntArray
    gap: int = 0

    @classmethod
    def none(cls) -> Rows:
        """No rows."""
        return cls(*(np.zeros(0, dtype=np.int64),) * 3)

    @property
    def width_R(self) -> IntArray:
        """The number of slots of each row."""
        return self.path_length_R + self.stop_R - self.start_R + self.gap

    def __len__(self) -> int:
        return len(self.start_R)

    def slots(self, tree: TokenTree, row_B: IntArray, width: int) -> IntArray:
        """(B, W) fed vertex in each slot of the chosen rows; `tree.size` for empty slots."""
        start_B, stop_B, path_length_B = self.start_R[row_B], self.stop_R[row_B], self.path_length_R[row_B]
        offset_BW = np.arange(width - self.gap) - path_length_B[:, None]
        slots_BW = start_B[:, None] + offset_BW
        slots_BW[offset_BW >= (stop_B - start_B)[:, None]] = tree.size
        ancestor_B = tree.parent_M[start_B]
        while (above_B := ancestor_B >= 0).any():
            # An ancestor's slot is its depth, since the path runs from the top down.
            slots_BW[np.flatnonzero(above_B), tree.depth_M[ancestor_B[above_B]] - 1] = ancestor_B[above_B]
            ancestor_B = np.where(above_B, tree.parent_M[ancestor_B], -1)
        empty_BW = np.full((len(row_B), self.gap), tree.size)
        return np.concatenate([slots_BW[:, :1], empty_BW, slots_BW[:, 1:]], axis=1) if self.gap else slots_BW


def chain_rows(tree: TokenTree) -> Rows:
    """One row per leaf, each a plain chain from the top, which is valid for any causal model."""
    is_bottom_M = tree.end_M == np.arange(1, tree.size + 1)
    stop_R = np.flatnonzero(is_bottom_M) + 1
    start_R = np.concatenate([[0], stop_R]).astype(np.int64)[:-1]
    return Rows(start_R, stop_R, tree.depth_M[start_R] - 1)


def packed_rows(tree: TokenTree, width: int) -> Rows:
    """Rows of at most `width` slots (more only if a single path needs them), filled in preorder."""
    starts, at = [], 0
    path_length_M = tree.depth_M - 1
    while at < tree.size:
        starts.append(at)
        at += max(1, width - int(path_length_M[at]))
    start_R = np.array(starts, dtype=np.int64)
    stop_R = np.append(start_R, tree.size).astype(np.int64)[1:]
    return Rows(start_R, stop_R, path_length_M[start_R])


def choose_row_width(tree: TokenTree, shape: ModelShape) -> int:
    """The row width with the least estimated work, in multiply-adds.

    A row of W slots after P prefix tokens costs W passes through the weights, W x (W + P) attention pairs, and a copy
    of the prefix's keys and values; rows repeat the path to their first vertex. Longer rows waste attention on pairs
    that the mask forbids; shorter ones repeat paths and copies.
    """
    prefix, mean_path = len(tree.prefix_P), float(tree.depth_M.mean()) - 1.0
    per_pair, per_copied_token = _attention_work(shape)

    def work(width: int) -> float:
        own = width - mean_path
        if own < 1:
            return float("inf")
        rows = max(1.0, tree.size / own)
        slots = min(width, tree.size + mean_path)
        return rows * (slots * shape.parameters + slots * (slots + prefix) * per_pair + prefix * per_copied_token)

    longest_path = int(tree.depth_M.max())
    return max(min(_WIDTHS, key=work), longest_path)


def choose_row_samples(prefix: int, length: int, shape: ModelShape) -> int:
    """The number of samples that share a row with a cache, for the least estimated work.

    At each step a row copies its prefix's and its own keys and values, and each sample's token attends to all of them:
    long rows save copies of the prefix, short ones save attention.
    """
    per_pair, per_copied_token = _attention_work(shape)
    best = math.sqrt(prefix * per_copied_token / (max(1, length) * per_pair))
    return max(8, min(64, round(best)))


def _attention_work(shape: ModelShape) -> tuple[int, int]:
    """The work per attended pair (including softmax and mask traffic), and per copied cache token, in
    multiply-adds.
    """
    return shape.layers * (2 * shape.hidden + 12 * shape.heads), shape.layers * 2 * shape.hidden * 8


@dataclass(frozen=True)
class Prefix:
    """The shared prefix after its one forward pass.

    Attributes:
        bits_P: bits of each prefix token given those before it; NaN for the first token.
        last_logits_1V: logits after the prefix; None for an empty one.
        cache: the model's own key-value cache; None in plain mode.
        cache_name: the keyword argument that accepts the cache.
    """

    bits_P: np.ndarray
    last_logits_1V: torch.Tensor | None
    cache: Any = None
    cache_name: str = ""


def encode_prefix(reader: LogitReader, prefix_P: IntArray, mode: Mode) -> Prefix:
    """Feeds the shared prefix once."""
    bits_P = np.full(len(prefix_P), np.nan)
    if not len(prefix_P):
        return Prefix(bits_P, None)
    ids_1P = torch.as_tensor(prefix_P, device=model_device(reader.model))[None]
    logits = reader(input_ids=ids_1P) if mode == "plain" else reader(input_ids=ids_1P, use_cache=True)
    at_P = torch.arange(len(prefix_P), device=ids_1P.device)
    bits_P[1:] = bits_at(logits, at_P[:-1], at_P[:-1], ids_1P[0, 1:])
    cache = None if mode == "plain" else logits.cache
    return Prefix(bits_P, logits.of(at_P[-1:]), cache, logits.cache_name)


def edge_bits(
    reader: LogitReader,
    tree: TokenTree,
    rows: Rows,
    prefix: Prefix,
    mode: Mode,
    batch_rows: int,
    processes: Processes = SINGLE_PROCESS,
) -> np.ndarray:
    """(E,) float64 bits of every edge of `tree`; NaN for edges at the end of an empty prefix.

    With several processes, each feeds its part of the rows, and all get all figures.
    """
    at_root = int(np.searchsorted(tree.edge_parent_E, 0))
    share = -(-len(rows) // processes.num_shards)

    def own_part() -> np.ndarray:
        bits_E = np.zeros(len(tree.edge_parent_E))
        for first in range(0, share, batch_rows):
            row_B = processes.shard * share + np.arange(first, min(first + batch_rows, share))
            is_real_B = (row_B < min((processes.shard + 1) * share, len(rows))) & (row_B < len(rows))
            # The last row is fed again in place of missing ones, so that this process makes as many and as large calls
            # as the others.
            row_B = np.minimum(row_B, len(rows) - 1)
            width = int((rows.width_R if processes.num_shards > 1 else rows.width_R[row_B]).max())
            found, edges = _score_batch(reader, tree, rows, prefix, mode, row_B, is_real_B, width)
            bits_E[edges] = found
        if at_root and prefix.last_logits_1V is not None and processes.shard == 0:
            bits_E[:at_root] = _root_bits(tree, prefix.last_logits_1V, at_root)
        return bits_E

    bits_E = processes.all_reduce_sum(own_part)
    if prefix.last_logits_1V is None:
        bits_E[:at_root] = np.nan
    return bits_E


def _root_bits(tree: TokenTree, last_logits_1V: torch.Tensor, at_root: int) -> np.ndarray:
    """Bits of the first tokens after the prefix."""
    tokens = torch.as_tensor(tree.edge_token_E[:at_root], device=last_logits_1V.device)
    zero = torch.zeros_like(tokens)
    at_end = Logits(lambda rows: last_logits_1V[rows], last_logits_1V.shape[-1], 1)
    return bits_at(at_end, zero[:1], zero, tokens)


def _score_batch(
    reader: LogitReader,
    tree: TokenTree,
    rows: Rows,
    prefix: Prefix,
    mode: Mode,
    row_B: IntArray,
    is_real_B: npt.NDArray[np.bool_],
    width: int,
) -> tuple[np.ndarray, slice]:
    """Bits of the edges below the real rows of a batch, which are consecutive, and the slice of those edges."""
    slots_BW = rows.slots(tree, row_B, width)
    inputs, skipped = _inputs(reader.model, tree, slots_BW, prefix, mode)
    logits = reader(**inputs)
    real = row_B[is_real_B]
    if not len(real):
        return np.zeros(0), slice(0, 0)
    first_vertex, stop_vertex = int(rows.start_R[real[0]]), int(rows.stop_R[real[-1]])
    edges = slice(*np.searchsorted(tree.edge_parent_E, [first_vertex, stop_vertex]).tolist())
    # Ancestors and empty slots are not read: each vertex is read in the single row that owns it.
    start_B1, stop_B1 = rows.start_R[row_B, None], rows.stop_R[row_B, None]
    is_own_BW = (slots_BW >= start_B1) & (slots_BW < stop_B1) & is_real_B[:, None]
    own_row, own_slot = np.nonzero(is_own_BW)
    # A vertex that only leads to others is fed, but nothing is read after it.
    read_n, parent_E = np.unique(tree.edge_parent_E[edges] - first_vertex, return_inverse=True)
    device = inputs["input_ids"].device
    found = bits_at(
        logits,
        torch.as_tensor((own_row * logits.positions + own_slot + skipped)[read_n], device=device),
        torch.as_tensor(parent_E, device=device),
        torch.as_tensor(tree.edge_token_E[edges], device=device),
    )
    return found, edges


def _inputs(
    model: nn.Module, tree: TokenTree, slots_BW: IntArray, prefix: Prefix, mode: Mode
) -> tuple[dict[str, Any], int]:
    """Keyword arguments for one call, and the number of prefix slots before each row."""
    device = model_device(model)
    # Empty slots repeat a real token; any id in the vocabulary works, if it does not look like padding.
    filler = tree.token_M[:1]
    ids_BW = torch.as_tensor(np.append(tree.token_M, filler)[slots_BW], device=device)
    if mode == "plain":
        head_BP = torch.as_tensor(tree.prefix_P, device=device).expand(len(slots_BW), -1)
        return {"input_ids": torch.cat([head_BP, ids_BW], dim=1)}, len(tree.prefix_P)
    inputs: dict[str, Any] = {"input_ids": ids_BW, "use_cache": prefix.cache is not None}
    if prefix.cache is not None:
        inputs[prefix.cache_name] = repeat_cache(prefix.cache, len(slots_BW))
    if mode == "packed":
        depth_BW = np.append(tree.depth_M, 1)[slots_BW]
        inputs["position_ids"] = torch.as_tensor(len(tree.prefix_P) + depth_BW - 1, device=device)
        vertex_BW = torch.as_tensor(slots_BW, device=device)
        # Empty slots hold the number M, whose "subtree" is [M, M + 1): they see each other, and no other slot sees
        # them.
        end_BW = torch.as_tensor(np.append(tree.end_M, tree.size + 1)[slots_BW], device=device)
        sees_BWW = (vertex_BW[:, None, :] <= vertex_BW[:, :, None]) & (vertex_BW[:, :, None] < end_BW[:, None, :])
        inputs["attention_mask"] = attention_mask(sees_BWW, len(tree.prefix_P), compute_dtype(model))
    return inputs, 0


def attention_mask(sees_BWF: torch.Tensor, prefix_length: int, dtype: torch.dtype) -> torch.Tensor:
    """(B, 1, W, P + F) additive mask for W new slots that see some of F slots, and the whole prefix before those."""
    rows, width, slots = sees_BWF.shape
    mask = torch.zeros((rows, 1, width, prefix_length + slots), dtype=dtype, device=sees_BWF.device)
    mask[:, 0, :, prefix_length:].masked_fill_(~sees_BWF, torch.finfo(dtype).min)
    return mask


def bits_at(logits: Logits, position_n: torch.Tensor, parent_E: torch.Tensor, token_E: torch.Tensor) -> np.ndarray:
    """(E,) -log2 softmax of each token at the flat position `position_n[parent]`; the parents ascend."""
    pieces = []
    on_cpu = position_n.device.type == "cpu"
    step = max(1, (_LOGITS_PER_PIECE_ON_CPU if on_cpu else _LOGITS_PER_PIECE) // logits.vocabulary_size)
    starts = torch.arange(0, len(position_n) + step, step, device=parent_E.device)
    bounds = torch.searchsorted(parent_E, starts).tolist()
    for piece, first in enumerate(range(0, len(position_n), step)):
        chosen_nV = logits.of(position_n[first : first + step])
        if chosen_nV.dtype != torch.float64:
            chosen_nV = chosen_nV.float()
        normalizer_n = _log_sum_exp(chosen_nV)
        edges = slice(bounds[piece], bounds[piece + 1])
        local = parent_E[edges] - first
        pieces.append((normalizer_n[local] - chosen_nV[local, token_E[edges]]) * _LOG2_E)
    if not pieces:
        return np.zeros(0)
    return torch.cat(pieces).double().cpu().numpy()


def _log_sum_exp(logits_nV: torch.Tensor) -> torch.Tensor:
    """(n,) the normalizer of each row."""
    if logits_nV.device.type != "cpu":
        return torch.logsumexp(logits_nV, dim=-1)
    rows = max(1, _CACHED_LOGITS // logits_nV.shape[-1])
    return torch.cat([torch.logsumexp(piece, dim=-1) for piece in torch.split(logits_nV, rows)])
