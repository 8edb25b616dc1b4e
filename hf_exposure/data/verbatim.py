"""Finds which parts of texts occur verbatim in a dataset, and in how many rows, in two passes over the rows.

Windows with the smallest length of a match are hashed, once for the texts and for each row as it is read. If hashes
agree, the characters are compared, and the match is extended to both sides. The first pass finds the longest match of
each text, and the second counts the rows that contain it. Memory grows with the texts, not with the rows.

Shapes: W windows of all texts, C characters of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_exposure.checks import whole_number

# The multiplier of a polynomial modulo 2^64; any odd number with mixed bits works, since characters are compared.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, kw_only=True)
class Match:
    """The longest part of a text that occurs in some row. Its `repr` contains no text.

    Attributes:
        start, stop: the position of the part within the text; both are 0 if none is long enough.
        rows: the number of rows that contain the whole part: the k of k-eidetic memorization.
    """

    start: int = 0
    stop: int = 0
    rows: int = 0

    @property
    def length(self) -> int:
        """The length in characters; 0 if nothing matches."""
        return self.stop - self.start


def longest_matches(
    texts: Sequence[str], rows: Callable[[], Iterable[str]], *, least_characters: int = 50
) -> list[Match]:
    """The longest verbatim match of each text in any row, and the number of rows that contain it.

    Of several longest matches, the first one found is used.

    Args:
        texts: the texts to search for.
        rows: a function that returns the texts of the data; it is called twice.
        least_characters: the smallest length of a match.

    Raises:
        InputError: `least_characters` is below 1.

    Example:
        >>> rows = ["the quick brown fox", "a quick brown dog"]
        >>> longest_matches(["my quick brown cat", "nothing"], lambda: rows, least_characters=8)
        [Match(start=2, stop=15, rows=2), Match(start=0, stop=0, rows=0)]
    """
    whole_number("least_characters", least_characters, 1)
    index = _Index(texts, least_characters)
    best = [Match()] * len(texts)
    for row in rows():
        for number, start, at in index.hits(row):
            # A window within the best match is irrelevant unless it extends beyond it.
            found = _extended(texts[number], row, start, at, least_characters)
            if found[1] - found[0] > best[number].length:
                best[number] = Match(start=found[0], stop=found[1])
    parts = {text[one.start : one.stop] for text, one in zip(texts, best, strict=True) if one.length}
    counts = dict.fromkeys(parts, 0)
    wanted = sorted(parts)
    by_part = _Index(wanted, least_characters, first_window_only=True)
    for row in rows():
        for number in {number for number, _, _ in by_part.hits(row)}:
            counts[wanted[number]] += wanted[number] in row
    return [
        Match(start=one.start, stop=one.stop, rows=counts.get(text[one.start : one.stop], 0))
        for text, one in zip(texts, best, strict=True)
    ]


class _Index:
    """The windows of texts, by their hashes."""

    def __init__(self, texts: Sequence[str], window: int, *, first_window_only: bool = False) -> None:
        self._texts, self._window = texts, window
        hashes, owners, places = [], [], []
        for number, text in enumerate(texts):
            own = _hashes(text, window)[: 1 if first_window_only else None]
            hashes.append(own)
            owners.append(np.full(len(own), number))
            places.append(np.arange(len(own)))
        joined = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
        order = np.argsort(joined, kind="stable")
        self._hash_W = joined[order]
        self._owner_W = np.concatenate(owners)[order] if owners else np.zeros(0, dtype=np.int64)
        self._place_W = np.concatenate(places)[order] if places else np.zeros(0, dtype=np.int64)

    def hits(self, row: str) -> Iterable[tuple[int, int, int]]:
        """Yields the number of a text, the position in it, and the position in the row, for common windows.

        Of windows that follow each other in both, only the first is given, since they are one match.
        """
        own_C = _hashes(row, self._window)
        if not len(own_C) or not len(self._hash_W):
            return
        low_C = np.searchsorted(self._hash_W, own_C, side="left")
        known = np.flatnonzero(self._hash_W[np.minimum(low_C, len(self._hash_W) - 1)] == own_C)
        before: set[tuple[int, int]] = set()
        last = -2
        for at in known.tolist():
            high = int(np.searchsorted(self._hash_W, own_C[at], side="right"))
            here = {(int(self._owner_W[place]), int(self._place_W[place])) for place in range(int(low_C[at]), high)}
            if at != last + 1:
                before = set()
            for number, start in here:
                if (number, start - 1) not in before and self._same(number, start, row, at):
                    yield number, start, at
            before, last = here, at

    def _same(self, number: int, start: int, row: str, at: int) -> bool:
        return self._texts[number][start : start + self._window] == row[at : at + self._window]


def _hashes(text: str, window: int) -> NDArray[np.uint64]:
    """(C - window + 1,) hashes of all windows of a text."""
    if len(text) < window:
        return np.zeros(0, dtype=np.uint64)
    codes_C = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32).astype(np.uint64)
    with np.errstate(over="ignore"):
        # Sums of c_i m^i: a window's hash is the difference of two of them, normalized by a power of the inverse of m.
        powers_C = np.cumprod(np.full(len(codes_C), _MULTIPLIER))
        sums_C = np.concatenate([[np.uint64(0)], np.cumsum((codes_C + np.uint64(1)) * powers_C)])
        inverse_C = np.cumprod(np.full(len(codes_C), np.uint64(pow(int(_MULTIPLIER), -1, 2**64))))
        found: NDArray[np.uint64] = (sums_C[window:] - sums_C[:-window]) * inverse_C[: len(codes_C) - window + 1]
    return found


def _extended(text: str, row: str, start: int, at: int, length: int) -> tuple[int, int]:
    """The largest part of the text around a window that agrees with the row."""
    stop, end = start + length, at + length
    while start and at and text[start - 1] == row[at - 1]:
        start, at = start - 1, at - 1
    while stop < len(text) and end < len(row) and text[stop] == row[end]:
        stop, end = stop + 1, end + 1
    return start, stop
