"""The common beginning of sequences of token ids, for comparing texts token by token."""

from __future__ import annotations

from collections.abc import Sequence


def shared_length(sequences: Sequence[Sequence[int]]) -> int:
    """The number of leading tokens that all sequences share; 0 if there are no sequences.

    Example:
        >>> shared_length([[5, 6, 7], [5, 6], [5, 6, 8]]), shared_length([[5], [6]])
        (2, 0)
    """
    for place, tokens in enumerate(zip(*sequences, strict=False)):
        if len(set(tokens)) > 1:
            return place
    return min(map(len, sequences), default=0)
