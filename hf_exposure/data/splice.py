"""Canaries inside running text: at a random or a chosen place of a text or of a dataset's rows.

`insert_canaries` gives each canary a row of its own, which suits rows that are trained on one by one. A model that
reads running text meets a secret in the middle of other words, as in the paper's experiments: those want the canary
spliced into a text before it is cut into rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import without_secrets
from hf_exposure.checks import encodable_text, flag, instance_of, real_number, whole_number
from hf_exposure.data.rows import check_string_type
from hf_exposure.errors import InputError
from hf_exposure.files import owner_only
from hf_exposure.limits import LARGEST_SEED

T = TypeVar("T", str, Dataset)

_FORMAT_VERSION = 1
"""Part of the pickled state, hence of the fingerprint: raise it when the texts that come out change."""


def splice_canaries(
    data: T,
    canaries: CanarySet,
    text_column: str = "text",
    seed: int = 0,
    *,
    place: float | None = None,
    between_words: bool = True,
) -> T:
    """The text, or the dataset, with each inserted canary in it exactly `repetitions` times, inside running text.

    The number of rows stays what it is: a canary goes into a row, which it makes longer. So splice before a text is
    cut into rows of one length, or group the rows afterwards. Every character of the text is equally likely to be the
    place. `remove_canaries` removes whole rows and does not undo this.

    As after `insert_canaries`, the cache of a dataset on the disk holds the canaries, readable by its owner alone.

    Args:
        data: a text, or a `Dataset` whose rows are taken as one running text.
        canaries: what to insert; its controls stay out.
        text_column: of a dataset.
        seed: of the places.
        place: a share of the text from 0 to 1 where all of them go (0.01: near the start), one after the other in the
            set's order; None for random places.
        between_words: move each place forward to the next white space or end of a row, and set the canary apart by a
            space; False cuts the text at the very character and adds nothing.

    Raises:
        InputError: data of another kind, an empty text, a column that is missing or holds no strings, a share outside
            0 to 1.

    Source: Carlini et al. 2019, Section 3 (a random place of the text) and Section 7.1 (near its beginning).

    Example:
        >>> from hf_exposure import CanarySet, CanaryTemplate, Digits
        >>> template = CanaryTemplate("My PIN is {pin}", pin=Digits(4))
        >>> known = CanarySet.from_secrets(template, ["My PIN is 0042"])
        >>> splice_canaries("It rained all day, and then it snowed.", known, place=0.3)
        'It rained all My PIN is 0042 day, and then it snowed.'
    """
    instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries(template, ...).")
    seed = whole_number("seed", seed, 0, LARGEST_SEED)
    flag("between_words", between_words)
    if place is not None:
        rule, remedy = "must lie between 0 and 1", "Write 0.01 for near the start, or leave it out."
        place = real_number("place", place, rule, remedy, at_least=0.0, at_most=1.0)
    if isinstance(data, str):
        text = encodable_text("data", data)
        return without_secrets(canaries, lambda: _spliced_text(text, canaries, seed, place, between_words))
    if not isinstance(data, Dataset):
        remedy = "Pass one split, or insert whole rows with insert_canaries."
        raise InputError("data", "must be a text or a Dataset", type(data).__name__, remedy)
    if text_column not in data.column_names:
        remedy = f"Write text_column={next(iter(data.column_names), 'text')!r}."
        raise InputError("text_column", f"must be one of {data.column_names}", text_column, remedy)
    check_string_type(text_column, data.features.arrow_schema.field(text_column).type)
    return without_secrets(canaries, lambda: _spliced_rows(data, canaries, text_column, seed, place, between_words))


def _spliced_text(text: str, canaries: CanarySet, seed: int, place: float | None, between_words: bool) -> str:
    if not text:
        raise InputError("data", "must not be empty", text, "Pass the text that is trained on.")
    return spliced(text, list(_places(canaries, len(text), seed, place)), between_words)


def _spliced_rows(
    dataset: Dataset, canaries: CanarySet, text_column: str, seed: int, place: float | None, between_words: bool
) -> Dataset:
    lengths = [_lengths(batch[text_column]) for batch in dataset.with_format("arrow").iter(10_000)]
    ends_N = np.cumsum(np.concatenate(lengths)) if lengths else np.zeros(0, dtype=np.int64)
    if not len(ends_N) or not ends_N[-1]:
        raise InputError("data", "must have rows with text", f"{len(ends_N)} rows", "Load the split you train on.")
    edits: dict[int, list[tuple[int, str]]] = {}
    for at, text in _places(canaries, int(ends_N[-1]), seed, place):
        # A place at the end of all text belongs to the last row that has any.
        row = min(int(np.searchsorted(ends_N, at, side="right")), int(np.searchsorted(ends_N, ends_N[-1])))
        start = int(ends_N[row - 1]) if row else 0
        edits.setdefault(row, []).append((at - start, text))
    with owner_only():
        return dataset.map(
            _Splicer(text_column, edits, between_words),
            batched=True,
            with_indices=True,
            input_columns=[text_column],
            features=dataset.features,
            desc="Splicing canaries",
        )


def _lengths(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.utf8_length(column), 0).to_numpy(), dtype=np.int64)


def _places(canaries: CanarySet, characters: int, seed: int, place: float | None) -> Iterable[tuple[int, str]]:
    """(place in characters, text) of each insertion, ascending."""
    texts = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    if place is not None:
        return [(round(place * characters), text) for text in texts]
    generator = np.random.Generator(np.random.PCG64(seed))
    at = np.sort(generator.integers(0, characters, size=len(texts), endpoint=True)).tolist()
    order = generator.permutation(len(texts)).tolist()
    return [(position, texts[number]) for position, number in zip(at, order, strict=True)]


def spliced(text: str, edits: Sequence[tuple[int, str]], between_words: bool) -> str:
    """`text` with others put into it.

    Args:
        edits: (place in characters of `text`, what goes there), ascending by place.
        between_words: as for `splice_canaries`.

    Example:
        >>> spliced("abc def", [(1, "X"), (7, "Y")], True), spliced("abc def", [(1, "X")], False)
        ('abc X def Y', 'aXbc def')
    """
    parts: list[str] = []
    done = 0
    for at, inserted in edits:
        at = max(done, at)
        if between_words:
            while at < len(text) and not text[at].isspace():
                at += 1
            inserted = f" {inserted}" if at or done or parts else inserted
        parts += [text[done:at], inserted]
        done = at
    rest = text[done:]
    if between_words and parts and rest and not rest[0].isspace():
        rest = f" {rest}"
    return "".join([*parts, rest])


class _Splicer:
    """A map function; a class at module level, so that its fingerprint is its values."""

    def __init__(self, text_column: str, edits: Mapping[int, Sequence[tuple[int, str]]], between_words: bool) -> None:
        self.text_column, self.edits, self.between_words = text_column, dict(edits), between_words

    def __getstate__(self) -> dict[str, Any]:
        return {"format_version": _FORMAT_VERSION, **vars(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name != "format_version"})

    def __call__(self, texts: Sequence[str | None], indices: Sequence[int]) -> dict[str, list[str | None]]:
        rows = [
            spliced(text or "", self.edits[index], self.between_words) if index in self.edits else text
            for text, index in zip(texts, indices, strict=True)
        ]
        return {self.text_column: rows}
