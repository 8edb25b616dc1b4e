"""The verdict that the figures support, as a headline of one sentence and as a judgment of two.

It also has the wording for a group of canaries, which every table, the page, the card and the demo share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from hf_exposure.estimators.estimate import CHANCE_BITS, Bound
from hf_exposure.records import CanaryDose, ExposureEstimate, Uncounted, Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import RepetitionGroup

_SIGNS = {"lower": "≥ ", "extrapolated": "~ "}


def times_inserted(repetitions: int) -> str:
    """The name of a repetition count in tables."""
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
    """The mean exposure with its kind: `≥ 7.0` if part of it is a lower bound."""
    return bits_text(group.mean_bits, group.bound)


def spread_text(group: RepetitionGroup) -> str:
    """The interval of the mean, or for a group too small for one, the exposure of every canary, highest first.

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


def trained_text(group: RepetitionGroup) -> str:
    """How often the model was trained on each canary of the group, on average; "" if unknown."""
    return f"{group.effective_dose:.3g}" if math.isfinite(group.effective_dose) else ""


def candidates_text(space_size: int) -> str:
    """The size of a template's space in words.

    Example:
        >>> candidates_text(10**6), candidates_text(10**30)
        ('1,000,000 candidate secrets', '2^99.7 candidate secrets')
    """
    size = f"{space_size:,}" if space_size < 10**12 else f"2^{math.log2(space_size):.1f}"
    return f"{size} candidate secrets"


def rank1_text(group: RepetitionGroup) -> str:
    """`4 of 4 (at least 47 %)`: how many rank first, and a lower limit of the share of such canaries that do."""
    share = f" (at least {math.floor(100 * group.rank1_share_low)} %)" if group.rank1 else ""
    return f"{group.rank1} of {group.canaries}{share}"


def group_heads(confidence_level: float) -> list[str]:
    """The heads of the columns that `group_cells` fills."""
    level = f"{100 * confidence_level:g} % interval"
    return ["exposure (bits)", f"{level}, or each value", "ranks first", "p-value (corrected)"]


def group_cells(group: RepetitionGroup) -> list[str]:
    """The figures of a group for a table: mean, interval or values, canaries of rank 1, p-value."""
    return [mean_text(group), spread_text(group), rank1_text(group), p_value_cell(group.corrected_p_value)]


_NAMED_AT_MOST = 10


def dose_lines(report: ExposureReport) -> list[str]:
    """States which canaries were trained on more or less often than intended, or why this was not counted.

    Example:
        >>> from hf_exposure.records import CanaryDose, Doses
        >>> report = ExposureReport(estimates=(), template="pin {pin}", spaces={}, space_size=10**9, manifest_hash="",
        ...     settings={}, doses=Doses(counted=(CanaryDose(canary_id="8f02", whole=7, cut=1, repetitions=8, least=8,
        ...     most=8),)))
        >>> print(*dose_lines(report))
        1 of 1 canary was trained on more or less often than inserted: 8f02 7 times instead of 8 (and 1 cut).
    """
    doses = report.doses
    if doses is None:
        return []
    if doses.uncounted is not None:
        if doses.uncounted is Uncounted.SWITCHED_OFF:
            return []
        known = any(math.isfinite(one.effective_dose) for one in report.estimates)
        instead = "; the figures are estimates from the training data" if known else ""
        return [f"Times trained on were not counted: {doses.uncounted.reason}{instead}."]
    lines = []
    if differing := doses.differing:
        said = ", ".join(map(_dose_text, differing[:_NAMED_AT_MOST]))
        more = len(differing) - _NAMED_AT_MOST
        said += f", and {more} more" if more > 0 else ""
        verb = "was" if len(differing) == 1 else "were"
        of = f"{len(doses.counted)} " + ("canary" if len(doses.counted) == 1 else "canaries")
        lines.append(f"{len(differing)} of {of} {verb} trained on more or less often than inserted: {said}.")
    if report.epsilon is not None and report.epsilon.get("void"):
        lines.append(
            "The bound on epsilon is void: a canary of the coins was trained on more or less often than its coin says."
        )
    return lines


