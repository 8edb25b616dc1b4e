"""Membership of the users' own records: can those that a model was trained on be told from held-out ones?

Canaries show how canaries are memorized. Here the records themselves are tested: one forward pass for each, two with a
base model, gives all statistics at once. `MembershipMeter` prepares the rows and can measure any number of times;
`measure_membership` measures once; `MembershipMeasure` is the same as a measure for `MeasureCallback`.

Shapes: N records, n members and m held-out records among them, S statistics.
"""

from __future__ import annotations

import hashlib
import math
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import nn

from hf_exposure.checks import check_tokenizer, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators import RocCurve, roc_curve, tpr_at_fpr
from hf_exposure.estimators.arrays import FloatArray, checked_confidence
from hf_exposure.estimators.membership import (
    NEED_BASE,
    STATISTICS,
    Statistic,
    TokenSignals,
    exact_memorization,
    extraction_strength,
    separation,
)
from hf_exposure.measures.base_model import BaseFigures, BaseModel, check_base_model
from hf_exposure.measures.described import describe_model, package_versions
from hf_exposure.measures.protocol import TrainingStart
from hf_exposure.records.membership import (
    NO_BASE,
    PREFIX,
    Distribution,
    MembershipRate,
    MembershipReport,
    MembershipStatistic,
    RecordGroup,
    tpr_key,
)
from hf_exposure.runtime.job import check_alike
from hf_exposure.runtime.model_state import unwrap_model
from hf_exposure.runtime.processes import SINGLE_PROCESS, Processes
from hf_exposure.scoring import make_scorer
from hf_exposure.scoring.arguments import check_batch_tokens, check_module, context_length
from hf_exposure.signals import EncodedRecords, SignalReader, encode_records
from hf_exposure.signals.token_signals import check_causal

_ROC_POINTS = 200
_MOST_EXPOSED = 10
# Confidence level of the comparisons that should show no difference; they are not the tested hypothesis.
_BLIND_CONFIDENCE = 0.99


class MembershipOptions(TypedDict, total=False):
    """The settings of a measurement of membership; `MembershipMeter` describes them."""

    statistics: Mapping[str, Statistic] | None
    text_column: str
    max_tokens: int | None
    false_positive_rates: Sequence[float]
    confidence_level: float
    max_batch_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class _Settings:
    statistics: Mapping[str, Statistic] | None = None
    text_column: str = "text"
    max_tokens: int | None = None
    false_positive_rates: Sequence[float] = (0.001, 0.01, 0.1)
    confidence_level: float = 0.95
    max_batch_tokens: int | None = None
    own: Mapping[str, Statistic] = field(init=False)

    def __post_init__(self) -> None:
        checked_confidence(self.confidence_level)
        check_batch_tokens(self.max_batch_tokens)
        rule, remedy = "must lie strictly between 0 and 1", "Write (0.01, 0.1)."
        rates = self.false_positive_rates
        if isinstance(rates, str) or not isinstance(rates, Iterable):
            raise InputError("false_positive_rates", "must be numbers in a list", rates, remedy)
        found = tuple(real_number("false_positive_rates", rate, rule, remedy, above=0.0, below=1.0) for rate in rates)
        own = {} if self.statistics is None else self.statistics
        if not isinstance(own, Mapping) or not all(callable(one) for one in own.values()):
            rule = "must be functions (text, base) -> score, by name"
            raise InputError("statistics", rule, type(own).__name__, 'Write statistics={"mine": function}.')
        for name in own:
            if not isinstance(name, str) or not name.isidentifier() or name in STATISTICS:
                rule = f"must have names that are words, other than {', '.join(STATISTICS)}"
                raise InputError("statistics", rule, name, "Name it otherwise.")
        vars(self).update(false_positive_rates=found, own=dict(own))

    @property
    def all(self) -> dict[str, Statistic]:
        return {**STATISTICS, **self.own}

    def to_dict(self) -> dict[str, Any]:
        return {
            "text_column": self.text_column,
            "max_tokens": self.max_tokens,
            "false_positive_rates": list(self.false_positive_rates),
            "confidence_level": self.confidence_level,
            "own_statistics": sorted(self.own),
        }


@dataclass(frozen=True, eq=False)
class _Rows:
    members: EncodedRecords
    held_out: EncodedRecords
    shared: int


