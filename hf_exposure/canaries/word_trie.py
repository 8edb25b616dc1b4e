"""A prefix tree over a sorted word list that is never built: a node is a range of the list.

The words that share a prefix are neighbours in sorted order, so a node is `(low, high, depth)`: the words
`low <= i < high` agree in their first `depth` characters. A list of 267,735 words then costs its own memory and
little more.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from hf_exposure.checks import at_most, encodable_text
from hf_exposure.errors import InputError, described
from hf_exposure.limits import LONGEST_LIST, LONGEST_WORD

Node = tuple[int, int, int]

_REMEMBER_FROM = 32
"""Nodes of at least this many words are split once and remembered; below it, splitting is quicker than asking."""


class WordTrie:
    """The prefix tree of distinct, non-empty words.

    Raises:
        InputError: no word, an empty one, a repeated one, or one that UTF-8 cannot encode; more than a million of
            them, or one of more than 10,000 characters; named `argument`.
    """

    def __init__(self, words: Iterable[str], argument: str) -> None:
        remedy = f'Write {argument}=["red", "green"].'
        if isinstance(words, (str, bytes)) or not isinstance(words, Iterable):
            raise InputError(argument, "must be a list of strings", described(words), remedy)
        words = at_most(argument, words, LONGEST_LIST)
        if not words:
            raise InputError(argument, "must hold at least one string", words, remedy)
        for word in words:
            if not encodable_text(argument, word):
                raise InputError(argument, "must hold no empty string", word, "Remove it.")
            if len(word) > LONGEST_WORD:
                raise InputError(argument, f"must hold texts of at most {LONGEST_WORD} characters", word, "Cut it.")
        words.sort()
        for word, following in zip(words, words[1:], strict=False):
            if word == following:
                raise InputError(
                    argument, "must be distinct", described(word), f"Remove the repeats with set({argument})."
                )
        self.words: tuple[str, ...] = tuple(words)
        self._children: dict[Node, dict[str, Node]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"words": self.words}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.words = state["words"]
        self._children = {}

    @property
    def root(self) -> Node:
        return (0, len(self.words), 0)

    def is_word(self, node: Node) -> bool:
        """Whether the prefix of `node` is a word: it is then the shortest of its range, hence the first."""
        low, _, depth = node
        return len(self.words[low]) == depth

    def children(self, node: Node) -> dict[str, Node]:
        """The nodes one character further, by character in sorted order."""
        known = self._children.get(node)
        if known is not None:
            return known
        low, high, depth = node
        position = low + self.is_word(node)
        children: dict[str, Node] = {}
        while position < high:
            character = self.words[position][depth]
            end = bisect_right(self.words, character, position, high, key=lambda word: word[depth])
            children[character] = (position, end, depth + 1)
            position = end
        if high - low >= _REMEMBER_FROM:
            self._children[node] = children
        return children
