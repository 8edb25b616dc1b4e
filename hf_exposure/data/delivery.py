"""Checks that every canary reaches the loss, by searching the trainer's actual data for the canaries' tokens."""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hf_exposure.canaries import CanarySet
from hf_exposure.canaries.secrecy import message_of, without_secrets
from hf_exposure.checks import check_tokenizer, encodable_text, instance_of, whole_number
from hf_exposure.context import CanaryContext, check_context
from hf_exposure.data.canary_tokens import canary_tokens
from hf_exposure.data.delivery_rows import (
    NotReadable,
    ReadRows,
    TokenRows,
    read_rows,
    trained_flags,
)
from hf_exposure.data.token_search import Match, PatternSearch
from hf_exposure.errors import InputError
from hf_exposure.records import Delivery, Doses
from hf_exposure.runtime.model_state import random_states_kept

# Number of rows per canary that are collated to see what the collator masks; all rows of one canary are collated
# alike.
_COLLATED_PER_CANARY = 2


@dataclass(frozen=True, kw_only=True)
class CanaryDelivery:
    """How often one canary arrives in one epoch.

    Attributes:
        canary_id: the canary's id.
        requested: its repetitions; 0 for a control.
        whole: how often it is in the data, complete.
        cut: how often only a part of it is, up to an end of its row or document.
        trained_share: share of its predicted tokens that count in the loss, where it is complete; NaN if unknown.
        secret_share: the same share for the tokens in which the canaries of the set differ; NaN if unknown.
        problem: the problem with its cause; "" if there is none.
    """

    canary_id: str
    requested: int
    whole: int
    cut: int
    trained_share: float
    secret_share: float = math.nan
    problem: str = ""

    @property
    def dose_per_epoch(self) -> float:
        """The number of complete occurrences times the share that is trained on; NaN if unknown."""
        return self.whole * self.trained_share if self.whole else 0.0

    @property
    def is_trained(self) -> bool:
        """Whether an epoch trains on its secret, as far as known."""
        return self.whole > 0 and self.trained_share != 0 and self.secret_share != 0


