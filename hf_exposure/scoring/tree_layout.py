"""Assigns the tokens of many samples to slots of rows whose key-value caches are kept, and determines what each sees.

This is tree attention: a row of a batch contains several neighboring samples. At each step the new tokens of its
samples are appended to the row's cache; samples with the same path share their slots. A mask lets each token see the
shared prefix, its own ancestors and itself. All of this is bookkeeping in numpy; `PackedSampler` feeds the model.

Shapes: S samples, R rows, G batches of rows; A samples that take a step, T new tokens of each at most, C children of
each at most, X = T + C; P paths, U runs' tokens and paths; N new slots, L tokens on the longest path so far; B rows of
W new slots in one batch, F slots of a row in all; Q queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hf_exposure.scoring.token_tree import IntArray


@dataclass(frozen=True)
class TokenQueries:
    """Q next-token bits that one step requests, ordered by row and slot, once for all samples of one path.

    Attributes:
        row_Q, slot_Q, token_Q: the bits of `token` are read after `slot` of `row`.
        number_AX: the query of each sample for each of its new tokens, and then of its children; -1 for none.
    """

    row_Q: IntArray
    slot_Q: IntArray
    token_Q: IntArray
    number_AX: IntArray

    def of_rows(self, first: int, stop: int) -> slice:
        """The queries of some rows."""
        return slice(*np.searchsorted(self.row_Q, [first, stop]).tolist())


@dataclass(frozen=True)
class NewSlots:
    """The slots that one step appends, over all rows.

    Attributes:
        row_N, slot_N, token_N: the row of each new slot, its number in the row (after the prefix), and its token.
        ancestors_NL: the slots of the tokens before it on its path, from the top down; -1 beyond them.
        row_A, slot_AT: the row of each sample, and the slots of its new tokens; -1 beyond the last.
        filled_G, width_G: the number of slots in each row of a batch before the step, and the number that the step
            appends.
    """

    row_N: IntArray
    slot_N: IntArray
    token_N: IntArray
    ancestors_NL: IntArray
    row_A: IntArray
    slot_AT: IntArray
    filled_G: IntArray
    width_G: IntArray

    def of_batch(self, batch: int, first: int, stop: int) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
        """The inputs for the rows `first : stop`, which are those of one batch.

        Rows of a batch are padded on the right to one width, with a real token that no other slot sees. Rows after the
        last sample contain only padding.

        Returns:
            (B, W) tokens; (B, W) depths, 0 for a token right after the prefix; (B, W, F) whether a new slot sees each
            slot of its row.
        """
        filled, width = int(self.filled_G[batch]), int(self.width_G[batch])
        here = np.flatnonzero((self.row_N >= first) & (self.row_N < stop))
        row, column, ancestors_HL = self.row_N[here] - first, self.slot_N[here] - filled, self.ancestors_NL[here]
        token_BW = np.full((stop - first, width), self.token_N[0])
        depth_BW = np.zeros((stop - first, width), dtype=np.int64)
        sees_BWF = np.zeros((stop - first, width, filled + width), dtype=bool)
        token_BW[row, column] = self.token_N[here]
        depth_BW[row, column] = (ancestors_HL >= 0).sum(axis=1)
        sees_BWF[:, np.arange(width), filled + np.arange(width)] = True
        new, level = np.nonzero(ancestors_HL >= 0)
        sees_BWF[row[new], column[new], ancestors_HL[new, level]] = True
        return token_BW, depth_BW, sees_BWF

    def queries(self, tokens_AT: IntArray, run_A: IntArray, children_AC: IntArray) -> TokenQueries:
        """The queries of this step: the last `run` new tokens of each sample, and its children, padded on the right.
        Samples that share a path and a query make it only once.
        """
        length_A = (tokens_AT >= 0).sum(axis=1)
        column_T = np.arange(tokens_AT.shape[1])
        is_run_AT = (tokens_AT >= 0) & (column_T >= (length_A - run_A)[:, None])
        # A token of a run is read after the one before it, and a child after the last.
        line, column = np.nonzero(is_run_AT)
        row, slot, token = self.row_A[line], self.slot_AT[line, column - 1], tokens_AT[line, column]
        _, first, same = np.unique(_joint_key(row, slot, token), return_index=True, return_inverse=True)
        runs = row[first], slot[first], token[first]
        last_A = self.slot_AT[np.arange(len(length_A)), length_A - 1]
        _, asking_P, place_A = np.unique(_joint_key(self.row_A, last_A), return_index=True, return_inverse=True)
        if not np.array_equal(children_AC, children_AC[asking_P][place_A]):
            asking_P = place_A = np.arange(len(last_A))  # they share a path but ask for different children
        children_PC = children_AC[asking_P]
        width_P = (children_PC >= 0).sum(axis=1)
        # A run's token and a path's children each stay together, and begin at `start`.
        row_U, slot_U = np.append(runs[0], self.row_A[asking_P]), np.append(runs[1], last_A[asking_P])
        width_U = np.append(np.ones(len(first), dtype=np.int64), width_P)
        order_U = np.lexsort((slot_U, row_U))
        start_U = np.empty_like(width_U)
        start_U[order_U] = np.cumsum(width_U[order_U]) - width_U[order_U]
        run_start, start_P = np.split(start_U, [len(first)])
        token_Q = np.empty(width_U.sum(), dtype=np.int64)
        token_Q[run_start] = runs[2]
        place, child = np.nonzero(children_PC >= 0)
        token_Q[start_P[place] + child] = children_PC[place, child]
        number_AT = np.full(tokens_AT.shape, -1, dtype=np.int64)
        number_AT[line, column] = run_start[same]
        number_AC = np.where(children_AC >= 0, start_P[place_A][:, None] + np.arange(children_AC.shape[1]), -1)
        row_Q, slot_Q = (np.repeat(column_U[order_U], width_U[order_U]) for column_U in (row_U, slot_U))
        return TokenQueries(row_Q, slot_Q, token_Q, np.concatenate([number_AT, number_AC], axis=1))


class TreeLayout:
    """The slots of S samples in R rows, as their paths grow.

    For example, three samples share a row. Their tokens are 10, 10, 11 and then 12, 13, 13:

        prefix ─┬─ 10 (slot 0) ─┬─ 12 (slot 2)     sample 0: slots 0 2
                │               └─ 13 (slot 3)     sample 1: slots 0 3
                └─ 11 (slot 1) ─── 13 (slot 4)     sample 2: slots 1 4

    The first two share slot 0. Their third tokens differ, and the two 13s have different ancestors, so that the second
    step appends three slots:

                       sees slot  0 1 2 3 4
        12, in slot 2             x . x . .
        13, in slot 3             x . . x .
        13, in slot 4             . x . . x

    Args:
        row_S: the row of each sample, ascending.
        batch_R: the batch of each row. Rows of one batch are fed together, so each step pads them to one width.

    Example:
        >>> layout = TreeLayout(row_S=np.array([0, 0, 0]), batch_R=np.array([0]))
        >>> layout.append(np.arange(3), np.array([[10], [10], [11]])).slot_AT.ravel().tolist()
        [0, 0, 1]
        >>> new = layout.append(np.arange(3), np.array([[12], [13], [13]]))
        >>> new.slot_AT.ravel().tolist()
        [2, 3, 4]
        >>> token_BW, depth_BW, sees_BWF = new.of_batch(0, first=0, stop=1)
        >>> token_BW.tolist(), depth_BW.tolist()
        ([[12, 13, 13]], [[1, 1, 1]])
        >>> sees_BWF.astype(int)[0].tolist()
        [[1, 0, 1, 0, 0], [1, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    """

    def __init__(self, row_S: IntArray, batch_R: IntArray) -> None:
        self._row_S, self._batch_R = row_S, batch_R
        self._filled_G = np.zeros(int(batch_R.max(initial=-1)) + 1, dtype=np.int64)
        self._depth_S = np.zeros(len(row_S), dtype=np.int64)
        self._last_S = np.full(len(row_S), -1, dtype=np.int64)
        self._slot_SL = np.full((len(row_S), 0), -1, dtype=np.int64)

    def append(self, sample_A: IntArray, tokens_AT: IntArray) -> NewSlots:
        """Assigns slots to the next tokens of the given samples; samples of a row that share a path share the slot.

        Args:
            sample_A: numbers of the samples, each once, ascending.
            tokens_AT: at least one new token of each, padded with -1 on the right.
        """
        row_A = self._row_S[sample_A]
        longest = int((self._depth_S[sample_A] + (tokens_AT >= 0).sum(axis=1)).max())
        missing = max(0, longest - self._slot_SL.shape[1])
        self._slot_SL = np.pad(self._slot_SL, ((0, 0), (0, missing)), constant_values=-1)
        filled_G = self._filled_G
        next_R = filled_G[self._batch_R]
        slot_AT = np.full(tokens_AT.shape, -1, dtype=np.int64)
        parts: list[tuple[IntArray, ...]] = []
        for column in range(tokens_AT.shape[1]):
            line = np.flatnonzero(tokens_AT[:, column] >= 0)
            sample, row, token = sample_A[line], row_A[line], tokens_AT[line, column]
            key = _joint_key(row, self._last_S[sample] + 1, token)
            _, first, same = np.unique(key, return_index=True, return_inverse=True)
            # The new slots are in the order of their rows; each is numbered after those that its row already has.
            row_N = row[first]
            slot_N = next_R[row_N] + np.arange(len(first)) - np.searchsorted(row_N, row_N)
            next_R = next_R + np.bincount(row_N, minlength=len(next_R))
            depth = self._depth_S[sample]
            slot_AT[line, column] = self._slot_SL[sample, depth] = self._last_S[sample] = slot_N[same]
            self._depth_S[sample] += 1
            parts.append((row_N, slot_N, token[first], depth[first], sample[first]))
        row_N, slot_N, token_N, depth_N, sample_N = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        self._filled_G = filled_G.copy()
        np.maximum.at(self._filled_G, self._batch_R, next_R)
        is_ancestor = np.arange(self._slot_SL.shape[1]) < depth_N[:, None]
        ancestors_NL = np.where(is_ancestor, self._slot_SL[sample_N], -1)
        return NewSlots(row_N, slot_N, token_N, ancestors_NL, row_A, slot_AT, filled_G, self._filled_G - filled_G)


def _joint_key(*columns_N: IntArray) -> IntArray:
    """(N,) one number for each line of several columns of numbers of at least 0, in the order of the lines."""
    key_N = np.zeros_like(columns_N[0])
    for column_N in columns_N:
        key_N = key_N * (int(column_N.max(initial=0)) + 1) + column_N
    return key_N
