"""The statements of a report about differential privacy: a sentence for each bound, with the claim that it refutes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_exposure.estimators import RankEpsilon
from hf_exposure.records import Validity
from hf_exposure.records.exposure_report import ExposureReport
from hf_exposure.report.verdict import times_inserted


def privacy_sentences(report: ExposureReport) -> list[str]:
    """One paragraph for each lower bound on epsilon in the report; none for an invalid run.

    Example:
        >>> from hf_exposure.records import ExposureEstimate
        >>> canary = ExposureEstimate(canary_id="a", repetitions=64, log_perplexity_bits=5.0, exposure_bits=29.9,
        ...     low_bits=29.9, high_bits=29.9, rank_low=1, rank_high=1, method="bounded")
        >>> print(*privacy_sentences(ExposureReport(estimates=(canary,), template="pin {pin}", spaces={},
        ...     space_size=10**9, manifest_hash="", settings={"confidence_level": 0.95})))
        Ranks give no bound on epsilon of differential privacy: it is not known that the secrets were drawn uniformly.
    """
    if report.validity is Validity.INVALID or not report.inserted:
        return []
    coins = [] if report.epsilon is None else [report.epsilon, *report.gaussian_epsilons]
    # The lines about doses say why a bound is void.
    return [_from_ranks(report), *(_from_coins(bound) for bound in coins if not bound.get("void"))]


def _from_ranks(report: ExposureReport) -> str:
    if report.why_no_rank_epsilon:
        return f"Ranks give no bound on epsilon of differential privacy: {report.why_no_rank_epsilon}."
    repetitions, bound = max(report.rank_epsilons.items(), key=lambda item: item[1].epsilon)
    looked = f"{100 * bound.confidence_level:g} %, corrected for the choice of L"
    if bound.groups > 1:
        looked += f" and for {bound.groups} repetition counts"
    if bound.epsilon == 0.0:
        return f"Ranks refute no epsilon of differential privacy at delta {bound.delta:g} ({looked})."
    return (
        f"Ranks refute every epsilon below {bound.epsilon:.1f} at delta {bound.delta:g} for canaries inserted "
        f"{times_inserted(repetitions)}: {bound.successes} of {bound.canaries} are among the L = "
        f"{bound.threshold_rank:,} likeliest of {bound.candidates:,} candidate secrets ({looked}). "
        f"{_what_it_is_about(repetitions, bound)}"
    )


def _what_it_is_about(repetitions: int, bound: RankEpsilon) -> str:
    said = (
        "The record is a canary with all its repetitions, and a neighbor has another secret in it; adding or removing "
        "the canary has at least half of that epsilon"
    )
    if bound.delta > 0.0:
        return f"{said}, at a delta that grows with it."
    if repetitions > 1:
        said += f", and one of its {repetitions} rows at least 1/{repetitions}"
    return (
        f"{said}. Gaussian DP-SGD has no finite epsilon at delta 0, so this contradicts no accountant of it: to "
        "compare with one, measure at its delta."
    )


# What coins refute, for each claim of a bound. Claims that do not bound (epsilon, delta)-privacy say so.
_CLAIMS = {
    "approximate_dp": (
        "(epsilon, delta)-privacy with any epsilon below {epsilon} at delta {delta}, for adding or removing one row"
    ),
    "gdp": (
        "that training is as private as a Gaussian mechanism (mu-GDP) with an epsilon below {epsilon} at delta "
        "{delta}; this is no bound on (epsilon, delta)-privacy"
    ),
    "independent_gaussian": (
        "that independent Gaussian noise with an epsilon below {epsilon} at delta {delta} hides each canary; this is "
        "a bound neither on mu-GDP nor on (epsilon, delta)-privacy"
    ),
}


def _from_coins(bound: Mapping[str, Any]) -> str:
    # Reports that predate claims have the first one; reports from elsewhere may contain anything.
    claim = _CLAIMS.get(bound.get("claim", "approximate_dp"))
    figures = [bound.get(name) for name in ("epsilon", "delta", "confidence_level")]
    if claim is None or not all(isinstance(figure, (int, float)) for figure in figures):
        return f"Coins and epsilon: {dict(bound)}."
    epsilon, delta, level = map(float, figures)  # type: ignore[arg-type]
    guessed = f"{bound.get('correct')} of {bound.get('guesses')} guesses right, {bound.get('canaries')} coins"
    least = f"{epsilon:.2f}" if epsilon else "a positive one"
    does = "refute" if epsilon else "do not refute"
    return f"Coins {does} {claim.format(epsilon=least, delta=f'{delta:g}')} ({guessed}, {100 * level:g} %)."


def refuted_text(bound: RankEpsilon | None) -> str:
    """The bound of one group for a table: `below 17.9`, `nothing`, or "" if ranks give no bound."""
    if bound is None:
        return ""
    return f"below {bound.epsilon:.1f}" if bound.epsilon > 0.0 else "nothing"
