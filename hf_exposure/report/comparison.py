"""Several runs side by side: which setting memorises less at equal utility?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hf_exposure.errors import InputError
from hf_exposure.records import ExposureEstimate
from hf_exposure.report.exposure_report import ExposureReport
from hf_exposure.report.run import Run

__all__ = ["ComparedRun", "Comparison", "MeanBits", "compare_runs", "difference_bits"]

# Keys that end so are losses: as in transformers, less is better.
_LOSSES = ("loss", "perplexity")


@dataclass(frozen=True, kw_only=True)
class MeanBits:
    """A mean of exposures, or of differences of exposures, with its Student-t interval (NaN for single canaries)."""

    mean_bits: float
    low_bits: float
    high_bits: float


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One run among others.

    Attributes:
        name, report: of the run.
        exposure: mean over the repetition counts that all runs have, each count weighing the same.
        utility: the figure that was asked for; NaN where the run has none.
        on_front: no other run has less exposure at a utility at least as good; False where a figure is missing.
    """

    name: str
    report: ExposureReport
    exposure: MeanBits
    utility: float
    on_front: bool


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What `compare_runs` found.

    Attributes:
        runs: in the order given.
        repetition_counts: those that all runs have.
        utility_key, lower_is_better: what stands for utility.
        tolerance: utilities nearer than this share of their size count as equal.
        findings: one sentence each, only what the intervals allow to say.
        notes: what a reader must know.
    """

    runs: tuple[ComparedRun, ...]
    repetition_counts: tuple[int, ...]
    utility_key: str
    lower_is_better: bool
    tolerance: float
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def placed(self) -> tuple[ComparedRun, ...]:
        """The runs with both figures."""
        return tuple(run for run in self.runs if math.isfinite(run.utility) and math.isfinite(run.exposure.mean_bits))


def compare_runs(runs: Sequence[Run], *, utility_key: str = "eval_loss", tolerance: float = 0.01) -> Comparison:
    """Sets runs side by side, by exposure at the repetition counts that they share and by a utility of the trainer's.

    Args:
        runs: at least two; of the same canaries where that can be had, since the same canaries are compared in pairs.
        utility_key: of the trainer's log. Keys that end in "loss" or "perplexity" are better when smaller.
        tolerance: utilities nearer than this share of the larger one count as equal.

    Raises:
        InputError: fewer than two runs, or a negative tolerance.
    """
    if len(runs) < 2:
        raise InputError("runs", "must be at least two", len(runs), "Name another run.")
    if not 0 <= tolerance < 1:
        raise InputError("tolerance", "must lie in [0, 1)", tolerance, "Leave it out for 0.01.")
    counts = set.intersection(*({e.repetitions for e in run.report.inserted} for run in runs))
    shared = tuple(sorted(counts))
    lower = utility_key.endswith(_LOSSES)
    figures = [(_mean_bits(_terms(run.report, shared), _level(run.report)), run.utility(utility_key)) for run in runs]
    front = _front(np.array([[exposure.mean_bits, utility if lower else -utility] for exposure, utility in figures]))
    compared = tuple(
        ComparedRun(name=run.name, report=run.report, exposure=exposure, utility=utility, on_front=on_front)
        for run, (exposure, utility), on_front in zip(runs, figures, front, strict=True)
    )
    return Comparison(
        runs=compared,
        repetition_counts=shared,
        utility_key=utility_key,
        lower_is_better=lower,
        tolerance=tolerance,
        findings=_findings(compared, shared, utility_key, lower, tolerance),
        notes=_notes(compared, shared, utility_key),
    )


def difference_bits(more: ExposureReport, less: ExposureReport, counts: Sequence[int]) -> MeanBits:
    """How much more exposure one report has than another, over the given repetition counts, each weighing the same.

    The same canaries (equal manifest hashes) are compared one by one, others as two samples (Welch).
    """
    level = min(_level(more), _level(less))
    if more.manifest_hash == less.manifest_hash:
        other = {e.canary_id: e.exposure_bits for e in less.inserted}
        return _mean_bits(
            [
                [np.array([e.exposure_bits - other.get(e.canary_id, math.nan) for e in _members(more, count)])]
                for count in counts
            ],
            level,
        )
    pairs = zip(_terms(more, counts), _terms(less, counts), strict=True)
    return _mean_bits([[a[0], -b[0]] for a, b in pairs], level)


def _members(report: ExposureReport, count: int) -> list[ExposureEstimate]:
    return [e for e in report.inserted if e.repetitions == count]


def _terms(report: ExposureReport, counts: Sequence[int]) -> list[list[np.ndarray]]:
    return [[np.array([e.exposure_bits for e in _members(report, count)])] for count in counts]


def _level(report: ExposureReport) -> float:
    return float(report.settings["confidence_level"])


def _mean_bits(strata: list[list[np.ndarray]], level: float) -> MeanBits:
    """The mean over strata of the sum of each one's sample means; degrees of freedom after Welch and Satterthwaite."""
    samples = [sample for stratum in strata for sample in stratum]
    if not strata or any(not sample.size or np.isnan(sample).any() for sample in samples):
        return MeanBits(mean_bits=math.nan, low_bits=math.nan, high_bits=math.nan)
    mean = sum(float(sample.mean()) for sample in samples) / len(strata)
    if any(sample.size < 2 for sample in samples):
        return MeanBits(mean_bits=mean, low_bits=math.nan, high_bits=math.nan)
    parts = np.array([sample.var(ddof=1) / sample.size for sample in samples]) / len(strata) ** 2
    freedom = np.array([sample.size - 1 for sample in samples])
    spread = float(parts.sum())
    half = 0.0
    if spread > 0:
        half = float(stats.t.ppf((1 + level) / 2, spread**2 / (parts**2 / freedom).sum())) * math.sqrt(spread)
    return MeanBits(mean_bits=mean, low_bits=mean - half, high_bits=mean + half)


