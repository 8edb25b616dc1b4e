"""The word list that ships with the package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources

ENGLISH_LIST = "english-1"
"""Name of the list in saved files. A changed list needs a new name, or saved canaries would change their space."""


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
    """SHA-256 in hex of the words, one a line: what a saved file checks the shipped list against."""
    return hashlib.sha256("\n".join(words).encode("utf-8")).hexdigest()
