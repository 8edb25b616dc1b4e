"""Does every canary reach the loss? What the trainer will really see is searched for the canaries' tokens."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_exposure.canaries import Canary, CanaryContext, CanarySet
from hf_exposure.canaries.secrecy import message_of, without_secrets
from hf_exposure.checks import check_tokenizer, encodable_text, instance_of, whole_number
from hf_exposure.errors import InputError
from hf_exposure.insertion.delivery_rows import (
    NotReadable,
    ReadRows,
    TokenRows,
    random_states_kept,
    read_rows,
    trained_flags,
)
from hf_exposure.insertion.token_search import Match, PatternSearch

__all__ = ["CanaryDelivery", "DeliveryReport", "check_dataloader", "check_delivery"]

# Rows of one canary are collated alike: a few of them show what the collator masks.
_COLLATED_PER_CANARY = 2


@dataclass(frozen=True, kw_only=True)
class CanaryDelivery:
    """What of one canary arrives in one epoch.

    Attributes:
        canary_id: the canary's id.
        requested: its repetitions; 0 for a control.
        whole: how often it stands in the data, whole.
        cut: how often a part of it does, up to an end of its row or document.
        trained_share: share of its predicted tokens that count in the loss, of whole ones; NaN where that is unknown.
        problem: what is wrong, with its cause; "" where nothing is.
    """

    canary_id: str
    requested: int
    whole: int
    cut: int
    trained_share: float
    problem: str = ""

    @property
    def dose_per_epoch(self) -> float:
        """Whole rows times the share that is trained on; NaN where that is unknown."""
        return self.whole * self.trained_share if self.whole else 0.0


@dataclass(frozen=True, kw_only=True)
class DeliveryReport:
    """What of the canaries arrives in one epoch.

    Attributes:
        canaries: one record for each canary, inserted ones first, in the set's order; none where nothing was checked.
        rows: how many rows were searched.
        note: why nothing, or not everything, was checked; else "".
    """

    canaries: tuple[CanaryDelivery, ...]
    rows: int
    note: str = ""

    @property
    def undelivered(self) -> tuple[CanaryDelivery, ...]:
        """Inserted canaries that no epoch trains on, as far as that is known."""
        return tuple(one for one in self.canaries if one.requested and one.problem and one.dose_per_epoch == 0)

    @property
    def doses_per_epoch(self) -> dict[str, float]:
        """The dose of one epoch by canary id; empty where it is not known."""
        return {} if self.note else {one.canary_id: one.dose_per_epoch for one in self.canaries}

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one line for each kind of problem."""
        counted = Counter((bool(one.requested), one.problem) for one in self.canaries if one.problem)
        of = Counter(bool(one.requested) for one in self.canaries)
        kinds = {True: "inserted canaries", False: "held-out controls"}
        return tuple(f"{n} of {of[kind]} {kinds[kind]}: {problem}" for (kind, problem), n in counted.items())


