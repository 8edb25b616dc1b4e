"""The part of a report that may be seen by whoever holds the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hf_exposure.records import ExposureEstimate
from hf_exposure.report import ExposureReport

__all__ = ["published"]

# Of the settings, all but the seed (people draw and measure with one number, and the draw's seed is the secret).
_SETTINGS = (
    "method", "references", "max_expansions", "precision_bits", "confidence_level", "end_token", "accept_bad_fit",
    "delta", "source",
)  # fmt: skip
# Of the model, all but its name, which may be a path on somebody's machine: the repository is its name.
_MODEL = ("class", "parameters", "dtype")


def published(report: ExposureReport) -> ExposureReport:
    """A report that is safe beside a public model: everything that is published is made from this one.

    Whoever holds the model can score every text of the template, so an exact rank, or an exact log-perplexity, names
    the secret. Kept are: exposures and their intervals rounded to 0.1 bit; rank 1, which no rounding hides; tests over
    all canaries; template, spaces and settings. Dropped are: other ranks, log-perplexities, figures under a base model
    (a second figure about the same secret), ids and the order of the set (they would join the figures of two pushes),
    the seed of the measurement, notes on single canaries, the model's local path. A field that a later version adds
    to the report stays out until it is named here.

    Groups of a published report take the order of exposures for that of log-perplexities, so their p-values may differ
    from the original's where rounding made ties.

    Args:
        report: as measured.

    Returns:
        an `ExposureReport`: its estimates are sorted by exposure within each repetition count and numbered anew.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> row = ExposureEstimate(canary_id="8f02", repetitions=4, log_perplexity_bits=33.1234, exposure_bits=11.2345,
        ...     low_bits=11.2345, high_bits=11.2345, rank_low=414, rank_high=414, method="bounded")
        >>> report = ExposureReport(estimates=(row,), template="pin {pin}", spaces={"pin": "Digits(length=6)"},
        ...     space_size=10**6, manifest_hash="", settings={"confidence_level": 0.95, "seed": 7})
        >>> seen = published(report)
        >>> seen.estimates[0].canary_id, seen.estimates[0].exposure_bits, seen.estimates[0].rank_low, seen.settings
        ('x4-1', 11.2, None, {'confidence_level': 0.95})
    """
    return ExposureReport(
        estimates=tuple(_renumbered(report.estimates)),
        template=report.template,
        spaces=dict(report.spaces),
        space_size=report.space_size,
        manifest_hash=report.manifest_hash,
        settings=_chosen(report.settings, _SETTINGS),
        p_value=report.p_value,
        auc=report.auc,
        auc_low=report.auc_low,
        auc_high=report.auc_high,
        epsilon=report.epsilon,
        seconds=_tenth(report.seconds),
        model=_chosen(report.model, _MODEL),
        versions=dict(report.versions),
        step=report.step,
        epoch=report.epoch,
        delivery=report.delivery,
        notes=tuple(report.notes),
    )


def _renumbered(estimates: Iterable[ExposureEstimate]) -> Iterable[ExposureEstimate]:
    groups: dict[int, list[ExposureEstimate]] = {}
    for estimate in estimates:
        groups.setdefault(estimate.repetitions, []).append(estimate)
    # Controls last, as in every report.
    for repetitions in sorted(groups, key=lambda count: (count == 0, count)):
        name = f"x{repetitions}" if repetitions else "control"
        ordered = sorted(groups[repetitions], key=lambda e: (math.isnan(e.exposure_bits), -e.exposure_bits))
        for number, estimate in enumerate(ordered, start=1):
            yield _rounded(estimate, f"{name}-{number}")


def _rounded(estimate: ExposureEstimate, name: str) -> ExposureEstimate:
    first = 1 if estimate.rank_high == 1 else None
    return ExposureEstimate(
        canary_id=name,
        repetitions=estimate.repetitions,
        log_perplexity_bits=math.nan,
        exposure_bits=_tenth(estimate.exposure_bits),
        low_bits=_tenth(estimate.low_bits),
        high_bits=_tenth(estimate.high_bits),
        rank_low=first,
        rank_high=first,
        method=estimate.method,
        bound=estimate.bound,
        # In words of its own: a note may quote counts that a rank can be worked out from.
        note={"undefined": "undefined", "lower": "a lower bound"}.get(estimate.bound, ""),
    )


def _tenth(value: float) -> float:
    return round(float(value), 1) if math.isfinite(value) else math.nan


def _chosen(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