def _dose_text(dose: CanaryDose) -> str:
    least, most = dose.least, dose.most
    wanted = f"{least}" if least == most else f"{least} to {most}"
    kinds = {"in part": dose.partly, "masked": dose.masked, "cut": dose.cut}
    besides = [f"{count} {kind}" for kind, count in kinds.items() if count]
    also = f" (and {', '.join(besides)})" if besides else ""
    return f"{dose.canary_id} {dose.whole} times instead of {wanted}{also}"


_SIGNIFICANT = 0.01
_KINDS = {"lower": "at least ", "extrapolated": "an extrapolated "}


def headline(report: ExposureReport) -> str:
    """One sentence: what was memorized, and whether the held-out controls are at chance level.

    For an invalid run it only says that the run is invalid; what impairs a run is named at the end.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> canary = ExposureEstimate(canary_id="a", repetitions=64, log_perplexity_bits=5.0, exposure_bits=29.9,
        ...     low_bits=29.9, high_bits=29.9, rank_low=1, rank_high=1, method="bounded")
        >>> print(headline(ExposureReport(estimates=(canary,), template="pin {pin}", spaces={}, space_size=10**9,
        ...     manifest_hash="", settings={"confidence_level": 0.95})))
        1 of 1 canary inserted 64 times ranks first among 1,000,000,000 candidate secrets; no canary was held out...
    """
    if report.validity is Validity.INVALID:
        return validity_line(report)
    flaws = "".join(f"; {flaw}" for flaw in report.delivery.flaws) if report.delivery is not None else ""
    return f"{_about_inserted(report)}; {_about_controls(report)}{flaws}."


def measurement_line(report: ExposureReport) -> str:
    """A measurement during training in one line: the mean exposure by repetitions, and how many rank first.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> def canary(repetitions, bits, rank):
        ...     return ExposureEstimate(canary_id="a", repetitions=repetitions, log_perplexity_bits=5.0,
        ...         exposure_bits=bits, low_bits=bits, high_bits=bits, rank_low=rank, rank_high=rank, method="bounded")
        >>> estimates = (canary(1, 1.2, 9), canary(64, 29.9, 1), canary(64, 9, 99))
        >>> print(measurement_line(ExposureReport(estimates=estimates,
        ...     template="pin {pin}", spaces={}, space_size=10**9, manifest_hash="", step=400,
        ...     settings={"confidence_level": 0.95})))
        step 400: exposure 1x 1.2, 64x 19.4 of 29.9 bits; 1 of 2 rank first (64x)
    """
    where = "" if report.step is None else f"step {report.step}: "
    if report.validity is Validity.INVALID:
        return f"{where}{validity_line(report)}"
    groups = _inserted_groups(report)
    if not groups:
        return f"{where}no canary was inserted"
    means = ", ".join(f"{group.repetitions}x {mean_text(group)}" for group in groups)
    first = ", ".join(
        f"{group.rank1} of {group.canaries} rank first ({group.repetitions}x)" for group in groups if group.rank1
    )
    return f"{where}exposure {means} of {report.log2_space_size:.1f} bits; {first or 'none ranks first'}"


def validity_line(report: ExposureReport) -> str:
    """The flaws of the run as a test, in a line that begins with INVALID or impaired; "" if there is none.

    Example:
        >>> from hf_exposure.records import Delivery
        >>> print(validity_line(ExposureReport(estimates=(), template="pin {pin}", spaces={}, space_size=10**9,
        ...     manifest_hash="", settings={}, delivery=Delivery(inserted=8, found=0, trained=0))))
        INVALID: 0 of 8 inserted canaries were found in the training data.
    """
    if report.delivery is None or not report.delivery.flaws:
        return ""
    kind = "INVALID" if report.validity is Validity.INVALID else "impaired"
    return f"{kind}: {'; '.join(report.delivery.flaws)}."


