"""Several models pooled: seeds of one setting, or models with different numbers of insertions of the same canary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hf_exposure.checks import instance_of
from hf_exposure.errors import InputError
from hf_exposure.estimators import mean_interval
from hf_exposure.estimators.estimate import Bound, weakest_bound
from hf_exposure.fields import plain
from hf_exposure.presenting import Presented
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.validity import Validity


@dataclass(frozen=True, kw_only=True)
class PooledGroup:
    """One repetition count over several models; each model has the same weight, however many canaries it has.

    Attributes:
        repetitions: how often each canary was inserted; 0 for the controls.
        models: the number of models with canaries of this count.
        canaries: the number of canaries in all of them.
        mean_bits: mean over models of the mean exposure; NaN if any is undefined. If some are lower bounds, so is the
            mean.
        sd_bits: standard deviation of the models' means; NaN for one model.
        low_bits, high_bits: confidence interval of the mean over models that could have been trained (Gaffke's, valid
            for skewed and censored figures); NaN for one model, and if a figure is undefined or extrapolated.
        rank1: the number of canaries that are certainly the likeliest text of their template.
        bound: the kind of the mean: that of its weakest member.
    """

    repetitions: int
    models: int
    canaries: int
    mean_bits: float
    sd_bits: float
    low_bits: float
    high_bits: float
    rank1: int
    bound: Bound


@dataclass(frozen=True, kw_only=True)
class PooledReport(Presented):
    """The result of `pool_reports`. It contains no secret.

    Attributes:
        groups: groups ascending by repetitions, controls first: the curve of exposure against insertions.
        template, space_size: the template and its space, which all models share.
        models: the number of models.
        confidence_level: the level of the intervals.
        p_value: the p-value of the hypothesis that inserted canaries are no likelier than controls in any of the
            models: twice the median of the models' own p-values, at most 1, which is valid however the models depend
            on each other. NaN if a model has none.
    """

    kind: ClassVar[str] = "pooled"

    groups: tuple[PooledGroup, ...]
    template: str
    space_size: int
    models: int
    confidence_level: float
    p_value: float

    @property
    def log2_space_size(self) -> float:
        """log2 |R|, in bits."""
        return math.log2(self.space_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for figures that are not finite."""
        head = {"format": "hf-exposure pooled", "schema_version": 1}
        own = {name: value for name, value in vars(self).items() if name != "groups"}
        values: dict[str, Any] = plain({**head, **own, "groups": [vars(group) for group in self.groups]})
        return values


def pool_reports(reports: Sequence[ExposureReport]) -> PooledReport:
    """Pools several models, where the model is the unit of replication.

    For seeds of one setting this gives the mean over models that the paper's tables show, with an interval. For models
    that have the same canary a different number of times each, it gives the curve of exposure against insertions.

    Args:
        reports: at least two, with the same template, spaces and context; a repetition count need not be in all of
            them.

    Raises:
        InputError: there are fewer than two reports, one has another template or context, or one is invalid.

    Source: Carlini et al. 2019, Section 5 ("Report exposure") and Section 7.4 (means of ten models).

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> def measured(bits):
        ...     one = ExposureEstimate(canary_id="a", repetitions=1, log_perplexity_bits=20.0, exposure_bits=bits,
        ...         low_bits=bits, high_bits=bits, method="enumerate")
        ...     return ExposureReport(estimates=(one,), template="pin {pin}", spaces={"pin": "digits:4"},
        ...         space_size=10**4, manifest_hash="", settings={"confidence_level": 0.95})
        >>> pooled = pool_reports([measured(4.0), measured(8.0)])
        >>> pooled.groups[0].mean_bits, round(pooled.groups[0].sd_bits, 3)
        (6.0, 2.828)
    """
    remedy = "Load them with ExposureReport.load(folder)."
    if not isinstance(reports, Sequence) or isinstance(reports, (str, bytes)) or len(reports) < 2:
        received = len(reports) if isinstance(reports, Sequence) else type(reports).__name__
        raise InputError("reports", "must be at least two, in a list", received, remedy)
    for number, report in enumerate(reports):
        instance_of(f"reports[{number}]", report, ExposureReport, remedy)
    first = reports[0]
    for number, report in enumerate(reports):
        if _candidates(report) != _candidates(first):
            rule = f"must be measured on the template, spaces and context of the first ({first.template!r})"
            raise InputError(f"reports[{number}]", rule, report.template, "Pool reports of one template and context.")
        if report.validity is Validity.INVALID:
            rule, remedy = "must be a valid test of memorization", "Leave the invalid runs out, or train again."
            raise InputError(f"reports[{number}]", rule, "invalid", remedy)
    level = max(float(report.settings["confidence_level"]) for report in reports)
    counts = sorted({estimate.repetitions for report in reports for estimate in report.estimates})
    p_values = [report.memorization_p_value for report in reports]
    return PooledReport(
        groups=tuple(_pooled(reports, count, level) for count in counts),
        template=first.template,
        space_size=first.space_size,
        models=len(reports),
        confidence_level=level,
        p_value=float(np.minimum(1.0, 2.0 * np.median(p_values))),  # NaN stays NaN
    )


def _candidates(report: ExposureReport) -> tuple[object, ...]:
    """The texts that an exposure counts, and the context in which they are scored."""
    settings = report.settings
    about = (settings.get("context"), settings.get("source"), bool(settings.get("end_token")))
    return report.template, dict(report.spaces), report.space_size, *about


def _pooled(reports: Sequence[ExposureReport], repetitions: int, level: float) -> PooledGroup:
    members = [[e for e in report.estimates if e.repetitions == repetitions] for report in reports]
    members = [group for group in members if group]
    means_M = np.array([np.mean([e.exposure_bits for e in group]) for group in members])
    bound = weakest_bound(e.bound for group in members for e in group)
    most = reports[0].log2_space_size
    low = high = math.nan
    if len(members) > 1 and most > 0 and bound not in ("extrapolated", "undefined"):
        known = [np.mean([e.known_bits(most) for e in group], axis=0) for group in members]
        low, high = mean_interval([ends[0] for ends in known], [ends[1] for ends in known], most, level)
    return PooledGroup(
        repetitions=repetitions,
        models=len(members),
        canaries=sum(map(len, members)),
        mean_bits=float(means_M.mean()),
        sd_bits=float(means_M.std(ddof=1)) if len(members) > 1 else math.nan,
        low_bits=low,
        high_bits=high,
        rank1=sum(e.rank_high == 1 for group in members for e in group),
        bound=bound,
    )
