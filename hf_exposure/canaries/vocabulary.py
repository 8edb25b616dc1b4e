"""Words that are single tokens of a tokenizer, as the paper drew them for a word-level model."""

from __future__ import annotations

from typing import Any

from hf_exposure.canaries.word_spaces import Words
from hf_exposure.checks import check_tokenizer, encodable_text, whole_number
from hf_exposure.errors import InputError
from hf_exposure.limits import MOST_WORDS

__all__ = ["VocabularyTokens", "single_token_words"]

_ANCHOR = "a"
"""What stands before the separator while a word is tried: inside a text, words follow something."""


class VocabularyTokens(Words):
    """`number` vocabulary entries of a tokenizer, joined by a separator: the canaries of the paper's word-level models
    (Carlini et al. 2019, section 6.1), for any tokenizer.

    An entry counts when its text, stripped of a leading space or SentencePiece mark, is printable, without whitespace,
    not special, and one single token after the separator. From a byte-level tokenizer without merges (ByT5) these are
    single characters. It equals, and is saved as, `Words` with the same list, so a saved canary file loads without
    the tokenizer. Whether neighbours stay separate tokens was tried after one anchor, not after every word.

    Args:
        tokenizer: of `transformers`, fast or slow.
        number: of words.
        separator: stands between two words.

    Raises:
        InputError: no entry qualifies, or as in `Words`.

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
    # The separator is part of each word's token (" the" in GPT-2), or always a token of its own (bytes, hyphens). Both
    # ways in one list would mix words of one token with words of two.
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
