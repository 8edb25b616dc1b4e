"""Rows in batches that fit: sorted rows cut where a budget of tokens is full, halved when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

__all__ = ["is_out_of_memory", "score_in_batches"]


def score_in_batches(widths: np.ndarray, tokens: int, score: Callable[[slice], np.ndarray]) -> tuple[np.ndarray, int]:
    """`score` of every row, batch by batch.

    Args:
        widths: (R,) tokens that each row takes, ascending: a batch is as wide as its last row.
        tokens: most tokens in one batch; a row that is wider travels alone.
        score: from a slice of the rows to one float64 each.

    Returns:
        (R,) figures, and the budget that held: smaller than `tokens` where the device ran out of memory.

    Example:
        >>> def rows_of_the_batch(rows):
        ...     return np.full(rows.stop - rows.start, rows.stop - rows.start)
        >>> figures, held = score_in_batches(np.array([2, 2, 3, 9]), 6, rows_of_the_batch)
        >>> figures.tolist(), held
        ([2.0, 2.0, 1.0, 1.0], 6)
    """
    figures = np.zeros(len(widths))
    first = 0
    while first < len(widths):
        fits = (np.arange(1, len(widths) - first + 1) * widths[first:] <= tokens).sum()
        batch = slice(first, first + max(1, int(fits)))
        try:
            figures[batch] = score(batch)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or batch.stop - first == 1:
                raise
            tokens = (batch.stop - first) // 2 * int(widths[batch.stop - 1])
            continue
        first = batch.stop
    return figures, tokens


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had no room, as torch says it on a GPU or on a CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