@dataclass(frozen=True, kw_only=True)
class DeliveryReport:
    """How often each canary arrives in one epoch.

    Attributes:
        canaries: one record for each canary, inserted ones first, in the set's order; empty if nothing was checked.
        rows: the number of rows searched.
        complete: whether those are all rows of the dataset.
        note: why nothing, or not everything, was checked; "" otherwise.
    """

    canaries: tuple[CanaryDelivery, ...]
    rows: int
    complete: bool = True
    note: str = ""

    @property
    def undelivered(self) -> tuple[CanaryDelivery, ...]:
        """The inserted canaries that no epoch trains on, as far as known."""
        return tuple(one for one in self.canaries if one.requested and one.problem and not one.is_trained)

    @property
    def doses_per_epoch(self) -> dict[str, float]:
        """The dose of one epoch by canary id; empty if unknown."""
        return {one.canary_id: one.dose_per_epoch for one in self.canaries} if self.complete else {}

    def counted(self, epochs: float | None = None, doses: Doses | None = None) -> Delivery | None:
        """The counts that a report stores; None if the data were not read, or not far enough.

        Args:
            epochs: the number of passes over the data so far.
            doses: the doses counted in the training batches so far, which override the counts in the data.
        """
        if doses is not None and doses.counted:
            return self._as_trained(doses, epochs)
        inserted = [one for one in self.canaries if one.requested]
        if not inserted or (not self.complete and not self.undelivered):
            return None
        # If only a part of the data was read, a canary that was not found may be in the rest.
        lost = len(self.undelivered)
        return Delivery(
            inserted=len(inserted),
            found=sum(one.whole > 0 or not one.problem for one in inserted),
            trained=len(inserted) - lost,
            reduced=sum(bool(one.problem) for one in inserted) - lost,
            controls_found=sum(one.whole > 0 for one in self.canaries if not one.requested),
            epochs=epochs,
        )

    def _as_trained(self, doses: Doses, epochs: float | None) -> Delivery | None:
        inserted = [one for one in doses.counted if one.repetitions]
        if not inserted:
            return None
        read = {one.canary_id: one for one in self.canaries}
        promised = {name: one.whole > 0 or not one.problem for name, one in read.items()}
        undelivered = {one.canary_id for one in self.undelivered}
        trained = [one for one in inserted if one.is_trained]
        pending = [
            one for one in inserted if not one.is_trained and one.least == 0 and one.canary_id not in undelivered
        ]
        return Delivery(
            inserted=len(inserted),
            found=sum(
                one.is_trained or one.masked > 0 or promised.get(one.canary_id, False) or one in pending
                for one in inserted
            ),
            trained=len(trained),
            reduced=sum(
                one.whole < one.least or (one.canary_id in read and bool(read[one.canary_id].problem))
                for one in trained
            ),
            controls_found=sum(
                one.whole > 0 or (one.canary_id in read and read[one.canary_id].whole > 0)
                for one in doses.counted
                if not one.repetitions
            ),
            epochs=epochs,
            pending=len(pending),
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """The problems, one line for each kind."""
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
    """Counts each canary in a tokenized training set, complete or cut, and checks whether its tokens are trained on.

    The data are searched for each canary's token ids as the tokenizer encodes it at the beginning of a row, after a
    space or a newline, and in its context. Labels are those that the collator makes for a few of the rows found; for a
    masked-language-model collator, which masks at random, its probability is used. Random states are left as they
    were. It takes seconds for 10^6 rows in Arrow.

    Args:
        dataset: the dataset of the trainer's dataloader (`trainer.get_train_dataloader().dataset`): a `Dataset`, or
            any sequence of rows. Rows without `input_ids` are collated first.
        canaries: the set; its controls should not be found.
        tokenizer: the tokenizer that made the ids.
        collator: the trainer's collator (`trainer.data_collator`); without one, the rows' own labels are used.
        context, source: as given to `insert_canaries`. With a source, the canaries are in the labels.
        max_rows: the maximum number of rows to read; required for a stream, which is otherwise not read. For a dataset
            that is not in Arrow, or that is tokenized on the fly, the default is 20,000.

    Raises:
        InputError: an argument has the wrong type, or the context changes a canary's last token.

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
    # A dictionary of splits has no row 0.
    if isinstance(dataset, (type, str, bytes, Mapping)) or not has_rows:
        remedy = "Pass trainer.get_train_dataloader().dataset."
        raise InputError("dataset", "must be a data set, or a list of rows", type(dataset).__name__, remedy)
    check_context(context)
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
    patterns = canary_tokens(tokenizer, tuple(canaries), context, target=source is not None)
    search = PatternSearch([(owner, ids) for owner, ids, _ in patterns])
    secrets = [secret for *_, secret in patterns]
    with random_states_kept():  # datasets and collators may draw random numbers
        try:
            read = read_rows(dataset, column, collator, max_rows)
            matches = [match for part in read.parts for match in _in_dataset(part, search)]
        except NotReadable as reason:
            why = message_of(reason, canaries)
            return DeliveryReport(canaries=(), rows=0, complete=False, note=f"delivery was not checked: {why}")
        records = _records(canaries, matches, read, collator, search, secrets, column)
    return DeliveryReport(canaries=records, rows=read.rows, complete=read.complete, note=read.note)


def _records(
    canaries: CanarySet,
    matches: Sequence[Match],
    read: ReadRows,
    collator: Any,
    search: PatternSearch,
    secrets: Sequence[slice],
    column: str,
) -> tuple[CanaryDelivery, ...]:
    rows_of: dict[int, list[Match]] = defaultdict(list)
    for match in matches:
        rows_of[match.owner].append(match)
    records = []
    for owner, canary in enumerate(canaries):
        whole = [match for match in rows_of[owner] if match.whole]
        shares = _trained_shares(read, collator, search, secrets, owner, whole, column)
        share, secret_share = (_mean([pair[of] if pair else 0.0 for pair in shares]) for of in (0, 1))
        cut = len(rows_of[owner]) - len(whole)
        collated = not shares or any(shares)
        problem = _problem(
            canary.repetitions,
            len(whole),
            cut,
            (share, secret_share),
            collated=collated,
            complete=read.complete,
        )
        records.append(
            CanaryDelivery(
                canary_id=canary.id,
                requested=canary.repetitions,
                whole=len(whole),
                cut=cut,
                trained_share=share,
                secret_share=secret_share,
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
    require: bool | None = None,
    warn: bool = True,
) -> DeliveryReport:
    """Like `check_delivery`, for the dataset and collator of a trainer's dataloader, when training starts.

    Every process checks the whole dataset, which a sampler distributes later, so that all get the same result.

    Args:
        dataloader: it is not iterated; only its dataset and its collator are used.
        require: whether a canary that is not trained on is an error: None if that can be seen, True also if the data
            could not be checked, False never (it is then a warning).
        warn: whether this process warns.

    Raises:
        InputError: a canary is not trained on, unless `require` is False; or not everything could be checked, if
            `require` is True.
    """
    dataset, collator = getattr(dataloader, "dataset", None), getattr(dataloader, "collate_fn", None)
    try:
        report = check_delivery(dataset, canaries, tokenizer, collator=collator, context=context, source=source)
    except Exception as error:  # a custom dataset may fail in any way outside its dataloader
        report = DeliveryReport(
            canaries=(), rows=0, complete=False, note=f"delivery was not checked: {type(error).__name__}: {error}"
        )
    missing = report.undelivered and require is not False
    if missing or (require and not report.complete):
        why = "; ".join(filter(None, (*report.problems, report.note)))
        remedy = "Insert the canaries into the dataset that the trainer gets, or pass require_delivery=False."
        raise InputError("require_delivery", f"must find every inserted canary trained on ({why})", require, remedy)
    if report.problems and warn:
        delivery = report.counted()
        invalid = f"INVALID: {delivery.flaws[0]}. " if report.undelivered and delivery is not None else ""
        warnings.warn(f"{invalid}canaries in the training data: {'; '.join(report.problems)}", stacklevel=2)
    elif warn and not report.complete and report.canaries and not any(one.whole for one in report.canaries):
        unseen = f"canaries in the training data: none was found, but {report.note}"
        warnings.warn(unseen, stacklevel=2)
    return report


def _in_dataset(part: TokenRows, search: PatternSearch) -> list[Match]:
    """The matches of one part, with row numbers of the dataset."""
    matches = search.find(part.values, part.offsets, part.inner_ends)
    return [replace(match, row=row) for match in matches for row in part.dataset_rows(match.row)]


def _trained_shares(
    read: ReadRows,
    collator: Any,
    search: PatternSearch,
    secrets: Sequence[slice],
    owner: int,
    whole: Sequence[Match],
    column: str,
) -> list[tuple[float, float] | None]:
    """The shares of a canary's predicted tokens, and of its secret's tokens alone, that have a label, in a few of its
    rows.

    NaN if unknown; None for a row in which the collator does not keep the whole canary.
    """
    shares: list[tuple[float, float] | None] = []
    for row in sorted({match.row for match in whole})[:_COLLATED_PER_CANARY]:
        flags = trained_flags(read.row(row), collator, column)
        if flags is None:
            return [(math.nan, math.nan)]
        if flags.fixed_share is not None:
            return [(flags.fixed_share, math.nan)]
        here = [match for match in search.find(flags.values, flags.offsets) if match.owner == owner and match.whole]
        for match in here:
            first = int(flags.offsets[match.row]) + match.start
            secret = secrets[match.pattern]
            # The first token of a row is never predicted, so its label does not count.
            begin = first + (column == "input_ids" and match.start == 0 and match.length > 1)
            of_secret = flags.trained[max(begin, first + secret.start) : first + secret.stop]
            shares.append(
                (
                    float(flags.trained[begin : first + match.length].mean()),
                    float(of_secret.mean()) if of_secret.size else math.nan,
                )
            )
        shares += [] if here else [None]
    return shares


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else math.nan


def _problem(
    requested: int, whole: int, cut: int, shares: tuple[float, float], *, collated: bool, complete: bool
) -> str:
    share, secret_share = shares
    if not requested:
        return "it is in the training data, so it is no control" if whole else ""
    if not collated:
        return (
            "it is complete in the dataset but not in the collated rows: the collator cuts or changes them (use a "
            "longer max_length, or a shorter template)"
        )
    if share == 0:
        return (
            "every token is masked out of the loss (label -100): it is in a part that is not trained on "
            "(completion_only_loss, assistant_only_loss, a collator's mask)"
        )
    if secret_share == 0:
        return "its secret is masked out of the loss (label -100): only the fixed text of the template is trained on"
    problem = _too_few(requested, whole, cut, complete=complete)
    if not problem and secret_share < 1:
        return f"only {secret_share:.0%} of its secret's tokens count in the loss: the others are masked or cut"
    return problem


def _too_few(requested: int, whole: int, cut: int, *, complete: bool) -> str:
    if whole >= requested or not complete:
        return ""
    there = f"{whole} of {requested} rows contain it completely" if whole else "it is not in the training data"
    if cut:
        lengthen = "use a longer max_length (or block), a shorter template, or another packing strategy"
        return f"{there}, {cut} are cut by truncation or packing: {lengthen}"
    if whole:
        return f"{there}: a filter, deduplication or a cut within the first tokens removed the others"
    return (
        f"{there}: insert_canaries was not called on the data, a filter removed it, it was cut within its first "
        "tokens, or the tokenizer or the context differs from that of the insertion"
    )
