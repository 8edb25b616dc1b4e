"""One measurement of membership: how well a model's outputs distinguish records it was trained on from held-out
ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Required

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, Strict
from typing_extensions import TypedDict

from hf_exposure.checks import path_of
from hf_exposure.errors import InputError
from hf_exposure.fields import WHOLE, Amount, Count, Positive, Real, Share, Values, plain
from hf_exposure.files import read_json
from hf_exposure.presenting import Presented
from hf_exposure.records.documents import DocumentFormat

MEMBERSHIP_FILE = "membership.json"
SIGNIFICANT = 0.05
"""The significance level for detecting membership, after a correction for the number of statistics."""

_MaybeShare = Annotated[float, Strict(), Field(ge=0, le=1)] | None


@dataclass(frozen=True, kw_only=True)
class MembershipRate:
    """The share of members recognized at a false-positive rate of at most `fpr`.

    Attributes:
        rate: the share of the given members; None if undefined, for the `reason`.
        low, high: confidence limits, which account for the error of the threshold; 0 and 1 if nothing is known.
        fpr: the false-positive rate that was asked for.
        needed: the number of held-out records from which on the rate is defined.
        reason: why it is None; "" if it is defined.
    """

    rate: _MaybeShare
    low: Share
    high: Share
    fpr: Share
    needed: Positive
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class MembershipStatistic:
    """The results of one statistic. A higher score means member.

    Attributes:
        auc: share of (member, held-out) pairs in which the member scores higher; None if undefined.
        auc_low, auc_high: ends of its two-sided confidence interval.
        p_value: one-sided rank test: the probability that random labels put members at least this high.
        tpr: the share of members recognized, by false-positive rate.
        roc: (false-positive rate, true-positive rate) at up to 200 thresholds.
        most_exposed: numbers of the members with the highest scores, at most ten, the highest first.
        reason: why the figures are None; "" if they are defined.
    """

    auc: _MaybeShare
    auc_low: _MaybeShare
    auc_high: _MaybeShare
    p_value: _MaybeShare
    tpr: Mapping[float, MembershipRate]
    roc: tuple[tuple[Share, Share], ...] = ()
    most_exposed: tuple[Count, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The distribution of a figure over records: its mean and quantiles.

    Example:
        >>> Distribution.of([0.0, 0.5, 1.0]).median
        0.5
    """

    mean: Real
    minimum: Real
    q10: Real
    q25: Real
    median: Real
    q75: Real
    q90: Real
    maximum: Real

    @classmethod
    def of(cls, values: ArrayLike) -> Distribution:
        """The distribution of at least one value; quantiles between two of them are interpolated."""
        values_n = np.asarray(values, dtype=np.float64)
        cuts = np.quantile(values_n, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]).tolist()
        names = ("minimum", "q10", "q25", "median", "q75", "q90", "maximum")
        return cls(mean=float(values_n.mean()), **dict(zip(names, cuts, strict=True)))


@dataclass(frozen=True, kw_only=True)
class RecordGroup:
    """The members, or the held-out records.

    Attributes:
        records: the number of scored records.
        tokens: the total number of scored tokens.
        cut: the number of records that were longer than the context and were cut.
        left_out: the number of records without a token that the model predicts.
        exact_memorization: share of a record's tokens that are the model's first choice.
        extraction_strength: the longest suffix of a record that greedy decoding produces, as a share of its tokens.
    """

    records: Positive
    tokens: Positive
    cut: Count
    left_out: Count
    exact_memorization: Distribution
    extraction_strength: Distribution


class MembershipVerdict(StrEnum):
    """The verdict that the statistics support."""

    DETECTED = "detected"
    """At least one statistic scores members higher than chance would, corrected for the number of statistics."""
    NOT_DETECTED = "not detected"
    """No statistic does, which does not prove that no attack could."""
    NOT_COMPARABLE = "not comparable"
    """Members and held-out records differ in properties that training does not change, and the statistics measure
    that too.
    """


