"""Several runs side by side: which setting memorizes less at equal utility?"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from hf_exposure.errors import InputError
from hf_exposure.estimators import Correlation, difference_interval, pearson_correlation
from hf_exposure.estimators.estimate import Bound, weakest_bound
from hf_exposure.records import ExposureEstimate, Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.records.groups import FEWEST_FOR_AN_INTERVAL
from hf_exposure.report.run import Run
from hf_exposure.report.verdict import validity_line

# Keys with these endings are losses: less is better.
_LOSSES = ("loss", "perplexity")
# Canaries that share draws err together, so the interval of each is widened to this many standard errors. Then one
# measurement in two thousand misses, and two measurements of the same weights give no finding, whatever methods were
# used.
_STANDARD_ERRORS = 3.5
# Confidence level of a finding; higher if a run was measured at a higher level.
_LEAST_LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class MeanBits:
    """A mean of exposures, or of differences of exposures, with its interval.

    Attributes:
        mean_bits: the mean of the figures; NaN if any is undefined.
        low_bits, high_bits: the limits of the interval. For a run they are NaN if a repetition count has too few
            canaries for an interval; for a difference they are -inf and inf if there are too few canaries to limit it.
        bound: the weakest bound among the figures; `mean_bits` is an estimate if it is "exact" or "interval".
    """

    mean_bits: float
    low_bits: float
    high_bits: float
    bound: Bound

    @property
    def is_estimate(self) -> bool:
        """Whether every figure is limited by an interval."""
        return self.bound in ("exact", "interval")


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One run of a comparison.

    Attributes:
        name, report: the run's name and report.
        exposure: mean over the repetition counts that all runs have, with equal weights.
        utility: the value of the utility key; NaN if the run has none.
        on_front: whether no comparable run has less exposure at a utility at least as good; False if a figure is
            missing, or if no run is comparable.
    """

    name: str
    report: ExposureReport
    exposure: MeanBits
    utility: float
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of `compare_runs`.

    Attributes:
        runs: in the order given.
        comparable: names of the runs, grouped by their candidate secrets. Only runs of one group are compared.
        repetition_counts: the repetition counts that all runs have.
        utility_key: the key of the utility in the trainer's log.
        lower_is_better: whether a smaller utility is better.
        tolerance: utilities within this relative difference count as equal.
        confidence_level: the confidence level of each finding alone.
        correlation: Pearson's r of utility and exposure over the `placed` runs; NaN for fewer than 2.
        findings: one sentence each, limited to claims that the intervals support; those about runs that cannot be
            compared come first.
        notes: what a reader must know to interpret the findings.
    """

    runs: tuple[ComparedRun, ...]
    comparable: tuple[tuple[str, ...], ...]
    repetition_counts: tuple[int, ...]
    utility_key: str
    lower_is_better: bool
    tolerance: float
    confidence_level: float
    correlation: Correlation
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def placed(self) -> tuple[ComparedRun, ...]:
        """The runs with both figures; empty if not all runs can be compared."""
        if len(self.comparable) > 1:
            return ()
        return tuple(run for run in self.runs if math.isfinite(run.utility) and math.isfinite(run.exposure.mean_bits))


def compare_runs(runs: Sequence[Run], *, utility_key: str = "eval_loss", tolerance: float = 0.01) -> Comparison:
    """Compares runs by their exposure at common repetition counts, and by a utility from the trainer's log.

    Runs with different templates, spaces or contexts are not compared, since their exposures count different texts.

    Args:
        runs: at least two, preferably with the same canaries, which are then compared in pairs.
        utility_key: a key of the trainer's log. Keys that end in "loss" or "perplexity" are better when smaller.
        tolerance: utilities that differ by less than this share of the larger one count as equal.

    Raises:
        InputError: fewer than two runs, an invalid one (`Run.report.validity`), or a negative tolerance.
    """
    if len(runs) < 2:
        raise InputError("runs", "must be at least two", len(runs), "Name another run.")
    invalid = [run for run in runs if run.report.validity is Validity.INVALID]
    if invalid:
        # Readers would take a comparison with an invalid run for a finding.
        said = "; ".join(f"{run.name}: {validity_line(run.report)}" for run in invalid)
        remedy = "Leave the invalid runs out, or train again on data that contain the canaries."
        raise InputError("runs", "must all be valid tests of memorization", said, remedy)
    if not 0 <= tolerance < 1:
        raise InputError("tolerance", "must lie in [0, 1)", tolerance, "Leave it out for 0.01.")
    counts = set.intersection(*({e.repetitions for e in run.report.inserted} for run in runs))
    shared = tuple(sorted(counts))
    lower = utility_key.endswith(_LOSSES)
    sets = _comparable(runs)
    level = max(_LEAST_LEVEL, *(_level(run.report) for run in runs))
    places = [
        _Place(run, _mean_bits(run.report, shared), run.utility(utility_key) * (1 if lower else -1)) for run in runs
    ]
    gaps = {
        (more, less): difference_bits(runs[more].report, runs[less].report, shared, level)
        for members in sets
        for more, less in itertools.permutations(members, 2)
    }
    found = [
        finding
        for members in sets
        if len(members) > 1
        for finding in _findings(places, members, gaps, utility_key, lower, tolerance)
    ]
    compared = tuple(
        ComparedRun(
            name=place.run.name,
            report=place.run.report,
            exposure=place.exposure,
            utility=place.utility(lower),
            on_front=_is_on_front(places, number, members, gaps),
        )
        for number, place in enumerate(places)
        for members in sets
        if number in members
    )
    whole = [place for place in places if place.is_whole] if len(sets) == 1 else []
    return Comparison(
        runs=compared,
        comparable=tuple(tuple(runs[number].name for number in members) for members in sets),
        repetition_counts=shared,
        utility_key=utility_key,
        lower_is_better=lower,
        tolerance=tolerance,
        confidence_level=level,
        correlation=pearson_correlation(
            [place.utility(lower) for place in whole], [place.exposure.mean_bits for place in whole], level
        ),
        findings=(*_refusals([[runs[number] for number in members] for members in sets]), *found),
        notes=_notes(places, sets, gaps, shared, utility_key),
    )


@dataclass(frozen=True)
class _Place:
    """A run with its two figures; less is better for each."""

    run: Run
    exposure: MeanBits
    cost: float

    @property
    def is_whole(self) -> bool:
        return math.isfinite(self.exposure.mean_bits) and math.isfinite(self.cost)

    def utility(self, lower: bool) -> float:
        return self.cost if lower else -self.cost


# For the indices of two runs: how much more exposure the first has than the second.
_Gaps = Mapping[tuple[int, int], MeanBits]


def difference_bits(
    more: ExposureReport, less: ExposureReport, counts: Sequence[int], confidence_level: float = _LEAST_LEVEL
) -> MeanBits:
    """How much more exposure one report has than another, as a mean over the given repetition counts with equal
    weights.

    The interval uses what is known of each canary, whatever the method. The same canaries are compared in pairs if
    each count has at least 8, and otherwise as two samples (`hf_exposure.estimators.difference_interval`).

    Args:
        more, less: reports with the same candidate secrets.
        counts: repetition counts that both have.
        confidence_level: the level of the two-sided interval.
    """
    strata = [(_members(more, count), _members(less, count)) for count in counts]
    if not strata or not all(a and b for a, b in strata):
        return MeanBits(mean_bits=math.nan, low_bits=-math.inf, high_bits=math.inf, bound="undefined")
    # Few pairs can be swapped in few ways: 4 pairs in 16, whereas two samples of 4 can be dealt in 70.
    paired = _same_canaries(more, less) and min(len(a) for a, _ in strata) >= FEWEST_FOR_AN_INTERVAL
    low, high = difference_interval(
        [_ends(more, a) for a, _ in strata],
        [_ends(less, b) for _, b in strata],
        paired=paired,
        confidence_level=confidence_level,
    )
    mean = float(np.mean([np.mean(_bits(a)) - np.mean(_bits(b)) for a, b in strata]))
    bound = weakest_bound(e.bound for a, b in strata for e in (*a, *b))
    return MeanBits(mean_bits=mean, low_bits=low, high_bits=high, bound=bound)


def _members(report: ExposureReport, count: int) -> list[ExposureEstimate]:
    return sorted((e for e in report.inserted if e.repetitions == count), key=lambda e: e.canary_id)


def _bits(estimates: Sequence[ExposureEstimate]) -> list[float]:
    return [estimate.exposure_bits for estimate in estimates]


def _level(report: ExposureReport) -> float:
    return float(report.settings["confidence_level"])


def _ends(report: ExposureReport, estimates: Sequence[ExposureEstimate]) -> tuple[list[float], list[float]]:
    """The interval of each exposure, with confidence intervals widened to 3.5 standard errors."""
    most = report.log2_space_size
    widening = max(1.0, _STANDARD_ERRORS / float(ndtri((1 + _level(report)) / 2)))
    lows, highs = [], []
    for estimate in estimates:
        low, high = estimate.known_bits(most)
        # A count has no standard error.
        if estimate.bound in ("interval", "lower") and estimate.rank_low is None:
            bits = min(max(estimate.exposure_bits, low), high)
            low, high = max(0.0, bits - widening * (bits - low)), min(most, bits + widening * (high - bits))
        lows.append(low)
        highs.append(high)
    return lows, highs


def _same_canaries(one: ExposureReport, other: ExposureReport) -> bool:
    """Whether canary ids mean the same canaries in both; a published report numbers canaries by their exposure."""
    ids = [sorted((e.repetitions, e.canary_id) for e in report.inserted) for report in (one, other)]
    withheld = any(math.isnan(e.log_perplexity_bits) for report in (one, other) for e in report.inserted)
    return one.manifest_hash == other.manifest_hash and ids[0] == ids[1] and not withheld


def _mean_bits(report: ExposureReport, counts: Sequence[int]) -> MeanBits:
    """The mean over counts, with the mean of the counts' limits, which is slightly conservative."""
    groups = [group for group in report.groups if group.repetitions in counts]
    if not groups:
        return MeanBits(mean_bits=math.nan, low_bits=math.nan, high_bits=math.nan, bound="undefined")
    mean, low, high = (
        float(np.mean([getattr(group, name) for group in groups])) for name in ("mean_bits", "low_bits", "high_bits")
    )
    bound = weakest_bound(group.bound for group in groups)
    return MeanBits(mean_bits=mean, low_bits=low, high_bits=high, bound=bound)


