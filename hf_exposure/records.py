"""The frozen records that travel between the parts. Logarithms are base 2, scores are in bits.

Undefined figures are NaN (or None for a rank), and `note` gives the reason. Notes are for readers: what kind of figure
an exposure is, `bound` says, and programs decide by that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError

__all__ = [
    "Bound",
    "Candidate",
    "CostEstimate",
    "Discoverability",
    "ExposureEstimate",
    "Extraction",
    "RankBounds",
    "bound_of_figures",
    "weakest_bound",
]

Bound = Literal["exact", "interval", "lower", "extrapolated", "undefined"]
"""What kind of figure an exposure is, in order of how much it says.

- "exact": the rank was counted; `low_bits` and `high_bits` differ by ties within the scoring error at most.
- "interval": a point estimate, with a confidence interval that limits the exposure on both sides.
- "lower": `exposure_bits` is at the low end of what is known, and the exposure may be as high as the space allows.
- "extrapolated": a point that was read beyond all references; no interval vouches for it.
- "undefined": there is no figure; `exposure_bits` is NaN, and null in JSON.
"""


def bound_of_figures(
    *,
    method: str,
    exposure_bits: float,
    low_bits: float,
    high_bits: float,
    rank_low: int | None = None,
    rank_high: int | None = None,
    most_bits: float = math.inf,
) -> Bound:
    """The kind of a figure that was stored without one, from the figures; in doubt, the one that claims less.

    Args:
        method, exposure_bits, low_bits, high_bits, rank_low, rank_high: as in `ExposureEstimate`.
        most_bits: log2 |R'|, the largest exposure there is.

    Example:
        >>> bound_of_figures(method="sample", exposure_bits=3.0, low_bits=2.5, high_bits=3.4)
        'interval'
        >>> bound_of_figures(method="sample", exposure_bits=12.0, low_bits=10.1, high_bits=29.9, most_bits=29.9)
        'lower'
    """
    if math.isnan(exposure_bits):
        return "undefined"
    if method == "enumerate":
        return "exact"
    if method == "bounded" or rank_low is not None:
        # A search that closed over ties within the scoring error is not told from one that was stopped.
        is_one = low_bits == high_bits if rank_low is None else rank_low == rank_high
        return "exact" if is_one else "lower"
    if method == "skew_normal" or math.isnan(low_bits):
        return "extrapolated"
    reaches_the_top = not math.isfinite(high_bits) or high_bits >= most_bits - _ROUNDED_BITS
    return "lower" if reaches_the_top and exposure_bits < most_bits - _ROUNDED_BITS else "interval"


def weakest_bound(bounds: Iterable[Bound]) -> Bound:
    """What kind of figure a mean of such figures is; of none at all it is undefined.

    Example:
        >>> weakest_bound(["exact", "lower", "interval"])
        'lower'
    """
    kinds = get_args(Bound)
    return max(bounds, key=kinds.index, default="undefined")


# Published figures are rounded to 0.1 bit.
_ROUNDED_BITS = 0.1


class _Figures:
    """What both records of an exposure share: the rule for `bound`."""

    method: str
    exposure_bits: float
    low_bits: float
    high_bits: float
    rank_low: int | None
    rank_high: int | None
    bound: Bound

    def __post_init__(self) -> None:
        if self.bound is None:
            kind = bound_of_figures(
                method=self.method,
                exposure_bits=self.exposure_bits,
                low_bits=self.low_bits,
                high_bits=self.high_bits,
                rank_low=self.rank_low,
                rank_high=self.rank_high,
            )
            object.__setattr__(self, "bound", kind)
        if self.bound not in get_args(Bound):
            raise InputError("bound", f"must be one of {', '.join(get_args(Bound))}", self.bound, "Leave it out.")
        if (self.bound == "undefined") != math.isnan(self.exposure_bits):
            rule = "must be 'undefined' where exposure_bits is NaN, and nowhere else"
            raise InputError("bound", rule, f"{self.bound} with {self.exposure_bits} bits", "Leave it out.")

    @property
    def is_lower_bound(self) -> bool:
        """Whether `exposure_bits` is the low end of what is known."""
        return self.bound == "lower"

    def known_bits(self, most_bits: float) -> tuple[float, float]:
        """What is known of the exposure, where log2 of the space is `most_bits`: its interval, within [0, most_bits].

        A lower bound reaches to the top, unless a search has certified how high the canary can rank. Of a figure that
        is extrapolated or undefined nothing is known.
        """
        if self.bound in ("extrapolated", "undefined"):
            return 0.0, most_bits
        is_open = self.bound == "lower" and self.rank_low is None
        low, high = self.low_bits, most_bits if is_open else self.high_bits
        low = 0.0 if math.isnan(low) else min(max(low, 0.0), most_bits)
        return low, most_bits if math.isnan(high) else min(max(high, low), most_bits)


@dataclass(frozen=True, kw_only=True)
class CostEstimate(_Figures):
    """The exposure of one cost (a log-perplexity) against references: what an estimator returns for each cost.

    Attributes:
        exposure_bits: the point estimate; NaN where it is undefined.
        low_bits, high_bits: ends of the confidence interval on the exposure; NaN where there is none.
        rank_low, rank_high: certified bounds on the rank, where known, else None.
        method: the estimator's name.
        bound: what kind of figure it is (`Bound`): "exact", "interval", "lower", "extrapolated" or "undefined". Left
            out, it is derived from the figures.
        note: what a reader must know to use the figure, else "".
        effective_hits: how many equal draws at or below the cost would be as precise, where it was estimated from
            draws, else None. Stop drawing early only above 100.
    """

    exposure_bits: float
    low_bits: float
    high_bits: float
    rank_low: int | None = None
    rank_high: int | None = None
    method: str
    # None only until it is derived.
    bound: Bound = None  # type: ignore[assignment]
    note: str = ""
    effective_hits: float | None = None


@dataclass(frozen=True, kw_only=True)
class ExposureEstimate(_Figures):
    """One canary's measurement. Fields as in `CostEstimate`, with whose they are.

    Attributes:
        canary_id: the canary's id in its `CanarySet`; never its text.
        repetitions: how many times it was inserted; 0 for a held-out control.
        log_perplexity_bits: `sum_i -log2 p(x_i | x_<i)` of its whole text.
        base_exposure_bits: its exposure under the base model, where one was given, else NaN. What training added is
            `exposure_bits - base_exposure_bits`.
        effective_dose: how often the model was trained on it until then: rows delivered in an epoch x epochs x the
            share of its tokens that counts in the loss. NaN where delivery is not known.
    """

    canary_id: str
    repetitions: int
    log_perplexity_bits: float
    exposure_bits: float
    low_bits: float
    high_bits: float
    rank_low: int | None = None
    rank_high: int | None = None
    method: str
    # None only until it is derived.
    bound: Bound = None  # type: ignore[assignment]
    note: str = ""

    base_exposure_bits: float = math.nan
    effective_dose: float = math.nan

    @property
    def is_control(self) -> bool:
        """Whether it was held out."""
        return self.repetitions == 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text that search found, with its log-perplexity in bits."""

    text: str
    log_perplexity_bits: float


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The likeliest texts of a template under a model, cheapest first.

    Attributes:
        candidates: tuple of `Candidate`, ascending by log-perplexity.
        certified: no text of the template outside `candidates` is likelier than the last of them.
        expansions: states with more than one child that were expanded.
        forward_passes: calls of the model.
        model_rows: rows fed to the model, summed over the calls.
        seconds: wall time.
        backend: name of the token automaton that was walked.
        exactness: "proven" where it is certain that the search covers every text: each was encoded, or the tokenizer's
            own data show it. "audited" where 10,000 sampled texts were encoded and none was missed, so that with 95 %
            confidence fewer than 0.03 % are outside the search.
        mode: how the model was read: "packed", "cached", "plain" or "alone" (`CausalScorer`).
        note: why it is not certified or not proven, and what else limits it; else "".
        rest_is_impossible: every text outside `candidates` has probability 0 under the model, and so have candidates
            that cost infinitely many bits. Then fewer candidates than `top_k` may be left, or none.
    """

    candidates: tuple[Candidate, ...]
    certified: bool
    expansions: int
    forward_passes: int
    model_rows: int
    seconds: float
    backend: str
    exactness: str = ""
    mode: str = ""
    note: str = ""
    rest_is_impossible: bool = False


@dataclass(frozen=True, kw_only=True)
class RankBounds:
    """Bounds on the rank of one text among all texts of its template: `low <= rank <= high`.

    Attributes:
        low, high: 1-based, exact ints; ties count against the text.
        certified: the search closed; `low < high` then only for ties within the stated tolerance.
        expansions: states with more than one child that were expanded.
        forward_passes, model_rows, seconds: the cost.
        log_perplexity_bits: of the text itself.
        backend, exactness, mode: as for `Extraction`.
        note: why it is not certified or not proven, and what else limits it; else "".
    """

    low: int
    high: int
    certified: bool
    expansions: int
    forward_passes: int
    model_rows: int
    seconds: float
    log_perplexity_bits: float
    backend: str = ""
    exactness: str = ""
    mode: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Discoverability:
    """How likely a model is to say one text after the prefix of its template.

    Attributes:
        text: the text; left out of `repr`, since it may be a canary.
        bits: `-log2` of the probability that one sample says it, verbatim; inf where it cannot.
        is_greedy: greedy decoding says it, verbatim.
        greedy_edits: characters to insert, delete or replace to make what greedy decoding says the secret.
        samples, near_samples, near_edits: of so many samples, so many came within `near_edits` edits of it.

    Source: Hayes et al. 2025, "Measuring memorization in language models via probabilistic extraction".
    """

    text: str = field(repr=False)
    bits: float
    is_greedy: bool
    greedy_edits: int
    samples: int
    near_samples: int
    near_edits: int

    def probability_within(self, samples: int) -> float:
        """The probability that at least one of `samples` says the text: `1 - (1 - 2^-bits)^samples`.

        Example:
            >>> found = Discoverability(
            ...     text="", bits=1.0, is_greedy=False, greedy_edits=1, samples=0, near_samples=0, near_edits=1
            ... )
            >>> found.probability_within(2)
            0.75
        """
        whole_number("samples", samples, 0)
        once = 2.0**-self.bits
        return float(samples > 0) if once >= 1 else -math.expm1(samples * math.log1p(-once))

    def samples_needed(self, probability: float) -> float:
        """The fewest samples of which one says the text with at least this probability: it is (n, p)-discoverable.

        inf where no number does. A `probability` of 0 needs none; 1 needs inf, unless every sample says it.

        Raises:
            InputError: `probability` outside 0 to 1.
        """
        rule = "must be between 0 and 1"
        probability = real_number("probability", probability, rule, "Use 0.5, say.", at_least=0.0, at_most=1.0)
        once = 2.0**-self.bits
        if probability == 0 or once >= 1:
            return float(probability > 0)
        if probability == 1 or once == 0:
            return math.inf
        return float(max(1, math.ceil(math.log1p(-probability) / math.log1p(-once) - 1e-12)))