@dataclass(frozen=True, kw_only=True)
class MembershipReport(Presented):
    """How well a model's outputs distinguish members from held-out records, by several statistics. It contains no
    texts.

    Attributes:
        statistics: results by name; without a base model, those that need one have a reason and no figures.
        blind: comparisons that do not depend on training and should show no difference: the number of tokens, the
            compressed size, and the loss under the base model. Intervals are at 99 % confidence.
        members, held_out: the compared groups.
        shared: the number of held-out records that are members too, to the token; they were left out.
        settings: arguments of the measurement.
        model: class, number of parameters, dtype, name and revision of the model.
        base: the class of the base model, or "without_adapter"; "" without a base model.
        seconds: wall time.
        versions: versions of the packages used.
        step, epoch: step and epoch of the training run, if there was one.
        notes: what a reader must know.
    """

    kind: ClassVar[str] = "membership"

    statistics: Mapping[str, MembershipStatistic]
    blind: Mapping[str, MembershipStatistic]
    members: RecordGroup
    held_out: RecordGroup
    shared: Count = 0
    settings: Values = field(default_factory=dict)
    model: Values = field(default_factory=dict)
    base: str = ""
    seconds: Amount = math.nan
    versions: Mapping[str, str] = field(default_factory=dict)
    step: Count | None = None
    epoch: Real | None = None
    notes: tuple[str, ...] = ()

    @property
    def p_value(self) -> float:
        """The smallest p-value of the statistics times their number (Bonferroni); NaN if none is defined."""
        tested = [one.p_value for one in self.statistics.values() if one.p_value is not None]
        return min(1.0, len(tested) * min(tested)) if tested else math.nan

    @property
    def differences(self) -> tuple[str, ...]:
        """The blind comparisons whose interval excludes 0.5: members and held-out records come from different
        distributions.
        """
        return tuple(
            name
            for name, one in self.blind.items()
            if one.auc_low is not None and one.auc_high is not None and not one.auc_low <= 0.5 <= one.auc_high
        )

    @property
    def verdict(self) -> MembershipVerdict:
        """The verdict that the figures support."""
        if self.differences:
            return MembershipVerdict.NOT_COMPARABLE
        return MembershipVerdict.DETECTED if self.p_value < SIGNIFICANT else MembershipVerdict.NOT_DETECTED

    def metrics(self) -> dict[str, float]:
        """The figures as logged during training, without statistics that need a base model if there is none.

        NaN for undefined figures.
        """
        found: dict[str, float | None] = {}
        for name, one in self.statistics.items():
            if one.reason == NO_BASE:
                continue
            found[f"{name}_auc"] = one.auc
            found |= {tpr_key(name, fpr): rate.rate for fpr, rate in one.tpr.items()}
        for name, group in (("members", self.members), ("held_out", self.held_out)):
            found[f"{name}_exact_memorization"] = group.exact_memorization.mean
            found[f"{name}_extraction_strength"] = group.extraction_strength.mean
        found |= {"p_value": self.p_value, "seconds": self.seconds}
        return {f"{PREFIX}{name}": math.nan if value is None else value for name, value in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `membership.json`, without texts; records are given by their numbers."""
        head = {"verdict": self.verdict.value, "metrics": plain(self.metrics())}
        return {**MEMBERSHIP_REPORT.write(self), **head}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MembershipReport:
        """The report from the values of `to_dict`.

        Raises:
            InputError: the format differs, the schema is newer, or a field is missing or of the wrong type.
        """
        return MEMBERSHIP_REPORT.read(values)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `membership.json`, `membership.html` and, if matplotlib is installed, a plot. Only their owner may
        read them.

        Raises:
            InputError: the folder cannot be created or written to.
        """
        written: list[Path] = self.presented("save", folder)
        return written

    @classmethod
    def load(cls, path: str | Path) -> MembershipReport:
        """Reads a report that `save` wrote.

        Args:
            path: `membership.json`, or its folder.

        Raises:
            InputError: there is no such file, its JSON is damaged, or `from_dict` refuses it.
        """
        place = path_of("path", path)
        file = place / MEMBERSHIP_FILE if place.is_dir() else place
        try:
            values = read_json(file)
        except OSError as error:
            rule = f"must be a report that can be read ({error.strerror})"
            raise InputError("path", rule, str(file), "Write one with report.save(folder).") from None
        except ValueError:
            rule = "must be complete JSON; this file is damaged or cut off"
            raise InputError("path", rule, str(file), "Restore it from a copy, or measure again.") from None
        return cls.from_dict(values)


PREFIX = "eval_membership_"
NO_BASE = "it needs a base model: pass base_model"
"""The reason for a statistic that was not computed because there is no base model."""


def tpr_key(name: str, fpr: float) -> str:
    """The key of a true-positive rate, without its prefix.

    Example:
        >>> tpr_key("loss", 0.01)
        'loss_tpr_at_1_percent'
    """
    return f"{name}_tpr_at_{100 * fpr:g}_percent"


class _Envelope(TypedDict, total=False):
    """Further properties of `membership.json`.

    Attributes:
        verdict: detected, not detected or not comparable.
        metrics: the figures as logged during training.
        measurement_id: the id of the files that were saved together.
    """

    format: Required[Literal["hf-exposure membership"]]
    schema_version: Required[Annotated[int, Strict(), Field(ge=1, le=1), WHOLE]]
    verdict: Literal["detected", "not detected", "not comparable"]
    metrics: Values
    measurement_id: str


MEMBERSHIP_REPORT = DocumentFormat(
    name="hf-exposure membership",
    version=1,
    record=MembershipReport,
    envelope=_Envelope,
    about="One measurement of how well a model's outputs distinguish members from held-out records. A figure that is "
    "undefined is null.",
)
