"""Encodes texts as token ids, with the tokenizer's own special tokens.

Shapes: N texts of at most L tokens.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from hf_exposure.checks import check_tokenizer, encodable_text
from hf_exposure.context import CanaryContext
from hf_exposure.errors import InputError, RowInputError
from hf_exposure.scoring.token_tree import SequenceTree, pad_sequences
from hf_exposure.tokens import shared_length

# They are tried in turn, since a tokenizer may drop characters that its vocabulary lacks.
_PROBES = ("a", "A", "0", "e", " a")
# Possible beginnings of a text; some tokenizers have words of several digits but none of one.
_BEGINNINGS = (*string.printable, *(f"{number:02}" for number in range(100)))


class LazyTexts(Sequence[str]):
    """Texts by number, each computed only when it is needed, since an error message needs one of a million.

    Example:
        >>> texts = LazyTexts(1000, lambda number: f"pin {number:03}")
        >>> len(texts), texts[7], texts[-1], list(texts[1:3])
        (1000, 'pin 007', 'pin 999', ['pin 001', 'pin 002'])
    """

    def __init__(self, count: int, text_at: Callable[[int], str]) -> None:
        self._count, self._text_at = count, text_at

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return map(self._text_at, range(self._count))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> LazyTexts: ...
    def __getitem__(self, index: int | slice) -> str | LazyTexts:
        if isinstance(index, slice):
            numbers = range(self._count)[index]
            return LazyTexts(len(numbers), lambda at: self._text_at(numbers[at]))
        return self._text_at(range(self._count)[index])


@dataclass(frozen=True, eq=False, repr=False)
class EncodedTexts:
    """The canonical encodings of N texts. Keep it between calls, so that texts are encoded and arranged once. Its
    `repr` has no text.

    Attributes:
        texts: the N source texts.
        matrix_NL: int32 token ids, padded on the right with -1: the special tokens before a text, the text, and one
            special token after it if the end is scored.
        first_scored: position of the first scored token; those before it are context.
    """

    texts: Sequence[str]
    matrix_NL: npt.NDArray[np.int32]
    first_scored: int

    def __len__(self) -> int:
        return len(self.matrix_NL)

    def __repr__(self) -> str:
        return f"EncodedTexts({len(self)} texts)"

    @cached_property
    def ids(self) -> tuple[tuple[int, ...], ...]:
        """The token ids of each text without padding."""
        return tuple(tuple(token for token in row if token >= 0) for row in self.matrix_NL.tolist())

    @cached_property
    def tree(self) -> SequenceTree:
        """The texts as one token tree."""
        return SequenceTree.of_matrix(self.matrix_NL, self.first_scored)

    def followed_by(self, other: EncodedTexts) -> EncodedTexts:
        """Both sets, concatenated."""
        width = max(self.matrix_NL.shape[1], other.matrix_NL.shape[1])
        parts = [
            np.pad(part.matrix_NL, ((0, 0), (0, width - part.matrix_NL.shape[1])), constant_values=-1)
            for part in (self, other)
        ]
        first, second = self.texts, other.texts
        texts = LazyTexts(
            len(first) + len(second), lambda at: first[at] if at < len(first) else second[at - len(first)]
        )
        return EncodedTexts(texts, np.concatenate(parts), self.first_scored)


@dataclass(frozen=True, eq=False, repr=False)
class Encoder:
    """Encodes texts like a training run, and marks which tokens are context.

    `Encoder.of` makes the encoder for a causal model; a scorer for another kind of model has its own.

    Attributes:
        tokenizer: a Hugging Face tokenizer; it is only called, never changed.
        leading: the tokens before every text. A token that merges with a text's first character belongs to the text.
        ending: the tokens after every text: none or one.
        first_scored: position of the first scored token.
        context: the context of each text in training, if there was one.
        before: the text of the context; "" without one.
        before_ids: its tokens that do not depend on the text after it; they are the last of `leading`.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> encoded = Encoder(ByT5Tokenizer(), leading=(0,), ending=(1,), first_scored=1).encode(["hi!"])
        >>> encoded.ids
        ((0, 107, 108, 36, 1),)
    """

    tokenizer: Any
    _: KW_ONLY
    leading: tuple[int, ...]
    ending: tuple[int, ...]
    first_scored: int
    context: CanaryContext | None = None
    before: str = ""
    before_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any, *, end_token: bool = False, context: CanaryContext | None = None) -> Encoder:
        """The encoder for a causal model.

        Special tokens that the tokenizer adds before a text (BOS) are context. Those after it (EOS) are left out,
        unless `end_token=True`: then one end token is scored after every text. A first token with nothing before it is
        not predicted and not scored.

        Args:
            tokenizer: a Hugging Face tokenizer.
            end_token: whether the end of the text is scored too.
            context: the context of each text in training. Texts are encoded after it, and its tokens are context like
                BOS. A chat template writes its special tokens itself, so the tokenizer adds none. The end token is the
                first one that the chat template writes after a text, if any.

        Raises:
            InputError: `end_token=True` with a tokenizer without an end token, or the context's last word depends on
                the text after it. `encode` raises it for an empty text, a text without a predicted token, a text that
                the tokenizer maps to its unknown token, and a context that changes the text's last token.

        Example:
            >>> from transformers import ByT5Tokenizer
            >>> encoded = Encoder.of(ByT5Tokenizer()).encode(["hi!"])
            >>> encoded.ids, encoded.first_scored
            (((107, 108, 36),), 1)
        """
        check_tokenizer(tokenizer)
        leading, trailing = special_tokens_around(tokenizer)
        before, before_ids = "", ()  # type: str, tuple[int, ...]
        if context is not None:
            before, after = context.around(tokenizer)
            before_ids = _stable_prefix(tokenizer, before)
            leading = (*(() if context.is_chat else leading), *before_ids)
            trailing = tuple(tokenizer(after, add_special_tokens=False)["input_ids"]) or trailing
        return cls(
            tokenizer,
            leading=leading,
            ending=(_end_id(tokenizer, trailing),) if end_token else (),
            first_scored=max(len(leading), 1),
            context=context,
            before=before,
            before_ids=before_ids,
        )

    def plain_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text after the context, without those of the context and without special tokens."""
        if not texts:
            return []
        checked = [self.before + encodable_text(f"texts[{row}]", text) for row, text in enumerate(texts)]
        # Without masks, which are not needed here, it takes half the time.
        encoded: list[list[int]] = self.tokenizer(
            checked, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )["input_ids"]
        if self.before_ids:
            encoded = [self._behind_context(ids, row) for row, ids in enumerate(encoded)]
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        for row, ids in enumerate(encoded):
            if unknown is not None and unknown in ids:
                raise RowInputError(
                    "tokenizer",
                    "must encode every character of the text, but maps part of it to its unknown token",
                    row,
                    "Use a template within the tokenizer's vocabulary, or another tokenizer.",
                )
        return encoded

    def _behind_context(self, ids: list[int], row: int) -> list[int]:
        stable = len(self.before_ids)
        if tuple(ids[:stable]) != self.before_ids:
            rule = "must be encoded the same way whatever text follows it"
            raise RowInputError("context", rule, row, "End the prompt with a full stop and a newline.")
        return ids[stable:]

    def check_end(self, texts: Sequence[str]) -> None:
        """Raises an `InputError` if a whole text's last token differs in its context."""
        if self.context is not None:
            self.context.check_end(self.tokenizer, texts)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The canonical encoding of each text, in input order."""
        self.check_end(texts)
        encoded = []
        for row, ids in enumerate(self.plain_ids(texts)):
            full = (*self.leading, *ids, *self.ending)
            if not ids or len(full) <= self.first_scored:
                raise RowInputError(
                    "texts",
                    "each needs at least one token that the model predicts from those before it",
                    row,
                    "Use a longer text, or a tokenizer that adds a BOS token.",
                )
            encoded.append(full)
        return EncodedTexts(tuple(texts), pad_sequences(encoded).astype(np.int32), self.first_scored)


def _end_id(tokenizer: Any, trailing: Sequence[int]) -> int:
    end_id = trailing[0] if trailing else tokenizer.eos_token_id
    if end_id is None:
        raise InputError(
            "end_token",
            "needs a tokenizer that has an end token",
            type(tokenizer).__name__,
            "Set tokenizer.eos_token, or leave end_token=False.",
        )
    return int(end_id)


def _stable_prefix(tokenizer: Any, before: str) -> tuple[int, ...]:
    """The tokens of `before` that do not change when text follows; the last ones may merge with its first
    characters.
    """
    if not before:
        return ()
    probes = [before, *(before + beginning for beginning in _BEGINNINGS)]
    ids, *others = tokenizer(probes, add_special_tokens=False)["input_ids"]
    return tuple(ids[: shared_length([ids, *others])])


def special_tokens_around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer adds before and after a text."""
    for probe in _PROBES:
        plain = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
        full = list(tokenizer(probe)["input_ids"])
        for start in range(len(full) - len(plain) + 1 if plain else 0):
            if full[start : start + len(plain)] == plain:
                return tuple(full[:start]), tuple(full[start + len(plain) :])
    return (), ()
