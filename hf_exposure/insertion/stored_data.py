"""How often each canary is in a dataset as it is stored: in its texts, or in its token ids.

For data whose trainer is not at hand. What a trainer cuts, filters or masks afterwards cannot be seen here;
`check_delivery` sees it in what the trainer holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from hf_exposure.canaries import CanaryContext, CanarySet
from hf_exposure.errors import InputError
from hf_exposure.insertion.delivery import check_delivery
from hf_exposure.validity import Delivery

__all__ = ["delivery_in", "count_in_texts", "count_in_tokens"]

_BATCH = 1000
_TOKENS = "input_ids"


def count_in_texts(rows: Iterable[Mapping[str, Any]], canaries: CanarySet) -> dict[str, int]:
    """How often each canary is in the texts of some rows, by id, whatever columns, chats or lists hold them.

    A row that holds a canary in two columns (a chat, and the text made of it) counts once.

    Example:
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries
        >>> canaries = draw_canaries(CanaryTemplate("pin {pin}", pin=Digits(4)), {2: 1}, controls=0, seed=0)
        >>> text = canaries.inserted[0].text
        >>> list(count_in_texts([{"text": f"My {text}."}, {"chat": [{"role": "user", "content": text}]}], canaries)
        ...     .values())
        [2]
    """
    ids = {canary.text: canary.id for canary in canaries}
    # The longest first: one canary may begin with another.
    any_of_them = re.compile("|".join(re.escape(text) for text in sorted(ids, key=len, reverse=True)))
    counts = dict.fromkeys(ids.values(), 0)
    for row in rows:
        most: Counter[str] = Counter()
        for value in row.values():
            most |= Counter(found for text in _texts(value) for found in any_of_them.findall(text))
        for text, times in most.items():
            counts[ids[text]] += times
    return counts


def count_in_tokens(
    batches: Iterable[list[Mapping[str, Any]]],
    canaries: CanarySet,
    tokenizer: Any,
    *,
    context: CanaryContext | None = None,
    source: str | None = None,
) -> dict[str, int]:
    """How often each canary is in the token ids of some rows, by id; arguments as for `check_delivery`.

    Raises:
        InputError: rows without token ids.
    """
    counts = {canary.id: 0 for canary in canaries}
    for batch in batches:
        report = check_delivery(batch, canaries, tokenizer, context=context, source=source, max_rows=len(batch))
        if not report.canaries:
            rule = f"must hold token ids that can be read ({report.note})"
            raise InputError("dataset", rule, sorted(batch[0]), "Name the dataset as it was before tokenizing.")
        for one in report.canaries:
            counts[one.canary_id] += one.whole
    return counts


def delivery_in(
    datasets: Iterable[Any],
    canaries: CanarySet,
    tokenizer: Any,
    *,
    context: CanaryContext | None = None,
    source: str | None = None,
) -> Delivery:
    """What of a set some datasets or streams hold together; all of their rows are read.

    Args:
        datasets: of texts, or of token ids (a column "input_ids").
        tokenizer: the one that made the ids; not used for texts.
        context, source: as they were given to `insert_canaries`; not used for texts.

    Raises:
        InputError: rows with token ids that cannot be read.
    """
    counts = Counter({canary.id: 0 for canary in canaries})
    for dataset in datasets:
        batches = _batches(dataset)
        head = next(batches, [])
        batches = chain([head], batches)
        if head and _TOKENS in head[0]:
            counts.update(count_in_tokens(batches, canaries, tokenizer, context=context, source=source))
        else:
            counts.update(count_in_texts(chain.from_iterable(batches), canaries))
    found = [canary for canary in canaries.inserted if counts[canary.id]]
    return Delivery(
        inserted=len(canaries.inserted),
        found=len(found),
        trained=len(found),
        reduced=sum(counts[canary.id] < canary.repetitions for canary in found),
        controls_found=sum(counts[canary.id] > 0 for canary in canaries.controls),
    )


def _batches(dataset: Any) -> Iterator[list[Mapping[str, Any]]]:
    for batch in dataset.iter(_BATCH):
        yield [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)) and value and not isinstance(value[0], (int, float)):
        for item in value:
            yield from _texts(item)
