"""Finds a few short patterns in millions of rows of token ids, complete or cut at a row's end.

Shapes: T tokens of all rows one after the other, R rows, window w.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Shorter windows occur in any text by chance. If a pattern is cut in two, one part contains a window of half its
# length.
_SHORTEST_WINDOW, _LONGEST_WINDOW = 4, 6
# Odd, so that multiplication is invertible; the upper bits of the product depend on all tokens of a window.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_TABLE_BITS = 16
_TOKENS_AT_ONCE = 2**21


@dataclass(frozen=True)
class Match:
    """One occurrence of a pattern.

    Attributes:
        owner: the owner of the pattern.
        row: the number of the row.
        start: the start of the pattern within the row; below 0 if its beginning is cut off.
        length: the length of the pattern.
        whole: whether it is complete; otherwise it reaches an end of its row, or of its document within the row.
        pattern: the number of the pattern, in the order given.
    """

    owner: int
    row: int
    start: int
    length: int
    whole: bool
    pattern: int = -1


class PatternSearch:
    """Finds patterns of token ids in rows, in one pass whose cost hardly depends on their number.

    Every window of w tokens is hashed. A table of 2^16 bits lets about one window in a thousand pass, and those are
    compared token by token. Windows that many owners share (a template's fixed words) are skipped, since they do not
    show which pattern it is.

    Args:
        patterns: (owner, token ids). Patterns of one owner that end at the same position are one match, the shortest
            complete one.
    """

    def __init__(self, patterns: Iterable[tuple[int, Sequence[int]]]) -> None:
        listed = [(owner, number, np.asarray(ids, dtype=np.int64)) for number, (owner, ids) in enumerate(patterns)]
        self._patterns = [one for one in listed if len(one[-1])]
        shortest = min((len(ids) for *_, ids in self._patterns), default=1)
        self._window = min(_LONGEST_WINDOW, max(_SHORTEST_WINDOW, shortest // 2), shortest)
        hashes = [_hashes(ids, self._window).tolist() for *_, ids in self._patterns]
        owned = {(owner, value) for (owner, *_), own in zip(self._patterns, hashes, strict=True) for value in own}
        shared = Counter(value for _, value in owned)
        self._places: dict[int, list[tuple[int, int]]] = {}
        for pattern, own in enumerate(hashes):
            rare = max(2, min(shared[value] for value in own))
            for offset, value in enumerate(own):
                if shared[value] <= rare:
                    self._places.setdefault(value, []).append((pattern, offset))
        self._wanted = np.array(sorted(self._places), dtype=np.uint64)
        self._table = np.zeros(2**_TABLE_BITS, dtype=bool)
        self._table[self._wanted >> np.uint64(64 - _TABLE_BITS)] = True

    def find(
        self,
        values: npt.NDArray[np.integer],
        offsets: npt.NDArray[np.int64],
        inner_ends: Callable[[int], Sequence[int]] = lambda row: (),
    ) -> list[Match]:
        """All matches, by row and position.

        Args:
            values: (T,) token ids.
            offsets: (R + 1,) the start of each row, and T.
            inner_ends: returns the ends of the documents within a row, counted from the row's beginning; none by
                default.
        """
        found: dict[tuple[int, int], Match] = {}
        for position, value in self._candidates(values):
            row = int(np.searchsorted(offsets, position, side="right")) - 1
            first, after = int(offsets[row]), int(offsets[row + 1])
            low, high = first, after
            for end in inner_ends(row):
                low, high = (first + end, high) if first + end <= position else (low, min(high, first + end))
            for pattern, offset in self._places[value]:
                owner, number, ids = self._patterns[pattern]
                start = position - offset
                left, right = max(start, low), min(start + len(ids), high)
                if position + self._window > right or (values[left:right] != ids[left - start : right - start]).any():
                    continue
                match = Match(owner, row, start - first, len(ids), right - left == len(ids), number)
                key = (owner, start + len(ids))
                if key not in found or (match.whole, -match.length) > (found[key].whole, -found[key].length):
                    found[key] = match
        return [found[key] for key in sorted(found, key=lambda key: (key[1], key[0]))]

    def _candidates(self, values: npt.NDArray[np.integer]) -> Iterable[tuple[int, int]]:
        for begin in range(0, len(values), _TOKENS_AT_ONCE):
            hashes = _hashes(values[begin : begin + _TOKENS_AT_ONCE + self._window - 1], self._window)
            likely = np.flatnonzero(self._table[hashes >> np.uint64(64 - _TABLE_BITS)])
            picked = hashes[likely]
            sure = np.isin(picked, self._wanted)
            yield from zip((likely[sure] + begin).tolist(), picked[sure].tolist(), strict=True)


def _hashes(values: npt.NDArray[np.integer], window: int) -> npt.NDArray[np.uint64]:
    """One number for each window of `values`; few windows share one by chance."""
    count = max(len(values) - window + 1, 0)
    tokens = values.astype(np.uint64) + np.uint64(1)
    mixed = np.zeros(count, dtype=np.uint64)
    for place in range(window):
        mixed += tokens[place : place + count]
        mixed *= _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
    return mixed