def _candidates(report: ExposureReport) -> dict[str, object]:
    """The texts that an exposure of this report counts, and the context in which they are scored."""
    settings = report.settings
    return {
        "template": report.template,
        "spaces": dict(report.spaces),
        "candidate secrets": report.space_size,
        "context": settings.get("context"),
        "source": settings.get("source"),
        "end token": bool(settings.get("end_token")),
    }


def _comparable(runs: Sequence[Run]) -> list[list[int]]:
    """Indices of the runs, grouped by candidate secrets in order of appearance."""
    sets: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        sets.setdefault(json.dumps(_candidates(run.report), sort_keys=True, default=str), []).append(place)
    return list(sets.values())


def _refusals(groups: Sequence[Sequence[Run]]) -> tuple[str, ...]:
    """States which runs are not compared and why, instead of a finding."""
    if len(groups) < 2:
        return ()
    each = [_candidates(group[0].report) for group in groups]
    differing = [name for name in each[0] if any(one[name] != each[0][name] for one in each)]
    said = [
        f"{', '.join(run.name for run in group)} ({'; '.join(f'{name} {_shown(one[name])}' for name in differing)})"
        for group, one in zip(groups, each, strict=True)
    ]
    return (
        f"Not compared: {' and '.join(said)}. An exposure counts the candidate secrets of its own template, so only "
        "runs that were measured with the same template, spaces and context can be compared.",
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one}" for name, one in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)