def judgment(report: ExposureReport) -> str:
    """One or two sentences with the test behind the headline."""
    if report.validity is Validity.INVALID:
        return (
            "No verdict: a canary that was not trained on looks exactly like one that was not memorized. Insert the "
            "canaries into the data that the model is trained on, and train again."
        )
    if not report.inserted:
        return "No canary was inserted: no verdict."
    if not report.controls:
        return "Without held-out controls there is nothing to compare with: no verdict."
    p_value = report.memorization_p_value
    p = f"p {p_value_text(p_value)}{_corrected(report)}"
    test = f"rank test of each repetition count against {len(report.controls)} held-out canaries: {p}"
    if p_value < _SIGNIFICANT:
        return f"The model memorized canaries ({test})."
    if _first_of_all(report):
        first = sum(group.rank1 for group in _inserted_groups(report))
        verb = "ranks" if first == 1 else "rank"
        among = f"{first} of {len(report.inserted)} inserted canaries"
        return f"The model memorized canaries: {among} certainly {verb} first."
    beyond = _beyond_chance(report)
    if beyond is not None:
        group, beyond_p = beyond
        return (
            f"The model memorized canaries: at chance level, those inserted {times_inserted(group.repetitions)} would "
            f"be this exposed with p {p_value_text(beyond_p)}{_corrected(report)}. The rank test alone ({p}) cannot "
            "show it with so few canaries and controls."
        )
    top = max(report.groups, key=lambda group: group.repetitions)
    times = times_inserted(top.repetitions)
    if not math.isfinite(top.mean_bits):
        return f"No verdict: the exposure of the canaries inserted {times} is undefined ({test})."
    said = (
        f"No memorization detected ({test}). Mean exposure of the canaries inserted {times}: {_mean_bits(top)}; "
        f"chance level: {CHANCE_BITS:.1f} bits."
    )
    least = _least_p_value(report)
    if least >= _SIGNIFICANT:
        said += f" With so few canaries and controls, the test cannot give a p-value below {least:.2g}."
    return said


def p_value_text(p_value: float) -> str:
    """`= 0.034`, or `< 1e-10` if the value is so small that its digits mean nothing."""
    if math.isnan(p_value):
        return "is undefined"
    return "< 1e-10" if p_value < 1e-10 else f"= {p_value:.2g}"


def p_value_cell(p_value: float) -> str:
    """The p-value for a table, whose head names it; "" if it is undefined."""
    return p_value_text(p_value).removeprefix("= ") if math.isfinite(p_value) else ""


def controls_p_value(report: ExposureReport) -> float:
    """The probability that chance alone exposes the controls at least this much on average; NaN if undefined.

    For a canary the model never saw, exposure exceeds x bits with probability at most 2^-x: times ln 2 it is
    stochastically at most Exp(1), and the sum of n of them at most Gamma(n). The test is one-sided, since a discrete
    rank can only make the controls look less exposed.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> control = ExposureEstimate(canary_id="a", repetitions=0, log_perplexity_bits=5.0, exposure_bits=3.0,
        ...     low_bits=3.0, high_bits=3.0, method="enumerate")
        >>> controls_p_value(ExposureReport(estimates=(control,), template="", spaces={}, space_size=10**9,
        ...     manifest_hash="", settings={}))
        0.125
    """
    return round(_chance_p_value(report.controls), 12)


def _chance_p_value(estimates: Sequence[ExposureEstimate]) -> float:
    bits = np.array([estimate.exposure_bits for estimate in estimates])
    if not bits.size or np.isnan(bits).any():
        return math.nan
    return float(stats.gamma.sf(bits.sum() * math.log(2.0), bits.size))


def _beyond_chance(report: ExposureReport) -> tuple[RepetitionGroup, float] | None:
    """The repetition count whose exposures are least likely under chance, with its p-value times the number of counts.

    None unless the p-value is significant, nothing was extrapolated, and the controls are at chance level.
    """
    if not controls_p_value(report) >= _SIGNIFICANT:
        return None
    found = []
    for group in _inserted_groups(report):
        members = [estimate for estimate in report.inserted if estimate.repetitions == group.repetitions]
        if not any(estimate.bound == "extrapolated" for estimate in members):
            found.append((_chance_p_value(members), -group.mean_bits, group))
    tested = [one for one in found if math.isfinite(one[0])]
    if not tested:
        return None
    p_value, _, group = min(tested, key=lambda one: one[:2])
    corrected = min(1.0, p_value * len(tested))
    return (group, corrected) if corrected < _SIGNIFICANT else None