def _front(costs: np.ndarray) -> list[bool]:
    """(N, 2) figures, less is better in both: which rows no other one beats."""
    front = []
    for row in costs:
        beaten = (costs <= row).all(axis=1) & (costs < row).any(axis=1)
        front.append(bool(np.isfinite(row).all() and not beaten.any()))
    return front


def _findings(
    runs: Sequence[ComparedRun], counts: Sequence[int], key: str, lower: bool, tolerance: float
) -> tuple[str, ...]:
    """For each run, the one that memorises surely less at equal or better utility, by the widest margin."""
    found = []
    with_utility = any(math.isfinite(run.utility) for run in runs)
    for run in runs:
        better = []
        for other in runs:
            if with_utility and not _as_good(other.utility, run.utility, lower, tolerance):
                continue
            gap = difference_bits(run.report, other.report, counts)
            if other is not run and gap.low_bits > 0:
                better.append((gap.mean_bits, gap, other))
        if better:
            _, gap, other = max(better, key=lambda item: item[0])
            at = f" at {key} {other.utility:.4g} against {run.utility:.4g}" if with_utility else ""
            found.append(
                f"{other.name} memorises less than {run.name}: {gap.mean_bits:.1f} bits less exposure "
                f"[{gap.low_bits:.1f}, {gap.high_bits:.1f}]{at}."
            )
    if not found and with_utility:
        found.append(f"No run is shown to memorise less than another at equal or better {key}.")
    elif not found:
        found.append("No run is shown to memorise less than another.")
    return tuple(found)


def _as_good(candidate: float, other: float, lower: bool, tolerance: float) -> bool:
    margin = tolerance * max(abs(candidate), abs(other))
    return candidate <= other + margin if lower else candidate >= other - margin


def _notes(runs: Sequence[ComparedRun], counts: Sequence[int], key: str) -> tuple[str, ...]:
    notes = []
    if not counts:
        notes.append("The runs have no repetition count in common: their exposures cannot be compared.")
    if len({run.report.template for run in runs}) > 1 or len({run.report.space_size for run in runs}) > 1:
        notes.append("The runs have canaries of different templates: what differs may be due to the template.")
    elif len({run.report.manifest_hash for run in runs}) > 1:
        notes.append("The runs have different canaries: chance of the draw is in what differs, and in the intervals.")
    without = [run.name for run in runs if not math.isfinite(run.utility)]
    if without:
        notes.append(
            f"No {key} was found for {', '.join(without)}: it is read from the trainer's log in the run's folder."
        )
    if any(e.is_lower_bound for run in runs for e in run.report.inserted):
        notes.append("Some figures are lower bounds only.")
    return tuple(notes)