def check_delivery(
    dataset: Any,
    canaries: CanarySet,
    tokenizer: Any,
    *,
    collator: Any = None,
    context: CanaryContext | None = None,
    source: str | None = None,
    max_rows: int | None = None,
) -> DeliveryReport:
    """How often each canary stands in a tokenised training set, whole or cut, and whether its tokens are trained on.

    The data are searched for each canary's token ids as the tokenizer writes them at the beginning of a row, after a
    space or a newline, and in its context. Labels are those that the collator makes of a few of the rows found; a
    masked-language-model collator, which masks at random, counts with its probability. Random states are left as they
    were. It takes seconds for 10^6 rows in Arrow.

    Args:
        dataset: what the trainer's dataloader holds (`trainer.get_train_dataloader().dataset`): a `Dataset`, or any
            sequence of rows. Rows without `input_ids` are collated first.
        canaries: the set; its controls should not be found.
        tokenizer: the one that made the ids.
        collator: the trainer's (`trainer.data_collator`); without one, the rows' own labels count.
        context, source: as they were given to `insert_canaries`. With a source the canaries stand in the labels.
        max_rows: read at most so many rows; needed for a stream, which is not read otherwise. Of a dataset that is not
            in Arrow, or that is tokenised on the fly, 20,000 rows are read unless told.

    Raises:
        InputError: an argument of the wrong type, or a context that changes a canary's last token.

    Example:
        >>> from datasets import Dataset
        >>> from transformers import ByT5Tokenizer
        >>> from hf_exposure import CanaryTemplate, Digits, draw_canaries, insert_canaries
        >>> canaries = draw_canaries(CanaryTemplate("My PIN is {pin}", pin=Digits(4)), {2: 1}, controls=1, seed=0)
        >>> texts = insert_canaries(Dataset.from_dict({"text": ["one", "two", "three"]}), canaries)
        >>> ids = texts.map(lambda row: ByT5Tokenizer()(row["text"]), remove_columns="text")
        >>> report = check_delivery(ids, canaries, ByT5Tokenizer())
        >>> [(one.requested, one.whole, one.trained_share) for one in report.canaries], report.problems
        ([(2, 2, 1.0), (0, 0, nan)], ())
    """
    instance_of("canaries", canaries, CanarySet, "Make one with draw_canaries.")
    check_tokenizer(tokenizer)
    has_rows = hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")
    if isinstance(dataset, (type, str, bytes)) or not has_rows:
        remedy = "Pass trainer.get_train_dataloader().dataset."
        raise InputError("dataset", "must be a data set, or a list of rows", type(dataset).__name__, remedy)
    if context is not None:
        instance_of("context", context, CanaryContext, "Write CanaryContext(prompt=...).")
    if source is not None:
        encodable_text("source", source)
    if collator is not None and not callable(collator):
        raise InputError("collator", "must be a function", type(collator).__name__, "Pass trainer.data_collator.")
    if max_rows is not None:
        whole_number("max_rows", max_rows, 1)
    return without_secrets(
        canaries, lambda: _check_delivery(dataset, canaries, tokenizer, collator, context, source, max_rows)
    )


def _check_delivery(
    dataset: Any,
    canaries: CanarySet,
    tokenizer: Any,
    collator: Any,
    context: CanaryContext | None,
    source: str | None,
    max_rows: int | None,
) -> DeliveryReport:
    column = "input_ids" if source is None else "labels"
    search = PatternSearch(_patterns(tokenizer, tuple(canaries), context, target=source is not None))
    with random_states_kept():
        try:
            read = read_rows(dataset, column, collator, max_rows)
            matches = [match for part in read.parts for match in _in_dataset(part, search)]
        except NotReadable as reason:
            why = message_of(reason, canaries)
            return DeliveryReport(canaries=(), rows=0, note=f"delivery was not checked: {why}")
        records = _records(canaries, matches, read, collator, search, column)
    return DeliveryReport(canaries=records, rows=read.rows, note=read.note)


def _records(
    canaries: CanarySet, matches: Sequence[Match], read: ReadRows, collator: Any, search: PatternSearch, column: str
) -> tuple[CanaryDelivery, ...]:
    rows_of: dict[int, list[Match]] = defaultdict(list)
    for match in matches:
        rows_of[match.owner].append(match)
    records = []
    for owner, canary in enumerate(canaries):
        whole = [match for match in rows_of[owner] if match.whole]
        shares = _trained_shares(read, collator, search, owner, whole, column)
        share = sum(one or 0.0 for one in shares) / len(shares) if shares else math.nan
        cut = len(rows_of[owner]) - len(whole)
        collated = not shares or any(one is not None for one in shares)
        problem = _problem(canary.repetitions, len(whole), cut, share, collated=collated, complete=not read.note)
        records.append(
            CanaryDelivery(
                canary_id=canary.id,
                requested=canary.repetitions,
                whole=len(whole),
                cut=cut,
                trained_share=share,
                problem=problem,
            )
        )
    return tuple(records)


def check_dataloader(
    dataloader: Any,
    canaries: CanarySet,
    tokenizer: Any,
    *,
    context: CanaryContext | None = None,
    source: str | None = None,
    require: bool = False,
    warn: bool = True,
) -> DeliveryReport:
    """As `check_delivery`, for what a trainer's dataloader holds, with its collator, at the start of training.

    Every process looks at the whole dataset, which a sampler shares out later, and so comes to the same answer.

    Args:
        dataloader: left alone; only its dataset and its collator are used.
        require: whether a canary that is not trained on is an error, and what could not be checked too; else the
            first is a warning.
        warn: whether this process warns.

    Raises:
        InputError: a canary is not trained on, or not everything could be checked, with `require`.
    """
    dataset, collator = getattr(dataloader, "dataset", None), getattr(dataloader, "collate_fn", None)
    try:
        report = check_delivery(dataset, canaries, tokenizer, collator=collator, context=context, source=source)
    except Exception as error:  # a dataset of the user's own may fail in any way outside its dataloader
        report = DeliveryReport(canaries=(), rows=0, note=f"delivery was not checked: {type(error).__name__}: {error}")
    if require and (report.undelivered or report.note):
        why = "; ".join(filter(None, (*report.problems, report.note)))
        remedy = "Insert the canaries into the dataset that the trainer gets, or leave require_delivery out."
        raise InputError("require_delivery", f"must find every inserted canary trained on ({why})", True, remedy)
    if report.problems and warn:
        warnings.warn("canaries in the training data: " + "; ".join(report.problems), stacklevel=2)
    return report


