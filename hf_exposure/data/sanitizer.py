"""Removes texts of known formats: card numbers, numbers of nine digits, a template's texts.

A list of formats cannot be complete. It misses unexpected formats, typing errors and spelled-out numbers, so the rest
may still be memorized: measure that, with canaries in the formats that you know.

Source: Carlini et al. 2019, Section 9.2 (black-lists are a best practice and no defense).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from hf_exposure.canaries import CanaryTemplate, Space
from hf_exposure.checks import encodable_text, flag
from hf_exposure.errors import InputError

D = TypeVar("D", Dataset, DatasetDict, IterableDataset, IterableDatasetDict)
Format = CanaryTemplate | Space


class Match(NamedTuple):
    """The position of a text of a known format: characters `start` to `end`, and the number of the format."""

    start: int
    end: int
    format: int


class Sanitizer:
    """Finds and replaces texts of the given formats; a map function for datasets.

    Args:
        formats: templates and spaces, such as `[LuhnDigits(16), presets.social_security_number()]`.
        replacement: the text that replaces a match.
        whole_words: whether a match must not be next to a letter or digit on either side: nine digits of a
            twenty-digit number are then no match.

    Raises:
        InputError: there are no formats, or one is neither a template nor a space.

    Example:
        >>> from hf_exposure import Digits, LuhnDigits
        >>> clean = Sanitizer([LuhnDigits(16), Digits(9)])
        >>> clean.text("Card 4111111111111111, not 4111111111111112; id 078051120.")
        'Card [removed], not 4111111111111112; id [removed].'
    """

    def __init__(self, formats: Sequence[Format], replacement: str = "[removed]", *, whole_words: bool = True) -> None:
        remedy = "Write [Digits(9), presets.credit_card()]."
        given = [formats] if isinstance(formats, (CanaryTemplate, Space)) else list(formats)
        if not given or not all(isinstance(one, (CanaryTemplate, Space)) for one in given):
            raise InputError("formats", "must be templates or spaces, at least one", [*map(type, given)], remedy)
        self.formats = tuple(given)
        self.replacement = encodable_text("replacement", replacement)
        self.whole_words = flag("whole_words", whole_words)

    @cached_property
    def _beginnings(self) -> re.Pattern[str]:
        """The characters with which a match may begin, so that most of a text can be skipped."""
        first = {character for one in self.formats for character in one.moves(one.start)}
        return re.compile("[" + "".join(map(re.escape, sorted(first))) + "]")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("formats", "replacement", "whole_words")}

    def find(self, text: str) -> list[Match]:
        """The matches in a text, from left to right and without overlaps; of those that begin together, the
        longest.
        """
        found: list[Match] = []
        place = 0
        while begins := self._beginnings.search(text, place):
            start = begins.start()
            ends = [(self._end(one, text, start), -number) for number, one in enumerate(self.formats)]
            end, number = max(ends)
            if end > start:
                found.append(Match(start, end, -number))
            place = max(start + 1, end)
        return found

    def text(self, text: str) -> str:
        """The text with every match replaced."""
        parts, done = [], 0
        for match in self.find(text):
            parts += [text[done : match.start], self.replacement]
            done = match.end
        return "".join([*parts, text[done:]])

    def __call__(self, values: Any) -> Any:
        """Replaces matches in all strings of a value, however they are nested: a row, a chat, a list of texts."""
        if isinstance(values, str):
            return self.text(values)
        if isinstance(values, Mapping):
            return {name: self(value) for name, value in values.items()}
        return [self(value) for value in values] if isinstance(values, (list, tuple)) else values

    def _end(self, one: Format, text: str, start: int) -> int:
        """The end of the longest match that begins there; -1 if there is none."""
        if self.whole_words and start and text[start - 1].isalnum() and text[start].isalnum():
            return -1
        state, best = one.start, -1
        for place in range(start, len(text)):
            state = one.moves(state).get(text[place])
            if state is None:
                break
            after = place + 1
            goes_on = after < len(text) and text[after].isalnum() and text[place].isalnum()
            if one.is_end(state) and not (self.whole_words and goes_on):
                best = after
        return best


def sanitize(
    dataset: D,
    formats: Sequence[Format],
    text_column: str = "text",
    *,
    replacement: str | None = "[removed]",
    whole_words: bool = True,
) -> D:
    """Removes texts of the given formats from a dataset: each is replaced, or its whole row is dropped.

    Args:
        dataset: a dataset with texts or chats in a column.
        formats, whole_words: as for `Sanitizer`.
        text_column: the column to clean; in a chat, every string of it.
        replacement: the text that replaces a match; None drops each row with a match.

    Raises:
        InputError: the dataset has an unknown type, the column is missing, or `Sanitizer` refuses the formats.

    Source: Carlini et al. 2019, Section 9.2.

    Example:
        >>> from datasets import Dataset
        >>> from hf_exposure import Digits
        >>> data = Dataset.from_dict({"text": ["My id is 078051120.", "I have none."]})
        >>> sanitize(data, [Digits(9)], replacement=None)["text"][:]
        ['I have none.']
    """
    if not isinstance(dataset, (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)):
        rule = "must be a Dataset or DatasetDict, or a streaming one"
        raise InputError("dataset", rule, type(dataset).__name__, 'Write Dataset.from_dict({"text": texts}).')
    sanitizer = Sanitizer(formats, "" if replacement is None else replacement, whole_words=whole_words)
    if isinstance(dataset, (DatasetDict, IterableDatasetDict)):
        cleaned = {name: _cleaned(part, sanitizer, text_column, replacement is None) for name, part in dataset.items()}
        return type(dataset)(cleaned)
    return _cleaned(dataset, sanitizer, text_column, replacement is None)


def _cleaned(part: Any, sanitizer: Sanitizer, text_column: str, drop: bool) -> Any:
    names = part.column_names
    if names is not None and text_column not in names:
        rule, remedy = f"must be one of {names}", f"Write text_column={next(iter(names), 'text')!r}."
        raise InputError("text_column", rule, text_column, remedy)
    if drop:
        return part.filter(_HasNone(sanitizer), input_columns=[text_column])
    return part.map(_Replace(sanitizer, text_column), input_columns=[text_column])


class _Replace:
    """A map function; it is a class at module level, so that its fingerprint depends on its values."""

    def __init__(self, sanitizer: Sanitizer, text_column: str) -> None:
        self.sanitizer, self.text_column = sanitizer, text_column

    def __call__(self, value: Any) -> dict[str, Any]:
        return {self.text_column: self.sanitizer(value)}


class _HasNone:
    """A filter for values without any text of a known format."""

    def __init__(self, sanitizer: Sanitizer) -> None:
        self.sanitizer = sanitizer

    def __call__(self, value: Any) -> bool:
        return not _any(self.sanitizer, value)


def _any(sanitizer: Sanitizer, value: Any) -> bool:
    if isinstance(value, str):
        return bool(sanitizer.find(value))
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(_any(sanitizer, one) for one in inner)
