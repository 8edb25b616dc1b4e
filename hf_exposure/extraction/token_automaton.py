"""The texts of a template as a graph of tokens, which is searched from its root to its leaves.

Training saw one segmentation of each text, the tokenizer's own (the *canonical* one), and the rank counts texts. So
exactly one path to a leaf must count for each text. A backend whose graph has only that path (`one_path`) is exact. A
backend whose graph has other paths for the same text distinguishes them in `canonical` and `forced_tokens`.

Shapes: C children of a state; N paths of at most L tokens; S distinct states of one level.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hf_exposure.scoring import EncodedTexts
from hf_exposure.scoring.encoding import LazyTexts

State = Hashable
Path = tuple[int, ...]
Exactness = Literal["proven", "audited"]


@dataclass(frozen=True)
class Transitions:
    """The children of a state, C of them, ascending by token.

    Attributes:
        tokens_C: int64 token ids.
        pieces: C strings, the source text that each token adds; together they spell the text of a path. A token that
            leaves a character or a word undecided adds nothing yet.
        states: the C states.
        automaton: their automaton, which is queried once for properties that many paths through one state need; None
            without children.
    """

    tokens_C: npt.NDArray[np.int64]
    pieces: Sequence[str]
    states: Sequence[State]
    automaton: TokenAutomaton | None = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.states)

    @cached_property
    def leaves_C(self) -> npt.NDArray[np.int64]:
        """Indices of the children that are ends of texts."""
        ends = [self.automaton.is_leaf(state) for state in self.states] if self.automaton else []
        return np.flatnonzero(np.array(ends, dtype=bool))

    @cached_property
    def inner_C(self) -> npt.NDArray[np.int64]:
        """Indices of the children that are not."""
        return np.delete(np.arange(len(self)), self.leaves_C)

    @cached_property
    def counts(self) -> Sequence[int]:
        """The number of texts below each child, as in `TokenAutomaton.count`."""
        return [self.automaton.count(state) for state in self.states] if self.automaton else []

    @cached_property
    def log2_counts_C(self) -> npt.NDArray[np.float64]:
        """log2 of `counts`."""
        return np.array([math.log2(count) for count in self.counts])


NO_TRANSITIONS = Transitions(np.zeros(0, dtype=np.int64), (), (), None)


class ForcedTokens(NamedTuple):
    """The tokens that every path through a state has next, up to the next choice.

    Attributes:
        tokens: the forced tokens; none if the state itself has a choice.
        text: the text that they spell.
        state: the state after them.
        transitions: the transitions of that state: none if it is a leaf, else two or more.
    """

    tokens: Path
    text: str
    state: State
    transitions: Transitions


class TokenAutomaton(Protocol):
    """A deterministic, acyclic graph. Each text of the template is the path of its canonical encoding to a leaf.

    Paths are tokens after the prefix; texts are whole, from their first character on.

    Attributes:
        name: the name of the backend, which results show.
        exactness: "proven" if every text was found to be a path, or the tokenizer's data show that it is; "audited" if
            10,000 sampled texts were, so that with 95 % confidence fewer than 0.03 % are not.
        unproven: why it is not proven that every text is a path; "" if it is, or if the reason is unknown.
        one_path: whether the graph has only canonical paths, so that each text is one path.
        prefix: the tokens with which every text begins, including special tokens before the text; may be empty.
        prefix_text: the source text of `prefix`.
        root: the state after `prefix`.
    """

    name: str
    exactness: Exactness
    unproven: str
    one_path: bool
    prefix: Path
    prefix_text: str
    root: State

    def transitions(self, state: State) -> Transitions:
        """The children of a state; none for a leaf."""

    def is_leaf(self, state: State) -> bool:
        """Whether a state is the end of a text."""

    def count(self, state: State) -> int:
        """The exact number of texts at or below a state; 1 for a leaf. If several paths spell one text, it is counted
        below each, so the counts of siblings may sum to more than their parent's.
        """

    def canonical(self, paths: Sequence[Path], texts: Sequence[str], ends: Sequence[bool]) -> list[bool]:
        """Whether each path is the beginning of a canonical encoding, or a whole one if `ends` is True.

        `texts` are the spellings of the paths. A leaf is judged exactly; for a beginning, True may mean "unknown".
        """

    def forced_tokens(
        self, paths: Sequence[Path], texts: Sequence[str], states: Sequence[State]
    ) -> list[ForcedTokens | None]:
        """The forced tokens after each state; None for a path that leads to no canonical encoding."""


class OnePathPerText:
    """Defaults for a backend whose graph has only canonical paths."""

    one_path = True
    unproven = ""

    def is_leaf(self: TokenAutomaton, state: State) -> bool:
        return not len(self.transitions(state))

    def canonical(self, paths: Sequence[Path], texts: Sequence[str], ends: Sequence[bool]) -> list[bool]:
        return [True] * len(paths)

    def forced_tokens(
        self: TokenAutomaton, paths: Sequence[Path], texts: Sequence[str], states: Sequence[State]
    ) -> list[ForcedTokens | None]:
        return [follow_only_children(self, state) for state in states]


def why_audited(automaton: TokenAutomaton) -> str:
    """A note for readers about an automaton that is not proven to contain every text; "" for others."""
    if automaton.exactness == "proven":
        return ""
    known = "that the search covers every text was audited on sampled encodings, not proven"
    return f"{known}: {automaton.unproven}" if automaton.unproven else known


def follow_only_children(automaton: TokenAutomaton, state: State) -> ForcedTokens:
    """Follows every state with only one child, from `state` on."""
    tokens: list[int] = []
    text: list[str] = []
    transitions = automaton.transitions(state)
    while len(transitions) == 1:
        tokens.append(int(transitions.tokens_C[0]))
        text.append(transitions.pieces[0])
        state = transitions.states[0]
        transitions = automaton.transitions(state)
    return ForcedTokens(tuple(tokens), "".join(text), state, transitions)


def follow_tokens(automaton: TokenAutomaton, tokens: Sequence[int]) -> str | None:
    """The text whose path after the prefix is `tokens`; None if that is no path from the root to a leaf."""
    state, pieces = automaton.root, [automaton.prefix_text]
    for token in tokens:
        transitions = automaton.transitions(state)
        child = int(np.searchsorted(transitions.tokens_C, token))
        if child == len(transitions) or transitions.tokens_C[child] != token:
            return None
        pieces.append(transitions.pieces[child])
        state = transitions.states[child]
    return "".join(pieces) if automaton.is_leaf(state) else None


def enumerate_texts(automaton: TokenAutomaton, first_scored: int) -> EncodedTexts:
    """All N texts of an automaton with `one_path`, as token ids in ascending order; no text is rendered or encoded.

    The paths grow level by level in arrays. Python touches only the distinct states of a level, which are few for
    digits and letters. One level, from two paths `4` and `5`, in state A with children `7` and `8` and in leaf B:

        paths_NL    [[4], [5]]       state_of_N  [0, 1]          states  [A, B]
        copies_N [2, 1] one for each child; a leaf is copied once parent_N [0, 0, 1] child_N [0, 1, 0] tokens_SC [[7,
        8], next_SC [[0, 1], states [A7, A8, B], renumbered
                     [-1, -1]]                    [2, 0]]
        paths_NL    [[4, 7], [4, 8], [5, -1]]    state_of_N  [0, 1, 2]

    Args:
        automaton: the automaton of the template.
        first_scored: position of the first scored token in every text.
    """
    states: list[State] = [automaton.root]
    state_of_N = np.zeros(1, dtype=np.int64)
    paths_NL = np.empty((1, 0), dtype=np.int32)
    while True:
        level = [automaton.transitions(state) for state in states]
        children_S = np.array([len(transitions) for transitions in level])
        if not children_S.any():
            break
        copies_N = np.maximum(children_S, 1)[state_of_N]
        parent_N = np.repeat(np.arange(len(state_of_N)), copies_N)
        child_N = np.arange(len(parent_N)) - np.repeat(np.cumsum(copies_N) - copies_N, copies_N)
        tokens_SC = np.full((len(states), int(children_S.max())), -1, dtype=np.int32)
        next_SC = np.zeros_like(tokens_SC, dtype=np.int64)
        numbers: dict[State, int] = {}
        for row, (state, transitions) in enumerate(zip(states, level, strict=True)):
            tokens_SC[row, : len(transitions)] = transitions.tokens_C
            following = transitions.states or (state,)  # a leaf is kept, with one more padding token
            next_SC[row, : len(following)] = [numbers.setdefault(child, len(numbers)) for child in following]
        state_N = state_of_N[parent_N]
        paths_NL = np.concatenate([paths_NL[parent_N], tokens_SC[state_N, child_N][:, None]], axis=1)
        states, state_of_N = list(numbers), next_SC[state_N, child_N]
    prefix = np.broadcast_to(np.array(automaton.prefix, dtype=np.int32), (len(paths_NL), len(automaton.prefix)))

    def text_at(number: int) -> str:
        path_L = paths_NL[number]
        return follow_tokens(automaton, path_L[path_L >= 0].tolist()) or ""

    texts = LazyTexts(len(paths_NL), text_at)
    return EncodedTexts(texts, np.concatenate([prefix, paths_NL], axis=1), first_scored)
