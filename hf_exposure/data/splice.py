"""Canaries inside running text, at random or chosen positions in a text or in a dataset's rows.

`insert_canaries` gives each canary its own row, which suits rows that are trained on one by one. In running text, a
secret is in the middle of other words, as in the paper's experiments, so the canary is spliced into a text before it
is cut into rows.
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
"""A part of the pickled state, and hence of the fingerprint. Increase it when the resulting texts change."""


def splice_canaries(
    data: T,
    canaries: CanarySet,
    text_column: str = "text",
    seed: int = 0,
    *,
    place: float | None = None,
    between_words: bool = True,
) -> T:
    """Splices each canary of a set exactly `repetitions` times into running text, in a text or in a dataset's rows.

    The number of rows stays the same: a canary is inserted into a row, which becomes longer. So splice before a text
    is cut into rows of one length, or group the rows afterwards. Every character position of the text is equally
    likely. `remove_canaries` removes whole rows and does not undo this.

    As after `insert_canaries`, the cache of a dataset on disk contains the canaries; only its owner may read it.

    Args:
        data: a text, or a `Dataset` whose rows are treated as one running text.
        canaries: the set to insert; its controls are not inserted.
        text_column: the column of texts of a dataset.
        seed: the seed of the positions.
        place: the position of all canaries as a share of the text from 0 to 1 (0.01: near the start), where they
            follow each other in the set's order; None for random positions.
        between_words: whether to move each position forward to the next whitespace or end of a row, and to separate
            the canary by a space; False cuts the text at the exact character and adds nothing.

    Raises:
        InputError: the data are of another kind or an empty text, the column is missing or contains no strings, or the
            share is outside 0 to 1.

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
        raise InputError("data", "must not be empty", text, "Pass the training text.")
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
        # A position at the end of the text belongs to the last row with text.
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
    """(position in characters, text) of each insertion, ascending."""
    texts = [canary.text for canary in canaries.inserted for _ in range(canary.repetitions)]
    if place is not None:
        return [(round(place * characters), text) for text in texts]
    generator = np.random.Generator(np.random.PCG64(seed))
    at = np.sort(generator.integers(0, characters, size=len(texts), endpoint=True)).tolist()
    order = generator.permutation(len(texts)).tolist()
    return [(position, texts[number]) for position, number in zip(at, order, strict=True)]


def spliced(text: str, edits: Sequence[tuple[int, str]], between_words: bool) -> str:
    """`text` with other texts inserted.

    Args:
        edits: (position in characters of `text`, text to insert), ascending by position.
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
    """A map function; it is a class at module level, so that its fingerprint depends on its values."""

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