def _is_on_front(places: Sequence[_Place], number: int, members: Sequence[int], gaps: _Gaps) -> bool:
    """Whether no other member is better in one figure and not worse in the other."""
    own = places[number]
    return (
        len(members) > 1
        and own.is_whole
        and not any(_beats(places[other], own, gaps[number, other]) for other in members if other != number)
    )


def _beats(other: _Place, own: _Place, gap: MeanBits) -> bool:
    """Whether `other` has provably less exposure at a utility as good, or a better utility at an exposure no
    larger.
    """
    if not other.is_whole or other.cost > own.cost:
        return False
    not_more = gap.is_estimate and gap.mean_bits >= 0
    return gap.low_bits > 0 or (other.cost < own.cost and not_more)


def _findings(
    places: Sequence[_Place], members: Sequence[int], gaps: _Gaps, key: str, lower: bool, tolerance: float
) -> tuple[str, ...]:
    """For each run, the run that provably memorizes less at equal or better utility, by the widest margin."""
    found = []
    with_utility = any(math.isfinite(places[number].cost) for number in members)
    for number in members:
        own = places[number]
        better = [
            other
            for other in members
            if other != number
            and gaps[number, other].low_bits > 0
            and (not with_utility or _as_good(places[other].cost, own.cost, tolerance))
        ]
        if better:
            best = max(better, key=lambda other: gaps[number, other].low_bits)
            other, gap = places[best], gaps[number, best]
            at = f" at {key} {other.utility(lower):.4g} against {own.utility(lower):.4g}" if with_utility else ""
            by = (
                f"{gap.mean_bits:.1f} bits less exposure [{gap.low_bits:.1f}, {gap.high_bits:.1f}]"
                if gap.is_estimate
                else f"at least {gap.low_bits:.1f} bits less exposure"
            )
            found.append(f"{other.run.name} memorizes less than {own.run.name}: {by}{at}.")
    at_utility = f" at equal or better {key}" if with_utility else ""
    return tuple(found) or (f"No run is shown to memorize less than another{at_utility}.",)


