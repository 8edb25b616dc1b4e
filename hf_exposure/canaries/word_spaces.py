"""Spaces of words: one text from a list (`Choice`), or several words from a list (`Words`, `VocabularyTokens`).

All of them use a prefix tree over the sorted list, which is never built. The words that share a prefix are adjacent in
sorted order, so a node is a range of the list: `(low, high, depth)` means that the words `low <= i < high` agree in
their first `depth` characters. So a list of 267,735 words takes little more than its own memory.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any

from hf_exposure.canaries.space import Space, State
from hf_exposure.checks import at_most, check_tokenizer, countable, encodable_text, whole_number
from hf_exposure.errors import InputError, described
from hf_exposure.limits import LONGEST_FILLING, LONGEST_LIST, LONGEST_WORD, MOST_WORDS

Node = tuple[int, int, int]

_CACHED_FROM = 32
"""Nodes of at least this many words are split once and cached; smaller ones are split again, which is faster."""

ENGLISH_LIST = "english-1"
"""The name, in saved files, of the list that ships with the package. A changed list needs a new name; otherwise
saved canaries would change their space.
"""

_ANCHOR = "a"
"""The text before the separator when `VocabularyTokens` tests a word, since words in a text follow other text."""


class WordTrie:
    """The prefix tree of distinct, non-empty words.

    Raises:
        InputError: there are no words, or more than a million; a word is empty, repeated, longer than 10,000
            characters, or UTF-8 cannot encode it. The error names `argument`.
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
        """Whether the prefix of `node` is a word. It is then the shortest of its range, and hence the first."""
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
        if high - low >= _CACHED_FROM:
            self._children[node] = children
        return children


@lru_cache(maxsize=1)
def english_words() -> tuple[str, ...]:
    """About 1,900 English words of 3 to 10 lowercase letters, sorted; compiled from the prose of Python's own manual.

    Example:
        >>> len(english_words()) > 1000, "because" in english_words()
        (True, True)
    """
    text = resources.files("hf_exposure.canaries").joinpath("words_en.txt").read_text(encoding="utf-8")
    return tuple(text.split())


def digest(words: Iterable[str]) -> str:
    """SHA-256 in hex of the words, one per line. A saved file uses it to check the shipped list."""
    return hashlib.sha256("\n".join(words).encode("utf-8")).hexdigest()