class MembershipMeter:
    """Measures membership at any step of a training after one preparation.

    Args:
        members: the records that the model was trained on: texts, chats (lists of messages), or mappings with
            `messages`, with `prompt` and `completion`, or with a column of texts; a list or a dataset.
        held_out: records that it never saw, *drawn in the same way*. Records from another source or date differ before
            any training, and the figures then measure that difference. `report.differences` lists signs of it.
        tokenizer: the model's tokenizer.
        across_processes: whether to share the work among all processes of the job; all must then measure the same
            records.
        **settings: the optional arguments below.
        statistics: further statistics by name: functions from a text's `TokenSignals`, and those under the base model
            or None, to a score; a higher score means member.
        text_column: the column of texts, for rows that have one.
        max_tokens: the maximum length of a row; by default the model's context. Longer records are cut at the end.
        false_positive_rates: the rates at which the share of members recognized is reported.
        confidence_level: the level of all intervals.
        max_batch_tokens: as for `log_perplexity`.

    Attributes:
        base: the signals under the base model, with its fingerprint if it is the model without its adapters.

    Raises:
        InputError: there are no members or held-out records, a record is of another kind, or a setting is out of
            range.
    """

    def __init__(
        self,
        members: Iterable[Any],
        held_out: Iterable[Any],
        tokenizer: Any,
        *,
        across_processes: bool = False,
        **settings: Unpack[MembershipOptions],
    ) -> None:
        self.settings = _Settings(**settings)
        check_tokenizer(tokenizer)
        self.tokenizer, self._across_processes = tokenizer, across_processes
        # The records are read again if the context changes, which is impossible for an iterator.
        self._given = {
            name: list(records) if isinstance(records, Iterator) else records
            for name, records in (("members", members), ("held_out", held_out))
        }
        self._rows: tuple[int | None, _Rows] | None = None
        self._compared = False
        self.base: BaseFigures[list[TokenSignals]] = BaseFigures(self._signals_of_all, self._processes_of)

    def prepare(self, model: nn.Module) -> None:
        """Encodes the records up to the length of the model's context. The encodings are kept until the context
        changes.

        Raises:
            InputError: there are no members or held-out records, or a record is of another kind.
        """
        self._encoded(model)

    def measure(self, model: nn.Module, *, base_model: BaseModel | None = None) -> MembershipReport:
        """Measures the model in its present state. The model is left as it was found.

        Args:
            model: a causal language model.
            base_model: a model that saw none of the records, with the same tokenizer, or "without_adapter" for `model`
                with its PEFT adapters off. It is scored again only if its weights have changed.

        Raises:
            InputError: the model is of another kind, or the base model does not suit it.
            NonFiniteScoreError: the model returned NaN; the message gives the record's number.
        """
        started = time.perf_counter()
        check_module("model", model)
        check_base_model(model, base_model)
        if isinstance(base_model, nn.Module):
            check_causal(base_model, "")
        model = unwrap_model(model)
        processes = self._processes_of(model)
        with processes.barrier():
            rows = self._encoded(model)
            self._check_alike(processes, rows)
            base = None if base_model is None else self.base.of(model, base_model)
            scores_SN, exact_N, strength_N = self._scores(model, rows, base, processes)
        members = len(rows.members)
        settings = self.settings
        return MembershipReport(
            statistics={
                name: _undefined(NO_BASE, settings.false_positive_rates)
                if base is None and name in NEED_BASE
                else self._statistic(row_N, rows)
                for name, row_N in zip(settings.all, scores_SN, strict=True)
            },
            blind={name: self._blind(row_N, members) for name, row_N in _blind_scores(rows, base).items()},
            members=_group(rows.members, exact_N[:members], strength_N[:members]),
            held_out=_group(rows.held_out, exact_N[members:], strength_N[members:]),
            shared=rows.shared,
            settings=settings.to_dict(),
            model=describe_model(model),
            base=_name_of(base_model),
            seconds=time.perf_counter() - started,
            versions=dict(package_versions()),
            notes=tuple(_notes(rows)),
        )

    def _encoded(self, model: nn.Module) -> _Rows:
        limit, given = context_length(model), self.settings.max_tokens
        most = min((number for number in (limit, given) if number is not None), default=None)
        if self._rows is None or self._rows[0] != most:
            encoded = {
                name: encode_records(
                    name, records, self.tokenizer, text_column=self.settings.text_column, max_tokens=most
                )
                for name, records in self._given.items()
            }
            self._rows = most, _checked(encoded["members"], encoded["held_out"])
        return self._rows[1]

    def _scores(
        self, model: nn.Module, rows: _Rows, base: list[TokenSignals] | None, processes: Processes
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(S, N) scores of all statistics, (N,) exact memorization and (N,) extraction strength; members first."""
        statistics = list(self.settings.all.values())
        count = len(rows.members) + len(rows.held_out)
        scores_SN, exact_N, strength_N = np.full((len(statistics), count), math.nan), np.zeros(count), np.zeros(count)
        for row, signals in self._read(model, rows, processes):
            own_base = None if base is None else base[row]
            scores_SN[:, row] = [float(statistic(signals, own_base)) for statistic in statistics]
            exact_N[row], strength_N[row] = exact_memorization(signals), extraction_strength(signals)
        return scores_SN, exact_N, strength_N

    def _signals_of_all(self, base: nn.Module) -> list[TokenSignals]:
        rows = self._encoded(base) if self._rows is None else self._rows[1]
        found = dict(self._read(unwrap_model(base), rows, self._processes_of(base)))
        return [found[row] for row in range(len(found))]

    def _read(self, model: nn.Module, rows: _Rows, processes: Processes) -> Iterable[tuple[int, TokenSignals]]:
        """Yields the numbers and signals of all rows: members first, then held-out records."""
        check_causal(model, "")
        scorer = make_scorer(model, self.tokenizer, processes=processes)  # determines the kind of the model
        check_causal(model, scorer.why_no_search)
        reader = SignalReader(model, max_batch_tokens=self.settings.max_batch_tokens, processes=processes)
        for first, records in ((0, rows.members), (len(rows.members), rows.held_out)):
            for row, signals in reader.read(records):
                yield first + row, signals

    def _processes_of(self, model: nn.Module) -> Processes:
        return Processes.of_job(model) if self._across_processes else SINGLE_PROCESS

    def _check_alike(self, processes: Processes, rows: _Rows) -> None:
        if processes.count == 1 or self._compared:
            return
        values = {**self.settings.to_dict(), **{name: _digest(getattr(rows, name)) for name in self._given}}
        remedies = {"": "Pass the same value on every process.", **dict.fromkeys(self._given, _SAME_RECORDS)}
        check_alike(processes, values, remedies)
        self._compared = True

    def _statistic(self, scores_N: FloatArray, rows: _Rows) -> MembershipStatistic:
        members, level = len(rows.members), self.settings.confidence_level
        members_n, held_out_m = scores_N[:members], scores_N[members:]
        found = separation(members_n, held_out_m, confidence_level=level)
        if found.reason:
            return _undefined(found.reason, self.settings.false_positive_rates)
        rates = {}
        for fpr in self.settings.false_positive_rates:
            one = tpr_at_fpr(members_n, held_out_m, fpr, level)
            reason = ""
            if one.rate is None:
                wanted = f"a false-positive rate of {fpr:g} needs {one.needed} held-out records"
                reason = f"{wanted}, and there are {one.controls}"
            rates[fpr] = MembershipRate(
                rate=one.rate, low=one.low, high=one.high, fpr=fpr, needed=one.needed, reason=reason
            )
        highest = np.argsort(-members_n, kind="stable")[:_MOST_EXPOSED]
        return MembershipStatistic(
            auc=found.auc,
            auc_low=found.auc_low,
            auc_high=found.auc_high,
            p_value=found.p_value,
            tpr=rates,
            roc=_thinned(roc_curve(members_n, held_out_m, level)),
            most_exposed=tuple(rows.members.number_N[highest].tolist()),
        )

    def _blind(self, scores_N: FloatArray, members: int) -> MembershipStatistic:
        found = separation(scores_N[:members], scores_N[members:], confidence_level=_BLIND_CONFIDENCE)
        return MembershipStatistic(
            auc=found.auc,
            auc_low=found.auc_low,
            auc_high=found.auc_high,
            p_value=found.p_value,
            tpr={},
            reason=found.reason,
        )


_SAME_RECORDS = "Load the same records, in the same order, on every process."


def measure_membership(
    model: nn.Module,
    tokenizer: Any,
    members: Iterable[Any],
    held_out: Iterable[Any],
    base_model: BaseModel | None = None,
    *,
    across_processes: bool = False,
    **settings: Unpack[MembershipOptions],
) -> MembershipReport:
    """Measures how well a model's outputs distinguish records that it was trained on from held-out ones.

    One forward pass for each record, two with a base model, gives every statistic: loss, zlib ratio, Min-K%, Min-K%++,
    and with a base model the base-calibrated loss and EZ-MIA's error zone. For each of them the report has the AUC
    and the true-positive rate at small false-positive rates, with intervals, and a rank test. The scored tokens are
    those that a trainer trains on by default: every token of a text or a chat, and the completion of a pair.

    If members and held-out records come from one distribution and the model saw neither, every p-value is uniform.

    Args:
        model: a causal language model; left as it was found.
        tokenizer: its tokenizer.
        members, held_out: the records; `MembershipMeter` lists their kinds. Held-out records that are members too are
            left out.
        base_model: a model that saw none of them, such as the one before fine-tuning, or "without_adapter".
        across_processes, **settings: the arguments of `MembershipMeter`: statistics, text_column, max_tokens,
            false_positive_rates, confidence_level, max_batch_tokens.

    Returns:
        A `MembershipReport`: `.statistics["loss"].auc`, `.statistics["loss"].tpr[0.01].rate`; undefined figures are
            None with a reason.

    Raises:
        InputError: as for `MembershipMeter`.
        NonFiniteScoreError: the model returned NaN.

    Example:
        >>> from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=384, n_layer=1, n_head=2, n_embd=16))
        >>> report = measure_membership(model, ByT5Tokenizer(), ["one", "two", "three"], ["four", "five"])
        >>> 0 <= report.statistics["loss"].auc <= 1, report.statistics["error_zone"].auc
        (True, None)
        >>> report.statistics["loss"].tpr[0.01].reason
        'a false-positive rate of 0.01 needs 100 held-out records, and there are 2'
    """
    meter = MembershipMeter(members, held_out, tokenizer, across_processes=across_processes, **settings)
    return meter.measure(model, base_model=base_model)


class MembershipMeasure:
    """Membership of records during a training, for `MeasureCallback`.

    Args:
        members, held_out: records of the training data, and records that are kept out of it. A few hundred of each are
            enough; each measurement scores all of them.
        base_model: as for `measure_membership`.
        **settings: the settings of `MembershipMeter`.

    Raises:
        InputError: a setting is out of range.
    """

    name = "membership"
    # All other figures grow with memorization, or cost time.
    larger_is_better = frozenset({f"{PREFIX}p_value"})
    needs_tokenizer = True

    def __init__(
        self,
        members: Iterable[Any],
        held_out: Iterable[Any],
        *,
        base_model: BaseModel | None = None,
        **settings: Unpack[MembershipOptions],
    ) -> None:
        self._checked = _Settings(**settings)
        self._members, self._held_out = members, held_out
        self.base_model, self._settings = base_model, settings
        self.meter: MembershipMeter | None = None
        self._model: weakref.ref[nn.Module] | None = None

    def prepare(self, start: TrainingStart) -> None:
        """Encodes the records.

        Raises:
            InputError: a record is of another kind, or the base model does not suit this model.
        """
        check_base_model(start.model, self.base_model)
        if self.meter is None or self.meter.tokenizer is not start.tokenizer:
            self.meter = MembershipMeter(
                self._members,
                self._held_out,
                start.tokenizer,
                across_processes=start.processes.count > 1,
                **self._settings,
            )
        self.meter.prepare(start.model)
        if self.base_model == "without_adapter":
            self._model = weakref.ref(start.model)
            self.meter.base.begin(start.model)

    def metric_names(self) -> list[str]:
        """The keys, including those of statistics that need a base model if there is one."""
        names = []
        for name in self._checked.all:
            if self.base_model is None and name in NEED_BASE:
                continue
            names += [f"{name}_auc", *(tpr_key(name, fpr) for fpr in self._checked.false_positive_rates)]
        for group in ("members", "held_out"):
            names += [f"{group}_exact_memorization", f"{group}_extraction_strength"]
        return [PREFIX + name for name in (*names, "p_value", "seconds")]

    def measure(self, model: nn.Module) -> MembershipReport:
        """The report on the model in its present state."""
        assert self.meter is not None, "prepare comes first"
        return self.meter.measure(model, base_model=self.base_model)

    def state_dict(self) -> dict[str, Any]:
        """The fingerprint of the base model if it is the model without its adapters; otherwise empty."""
        logits = None if self.meter is None else self.meter.base.logits
        return {} if logits is None or self.base_model != "without_adapter" else {"base_logits": logits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Compares the base model of a resumed run with the original one.

        Raises:
            InputError: the base model has changed.
        """
        model = None if self._model is None else self._model()
        if self.meter is not None and model is not None and "base_logits" in state:
            self.meter.base.resume(state["base_logits"], model)

    @staticmethod
    def record_from_dict(values: Mapping[str, Any]) -> MembershipReport:
        """The report of a line of the log."""
        return MembershipReport.from_dict(values)


