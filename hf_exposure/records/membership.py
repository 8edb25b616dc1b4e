"""One measurement of membership: how well a model's answers tell records it was trained on from held-out ones."""

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
"""The level at which members count as told apart, after a correction for the number of statistics."""

_MaybeShare = Annotated[float, Strict(), Field(ge=0, le=1)] | None


@dataclass(frozen=True, kw_only=True)
class MembershipRate:
    """The share of members recognized at a false-positive rate of at most `fpr`.

    Attributes:
        rate: of the given members; None where undefined, for the `reason`.
        low, high: confidence limits, which allow for the threshold's own error; 0 and 1 where nothing is known.
        fpr: as asked.
        needed: how many held-out records make the rate defined.
        reason: why it is None; "" where it is defined.
    """

    rate: _MaybeShare
    low: Share
    high: Share
    fpr: Share
    needed: Positive
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class MembershipStatistic:
    """What one statistic shows. A higher score means member.

    Attributes:
        auc: share of (member, held-out) pairs in which the member scores higher; None where undefined.
        auc_low, auc_high: ends of its two-sided confidence interval.
        p_value: one-sided rank test: how often random labels would put members at least this high.
        tpr: by false-positive rate, the share of members that is recognized.
        roc: (false-positive rate, true-positive rate) at up to 200 thresholds.
        most_exposed: numbers of the members with the highest scores, at most ten, the highest first.
        reason: why the figures are None; "" where they are defined.
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
    """A figure of every record, as its mean and quantiles.

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
        records: that were scored.
        tokens: that were scored in all.
        cut: records that were longer than the context, and cut at its end.
        left_out: records without a token that the model predicts.
        exact_memorization: share of a record's tokens that are the model's first choice.
        extraction_strength: the longest end of a record that greedy decoding completes, as a share of its tokens.
    """

    records: Positive
    tokens: Positive
    cut: Count
    left_out: Count
    exact_memorization: Distribution
    extraction_strength: Distribution


class MembershipVerdict(StrEnum):
    """What the statistics allow to say."""

    DETECTED = "detected"
    """At least one statistic scores members higher than chance would, corrected for the number of statistics."""
    NOT_DETECTED = "not detected"
    """None does. That is no proof that no attack could."""
    NOT_COMPARABLE = "not comparable"
    """Members and held-out records differ in what no training changes: the statistics measure that too."""


@dataclass(frozen=True, kw_only=True)
class MembershipReport(Presented):
    """How well a model's answers tell members from held-out records, by several statistics. Holds no texts.

    Attributes:
        statistics: by name; the ones that need a base model have a reason and no figures without one.
        blind: what needs no trained model and should tell nothing: the number of tokens, the compressed size, and the
            loss under the base model. Intervals at 99 % confidence.
        members, held_out: what was compared.
        shared: held-out records that are members too, to the token; they were left out.
        settings: arguments of the measurement.
        model: class, number of parameters, dtype, name and revision of the model.
        base: of the base model: its class, or "without_adapter"; "" where there was none.
        seconds: wall time.
        versions: of the packages that took part.
        step, epoch: of the training run, where there was one.
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
        """The smallest p-value of the statistics times their number (Bonferroni); NaN where none is defined."""
        tested = [one.p_value for one in self.statistics.values() if one.p_value is not None]
        return min(1.0, len(tested) * min(tested)) if tested else math.nan

    @property
    def differences(self) -> tuple[str, ...]:
        """The blind comparisons whose interval leaves 0.5 out: members and held-out records were not drawn alike."""
        return tuple(
            name
            for name, one in self.blind.items()
            if one.auc_low is not None and one.auc_high is not None and not one.auc_low <= 0.5 <= one.auc_high
        )

    @property
    def verdict(self) -> MembershipVerdict:
        """What the figures allow to say."""
        if self.differences:
            return MembershipVerdict.NOT_COMPARABLE
        return MembershipVerdict.DETECTED if self.p_value < SIGNIFICANT else MembershipVerdict.NOT_DETECTED

    def metrics(self) -> dict[str, float]:
        """The figures as they are logged during training; statistics that need a base model only where there is one.

        NaN where a figure is undefined.
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
        """Plain values for `membership.json`: no texts, and records by their numbers."""
        head = {"verdict": self.verdict.value, "metrics": plain(self.metrics())}
        return {**MEMBERSHIP_REPORT.write(self), **head}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MembershipReport:
        """The report that `to_dict` wrote.

        Raises:
            InputError: another format, a newer schema, or a field that is missing or of the wrong type.
        """
        return MEMBERSHIP_REPORT.read(values)

    def save(self, folder: str | Path) -> list[Path]:
        """Writes `membership.json`, `membership.html`, and a plot where matplotlib is installed: for their owner.

        Raises:
            InputError: a folder that cannot be made or written to.
        """
        written: list[Path] = self.presented("save", folder)
        return written

    @classmethod
    def load(cls, path: str | Path) -> MembershipReport:
        """The report that `save` wrote.

        Args:
            path: `membership.json`, or the folder that holds it.

        Raises:
            InputError: no such file, JSON that is damaged, or as `from_dict`.
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
"""The reason of a statistic that was not computed since there is no base model."""


def tpr_key(name: str, fpr: float) -> str:
    """The key of a true-positive rate, without its prefix.

    Example:
        >>> tpr_key("loss", 0.01)
        'loss_tpr_at_1_percent'
    """
    return f"{name}_tpr_at_{100 * fpr:g}_percent"


class _Envelope(TypedDict, total=False):
    """What `membership.json` holds besides the report.

    Attributes:
        verdict: detected, not detected or not comparable.
        metrics: the figures as they are logged during training.
        measurement_id: of the files that were saved together.
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
    about="One measurement of how well a model's answers tell members from held-out records. A figure that is "
    "undefined is null.",
)