def _common_length(words: tuple[str, ...]) -> int | None:
    lengths = {len(word) for word in words}
    return lengths.pop() if len(lengths) == 1 else None


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Choice(Space):
    """The space of the given texts.

    Args:
        options: distinct, non-empty texts; at least one. Their order does not matter.

    Raises:
        InputError: `options` is empty, or a text in it is empty, repeated or not encodable in UTF-8.

    Example:
        >>> colors = Choice(["red", "reddish", "blue"])
        >>> colors.size, colors.text_at(0), colors.lengths_at("reddish", 0), colors.fixed_length
        (3, 'blue', [3, 7], None)
    """

    _trie: WordTrie

    def __init__(self, options: Iterable[str]) -> None:
        vars(self).update(_trie=WordTrie(options, "options"))

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
    """All `len(words) ** number` texts of `number` words from a list, drawn with replacement and joined by a
    separator.

    Args:
        number: the number of words.
        words: distinct, non-empty words; by default an English list of about 1,900. Their order does not matter.
        separator: the text between two words. No word may contain one of its characters, so that every text splits in
            only one way.

    Raises:
        InputError: an argument breaks a rule above, or UTF-8 cannot encode a text.

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
        number = whole_number("number", number, 1, MOST_WORDS)
        countable("number", len(trie.words), number)
        vars(self).update(number=number, separator=separator, _trie=trie, _letters=letters)

    @property
    def words(self) -> tuple[str, ...]:
        """The words in sorted order."""
        return self._trie.words

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Words):
            return NotImplemented
        return (self.number, self.separator, self.words) == (other.number, other.separator, other.words)

    def __hash__(self) -> int:
        # Only the first and last words are hashed: hashing 267,735 words would cost more than the look-up itself.
        return hash((self.number, self.separator, len(self.words), self.words[0], self.words[-1]))

    def __repr__(self) -> str:
        return f"Words({self.number}, words=<{len(self.words)} words>, separator={self.separator!r})"

    # State: (remaining words including this one, node in the word, characters of the separator read). The separator is
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
        # The last word may be extended, but no word is added.
        return frozenset() if self.fixed_length is not None else self._letters

    @property
    def fixed_length(self) -> int | None:
        length = _common_length(self.words)
        return None if length is None else self.number * length + (self.number - 1) * len(self.separator)

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"type": "words", "number": self.number, "separator": self.separator}
        if self.words == english_words():
            return plain | {"list": ENGLISH_LIST, "sha256": digest(self.words)}
        return plain | {"words": list(self.words)}


class VocabularyTokens(Words):
    """`number` vocabulary entries of a tokenizer, joined by a separator: the canaries of the paper's word-level models
    (Carlini et al. 2019, Sections 6.1 and 6.2), for any tokenizer.

    An entry qualifies if its text, stripped of a leading space or SentencePiece mark, is printable, contains no
    whitespace, is not special, and is a single token after the separator. For a byte-level tokenizer without merges
    (ByT5) these are single characters. The space equals `Words` with the same list and is saved as such, so a saved
    canary file loads without the tokenizer. Each word is tested after one fixed text, not after every other word.

    Args:
        tokenizer: a `transformers` tokenizer, fast or slow.
        number: of words.
        separator: stands between two words.

    Raises:
        InputError: no entry qualifies, or `Words` refuses the arguments.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> space = VocabularyTokens(ByT5Tokenizer(), 2)
        >>> len(space.words), space.size, space.contains("x y")
        (94, 8836, True)
    """

    def __init__(self, tokenizer: Any, number: int, separator: str = " ") -> None:
        whole_number("number", number, 1, MOST_WORDS)
        super().__init__(number, single_token_words(tokenizer, separator), separator)

    def __reduce__(self) -> tuple[Any, ...]:
        return Words, (self.number, self.words, self.separator)


def single_token_words(tokenizer: Any, separator: str = " ") -> list[str]:
    """The distinct texts that `tokenizer` encodes as one token after `separator`, in sorted order.

    Raises:
        InputError: there are none.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> single_token_words(ByT5Tokenizer())[:5]
        ['!', '"', '#', '$', '%']
    """
    encodable_text("separator", separator)
    check_tokenizer(tokenizer)
    candidates = _surfaces(tokenizer, separator)
    alone, with_separator = _encode(tokenizer, [_ANCHOR, _ANCHOR + separator])
    encoded = _encode(tokenizer, [_ANCHOR + separator + candidate for candidate in candidates])
    # The separator is either part of each word's token (" the" in GPT-2) or always its own token (bytes, hyphens). A
    # list with both would mix words of one token with words of two.
    words: list[str] = []
    for before in (alone, with_separator):
        words = words or [
            candidate
            for candidate, ids in zip(candidates, encoded, strict=True)
            if ids[:-1] == before and _strip(tokenizer.decode(ids[-1:])) == candidate
        ]
    if not words:
        rule = f"must have an entry that is one token after {separator!r}"
        raise InputError("tokenizer", rule, type(tokenizer).__name__, "Use Words(number, words=[...]) instead.")
    return words


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []


def _strip(surface: str) -> str:
    return surface.lstrip(" \u2581")  # SentencePiece writes a space as U+2581


def _surfaces(tokenizer: Any, separator: str) -> list[str]:
    """The distinct texts of the vocabulary that could be words, sorted."""
    special = set(tokenizer.all_special_ids)
    special |= {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    surfaces = {_strip(tokenizer.decode([index])) for index in tokenizer.get_vocab().values() if index not in special}
    unwanted = set(separator)
    return sorted(
        surface
        for surface in surfaces
        if surface.isprintable() and surface and not any(c.isspace() or c in unwanted for c in surface)
    )
