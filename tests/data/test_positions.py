"""Where canaries go is uniform over all arrangements."""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy import stats

from hf_exposure.data.inserter import draw_positions


def test_every_arrangement_is_equally_likely() -> None:
    """Two rows, canary 0 once and canary 1 once: 12 orders of (r0, r1, c0, c1) with r0 before r1, listed by hand."""
    counts: Counter[tuple[str, ...]] = Counter()
    for seed in range(6000):
        gaps, canaries = draw_positions(2, (1, 1), seed)
        merged = []
        for row in range(3):
            merged += [f"c{canary}" for gap, canary in zip(gaps, canaries, strict=True) if gap == row]
            merged += [f"r{row}"] if row < 2 else []
        counts[tuple(merged)] += 1
    assert len(counts) == 12
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_gaps_are_spread_evenly_and_include_both_ends() -> None:
    gaps = np.concatenate([draw_positions(9, (1, 2), seed)[0] for seed in range(2000)])
    counts = np.bincount(gaps, minlength=10)
    # By symmetry each of the 10 gaps expects 3 * 2000 / 10 insertions; those of one draw are dependent: some slack.
    assert len(counts) == 10 and abs(counts - 600).max() < 5 * np.sqrt(600 * 1.3)


def test_large_sequences_draw_each_repetition() -> None:
    gaps, canaries = draw_positions(10**9, (3, 0, 5), seed=1)
    assert np.bincount(canaries).tolist() == [3, 0, 5]
    assert (np.diff(gaps) >= 0).all() and gaps[0] >= 0 and gaps[-1] <= 10**9
