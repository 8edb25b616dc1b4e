"""The texts of a template as a graph of tokens: what search walks.

Training saw one segmentation of each text, the tokenizer's own, so each text of the template is exactly one path here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hf_exposure.canaries import CanaryTemplate

__all__ = ["Moves", "TokenAutomaton", "follow_forced_run", "follow_tokens"]

State = Hashable


@dataclass(frozen=True)
class Moves:
    """The children of a state, C of them, ascending by token.

    Attributes:
        tokens: (C,) int64 token ids.
        pieces: C strings, the source text that each token adds; together they spell the text of a path.
        states: C states.
    """

    tokens: np.ndarray
    pieces: tuple[str, ...]
    states: tuple[State, ...]

    def __len__(self) -> int:
        return len(self.states)


class TokenAutomaton(Protocol):
    """A deterministic, acyclic graph whose leaves are the template's texts.

    Attributes:
        name: which backend this is; named in results.
        template: the texts.
        prefix: tokens that every text begins with, special tokens before the text included. May be empty.
        prefix_text: the source text that `prefix` stands for.
        root: the state after `prefix`.
    """

    name: str
    template: CanaryTemplate
    prefix: tuple[int, ...]
    prefix_text: str
    root: State

    def moves(self, state: State) -> Moves:
        """The children of a state; none for a leaf."""

    def count(self, state: State) -> int:
        """How many texts lie at or below a state, exactly; 1 for a leaf."""


def follow_forced_run(automaton: TokenAutomaton, state: State) -> tuple[tuple[int, ...], str, State, Moves]:
    """From `state` through every state with one child: (tokens, text) passed, the state reached, and its moves.

    The state reached has no move (a leaf) or several.
    """
    tokens: list[int] = []
    text: list[str] = []
    moves = automaton.moves(state)
    while len(moves) == 1:
        tokens.append(int(moves.tokens[0]))
        text.append(moves.pieces[0])
        state = moves.states[0]
        moves = automaton.moves(state)
    return tuple(tokens), "".join(text), state, moves


def follow_tokens(automaton: TokenAutomaton, tokens: Sequence[int]) -> str | None:
    """The text whose path below the prefix is `tokens`; None where that is no path from the root to a leaf."""
    state, pieces = automaton.root, [automaton.prefix_text]
    for token in tokens:
        moves = automaton.moves(state)
        child = int(np.searchsorted(moves.tokens, token))
        if child == len(moves) or moves.tokens[child] != token:
            return None
        pieces.append(moves.pieces[child])
        state = moves.states[child]
    return None if len(automaton.moves(state)) else "".join(pieces)
