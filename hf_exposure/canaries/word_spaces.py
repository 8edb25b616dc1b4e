"""Spaces made of words: one of a list of texts, or several words of a list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hf_exposure.canaries.space import Space, State
from hf_exposure.canaries.word_lists import ENGLISH_LIST, digest, english_words
from hf_exposure.canaries.word_trie import WordTrie
from hf_exposure.checks import countable, encodable_text, whole_number
from hf_exposure.errors import InputError, described
from hf_exposure.limits import LONGEST_FILLING, MOST_WORDS

__all__ = ["Choice", "Words"]


def _common_length(words: tuple[str, ...]) -> int | None:
    lengths = {len(word) for word in words}
    return lengths.pop() if len(lengths) == 1 else None


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Choice(Space):
    """One of the given texts.

    Args:
        options: distinct, non-empty texts; at least one. Their order does not matter.

    Raises:
        InputError: as the argument says, or a text that UTF-8 cannot encode.

    Example:
        >>> colours = Choice(["red", "reddish", "blue"])
        >>> colours.size, colours.text_at(0), colours.lengths_at("reddish", 0), colours.fixed_length
        (3, 'blue', [3, 7], None)
    """

    _trie: WordTrie

    def __init__(self, options: Iterable[str]) -> None:
        object.__setattr__(self, "_trie", WordTrie(options, "options"))

    @property
    def options(self) -> tuple[str, ...]:
        """The texts in sorted order."""
        return self._trie.words

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and self.options == other.options

    def __hash__(self) -> int:
        return hash((len(self.options), self.options[0], self.options[-1]))

    def __repr__(self) -> str:
        return f"Choice(<{len(self.options)} options>)"

    @property
    def start(self) -> State:
        return self._trie.root

    def moves(self, state: State) -> dict[str, State]:
        return dict(self._trie.children(state))

    def is_end(self, state: State) -> bool:
        return self._trie.is_word(state)

    def count(self, state: State) -> int:
        low, high, _ = state
        return int(high - low)

    @property
    def alphabet(self) -> frozenset[str]:
        return frozenset("".join(self.options))

    @property
    def fixed_length(self) -> int | None:
        return _common_length(self.options)

    def to_dict(self) -> dict[str, Any]:
        return {"type": "choice", "options": list(self.options)}


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Words(Space):
    """`number` words of a list, drawn with replacement and joined by a separator: `len(words) ** number` texts.

    Args:
        number: of words.
        words: distinct, non-empty; an English list of about 1,900 words unless given. Their order does not matter.
        separator: stands between two words. No word may hold a character of it, so that every text splits one way.

    Raises:
        InputError: as the arguments say, or a text that UTF-8 cannot encode.

    Example:
        >>> pair = Words(2, words=["red", "green"])
        >>> pair.size, [pair.text_at(index) for index in range(pair.size)]
        (4, ['green green', 'green red', 'red green', 'red red'])
    """

    number: int
    separator: str
    _trie: WordTrie
    _letters: frozenset[str] = field(repr=False)

    def __init__(self, number: int, words: Iterable[str] | None = None, separator: str = " ") -> None:
        trie = WordTrie(english_words() if words is None else words, "words")
        if not encodable_text("separator", separator):
            raise InputError("separator", "must be at least one character", separator, 'Write separator=" ".')
        if len(separator) > LONGEST_FILLING:
            rule = f"must be at most {LONGEST_FILLING} characters"
            raise InputError("separator", rule, separator, 'Write separator=" ".')
        letters = frozenset("".join(trie.words))
        if not letters.isdisjoint(separator):
            word = next(word for word in trie.words if not set(word).isdisjoint(separator))
            rule = f"must hold no character of the separator {separator!r}"
            raise InputError("words", rule, described(word), "Remove such words, or choose another separator.")
        object.__setattr__(self, "number", whole_number("number", number, 1, MOST_WORDS))
        countable("number", len(trie.words), self.number)
        object.__setattr__(self, "separator", separator)
        object.__setattr__(self, "_trie", trie)
        object.__setattr__(self, "_letters", letters)

    @property
    def words(self) -> tuple[str, ...]:
        """The words in sorted order."""
        return self._trie.words

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Words):
            return NotImplemented
        return (self.number, self.separator, self.words) == (other.number, other.separator, other.words)

    def __hash__(self) -> int:
        # The list's ends stand for the list: hashing 267,735 words at each look-up would cost more than the look-up.
        return hash((self.number, self.separator, len(self.words), self.words[0], self.words[-1]))

    def __repr__(self) -> str:
        return f"Words({self.number}, words=<{len(self.words)} words>, separator={self.separator!r})"

    # State: (words to come counting this one, node in the word, characters of the separator read). The separator is
    # read only when the node is a word; the last of its characters leads to the root of the next word.

    @property
    def start(self) -> State:
        return (self.number, self._trie.root, 0)

    def moves(self, state: State) -> dict[str, State]:
        left, node, read = state
        moves: dict[str, State] = {}
        if read == 0:
            moves = {character: (left, child, 0) for character, child in self._trie.children(node).items()}
        if left > 1 and self._trie.is_word(node):
            last = read + 1 == len(self.separator)
            moves[self.separator[read]] = (left - 1, self._trie.root, 0) if last else (left, node, read + 1)
            moves = dict(sorted(moves.items()))
        return moves

    def is_end(self, state: State) -> bool:
        left, node, _ = state
        return bool(left == 1 and self._trie.is_word(node))

    def count(self, state: State) -> int:
        left, (low, high, _), read = state
        this_word = 1 if read else high - low
        return int(this_word * len(self.words) ** (left - 1))

    @property
    def alphabet(self) -> frozenset[str]:
        return self._letters | frozenset(self.separator) if self.number > 1 else self._letters

    @property
    def continuations(self) -> frozenset[str]:
        return frozenset() if self.fixed_length is not None else self._letters  # the last word goes on, no more words

    @property
    def fixed_length(self) -> int | None:
        length = _common_length(self.words)
        return None if length is None else self.number * length + (self.number - 1) * len(self.separator)

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"type": "words", "number": self.number, "separator": self.separator}
        if self.words == english_words():
            return plain | {"list": ENGLISH_LIST, "sha256": digest(self.words)}
        return plain | {"words": list(self.words)}
