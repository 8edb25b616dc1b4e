"""Many random draws going down a graph of texts together, each token fed once: the rows' key-value caches are kept.

A row holds K neighbouring draws. At each step their new tokens are appended to the row, under a mask that shows a
token the shared prefix, its own ancestors and itself; draws of one row that took the same tokens share their slots.

Shapes: D draws, A of them alive in a step, T new tokens at most, C children at most, R rows of W new slots, P prefix
tokens, L tokens on the longest path so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hf_exposure.runtime.logits import CacheRefused, LogitReader, attention_layers, repeat_cache
from hf_exposure.runtime.model_state import borrowed, compute_dtype, model_device
from hf_exposure.runtime.processes import ALONE, Processes, is_out_of_memory
from hf_exposure.scoring.forward import Prefix, bits_at
from hf_exposure.scoring.token_tree import IntArray


@dataclass(frozen=True)
class _Slots:
    """What one step appends, over all rows.

    Attributes:
        row, place, token, depth, draw: (N,) of each new slot: its row, its place among the row's new slots, its token,
            how many tokens of its path come before it, and one of the draws (by its number) whose path it is on.
        of_step: (A, T) place of each draw's tokens; -1 beyond its last.
    """

    row: IntArray
    place: IntArray
    token: IntArray
    depth: IntArray
    draw: IntArray
    of_step: IntArray


@dataclass(frozen=True)
class _Questions:
    """Next-token bits that one step asks for, each once: draws at one slot ask alike.

    Attributes:
        row, place, token: (Q,) where each is read, and the token.
        answer: where in (A, X) each answer goes: two index arrays.
        answered_by: (A,) the line of the answers that holds those of each draw.
    """

    row: IntArray
    place: IntArray
    token: IntArray
    answer: tuple[IntArray, IntArray]
    answered_by: IntArray


def _questions(
    slots: _Slots, row_A: IntArray, tokens_AT: IntArray, run: IntArray, children_AC: IntArray
) -> _Questions:
    length = (tokens_AT >= 0).sum(axis=1)
    last = slots.of_step[np.arange(len(row_A)), length - 1]
    _, first, same = np.unique(_key(row_A, last), return_index=True, return_inverse=True)
    column = np.arange(tokens_AT.shape[1])[None, :]
    is_run = (column >= (length - run)[first, None]) & (column < length[first, None])
    asker, at = np.nonzero(is_run)
    parent, child = np.nonzero(children_AC[first] >= 0)
    line = np.concatenate([first[asker], first[parent]])
    return _Questions(
        row=row_A[line],
        place=np.concatenate([slots.of_step[first[asker], at - 1], last[first[parent]]]),
        token=np.concatenate([tokens_AT[first[asker], at], children_AC[first[parent], child]]),
        answer=(line, np.concatenate([at, tokens_AT.shape[1] + child])),
        answered_by=first[same],
    )


def _key(*columns: IntArray) -> IntArray:
    """One number for each line of several columns of numbers from 0 up, in the lines' order."""
    key = np.zeros_like(columns[0])
    for column in columns:
        key = key * (int(column.max(initial=0)) + 1) + column
    return key


