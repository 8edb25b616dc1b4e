"""Encodings as a prefix tree that is never built: sorted rows of token ids, a node is a range of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from hf_exposure.errors import InputError
from hf_exposure.scoring import Encoder

__all__ = ["EncodingTrie", "alike"]

_CHUNK = 8192
_ABSENT = -1


class EncodingTrie:
    """N distinct token sequences, each of one text.

    A node is `(depth, low, high)`: rows `low <= i < high` agree in their first `depth` tokens. Of two sequences one
    may begin the other; the shorter then stands first in the range of both.

    Attributes:
        rows_NL: (N, L) int32, sorted, padded on the right with -1; 4 bytes a token.
        texts: the text of each sequence by its number before sorting.
        order: (N,) the number of each row.
        shared: tokens that stood before all rows and were cut off.
    """

    def __init__(self, rows_NL: npt.NDArray[np.int32], texts: Sequence[str], shared: tuple[int, ...] = ()) -> None:
        columns = [rows_NL[:, column] for column in range(rows_NL.shape[1])]
        order = np.lexsort(columns[::-1]).astype(np.int32)
        for column in columns:  # one at a time: a sorted copy of the whole would double the memory
            column[:] = column[order]
        self.rows_NL, self.order, self.texts, self.shared = rows_NL, order, texts, shared
        same = np.ones(max(len(order) - 1, 0), dtype=bool)
        self.prefix_free = True
        self._find_repeats(columns, same)

    def _find_repeats(self, columns: list[np.ndarray], same: np.ndarray) -> None:
        equal = same.copy()
        for column in columns:
            equal &= column[1:] == column[:-1]
            same &= (column[1:] == column[:-1]) | (column[:-1] == _ABSENT)
        if equal.any():
            row = int(np.flatnonzero(equal)[0])
            raise alike(self.text_of(row), self.text_of(row + 1))
        self.prefix_free = not same.any()

    @classmethod
    def of(cls, texts: Sequence[str], encoder: Encoder, after: str = "", *, cut_shared: bool = False) -> EncodingTrie:
        """What each text adds to the tokens of `after`, which stands before it.

        `cut_shared` keeps the tokens that all of them begin with apart, in `shared`.

        Raises:
            InputError: the tokens of `after` do not begin all encodings, a text adds none, or two add the same.
        """
        before = tuple(encoder.plain_ids([after])[0]) if after else ()
        shared: tuple[int, ...] | None = None
        blocks: list[list[np.ndarray]] = []
        for first in range(0, len(texts), _CHUNK):
            chunk = [after + texts[index] for index in range(first, min(first + _CHUNK, len(texts)))]
            encoded = encoder.plain_ids(chunk)
            if any(tuple(ids[: len(before)]) != before or len(ids) == len(before) for ids in encoded):
                rule = "must encode what stands before a hole apart from it"
                raise InputError("tokenizer", rule, after, "Use a space of at most a million texts.")
            tails = [ids[len(before) :] for ids in encoded]
            common = _common(tails) if cut_shared else ()
            if shared is not None:
                common = _common([(*common, _ABSENT), (*shared, _ABSENT)])
                for block in blocks:
                    block[:0] = [np.full(len(block[0]), token, dtype=np.int32) for token in shared[len(common) :]]
            shared = common
            blocks.append(_columns([ids[len(common) :] for ids in tails]))
        return cls(_join(blocks), texts, shared or ())

    def __len__(self) -> int:
        return len(self.order)

    def text_of(self, row: int) -> str:
        """The text of a sorted row."""
        return self.texts[int(self.order[row])]

    def ends_at(self, depth: int, low: int) -> bool:
        """Whether the first row of a node ends there."""
        return depth == self.rows_NL.shape[1] or bool(self.rows_NL[low, depth] == _ABSENT)

    def children(self, depth: int, low: int, high: int) -> Iterable[tuple[int, int, int]]:
        """(token, low, high) of each node one token further."""
        if depth == self.rows_NL.shape[1]:
            return []
        column = self.rows_NL[low:high, depth]
        cuts = [0, *(np.flatnonzero(column[1:] != column[:-1]) + 1).tolist(), high - low]
        tokens = column[cuts[:-1]].tolist()
        return [
            (token, low + start, low + stop)
            for token, start, stop in zip(tokens, cuts, cuts[1:], strict=False)
            if token != _ABSENT
        ]


def alike(text: str, other: str) -> InputError:
    """The refusal of two texts that have the same tokens. It tells where they differ: either may be a canary."""
    pairs = itertools.zip_longest(text, other, fillvalue="")
    one, another = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
    rule = (
        f"must tell the template's texts apart, but encodes two alike: one has {one!r} where the other has {another!r}"
    )
    return InputError("tokenizer", rule, "the same tokens", "Use a space without one of them.")


def _common(sequences: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The first tokens that all share, leaving one to each."""
    first, length = sequences[0], min(map(len, sequences)) - 1
    for other in sequences:
        length = next((at for at in range(length) if first[at] != other[at]), length)
    return tuple(first[:length])


def _columns(sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
    width = max(map(len, sequences))
    block = np.full((len(sequences), width), _ABSENT, dtype=np.int32)
    for row, sequence in enumerate(sequences):
        block[row, : len(sequence)] = sequence
    return [np.ascontiguousarray(column) for column in block.T]


def _join(blocks: list[list[np.ndarray]]) -> npt.NDArray[np.int32]:
    """One matrix, a column after the other in memory; the blocks are used up, lest both are held at once."""
    rows, width = sum(len(block[0]) for block in blocks), max(map(len, blocks))
    joined = np.full((rows, width), _ABSENT, dtype=np.int32, order="F")
    at = 0
    while blocks:
        block = blocks.pop(0)
        for column, values in enumerate(block):
            joined[at : at + len(values), column] = values
        at += len(block[0])
    return joined
