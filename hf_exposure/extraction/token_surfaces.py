"""What a tokenizer's vocabulary entries look like, beside what it makes of a text before it cuts it into tokens.

A fast tokenizer first normalises a text and splits it, writing spaces as "\u2581" or bytes as letters; entries are
spelt in that *rendered* alphabet. Here a text is rendered with the tokenizer's own code, and compared with its entries
symbol by symbol; no token is ever decoded. Where a tokenizer marks entries that go on with a word ("##" of WordPiece),
all others begin with a sign of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hf_exposure.errors import InputError, described

__all__ = ["FIRST_BYTE", "TokenSurfaces", "WORD_STARTS", "serialized_model"]

WORD_STARTS = "\ue000"  # private use: in no text
FIRST_BYTE = 0xF0000  # 256 symbols for the bytes of characters that have no entry


def serialized_model(tokenizer: Any) -> dict[str, Any]:
    """A fast tokenizer's model as plain values: its kind, vocabulary and merges.

    Raises:
        InputError: a tokenizer without a backend.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rule = "must be a fast one to search a large space whose characters it merges"
        remedy = "Load it with AutoTokenizer, or use method='sample'."
        raise InputError("tokenizer", rule, type(tokenizer).__name__, remedy)
    return dict(json.loads(backend.to_str())["model"])


class TokenSurfaces:
    """Entries of a fast tokenizer in its rendered alphabet.

    Args:
        tokenizer: of `transformers`, with a `backend_tokenizer`.
        model: as `serialized_model` gives it.

    Raises:
        InputError: a tokenizer that marks the ends of words.
    """

    def __init__(self, tokenizer: Any, model: Mapping[str, Any]) -> None:
        backend = tokenizer.backend_tokenizer
        self._normalizer, self._pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        if model.get("end_of_word_suffix"):
            rule = "must not mark the ends of words to search a large space whose characters it merges"
            raise InputError("tokenizer", rule, model["end_of_word_suffix"], "Use method='sample'.")
        self._goes_on = model.get("continuing_subword_prefix") or ""
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        special = {int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._falls_back = bool(model.get("byte_fallback"))
        # Some tokenizers call the entries for single bytes special.
        self._ids = {
            entry: index for entry, index in vocabulary.items() if index not in special or self._is_byte(entry)
        }
        self.render = lru_cache(maxsize=2**16)(self._render)

    def matching(self, symbols: frozenset[str]) -> dict[str, int]:
        """Token ids by surface, of the entries that are made of `symbols` alone."""
        surfaces = ((self._surface(entry), index) for entry, index in self._ids.items())
        return {surface: index for surface, index in surfaces if surface and symbols.issuperset(surface)}

    def added(self, before: str, character: str) -> str:
        """What `character` adds to the rendered `before`; "" where it is dropped.

        Raises:
            InputError: it changes what stands before it.
        """
        known, longer = self.render(before), self.render(before + character)
        if not longer.startswith(known):
            rule = "must render a text from left to right"
            raise InputError("tokenizer", rule, described(before + character), "Use method='sample'.")
        return longer[len(known) :]

    def _is_byte(self, entry: str) -> bool:
        return self._falls_back and len(entry) == 6 and entry.startswith("<0x") and entry.endswith(">")

    def _surface(self, entry: str) -> str:
        if self._is_byte(entry):
            return chr(FIRST_BYTE + int(entry[3:5], 16))
        if not self._goes_on:
            return entry
        return entry[len(self._goes_on) :] if entry.startswith(self._goes_on) else WORD_STARTS + entry

    def _render(self, text: str) -> str:
        if self._normalizer is not None:
            text = self._normalizer.normalize_str(text)
        words = [text]
        if self._pre_tokenizer is not None and text:
            words = [word for word, _ in self._pre_tokenizer.pre_tokenize_str(text)]
        rendered = "".join((WORD_STARTS if self._goes_on and word else "") + word for word in words)
        if not self._falls_back:
            return rendered
        return "".join(
            symbol if symbol in self._ids else "".join(chr(FIRST_BYTE + byte) for byte in symbol.encode())
            for symbol in rendered
        )