def _as_good(candidate: float, other: float, tolerance: float) -> bool:
    return candidate <= other + tolerance * max(abs(candidate), abs(other))


def _notes(
    places: Sequence[_Place], sets: Sequence[Sequence[int]], gaps: _Gaps, counts: Sequence[int], key: str
) -> tuple[str, ...]:
    notes = []
    if not counts:
        notes.append("The runs have no repetition count in common: their exposures cannot be compared.")
    if any(len({places[number].run.report.manifest_hash for number in members}) > 1 for members in sets):
        notes.append(
            "The runs have different canaries: differences include the chance of the draw, and so do the intervals."
        )
    without = [place.run.name for place in places if not math.isfinite(place.cost)]
    if without:
        notes.append(
            f"No {key} was found for {', '.join(without)}: it is read from the trainer's log in the run's folder."
        )
    kinds = {e.bound for place in places for e in place.run.report.inserted if e.repetitions in counts}
    if "lower" in kinds:
        notes.append("Some figures are lower bounds only: the exposure may be as high as the space allows.")
    if kinds & {"extrapolated", "undefined"}:
        notes.append("Some figures are extrapolated or undefined: they have no limits and allow no finding.")
    if counts and gaps and all(math.isinf(gap.low_bits) for gap in gaps.values()):
        notes.append("No difference can be shown with so few canaries: insert at least 4 at some repetition count.")
    return tuple(notes)
