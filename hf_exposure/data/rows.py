"""The row of a canary, column by column: a text, a chat, a pair, or token ids.

`token_rows` makes the columns of a dataset that is already tokenized; `CanaryRows` makes the rows of a set for any
dataset.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any

import numpy as np
import pyarrow as pa

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.checks import check_tokenizer, encodable_text, instance_of, whole_number
from hf_exposure.context import CanaryContext, check_context, source_for
from hf_exposure.errors import InputError, RowInputError, described
from hf_exposure.tokens import shared_length

TOKEN_COLUMN, LENGTH_COLUMN = "input_ids", "length"
_NO_LOSS = -100


def token_rows(
    tokenizer: Any,
    texts: Sequence[str],
    context: CanaryContext | None,
    sources: Sequence[str],
    row_length: int | None,
) -> tuple[dict[str, Any], ...]:
    """For each text, its values in all columns of tokens that a dataset may have.

    Ids are those that the tokenizer or its chat template makes, including special tokens. `labels` are the ids without
    those of the context; for an encoder-decoder model they are the target's. With `row_length`, rows are padded on the
    right to that length, and padding is neither attended to nor trained on.

    Raises:
        InputError: there is no tokenizer or no token for padding, a text is longer than `row_length`, or the context
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
    """The ids of a whole row, and the number of those that belong to the context."""
    if context is None:
        return tokenizer(text)["input_ids"], 0
    before, after = context.around(tokenizer)
    ids = tokenizer(before + text + after, add_special_tokens=not context.is_chat)["input_ids"]
    prompt = tokenizer(before, add_special_tokens=not context.is_chat)["input_ids"] if before else []
    return ids, shared_length([prompt, ids])


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
        rule = f"must have a pad or end token, to fill the dataset's rows of {row_length} tokens"
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
    """Whether the column "length" of these first rows has the number of tokens of each."""
    if LENGTH_COLUMN not in head or TOKEN_COLUMN not in head:
        return False
    pairs = zip(head[LENGTH_COLUMN], head[TOKEN_COLUMN], strict=True)
    return all(ids is not None and number == len(ids) for number, ids in pairs)


def check_token_columns(head: Mapping[str, Sequence[Any]], filled: Sequence[str]) -> None:
    """Raises an `InputError` if a column that is not `filled` has a value for each token, since a neighbor's values
    would not fit.

    Args:
        head: the columns of the first rows.
        filled: the columns for which canary rows have their own values.
    """
    for name in (name for name in head if name not in filled):
        for tokens in (column for column in (TOKEN_COLUMN, "labels") if column in head):
            pairs = zip(head[name], head[tokens], strict=True)
            if all(isinstance(own, (list, tuple)) and ids is not None and len(own) == len(ids) for own, ids in pairs):
                rule = f"has one value per token ({tokens}), which a canary's row cannot have"
                remedy = f"Drop the column ({name!r}), or insert canaries before tokenizing."
                raise InputError("dataset", rule, name, remedy)


# Number of rows read from the start of a dataset to find out the contents of its columns.
HEAD = 100
_MESSAGES, _PROMPT, _COMPLETION = "messages", "prompt", "completion"


class NoTextColumnError(InputError):
    """The dataset has no column of texts. Among several splits, one without it is left unchanged."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a canary is inserted into a row: the columns that it fills, and its context.

    Attributes:
        text_column, context, source, source_column, tokenizer, other_columns: as for `insert_canaries`.

    Raises:
        InputError: an argument has the wrong type, or two arguments cannot be combined.
    """

    text_column: str = "text"
    context: CanaryContext | None = None
    source: str | None = None
    source_column: str = "source"
    tokenizer: Any = None
    other_columns: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        encodable_text("text_column", self.text_column)
        encodable_text("source_column", self.source_column)
        others = self.other_columns
        if others is not None:
            if not isinstance(others, Mapping):
                remedy = 'Write {"source": "canary"}.'
                raise InputError("other_columns", "must be a mapping of columns", type(others).__name__, remedy)
            for name in others:
                encodable_text("other_columns", name)
        if self.tokenizer is not None:
            check_tokenizer(self.tokenizer)
        if others is not None and self.text_column in others:
            remedy = "Leave it out: the canary's text goes there."
            raise InputError("other_columns", "must not name the text column", self.text_column, remedy)
        check_context(self.context)
        if self.context is not None and self.source is not None:
            remedy = "Leave the context out: the input of an encoder-decoder model is its source."
            raise InputError("context", "must not be given together with source", "both", remedy)