def _name_of(base_model: BaseModel | None) -> str:
    if base_model is None:
        return ""
    return base_model if isinstance(base_model, str) else type(base_model).__name__


def _checked(members: EncodedRecords, held_out: EncodedRecords) -> _Rows:
    known = set(members.digests)
    shared = sum(digest in known for digest in held_out.digests)
    kept = held_out.without(known) if shared else held_out
    for name, records, remedy in (
        ("members", members, "Pass records that the model was trained on."),
        ("held_out", kept, "Pass records that the model never saw: members among them are left out."),
    ):
        if not len(records):
            raise InputError(name, "must hold at least one record with a token that is predicted", 0, remedy)
    return _Rows(members, kept, shared)


def _undefined(reason: str, rates: Sequence[float] = ()) -> MembershipStatistic:
    tpr = {
        fpr: MembershipRate(rate=None, low=0.0, high=1.0, fpr=fpr, needed=math.ceil(1 / fpr - 1e-9), reason=reason)
        for fpr in rates
    }
    return MembershipStatistic(auc=None, auc_low=None, auc_high=None, p_value=None, tpr=tpr, reason=reason)


def _blind_scores(rows: _Rows, base: list[TokenSignals] | None) -> dict[str, FloatArray]:
    """Scores of all records that do not depend on training, by name."""
    both = (rows.members, rows.held_out)
    tokens = [len(ids) - first for one in both for ids, first in zip(one.ids, one.first_scored_N, strict=True)]
    found = {
        "tokens": np.array(tokens, dtype=np.float64),
        "compressed_bits": np.concatenate([one.compressed_bits_N for one in both]),
    }
    if base is not None:
        found["base_loss"] = np.array([signals.log_probability_T.mean() for signals in base])
    return found


