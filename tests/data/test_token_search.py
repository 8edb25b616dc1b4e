"""Patterns are found where brute force finds them."""

from __future__ import annotations

import numpy as np
import pytest

from hf_exposure.data import token_search
from hf_exposure.data.token_search import PatternSearch


def laid_out(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(sum(rows, []), dtype=np.int64), np.cumsum([0, *map(len, rows)])


def by_brute_force(rows: list[list[int]], pattern: list[int], fewest: int) -> set[tuple[int, int, bool]]:
    """(row, start, whole) of every place where the pattern agrees with a row as far as the row goes."""
    found = set()
    for number, row in enumerate(rows):
        for start in range(-len(pattern) + 1, len(row)):
            low, high = max(start, 0), min(start + len(pattern), len(row))
            if high - low >= fewest and row[low:high] == pattern[low - start : high - start]:
                found.add((number, start, high - low == len(pattern)))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_whole_and_cut_places_are_those_of_brute_force(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_search, "_TOKENS_AT_ONCE", 64)
    random = np.random.default_rng(seed)
    patterns = [random.integers(0, 50, size=size).tolist() for size in (9, 12, 20)]  # windows of 4
    rows = [random.integers(0, 50, size=random.integers(0, 30)).tolist() for _ in range(60)]
    for place in range(0, 60, 3):
        pattern = patterns[place % 9 // 3]
        cut = int(random.integers(0, len(pattern)))
        rows[place] = [rows[place] + pattern, pattern[cut:] + rows[place], rows[place] + pattern[:cut]][
            random.integers(0, 3)
        ]
    values, offsets = laid_out(rows)
    found = PatternSearch(enumerate(patterns)).find(values, offsets)
    for owner, pattern in enumerate(patterns):
        expected = by_brute_force(rows, pattern, fewest=4)
        assert {(m.row, m.start, m.whole) for m in found if m.owner == owner} == expected
    assert any(match.whole for match in found) and not all(match.whole for match in found)


def test_short_patterns_overlaps_and_repeats() -> None:
    rows = [[1, 1, 1, 2], [2, 1], [], [1, 1]]
    values, offsets = laid_out(rows)
    found = PatternSearch([(0, [1, 1])]).find(values, offsets)
    assert [(m.row, m.start) for m in found] == [(0, 0), (0, 1), (3, 0)] and all(m.whole for m in found)
    assert PatternSearch([]).find(values, offsets) == []


def test_what_all_patterns_share_is_no_match_and_variants_are_one() -> None:
    shared = list(range(10, 30))
    search = PatternSearch([(owner, [*shared, 100 + owner, 200 + owner, 7]) for owner in range(5)])
    rows = [shared, [*shared, 102, 202, 7], [*shared, 109, 209, 7], [*shared, 102, 202]]
    found = search.find(*laid_out(rows))
    assert [(m.owner, m.row, m.whole) for m in found] == [(2, 1, True), (2, 3, False)]
    variants = PatternSearch([(0, [1, 2, 3, 4, 5, 6, 7]), (0, [9, 2, 3, 4, 5, 6, 7]), (0, [2, 3, 4, 5, 6, 7])])
    assert len(variants.find(*laid_out([[0, 1, 2, 3, 4, 5, 6, 7], [9, 2, 3, 4, 5, 6, 7]]))) == 2


def test_documents_within_a_row_have_ends_of_their_own() -> None:
    pattern = list(range(1, 13))
    rows = [[50, 51, *pattern[:8], 60, 61]]
    search = PatternSearch([(0, pattern)])
    assert search.find(*laid_out(rows)) == []
    found = search.find(*laid_out(rows), inner_ends=lambda row: [2, 10, 12])
    assert [(m.row, m.start, m.whole) for m in found] == [(0, 2, False)]


def test_a_pattern_of_which_every_part_is_in_others_is_found() -> None:
    common = list(range(1, 9))
    search = PatternSearch([(0, common), (1, [*common, 9]), (2, [30, *common]), (3, [40, 41, *common])])
    found = search.find(*laid_out([[50, *common, 60]]))
    assert [(m.row, m.start) for m in found if m.owner == 0 and m.whole] == [(0, 1)]
    assert not [m for m in found if m.owner != 0 and m.whole]