@dataclass(frozen=True, kw_only=True)
class CanaryRows:
    """The canary rows' own values. They are plain values, so that the pickle serves as the fingerprint.

    Attributes:
        texts: the texts of the K canaries.
        repetitions: how often each is inserted.
        text_column: the column of the texts.
        context: as for `insert_canaries`.
        tokens: K mappings from the name of a column of tokens to its values, if the dataset is tokenized.
        sources: K sources of an encoder-decoder model, or ().
        source_column: the column of the sources.
        other_columns: fixed values by column.
    """

    texts: tuple[str, ...] = field(repr=False)
    repetitions: tuple[int, ...]
    text_column: str
    context: CanaryContext
    tokens: tuple[Mapping[str, Any], ...] = field(repr=False)
    sources: tuple[str, ...] = field(repr=False)
    source_column: str
    other_columns: Mapping[str, Any]

    @classmethod
    def of(cls, canaries: CanarySet, placement: Placement, row_length: int | None = None) -> CanaryRows:
        """The rows of a set's inserted canaries.

        Args:
            row_length: the length of every row, for a tokenized dataset with rows of one length, as `group_texts`
                makes it.

        Raises:
            InputError: an argument has the wrong type, or a canary is longer than `row_length`.
        """
        instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries.")
        if row_length is not None:
            whole_number("row_length", row_length, 1)
        texts = tuple(canary.text for canary in canaries.inserted)
        around = source_for(placement.source, canaries.template)
        sources = () if around is None else tuple(around if isinstance(around, str) else around(t) for t in texts)
        tokens: tuple[Mapping[str, Any], ...] = ()
        if placement.tokenizer is not None:
            tokens = without_secrets(
                canaries, lambda: token_rows(placement.tokenizer, texts, placement.context, sources, row_length)
            )
        return cls(
            texts=texts,
            repetitions=tuple(canary.repetitions for canary in canaries.inserted),
            text_column=placement.text_column,
            context=placement.context or CanaryContext(),
            tokens=tokens,
            sources=sources,
            source_column=placement.source_column,
            other_columns=dict(sorted((placement.other_columns or {}).items())),
        )

    @property
    def insertions(self) -> int:
        """The number of rows that are inserted."""
        return sum(self.repetitions)

    def check_room(self, num_rows: int, argument: str = "num_rows") -> None:
        """Raises an `InputError` about `argument` if there are more insertions than rows."""
        if self.insertions > num_rows:
            what = "have at least as many rows as there are" if argument == "dataset" else "be at least the number of"
            rule = f"must {what} insertions ({self.insertions})"
            raise InputError(argument, rule, num_rows, "Use fewer repetitions, or more data.")

    def values(self, names: Sequence[str], head: Mapping[str, Sequence[Any]] | None = None) -> dict[str, list[Any]]:
        """The K values of each column that canary rows do not copy.

        Args:
            head: the columns of the first rows, which show whether a "length" is a number of tokens.

        Raises:
            InputError: the dataset lacks a column for them.
        """
        own = self._own_values(names)
        if self.tokens and counts_tokens(head or {}):
            own[LENGTH_COLUMN] = [row[LENGTH_COLUMN] for row in self.tokens]
        check_columns(names, self.text_column, self.other_columns, own)
        if self.sources and not self.tokens:
            if self.source_column not in names:
                rule = f"must be a column of the dataset ({', '.join(names)})"
                raise InputError("source_column", rule, self.source_column, "Name the column that the model reads.")
            own[self.source_column] = list(self.sources)
        return own | {name: [value] * len(self.texts) for name, value in self.other_columns.items()}

    def keys(self, names: Sequence[str]) -> tuple[str, list[Any]]:
        """The column that identifies a canary's row, and its K values."""
        own = self._own_values(names)
        check_columns(names, self.text_column, {}, own)
        key = _COMPLETION if _COMPLETION in own and not self.tokens else next(iter(own))
        if self.tokens and self.sources and "labels" in own:
            key = "labels"
        return key, own[key]

    def check_head(self, head: Mapping[str, Sequence[Any]]) -> None:
        """Checks the first rows for columns that would be wrong in a canary's row.

        Raises:
            InputError: an unknown column has a value for each token.
        """
        own = self.values(list(head), head)
        for name, values in own.items():
            check_kind(name, values[0], head[name])
        if self.tokens:
            check_token_columns(head, list(own))
        elif self.text_column in own and {_PROMPT, _COMPLETION} <= head.keys() - own.keys():
            message = (
                f"canaries are inserted into the column {self.text_column!r} only; {_PROMPT!r} and {_COMPLETION!r} of "
                "their rows are copied from a neighboring row: drop the columns that the trainer does not read"
            )
            warnings.warn(message, stacklevel=2)

    def check_types(self, schema: pa.Schema) -> None:
        """Raises an `InputError` unless the values fit the columns of `schema`."""
        for name, values in self.values(schema.names).items():
            kind = schema.field(name).type
            if name in (self.text_column, self.source_column) and isinstance(values[0], str):
                check_string_type(name, kind)
            as_array(name, values[:1], kind)

    def _own_values(self, names: Sequence[str]) -> dict[str, list[Any]]:
        texts, context = self.texts, self.context
        if self.tokens:
            if TOKEN_COLUMN not in names:
                rule = f"goes with a dataset that is already tokenized, but this one has no {TOKEN_COLUMN!r}"
                raise InputError("tokenizer", rule, list(names), "Leave tokenizer out: the text goes in as it is.")
            own = [name for name in self.tokens[0] if name in names and name != LENGTH_COLUMN]
            return {name: [row[name] for row in self.tokens] for name in own}
        if context.is_chat:
            if _MESSAGES in names:
                return {_MESSAGES: [context.messages(text) for text in texts]}
            if _PROMPT in names and _COMPLETION in names:
                return {
                    _PROMPT: [context.prompt_messages() for _ in texts],
                    _COMPLETION: [[context.messages(text)[-1]] for text in texts],
                }
            rule = f"with messages goes with columns {_MESSAGES!r}, or {_PROMPT!r} and {_COMPLETION!r}"
            raise InputError("context", rule, list(names), "Write the prompt as one text, or convert the dataset.")
        prompt = str(context.prompt)
        if self.text_column in names:
            return {self.text_column: [prompt + text for text in texts]}
        if _PROMPT in names and _COMPLETION in names:
            return {_PROMPT: [prompt] * len(texts), _COMPLETION: list(texts)}
        return {}