class RowCaches:
    """The rows of D draws, numbered so that neighbours have most in common.

    Args:
        reader: of the model.
        prefix: after its forward pass, with a cache.
        prefix_length: P.
        draws: D.
        row_draws: K, draws in a row.
        batch_rows: rows in one call of the model.
        processes: each feeds its part of the rows, in equally many calls of equal shapes.
    """

    def __init__(
        self,
        reader: LogitReader,
        prefix: Prefix,
        prefix_length: int,
        draws: int,
        row_draws: int,
        batch_rows: int,
        processes: Processes = ALONE,
    ) -> None:
        self._reader, self._prefix, self._prefix_length, self._processes = reader, prefix, prefix_length, processes
        self._row_draws, self._batch_rows = row_draws, batch_rows
        self._rows = -(-draws // row_draws)
        self._share = -(-self._rows // processes.shares)
        batches = -(-self._share // batch_rows)
        self._caches: list[Any] = [None] * batches
        self._filled = np.zeros(batches, dtype=np.int64)  # own slots of a row, by its batch
        self._slot_DL = np.full((draws, 0), -1, dtype=np.int64)
        self._depth = np.zeros(draws, dtype=np.int64)

    def step(
        self, alive: IntArray, tokens_AT: IntArray, run: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Appends tokens to the paths of some draws and reads what comes after.

        Args:
            alive: (A,) draws, ascending.
            tokens_AT: at least one new token of each, padded with -1 on the right.
            run: (A,) how many of the last of these are asked for; fewer than there are.
            children_AC: tokens whose bits after the path are asked for, padded with -1.

        Returns:
            (A,) bits of the run, and (A, C) bits of the children, inf for padding.
        """
        slots = self._append(alive, tokens_AT)
        asked = _questions(slots, alive // self._row_draws, tokens_AT, run, children_AC)
        batch_of_row = (np.arange(self._rows) % self._share) // self._batch_rows

        def own_part() -> np.ndarray:
            answers_AX = np.zeros((len(alive), tokens_AT.shape[1] + children_AC.shape[1]))
            with borrowed(self._reader.model):
                for batch in range(len(self._caches)):
                    width = int(slots.place[batch_of_row[slots.row] == batch].max(initial=-1)) + 1
                    if width:
                        self._feed(batch, width, slots, asked, answers_AX)
            return answers_AX

        try:
            answers_AX = self._processes.sum_of(own_part)[asked.answered_by]
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise CacheRefused("a cache for which memory has no room") from error
            raise
        children_bits = np.where(children_AC >= 0, answers_AX[:, tokens_AT.shape[1] :], np.inf)
        return answers_AX[:, : tokens_AT.shape[1]].sum(axis=1), children_bits

    def _append(self, alive: IntArray, tokens_AT: IntArray) -> _Slots:
        """Places for the new tokens, one for all draws of a row that share a path."""
        row_A = alive // self._row_draws
        longest = int((self._depth[alive] + (tokens_AT >= 0).sum(axis=1)).max())
        missing = longest - self._slot_DL.shape[1]
        if missing > 0:
            self._slot_DL = np.pad(self._slot_DL, ((0, 0), (0, missing)), constant_values=-1)
        base_A = self._filled[(row_A % self._share) // self._batch_rows]
        next_place = np.zeros(self._rows, dtype=np.int64)
        of_step = np.full(tokens_AT.shape, -1, dtype=np.int64)
        columns: list[tuple[np.ndarray, ...]] = []
        for column in range(tokens_AT.shape[1]):
            some = np.flatnonzero(tokens_AT[:, column] >= 0)
            draws, row, token, depth = alive[some], row_A[some], tokens_AT[some, column], self._depth[alive[some]]
            above = np.where(depth > 0, self._slot_DL[draws, np.maximum(depth - 1, 0)], -1)
            _, first, same = np.unique(_key(row, above + 1, token), return_index=True, return_inverse=True)
            # In ascending order of rows: a place is a number within its row.
            place = next_place[row[first]] + np.arange(len(first)) - np.searchsorted(row[first], row[first])
            np.add.at(next_place, row[first], 1)
            of_step[some, column] = place[same]
            self._slot_DL[draws, depth] = base_A[some] + place[same]
            self._depth[draws] += 1
            columns.append((row[first], place, token[first], depth[first], draws[first]))
        row, place, token, depth, draw = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        return _Slots(row, place, token, depth, draw, of_step)

    def _feed(self, batch: int, width: int, slots: _Slots, asked: _Questions, answers_AX: np.ndarray) -> None:
        """One call of the model for one batch of this process's rows, and the answers that it gives."""
        first = self._processes.share * self._share + batch * self._batch_rows
        stop = min(first + self._batch_rows, (self._processes.share + 1) * self._share)
        rows = stop - first  # rows beyond the last draw are fed all the same: calls are equal on all processes
        here = np.flatnonzero((slots.row >= first) & (slots.row < stop))
        row, place = slots.row[here] - first, slots.place[here]
        filled = int(self._filled[batch])
        device, before = model_device(self._reader.model), self._prefix_length + filled
        ids = np.full((rows, width), slots.token[0])
        depth = np.zeros((rows, width), dtype=np.int64)
        ids[row, place], depth[row, place] = slots.token[here], slots.depth[here]
        cache = self._caches[batch]
        logits = self._reader(
            input_ids=torch.as_tensor(ids, device=device),
            position_ids=torch.as_tensor(self._prefix_length + depth, device=device),
            attention_mask=self._mask(rows, width, filled, row, place, slots.depth[here], slots.draw[here]),
            use_cache=True,
            **{self._prefix.cache_name: repeat_cache(self._prefix.cache, rows) if cache is None else cache},
        )
        if any(layer.keys.shape[-2] != before + width for layer in attention_layers(logits.cache)):
            raise CacheRefused("a cache that does not grow by what is fed")
        self._caches[batch], self._filled[batch] = logits.cache, filled + width
        own = np.flatnonzero((asked.row >= first) & (asked.row < stop))
        if not len(own):
            return
        flat = (asked.row[own] - first) * width + asked.place[own]
        order = np.argsort(flat, kind="stable")
        read, parent = np.unique(flat[order], return_inverse=True)
        chosen = own[order]
        answers_AX[asked.answer[0][chosen], asked.answer[1][chosen]] = bits_at(
            logits,
            torch.as_tensor(read, device=device),
            torch.as_tensor(parent, device=device),
            torch.as_tensor(asked.token[chosen], device=device),
        )

    def _mask(
        self, rows: int, width: int, filled: int, row: IntArray, place: IntArray, depth: IntArray, draw: IntArray
    ) -> torch.Tensor:
        """(R, 1, W, P + filled + W) additive mask: a slot sees the prefix, its ancestors and itself."""
        dtype = compute_dtype(self._reader.model)
        sees = np.zeros((rows, width, filled + width), dtype=bool)
        sees[:, np.arange(width), filled + np.arange(width)] = True
        ancestor = self._slot_DL[draw]
        above = np.arange(ancestor.shape[1])[None, :] < depth[:, None]
        new, level = np.nonzero(above)
        sees[row[new], place[new], ancestor[new, level]] = True
        device = model_device(self._reader.model)
        shown = torch.as_tensor(sees, device=device)
        mask = torch.zeros((rows, 1, width, self._prefix_length + filled + width), dtype=dtype, device=device)
        mask[:, 0, :, self._prefix_length :].masked_fill_(~shown, torch.finfo(dtype).min)
        return mask
