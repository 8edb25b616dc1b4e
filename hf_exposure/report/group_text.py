"""A group of canaries in words: the same in every table, on the page, on the card and in the demo."""

from __future__ import annotations

import math

from hf_exposure.records import Bound, ExposureEstimate
from hf_exposure.report.groups import RepetitionGroup
from hf_exposure.report.verdict import p_value_text

__all__ = [
    "bits_text",
    "exposure_text",
    "group_cells",
    "group_heads",
    "mean_text",
    "rank1_text",
    "spread_text",
    "times_inserted",
]

_SIGNS = {"lower": "≥ ", "extrapolated": "~ "}


def times_inserted(repetitions: int) -> str:
    """How a table names the canaries inserted that often."""
    return {0: "held out", 1: "once"}.get(repetitions, f"{repetitions} times")


def bits_text(bits: float, bound: Bound) -> str:
    """An exposure with its kind.

    Example:
        >>> bits_text(4.0, "exact"), bits_text(12.0, "lower"), bits_text(31.0, "extrapolated")
        ('4.0', '≥ 12.0', '~ 31.0')
    """
    return f"{_SIGNS.get(bound, '')}{bits:.1f}" if math.isfinite(bits) else "undefined"


def exposure_text(estimate: ExposureEstimate) -> str:
    """One canary's exposure with its kind."""
    return bits_text(estimate.exposure_bits, estimate.bound)


def mean_text(group: RepetitionGroup) -> str:
    """The mean exposure with its kind: `≥ 7.0` where part of it is a lower bound."""
    return bits_text(group.mean_bits, group.bound)


def spread_text(group: RepetitionGroup) -> str:
    """The interval of the mean; of a group too small for one, the exposure of every canary, highest first.

    Example:
        >>> estimates = tuple(
        ...     ExposureEstimate(canary_id="a", repetitions=8, log_perplexity_bits=5.0, exposure_bits=bits,
        ...         low_bits=bits, high_bits=bits, method="enumerate") for bits in (4.25, 29.9))
        >>> group = RepetitionGroup(repetitions=8, estimates=estimates, log2_space_size=29.9, confidence_level=0.95,
        ...     p_value=0.5, tested_groups=1)
        >>> spread_text(group)
        '29.9, 4.2'
    """
    if math.isfinite(group.low_bits):
        return f"{group.low_bits:.1f} to {group.high_bits:.1f}"
    if group.is_small:
        ordered = sorted(group.estimates, key=lambda e: (math.isnan(e.exposure_bits), -e.exposure_bits))
        return ", ".join(map(exposure_text, ordered))
    return "none"


def rank1_text(group: RepetitionGroup) -> str:
    """`4 of 4 (at least 47 %)`: how many rank first, and what share of such canaries does at the least."""
    share = f" (at least {math.floor(100 * group.rank1_share_low)} %)" if group.rank1 else ""
    return f"{group.rank1} of {group.canaries}{share}"


def group_heads(confidence_level: float) -> list[str]:
    """Names of the columns that `group_cells` fills."""
    level = f"{100 * confidence_level:g} % interval"
    return ["exposure (bits)", f"{level}, or each value", "ranks first", "p-value (corrected)"]


def group_cells(group: RepetitionGroup) -> list[str]:
    """The figures of a group as a table shows them: mean, interval or values, canaries of rank 1, p-value."""
    p_value = group.corrected_p_value
    return [
        mean_text(group),
        spread_text(group),
        rank1_text(group),
        p_value_text(p_value).removeprefix("= ") if math.isfinite(p_value) else "",
    ]
