"""The user's records as rows of tokens: texts, chats, and pairs of a prompt and a completion.

The scored tokens are those that a trainer trains on by default: in a text or a chat all tokens after the first, in a
pair the completion. Records longer than the model's context are truncated at the end, as trainers do.

Shapes: N records of L tokens.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_exposure.checks import check_tokenizer, encodable_text, whole_number
from hf_exposure.errors import InputError, RowInputError
from hf_exposure.limits import MOST_TEXTS
from hf_exposure.scoring.encoding import special_tokens_around
from hf_exposure.tokens import shared_length

MESSAGES, PROMPT, COMPLETION = "messages", "prompt", "completion"
_BATCH = 1000


@dataclass(frozen=True, eq=False, repr=False)
class EncodedRecords:
    """Rows of tokens, and which of their tokens are scored. The `repr` contains no text.

    Attributes:
        ids: N rows of token ids, special tokens included.
        first_scored_N: position of each row's first scored token; all later tokens are scored too.
        compressed_bits_N: size in bits of each scored text after compression by zlib.
        digests: digests of the records' contents, used to find equal records.
        number_N: index of each row's record among those given: records without a scored token are left out.
        cut: number of records truncated to the context.
        left_out: number of records without a token that the model predicts.
    """

    ids: tuple[NDArray[np.int32], ...]
    first_scored_N: NDArray[np.int64]
    compressed_bits_N: NDArray[np.float64]
    digests: tuple[int, ...]
    number_N: NDArray[np.int64]
    cut: int
    left_out: int

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"EncodedRecords({len(self)} records)"

    @property
    def scored_tokens(self) -> int:
        """Total number of scored tokens."""
        return sum(map(len, self.ids)) - int(self.first_scored_N.sum())

    def without(self, digests: set[int]) -> EncodedRecords:
        """Returns the records whose digest is not in `digests`."""
        kept = [place for place, digest in enumerate(self.digests) if digest not in digests]
        return EncodedRecords(
            tuple(self.ids[place] for place in kept),
            self.first_scored_N[kept],
            self.compressed_bits_N[kept],
            tuple(self.digests[place] for place in kept),
            self.number_N[kept],
            self.cut,
            self.left_out,
        )


def encode_records(
    argument: str,
    records: Iterable[Any],
    tokenizer: Any,
    *,
    text_column: str = "text",
    max_tokens: int | None = None,
) -> EncodedRecords:
    """Tokenizes records as for training.

    Args:
        argument: name of the records in error messages.
        records: strings; lists of messages; or mappings with the key "messages", or "prompt" and "completion" (texts
            or messages), or `text_column`, such as the rows of a dataset. They are iterated over once.
        tokenizer: the model's. Special tokens before a text are context; an end token after it is not scored.
        text_column: the key of the text in rows that have neither messages nor a prompt and a completion.
        max_tokens: maximum number of tokens per row; longer rows are truncated.

    Raises:
        InputError: a record is of another kind (the error gives its number), or there is a chat but no chat template.

    Example:
        >>> from transformers import ByT5Tokenizer
        >>> rows = encode_records("members", ["hi!", {"prompt": "a", "completion": "bc"}], ByT5Tokenizer())
        >>> [row.tolist() for row in rows.ids], rows.first_scored_N.tolist()
        ([[107, 108, 36], [100, 101, 102]], [1, 1])
    """
    check_tokenizer(tokenizer)
    if max_tokens is not None:
        max_tokens = whole_number("max_tokens", max_tokens, 2, remedy="Omit it to use the model's context.")
    if isinstance(records, (str, bytes, Mapping)) or not isinstance(records, Iterable):
        remedy = "Pass a list of texts, or a dataset."
        raise InputError(argument, "must be records in a list", type(records).__name__, remedy)
    leading, _ = special_tokens_around(tokenizer)
    ids, first_scored, bits, digests, numbers, cut, left_out = [], [], [], [], [], 0, 0
    number = -1
    for batch in _batches(records):
        contents = []
        for record in batch:
            number += 1
            if number >= MOST_TEXTS:
                raise InputError(argument, f"must have at most {MOST_TEXTS} records", "more", "Use fewer.")
            contents.append(_content(argument, record, number, tokenizer, text_column))
        first = number + 1 - len(contents)
        for place, (tokens, begins, text) in enumerate(_tokenized(contents, tokenizer, leading)):
            # A first token without context is not predicted.
            own, scored = first + place, max(begins, 1)
            if max_tokens is not None and len(tokens) > max_tokens:
                tokens, cut = tokens[:max_tokens], cut + 1
                text = _decoded(tokenizer, tokens[begins:])
            if len(tokens) <= scored:
                left_out += 1
                continue
            ids.append(np.asarray(tokens, dtype=np.int32))
            first_scored.append(scored)
            bits.append(8.0 * len(zlib.compress(text.encode("utf-8", errors="replace"))))
            digests.append(hash((scored, tuple(tokens))))
            numbers.append(own)
    return EncodedRecords(
        tuple(ids),
        np.array(first_scored, dtype=np.int64),
        np.array(bits, dtype=np.float64),
        tuple(digests),
        np.array(numbers, dtype=np.int64),
        cut,
        left_out,
    )


def _batches(records: Iterable[Any]) -> Iterable[list[Any]]:
    batch: list[Any] = []
    for record in records:
        batch.append(record)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _content(argument: str, record: Any, number: int, tokenizer: Any, text_column: str) -> tuple[str, str, bool]:
    """Returns the context, the scored text, and whether both come from a chat template."""
    if isinstance(record, Mapping):
        if record.get(PROMPT) is not None and record.get(COMPLETION) is not None:
            return _pair(argument, record[PROMPT], record[COMPLETION], number, tokenizer)
        chat = record.get(MESSAGES)
        record = chat if isinstance(chat, Sequence) and not isinstance(chat, str) else record.get(text_column)
    if isinstance(record, str):
        return "", _text(argument, record, number), False
    if isinstance(record, Sequence) and record and all(isinstance(turn, Mapping) for turn in record):
        return "", _chat(argument, record, number, tokenizer), True
    rule = f"must be texts, chats, or rows with {text_column!r}, {MESSAGES!r} or {PROMPT!r} and {COMPLETION!r}"
    remedy = "Name the column of texts with text_column."
    raise RowInputError(argument, rule, number, remedy, f"another value at record {number}")


def _pair(argument: str, prompt: Any, completion: Any, number: int, tokenizer: Any) -> tuple[str, str, bool]:
    if isinstance(prompt, str) and isinstance(completion, str):
        return _text(argument, prompt, number), _text(argument, completion, number), False
    if not isinstance(prompt, Sequence) or not isinstance(completion, Sequence):
        rule = "must have a prompt and a completion that are both texts or both messages"
        raise RowInputError(argument, rule, number, "Convert the rows first.", f"others at record {number}")
    before = _chat(argument, prompt, number, tokenizer, add_generation_prompt=True) if prompt else ""
    whole = _chat(argument, [*prompt, *completion], number, tokenizer)
    # A template may write a different prompt before a new answer than before an existing one (thinking).
    shared = len(os.path.commonprefix([before, whole]))
    return whole[:shared], whole[shared:], True


def _chat(argument: str, messages: Sequence[Any], number: int, tokenizer: Any, **options: Any) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        remedy = "Set tokenizer.chat_template, or write the chats as texts."
        raise InputError("tokenizer", "must have a chat template", type(tokenizer).__name__, remedy)
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except Exception:  # a template may raise any error, and the error may quote a record
        pass
    rule = "must be messages that the chat template accepts"
    raise RowInputError(argument, rule, number, "Change the roles or their order.", f"others at record {number}")


def _text(argument: str, text: str, number: int) -> str:
    return encodable_text(f"{argument}[{number}]", text)


def _tokenized(
    contents: Sequence[tuple[str, str, bool]], tokenizer: Any, leading: tuple[int, ...]
) -> Iterable[tuple[list[int], int, str]]:
    """Returns each row's tokens, the position where its scored text begins, and that text."""
    wholes = _plain_ids(tokenizer, [before + text for before, text, _ in contents])
    prompts = _plain_ids(tokenizer, [before for before, _, _ in contents if before])
    for (before, text, is_chat), own in zip(contents, wholes, strict=True):
        # A chat template adds the special tokens itself.
        special = () if is_chat else leading
        context = shared_length([next(prompts), own]) if before else 0
        own = list(own)
        yield [*special, *own], len(special) + context, text


def _plain_ids(tokenizer: Any, texts: list[str]) -> Any:
    if not texts:
        return iter(())
    options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    return iter(tokenizer(texts, **options)["input_ids"])


def _decoded(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
