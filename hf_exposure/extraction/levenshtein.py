"""The Levenshtein automaton of a secret, and its product with a vocabulary: the effect of each token on a text's
distance.

A state is the last row of the edit-distance table: the distance of each beginning of the secret from the text so far.
A text is *accepted* as soon as one of its beginnings is within `edits` of the secret, whatever follows, and *dead*
once no continuation can be, since the smallest number of the row never decreases. All distances above `edits` are
equivalent, so there are few states. Characters outside the secret are equivalent too, so a vocabulary has few distinct
spellings.

    secret 12, edits 1     said ""   row 0 1 2      open
                           said "7"  row 1 1 2      open (the 7 replaces the 1, or comes before it)
                           said "72" row 2 2 1      accepted: one character replaced

Shapes: n characters of the secret; K distinct spellings of at most L characters; V tokens.

Source: Schulz and Mihov 2002, "Fast string correction with Levenshtein automata".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

OPEN, ACCEPTED, DEAD, UNKNOWN = 0, 1, 2, 3
"""The state of a text after a token: undecided, within the distance, beyond it, or of unknown spelling."""

_OTHER, _PAD = -1, -2


@dataclass(frozen=True)
class Step:
    """The effect of every token after a state.

    Attributes:
        verdict_V: one of `OPEN`, `ACCEPTED`, `DEAD` and `UNKNOWN`.
        state_V: the state after it if it is open; else -1.
    """

    verdict_V: npt.NDArray[np.int8]
    state_V: npt.NDArray[np.int64]


class LevenshteinTokens:
    """The states of texts that a model generates token by token, by their distance to a secret.

    Args:
        secret: at least `edits + 1` characters.
        edits: the maximum number of characters to insert, delete or replace.
        pieces: the spelling of each token; None if unknown, "" if the text ends with it.

    Attributes:
        start: the state of the empty text.

    Example:
        >>> tokens = LevenshteinTokens("12", 1, ["1", "7", "2", None, ""])
        >>> tokens.step(tokens.start).verdict_V.tolist()      # "1" lacks one character, "2" too, "7" is still open
        [1, 0, 1, 3, 2]
    """

    start = 0

    def __init__(self, secret: str, edits: int, pieces: Sequence[str | None]) -> None:
        self._edits = edits
        alphabet = {character: code for code, character in enumerate(dict.fromkeys(secret))}
        self._secret_n = np.array([alphabet[character] for character in secret], dtype=np.int64)
        # After this many characters everything is decided.
        longest = len(secret) + edits + 1
        spelled = [
            None if piece is None else tuple(alphabet.get(one, _OTHER) for one in piece[:longest]) for piece in pieces
        ]
        kinds = list(dict.fromkeys(spelled))
        number = {kind: place for place, kind in enumerate(kinds)}
        self._kind_V = np.array([number[one] for one in spelled], dtype=np.int64)
        self._is_unknown_K = np.array([kind is None for kind in kinds])
        self._is_end_K = np.array([kind == () for kind in kinds])
        width = max((len(kind) for kind in kinds if kind), default=0)
        self._codes_KL = np.full((len(kinds), width), _PAD, dtype=np.int64)
        for place, kind in enumerate(kinds):
            self._codes_KL[place, : len(kind or ())] = kind or ()
        row = np.minimum(np.arange(len(secret) + 1), edits + 1).astype(np.int64)
        self._rows, self._number_of = [row], {row.tobytes(): 0}
        self._steps: dict[int, Step] = {}

    def __len__(self) -> int:
        """V."""
        return len(self._kind_V)

    def step(self, state: int) -> Step:
        """The effect of every token after `state`."""
        if state not in self._steps:
            self._steps[state] = self._computed(state)
        return self._steps[state]

    def _computed(self, state: int) -> Step:
        kinds = len(self._codes_KL)
        rows_Kn = np.tile(self._rows[state], (kinds, 1))
        verdict_K = np.full(kinds, OPEN, dtype=np.int8)
        for code_K in self._codes_KL.T:
            moves = (code_K != _PAD) & (verdict_K == OPEN)
            rows_Kn[moves] = self._after(rows_Kn[moves], code_K[moves])
            verdict_K[moves & (rows_Kn[:, -1] <= self._edits)] = ACCEPTED
            verdict_K[moves & (rows_Kn.min(axis=1) > self._edits)] = DEAD
        verdict_K[self._is_end_K], verdict_K[self._is_unknown_K] = DEAD, UNKNOWN
        state_K = np.full(kinds, -1, dtype=np.int64)
        for place in np.flatnonzero(verdict_K == OPEN).tolist():
            key = rows_Kn[place].tobytes()
            if key not in self._number_of:
                self._number_of[key] = len(self._rows)
                self._rows.append(rows_Kn[place].copy())
            state_K[place] = self._number_of[key]
        return Step(verdict_K[self._kind_V], state_K[self._kind_V])

    def _after(self, rows_Kn: npt.NDArray[np.int64], code_K: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The rows after one more character; numbers above `edits` are replaced by `edits + 1`."""
        after_Kn = np.empty_like(rows_Kn)
        after_Kn[:, 0] = rows_Kn[:, 0] + 1
        for place, own in enumerate(self._secret_n.tolist(), 1):
            replaced = rows_Kn[:, place - 1] + (code_K != own)
            shorter = np.minimum(rows_Kn[:, place], after_Kn[:, place - 1]) + 1
            after_Kn[:, place] = np.minimum(replaced, shorter)
        return np.minimum(after_Kn, self._edits + 1)
