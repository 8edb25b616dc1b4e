"""Results for one text: its exposure, its rank, whether search extracts it, whether the model generates it.

Logarithms are base 2, scores are in bits. Undefined figures are NaN (or None for a rank), and `note` gives the reason.
Notes are for readers; programs use `bound`, which gives the kind of figure an exposure is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hf_exposure.checks import real_number, whole_number
from hf_exposure.estimators.estimate import ExposureFigures
from hf_exposure.fields import Amount, Count, Figure


@dataclass(frozen=True, kw_only=True)
class CanaryCost:
    """One canary and its log-perplexity under a model.

    Attributes:
        canary_id: the canary's id in its `CanarySet`; never its text.
        repetitions: how many times it was inserted; 0 for a held-out control.
        log_perplexity_bits: `sum_i -log2 p(x_i | x_<i)` of its whole text; null in JSON where that is infinite, or
            where all are withheld.
    """

    canary_id: str
    repetitions: Count
    log_perplexity_bits: Figure

    @property
    def is_control(self) -> bool:
        """Whether it was held out."""
        return self.repetitions == 0


@dataclass(frozen=True, kw_only=True)
class ExposureEstimate(ExposureFigures, CanaryCost):
    """One canary's measurement: whose it is (`CanaryCost`), and the figures of an estimator (`CostEstimate`).

    Attributes:
        base_exposure_bits: its exposure under the base model, where one was given, else NaN. What training added is
            `exposure_bits - base_exposure_bits`.
        effective_dose: how often the model was trained on it until then: counted in the training batches
            (`CanaryDose.whole`) where the report's `doses` say so; else an estimate: rows delivered in an epoch x
            epochs x the share of its tokens that counts in the loss. NaN where neither is known.
        guessing_entropy_bits: log2 of the number of guesses that an attacker needs who has the model and tries secrets
            in its order: log2|R'| less the exposure. Without the model it is log2|R'| - 1, so the work saved is the
            exposure less one bit (Carlini et al. 2019, Section 4.1). NaN where the exposure is.
        lead_bits: by how many bits the likeliest text that was not inserted costs more than the canary: above 0 where
            the canary ranks first, below 0 where others are likelier. NaN where it was not looked for (`lead=True`) or
            not found.
    """

    base_exposure_bits: Figure = math.nan
    guessing_entropy_bits: Figure = math.nan
    lead_bits: Figure = math.nan
    effective_dose: Amount = math.nan


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What every search says of itself.

    Attributes:
        certified: whether the search ended with a proof; each result says of what.
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
    """

    certified: bool
    expansions: int
    forward_passes: int
    model_rows: int
    seconds: float
    backend: str = ""
    exactness: str = ""
    mode: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A text that search found, with its log-perplexity in bits."""

    text: str
    log_perplexity_bits: float


@dataclass(frozen=True, kw_only=True)
class Extraction(SearchResult):
    """The likeliest texts of a template under a model, most likely first, and what the search cost (`SearchResult`).

    Certified: no text of the template outside `candidates` is likelier than the last of them.

    Attributes:
        candidates: tuple of `Candidate`, ascending by log-perplexity.
        rest_is_impossible: every text outside `candidates` has probability 0 under the model, and so have candidates
            that cost infinitely many bits. Then fewer candidates than `top_k` may be left, or none.
    """

    candidates: tuple[Candidate, ...]
    rest_is_impossible: bool = False


@dataclass(frozen=True, kw_only=True)
class RankBounds(SearchResult):
    """Bounds on the rank of one text among all texts of its template, `low <= rank <= high`, and what the search cost.

    Certified: the search closed; `low < high` then only for ties within the stated tolerance.

    Attributes:
        low, high: 1-based, exact ints; ties count against the text.
        log_perplexity_bits: of the text itself.
    """

    low: int
    high: int
    log_perplexity_bits: float


@dataclass(frozen=True, kw_only=True)
class Discoverability:
    """How likely a model is to say one text after the prefix of its template.

    Attributes:
        text: the text; left out of `repr`, since it may be a canary.
        bits: `-log2` of the probability that one sample says it, verbatim; inf where it cannot.
        is_greedy: greedy decoding says it, verbatim.
        greedy_edits: characters to insert, delete or replace to make what greedy decoding says the secret.
        argmax_known_tokens: how many of the text's own tokens after the prompt an attacker must type (know or guess)
            so that an interface that only ever returns the likeliest continuation says the rest: 0 where `is_greedy`,
            all of them where the last is not the likeliest. None where it was not looked at.
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
    argmax_known_tokens: int | None = None

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


@dataclass(frozen=True, kw_only=True)
class NearExtraction:
    """Bounds on the probability that a sample says a text nearly: that what it says begins within a few edits of it.

    Attributes:
        text: the text; left out of `repr`, since it may be a canary.
        edits: characters that may be inserted, deleted or replaced.
        low: at the least: the probability of what was found.
        high: at the most: all that was not ruled out.
        found: the likeliest near texts that were found, up to where they are near enough, each with the bits of its
            probability at the least. Left out of `repr`.
        tokens: fed to the model, those of the prompt and of beginnings that several calls share counted in each.
        forward_passes: calls of the model.
        expansions: beginnings of which every next token was looked at.
        seconds: wall time.
        note: what keeps the bounds apart; else "".
    """

    text: str = field(repr=False)
    edits: int
    low: float
    high: float
    found: tuple[Candidate, ...] = field(repr=False)
    tokens: int
    forward_passes: int
    expansions: int
    seconds: float
    note: str = ""

    @property
    def width(self) -> float:
        """How far the bounds are apart."""
        return self.high - self.low

    def probability_within(self, samples: int) -> tuple[float, float]:
        """Bounds on the probability that at least one of `samples` says it nearly.

        Example:
            >>> found = NearExtraction(text="", edits=1, low=0.5, high=0.75, found=(), tokens=0, forward_passes=0,
            ...     expansions=0, seconds=0.0)
            >>> found.probability_within(2)
            (0.75, 0.9375)
        """
        whole_number("samples", samples, 0)
        low, high = (
            (-math.expm1(samples * math.log1p(-p)) if p < 1 else float(samples > 0)) for p in (self.low, self.high)
        )
        return low, high
