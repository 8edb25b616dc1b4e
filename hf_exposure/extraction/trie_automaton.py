"""The token automaton for small spaces: every text encoded. Right for any tokenizer, since nothing is guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_exposure.canaries import CanaryTemplate
from hf_exposure.errors import InputError
from hf_exposure.extraction.encoding_trie import EncodingTrie
from hf_exposure.extraction.product_automaton import ProductAutomaton
from hf_exposure.scoring import Encoder

__all__ = ["LARGEST_TRIE", "trie_automaton"]

LARGEST_TRIE = 10**6
"""Texts; a quarter of a minute to encode and under 50 MB to keep."""


def trie_automaton(template: CanaryTemplate, encoder: Encoder) -> ProductAutomaton:
    """One trie of all texts of `template`.

    Raises:
        InputError: the space is larger than `LARGEST_TRIE`, or two texts have the same tokens.
    """
    if template.space_size > LARGEST_TRIE:
        rule = f"must have at most {LARGEST_TRIE} texts to be encoded one by one"
        raise InputError("template", rule, template.space_size, "Use a smaller space.")
    trie = EncodingTrie.of(TextsOf(template), encoder, cut_shared=True)
    return ProductAutomaton("trie", template, (*encoder.leading, *trie.shared), "", [trie], encoder.ending)


class TextsOf(Sequence[str]):
    """The texts of a template by index, rendered when asked."""

    def __init__(self, template: CanaryTemplate) -> None:
        self._template = template

    def __len__(self) -> int:
        return self._template.space_size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._template.text_at(i) for i in range(*index.indices(len(self)))]
        return self._template.text_at(index)
