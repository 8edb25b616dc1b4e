"""The texts of a template as a graph of tokens: what search walks.

Training saw one segmentation of each text, the tokenizer's own (the *canonical* one), and the rank counts texts. A
backend whose graph has just that one path for each text is exact as it stands. One that has others too must tell them
apart: `canonical` and `runs` do.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

State = Hashable
Path = tuple[int, ...]
Exactness = Literal["proven", "audited"]


@dataclass(frozen=True)
class Moves:
    """The children of a state, C of them, ascending by token.

    Attributes:
        tokens: (C,) int64 token ids.
        pieces: C strings, the source text that each token adds; together they spell the text of a path. A token that
            leaves a character or a word undecided adds nothing yet.
        states: C states.
    """

    tokens: np.ndarray
    pieces: Sequence[str]
    states: Sequence[State]

    def __len__(self) -> int:
        return len(self.states)


Run = tuple[Path, str, State, Moves]
"""What is forced after a state: (tokens, text) passed, the state reached, and its moves: none (a leaf) or several."""

NO_MOVES = Moves(np.zeros(0, dtype=np.int64), (), ())


class TokenAutomaton(Protocol):
    """A deterministic, acyclic graph. Each text of the template is the path of its canonical encoding to a leaf.

    Paths are tokens below the prefix, texts are whole, from their first character on.

    Attributes:
        name: which backend this is; named in results.
        exactness: "proven" where every text was seen to be a path, or the tokenizer's data show that it is; "audited"
            where 10,000 sampled ones were, so that with 95 % confidence fewer than 0.03 % are not.
        prefix: tokens that every text begins with, special tokens before the text included. May be empty.
        prefix_text: the source text that `prefix` stands for.
        root: the state after `prefix`.
    """

    name: str
    exactness: Exactness
    prefix: Path
    prefix_text: str
    root: State

    def moves(self, state: State) -> Moves:
        """The children of a state; none for a leaf."""

    def is_leaf(self, state: State) -> bool:
        """Whether a state is the end of a text."""

    def count(self, state: State) -> int:
        """How many texts are spelt at or below a state, exactly; 1 for a leaf. Where several paths spell one text,
        it is counted below each, so the counts of siblings may add up to more than their parent's.
        """

    def canonical(self, paths: Sequence[Path], texts: Sequence[str], ends: Sequence[bool]) -> list[bool]:
        """Whether each path is the beginning of a canonical encoding, or the whole of one where `ends` says so.

        `texts` are what the paths spell. A leaf is judged exactly; of a beginning, True may mean "not known".
        """

    def runs(self, paths: Sequence[Path], texts: Sequence[str], states: Sequence[State]) -> list[Run | None]:
        """What is forced after each state; None for a path that leads to no canonical encoding."""


def why_audited(automaton: TokenAutomaton) -> str:
    """What a reader of a result must know of an automaton that is not proven to hold every text; "" for others."""
    if automaton.exactness == "proven":
        return ""
    reason = getattr(automaton, "unproven", "")
    known = "that the search covers every text was audited on sampled encodings, not proven"
    return f"{known}: {reason}" if reason else known


class OnePathPerText:
    """The part of a backend whose graph has no path but the canonical ones."""

    def is_leaf(self: TokenAutomaton, state: State) -> bool:
        return not len(self.moves(state))

    def canonical(self, paths: Sequence[Path], texts: Sequence[str], ends: Sequence[bool]) -> list[bool]:
        return [True] * len(paths)

    def runs(
        self: TokenAutomaton, paths: Sequence[Path], texts: Sequence[str], states: Sequence[State]
    ) -> list[Run | None]:
        return [follow_forced_run(self, state) for state in states]


def follow_forced_run(automaton: TokenAutomaton, state: State) -> Run:
    """From `state` through every state with one child."""
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
    return "".join(pieces) if automaton.is_leaf(state) else None