def _inserted_groups(report: ExposureReport) -> list[RepetitionGroup]:
    return [group for group in report.groups if group.repetitions]


def _first_of_all(report: ExposureReport) -> bool:
    """Whether more canaries certainly rank first than chance would explain.

    A canary the model never saw ranks first with probability 1/|R|, so even one among a few is evidence.
    """
    first = sum(group.rank1 for group in _inserted_groups(report))
    return first > 0 and len(report.inserted) / report.space_size < _SIGNIFICANT


def _about_inserted(report: ExposureReport) -> str:
    groups = _inserted_groups(report)
    if not groups:
        return "No canary was inserted"
    if _first_of_all(report):
        group = max(groups, key=lambda group: (group.rank1 / group.canaries, group.repetitions))
        every = group.rank1 == group.canaries > 1
        first = f"All {_canaries(group)}" if every else f"{group.rank1} of {_canaries(group)}"
        verb = "ranks" if group.rank1 == 1 else "rank"
        among = candidates_text(report.space_size)
        return f"{first} inserted {times_inserted(group.repetitions)} {verb} first among {among}"
    tested = [group for group in groups if math.isfinite(group.p_value) and math.isfinite(group.mean_bits)]
    by_rank = report.memorization_p_value < _SIGNIFICANT and bool(tested)
    beyond = _beyond_chance(report)
    if by_rank or beyond is not None:
        if beyond is None or by_rank:
            group = min(tested, key=lambda group: (group.p_value, -group.mean_bits))
        else:
            group, _ = beyond
        return (
            f"Canaries inserted {times_inserted(group.repetitions)} were partly memorized: {_mean_bits(group)} of "
            f"exposure on average (chance level: {CHANCE_BITS:.1f}, maximum: {report.log2_space_size:.1f})"
        )
    top = groups[-1]
    if not math.isfinite(top.mean_bits):
        return "The exposure of the inserted canaries is undefined (see the notes)"
    shown = "No memorization detected" if report.controls else "Nothing can be concluded"
    return (
        f"{shown}: canaries inserted {times_inserted(top.repetitions)} have {_mean_bits(top)} of exposure on average "
        f"(chance level: {CHANCE_BITS:.1f})"
    )


def _about_controls(report: ExposureReport) -> str:
    if not report.controls:
        return "no canary was held out to compare with"
    p_value = controls_p_value(report)
    if math.isnan(p_value):
        return "the exposure of the held-out controls is undefined"
    if p_value >= _SIGNIFICANT:
        return "held-out controls are at chance level"
    return (
        f"held-out controls are more exposed than chance allows (p {p_value_text(p_value)}), so something other than "
        "insertion must have raised their exposure"
    )


def _corrected(report: ExposureReport) -> str:
    """The correction of a p-value in words, as in the tables."""
    counts = len(_inserted_groups(report))
    return f", corrected for {counts} repetition counts" if counts > 1 else ""


def _canaries(group: RepetitionGroup) -> str:
    return f"{group.canaries} canary" if group.canaries == 1 else f"{group.canaries} canaries"


def _mean_bits(group: RepetitionGroup) -> str:
    """The mean with its kind, since a lower bound near 0 is not reassuring."""
    return f"{_KINDS.get(group.bound, '')}{group.mean_bits:.1f} bits"


def _least_p_value(report: ExposureReport) -> float:
    """The p-value of the rank tests if every inserted canary is more likely than every control."""
    groups = [group.canaries for group in _inserted_groups(report)]
    return min(1.0, len(groups) * min(1 / math.comb(n + len(report.controls), n) for n in groups))
