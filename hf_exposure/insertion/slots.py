"""Where the canary rows go: uniform positions in the merged sequence, decided before any row is read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def draw_slots(num_rows: int, repetitions: tuple[int, ...], seed: int) -> tuple[Integers, Integers]:
    """For each insertion, in the order of the merged rows: the gap it goes into, and which canary it is.

    Gap `g` is before original row `g`; gap `num_rows` is after the last. Every arrangement of the insertions among the
    rows is equally likely: the slots are a uniform subset of the merged positions, the canaries shuffled over them.

    Args:
        num_rows: of the original sequence.
        repetitions: of each canary.
        seed: of NumPy's PCG64. Not the stream that secrets are drawn from, so one seed may serve both.

    Returns:
        (gaps, canaries), both of length `sum(repetitions)`; gaps ascend and may repeat.

    Example:
        >>> gaps, canaries = draw_slots(100, (2, 3), seed=0)
        >>> bool((gaps[1:] >= gaps[:-1]).all()), sorted(canaries.tolist())
        (True, [0, 0, 1, 1, 1])
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    total = sum(repetitions)
    slots = np.sort(generator.choice(num_rows + total, size=total, replace=False, shuffle=False))
    # Slot s of insertion j has j insertions before it, hence s - j original rows.
    gaps = (slots - np.arange(total)).astype(np.int64)
    canaries = generator.permutation(np.repeat(np.arange(len(repetitions)), repetitions)).astype(np.int64)
    return gaps, canaries