def _group(records: EncodedRecords, exact_N: FloatArray, strength_N: FloatArray) -> RecordGroup:
    return RecordGroup(
        records=len(records),
        tokens=records.scored_tokens,
        cut=records.cut,
        left_out=records.left_out,
        exact_memorization=Distribution.of(exact_N),
        extraction_strength=Distribution.of(strength_N),
    )


def _thinned(curve: RocCurve) -> tuple[tuple[float, float], ...]:
    """The curve at logarithmically spaced false-positive rates, each with the largest share of members recognized."""
    wanted = np.append(0.0, np.geomspace(1.0 / curve.controls, 1.0, _ROC_POINTS - 1))
    at: NDArray[np.int64] = np.unique(np.searchsorted(curve.fpr_V, wanted * (1 + 1e-12), side="right") - 1)
    return tuple(zip(curve.fpr_V[at].tolist(), curve.tpr_V[at].tolist(), strict=True))


def _notes(rows: _Rows) -> Iterable[str]:
    if rows.shared:
        yield f"{rows.shared} held-out records are members too, and were left out."
    for name, records in (("members", rows.members), ("held-out records", rows.held_out)):
        if records.cut:
            yield f"{records.cut} {name} were cut to the model's context."
        if records.left_out:
            yield f"{records.left_out} {name} have no token that the model predicts, and were left out."


def _digest(records: EncodedRecords) -> str:
    found = hashlib.sha256()
    for ids, first in zip(records.ids, records.first_scored_N.tolist(), strict=True):
        found.update(ids.tobytes() + first.to_bytes(8, "little"))
    return found.hexdigest()[:16]
