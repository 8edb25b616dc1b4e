"""Canary rows for a dataset that is tokenised already."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hf_exposure.canaries import CanaryContext
from hf_exposure.errors import InputError, RowInputError

__all__ = ["LENGTH_COLUMN", "TOKEN_COLUMN", "check_token_columns", "counts_tokens", "token_rows"]

TOKEN_COLUMN, LENGTH_COLUMN = "input_ids", "length"
_NO_LOSS = -100


def token_rows(
    tokenizer: Any,
    texts: Sequence[str],
    context: CanaryContext | None,
    sources: Sequence[str],
    row_length: int | None,
) -> tuple[dict[str, Any], ...]:
    """For each text, its values of all columns of tokens that a dataset may have.

    Ids are as the tokenizer or its chat template makes them, special tokens included. `labels` are the ids, without
    those of the context; of an encoder-decoder model they are the target's. With `row_length`, rows are padded on the
    right up to it, and what pads is neither attended nor trained on.

    Raises:
        InputError: no tokenizer, a text that is longer than `row_length`, nothing to pad with, or a context that
            changes a text's last token.
    """
    if not callable(tokenizer):
        remedy = "Pass the tokenizer that made the dataset."
        raise InputError("tokenizer", "must be a Hugging Face tokenizer", type(tokenizer).__name__, remedy)
    if context is not None:
        context.check_end(tokenizer, texts)
    rows = []
    for place, text in enumerate(texts):
        if sources:
            ids, labels = tokenizer(sources[place])["input_ids"], tokenizer(text_target=text)["input_ids"]
            trained = [1] * len(ids)
        else:
            ids, prompt = _ids_in_context(tokenizer, text, context)
            trained = [int(position >= prompt) for position in range(len(ids))]
            labels = [token if own else _NO_LOSS for token, own in zip(ids, trained, strict=True)]
        rows.append(_row(tokenizer, place, list(ids), list(labels), trained, row_length))
    return tuple(rows)


def _ids_in_context(tokenizer: Any, text: str, context: CanaryContext | None) -> tuple[list[int], int]:
    """The ids of a whole row, and how many of them are the context's."""
    if context is None:
        return tokenizer(text)["input_ids"], 0
    before, after = context.around(tokenizer)
    ids = tokenizer(before + text + after, add_special_tokens=not context.is_chat)["input_ids"]
    prompt = tokenizer(before, add_special_tokens=not context.is_chat)["input_ids"] if before else []
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(prompt, ids, strict=False))
    return ids, sum(1 for _ in pairs)


def _row(
    tokenizer: Any, place: int, ids: list[int], labels: list[int], trained: list[int], row_length: int | None
) -> dict[str, Any]:
    length = len(ids)
    special = set(getattr(tokenizer, "all_special_ids", ()))
    padding = 0 if row_length is None else row_length - length
    if padding < 0:
        rule = f"must fit the dataset's rows, which all have {row_length} tokens"
        remedy = f"It takes {length}: use a shorter template, or insert canaries before texts are grouped into blocks."
        raise RowInputError("canaries", rule, place, remedy)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if padding and pad is None:
        rule = f"must have a pad or end token, to fill up the dataset's rows of {row_length} tokens"
        raise InputError("tokenizer", rule, type(tokenizer).__name__, "Set tokenizer.pad_token.")
    fill = padding if len(labels) == length else 0
    return {
        TOKEN_COLUMN: ids + [pad] * padding,
        "attention_mask": [1] * length + [0] * padding,
        "labels": labels + [_NO_LOSS] * fill,
        "token_type_ids": [0] * (length + padding),
        "special_tokens_mask": [int(token in special) for token in ids] + [1] * padding,
        "position_ids": list(range(length + padding)),
        "completion_mask": trained + [0] * padding,
        "assistant_masks": trained + [0] * padding,
        "seq_lengths": [length + padding],
        LENGTH_COLUMN: length + padding,
    }


def counts_tokens(head: Mapping[str, Sequence[Any]]) -> bool:
    """Whether the column "length" of these first rows says how many tokens each has."""
    if LENGTH_COLUMN not in head or TOKEN_COLUMN not in head:
        return False
    pairs = zip(head[LENGTH_COLUMN], head[TOKEN_COLUMN], strict=True)
    return all(ids is not None and number == len(ids) for number, ids in pairs)


def check_token_columns(head: Mapping[str, Sequence[Any]], filled: Sequence[str]) -> None:
    """Raise an `InputError` if a column that is not `filled` has a value for each token: a neighbour's would not fit.

    Args:
        head: the columns of the first rows.
        filled: the columns that canary rows have values of their own for.
    """
    for name in (name for name in head if name not in filled):
        for tokens in (column for column in (TOKEN_COLUMN, "labels") if column in head):
            pairs = zip(head[name], head[tokens], strict=True)
            if all(isinstance(own, (list, tuple)) and ids is not None and len(own) == len(ids) for own, ids in pairs):
                rule = f"has a value for each of a row's {tokens}, of a kind that a canary's row does not know"
                remedy = f"Drop the column ({name!r}), or insert canaries before tokenising."
                raise InputError("dataset", rule, name, remedy)
