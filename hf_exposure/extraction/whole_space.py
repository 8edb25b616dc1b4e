"""Every text of a template as token ids, from its automaton: no text is rendered or encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from hf_exposure.extraction.token_automaton import State, TokenAutomaton, follow_tokens
from hf_exposure.scoring import EncodedTexts


def enumerate_texts(automaton: TokenAutomaton, first_scored: int) -> EncodedTexts:
    """All texts of the automaton, N of them, in ascending order of their token paths.

    The paths are built level by level in arrays; Python touches only the distinct states of a level, which are a few
    for digits and letters.

    Args:
        automaton: of the template.
        first_scored: position of the first scored token in every text.
    """
    states: list[State] = [automaton.root]
    state_of = np.zeros(1, dtype=np.int64)
    paths = np.empty((1, 0), dtype=np.int32)
    while True:
        moves = [automaton.moves(state) for state in states]
        fan_out = np.array([len(found) for found in moves])
        if not fan_out.any():
            break
        # A leaf stays as it is, one padding token longer.
        copies = np.maximum(fan_out, 1)[state_of]
        parent = np.repeat(np.arange(len(state_of)), copies)
        which = np.arange(len(parent)) - np.repeat(np.cumsum(copies) - copies, copies)
        tokens = np.full((len(states), int(fan_out.max())), -1, dtype=np.int32)
        following = np.zeros_like(tokens, dtype=np.int64)
        known: dict[State, int] = {}
        for number, (state, found) in enumerate(zip(states, moves, strict=True)):
            tokens[number, : len(found)] = found.tokens
            children = found.states or (state,)
            following[number, : len(children)] = [known.setdefault(child, len(known)) for child in children]
        old = state_of[parent]
        paths = np.concatenate([paths[parent], tokens[old, which][:, None]], axis=1)
        states, state_of = list(known), following[old, which]
    prefix = np.broadcast_to(np.array(automaton.prefix, dtype=np.int32), (len(paths), len(automaton.prefix)))
    return EncodedTexts(_TextsOfPaths(automaton, paths), np.concatenate([prefix, paths], axis=1), first_scored)


class _TextsOfPaths(Sequence[str]):
    """Texts spelt only when one is asked for, as an error message does."""

    def __init__(self, automaton: TokenAutomaton, paths: np.ndarray) -> None:
        self._automaton, self._paths = automaton, paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return _TextsOfPaths(self._automaton, self._paths[index])
        path = self._paths[index]
        return follow_tokens(self._automaton, path[path >= 0].tolist()) or ""
