"""Rows in batches that fit: sorted rows cut where a budget of tokens is full, halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hf_exposure.scoring.out_of_memory import is_out_of_memory
from hf_exposure.scoring.processes import ALONE, Processes

__all__ = ["score_in_batches"]


def score_in_batches(
    widths: np.ndarray,
    tokens: int,
    score: Callable[[npt.NDArray[np.int64], slice], np.ndarray],
    processes: Processes = ALONE,
) -> tuple[np.ndarray, int]:
    """`score` of every row, batch by batch.

    Args:
        widths: (R,) tokens that each row takes, ascending: a batch is as wide as its last row.
        tokens: most tokens in one batch of one process; a row that is wider travels alone.
        score: from row numbers to one float64 each. It is also given the slice of the rows that all processes
            score in this round: padded to the longest of those, every process makes calls of equal shapes.
        processes: those that share the rows. The last row stands in where a process has none.

    Returns:
        (R,) figures, and the budget that held: smaller than `tokens` where a device ran out of memory.

    Example:
        >>> def rows_of_the_batch(rows, all_rows):
        ...     return np.full(len(rows), len(rows))
        >>> figures, held = score_in_batches(np.array([2, 2, 3, 9]), 6, rows_of_the_batch)
        >>> figures.tolist(), held
        ([2.0, 2.0, 1.0, 1.0], 6)
    """
    figures = np.zeros(len(widths))
    first = 0
    while first < len(widths):
        # Each process feeds every shares-th row, as many as the fullest of them.
        each = np.arange(len(widths) - first) // processes.shares + 1
        fits = int((each * widths[first:] <= tokens).sum())
        batch = slice(first, min(len(widths), first + max(processes.shares, fits)))
        own = first + processes.share + processes.shares * np.arange(each[batch.stop - 1 - first])
        try:
            found = processes.attempt(lambda own=own, batch=batch: score(np.minimum(own, len(widths) - 1), batch))  # type: ignore[misc]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(own) == 1:
                raise
            tokens = len(own) // 2 * int(widths[batch.stop - 1])
            continue
        is_real = own < batch.stop
        figures[own[is_real]] = found[is_real]
        first = batch.stop
    return processes.sum_of(lambda: figures), tokens