def _patterns(
    tokenizer: Any, canaries: Sequence[Canary], context: CanaryContext | None, *, target: bool
) -> list[tuple[int, list[int]]]:
    """Each canary's ids as they are written in several surroundings; they may differ in the first token."""
    before = ["", " ", "\n"]
    if context is not None:
        context.check_end(tokenizer, [canary.text for canary in canaries])
        before.append(context.around(tokenizer)[0])
    found: dict[tuple[int, tuple[int, ...]], None] = {}
    for lead in before:
        texts = [lead + canary.text for canary in canaries]
        name = "text_target" if target else "text"
        encoded = tokenizer(**{name: texts}, add_special_tokens=False)["input_ids"]
        # The lead's own tokens are no part of the canary: they may be masked where it is trained on.
        alone = tokenizer(**{name: [lead]}, add_special_tokens=False)["input_ids"][0] if lead else []
        for owner, ids in enumerate(encoded):
            shared = 0
            while shared < min(len(alone), len(ids)) and alone[shared] == ids[shared]:
                shared += 1
            found[owner, tuple(ids[shared:])] = None
    return [(owner, list(ids)) for owner, ids in found]


def _in_dataset(part: TokenRows, search: PatternSearch) -> list[Match]:
    """The matches of one part, with rows counted as the dataset counts them."""
    matches = search.find(part.values, part.offsets, part.inner_ends)
    return [
        Match(match.owner, row, match.start, match.length, match.whole)
        for match in matches
        for row in part.dataset_rows(match.row)
    ]


def _trained_shares(
    read: ReadRows, collator: Any, search: PatternSearch, owner: int, whole: Sequence[Match], column: str
) -> list[float | None]:
    """The share of a canary's predicted tokens that have a label, in a few of its rows; NaN where nobody knows.

    None for a row that the collator leaves without the whole canary.
    """
    shares: list[float | None] = []
    for row in sorted({match.row for match in whole})[:_COLLATED_PER_CANARY]:
        flags = trained_flags(read.row(row), collator, column)
        if flags is None:
            return [math.nan]
        if flags.fixed_share is not None:
            return [flags.fixed_share]
        here = [match for match in search.find(flags.values, flags.offsets) if match.owner == owner and match.whole]
        for match in here:
            first = int(flags.offsets[match.row]) + match.start
            # Nothing predicts the first token of a row, so that its label does not count.
            begin = first + (column == "input_ids" and match.start == 0 and match.length > 1)
            shares.append(float(flags.trained[begin : first + match.length].mean()))
        shares += [] if here else [None]
    return shares


def _problem(requested: int, whole: int, cut: int, share: float, *, collated: bool, complete: bool) -> str:
    if not requested:
        return "it stands in the training data, so it is no control" if whole else ""
    if not collated:
        return (
            "it is whole in the dataset but not in what the collator makes of its rows: the collator cuts or changes "
            "them (use a longer max_length, or a shorter template)"
        )
    if share == 0:
        return (
            "every token is masked out of the loss (label -100): it stands on the side that is not trained on "
            "(completion_only_loss, assistant_only_loss, a collator's mask)"
        )
    if whole >= requested or not complete:
        return ""
    there = f"{whole} of {requested} rows are there whole" if whole else "it is not in the training data"
    if cut:
        lengthen = "use a longer max_length (or block), a shorter template, or another packing strategy"
        return f"{there}, {cut} are cut by truncation or packing: {lengthen}"
    if whole:
        return f"{there}: a filter, deduplication or a cut within the first tokens took the others"
    return (
        f"{there}: insert_canaries was not called on it, a filter took it out, it was cut within its first tokens, "
        "the tokenizer is another, or the context is not the one it was inserted in"
    )