def check_columns(
    names: Sequence[str], text_column: str, other_columns: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
    """Raises an `InputError` unless there are columns among `names` for canaries (`own`) and for the overriding
    values.
    """
    listed = ", ".join(names)
    if not own:
        remedy = "Name one of them."
        if TOKEN_COLUMN in names:
            remedy = "It is tokenized already: pass tokenizer=, or insert before tokenizing."
        elif _MESSAGES in names:
            remedy = 'It holds chats: pass context=CanaryContext(prompt=[{"role": "user", "content": "..."}]).'
        raise NoTextColumnError("text_column", f"must be a column of the dataset ({listed})", text_column, remedy)
    unknown = [name for name in other_columns if name not in names]
    if unknown:
        rule = f"must name columns of the dataset ({listed})"
        raise InputError("other_columns", rule, unknown, "Add the column to the dataset first, or leave it out.")


def check_string_type(text_column: str, kind: pa.DataType) -> None:
    """Raises an `InputError` unless `kind` is a type of strings."""
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        remedy = "Insert canaries into the texts, before they are tokenized. (Or pass tokenizer=; chats: context=.)"
        raise InputError("text_column", f"must be a column of strings: {text_column}", str(kind), remedy)


def check_kind(name: str, value: Any, column: Any) -> None:
    """Raises an `InputError` if a column without a schema contains numbers and a canary's row would have other values.

    Arrow's own message would quote the canary.
    """
    known = next((one for one in column if one is not None), None)
    if isinstance(known, (Number, np.generic)) and not isinstance(value, (Number, np.generic, type(None))):
        rule = f"must be a column of values like a canary's: {name} holds numbers"
        raise InputError("text_column", rule, type(known).__name__, "Name the column of texts.")


def as_array(name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as an Arrow array of the column's own type.

    Raises:
        InputError: they do not fit that type.
    """
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, TypeError, OverflowError):  # the message quotes the value, which may be a canary's
        pass
    rule = f"must hold values of the columns' types: {name} is of type {kind}"
    raise InputError("other_columns", rule, described(values[0]), "Give one of that type.")
