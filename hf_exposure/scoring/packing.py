"""Which fed vertices travel in one row of a batch.

A row is a contiguous piece of the preorder together with the path of ancestors that leads to its first vertex: every
vertex's ancestors are then in its row. The pieces decide everything else. Short pieces that are chains need no mask;
long ones share their ancestors and the prefix cache, and need an ancestor mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hf_exposure.scoring.token_tree import IntArray, TokenTree

__all__ = ["ModelShape", "Rows", "chain_rows", "choose_row_draws", "choose_row_width", "packed_rows"]

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


def choose_row_draws(prefix: int, length: int, shape: ModelShape) -> int:
    """How many draws share a row whose cache is kept, with the least estimated work.

    At each step a row copies its prefix's and its own keys and values, and every draw's token attends to all of them:
    long rows spare copies of the prefix, short ones attention.
    """
    per_pair, per_copied_token = _attention_work(shape)
    best = math.sqrt(prefix * per_copied_token / (max(1, length) * per_pair))
    return max(8, min(64, round(best)))


def _attention_work(shape: ModelShape) -> tuple[int, int]:
    """Work per attended pair (softmax and mask traffic too), and per copied cache token, in multiply-adds."""
    return shape.layers * (2 * shape.hidden + 12 * shape.heads), shape.layers * 2 * shape.hidden * 8
