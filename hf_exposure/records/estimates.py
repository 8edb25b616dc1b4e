"""Results for one text: its exposure, its rank, whether a search extracts it, and whether the model generates it.

Logarithms are base 2, scores are in bits. Undefined figures are NaN (or None for a rank), and `note` gives the reason.
Notes are for readers; programs use `bound`, which gives the kind of an exposure's figure.
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
        log_perplexity_bits: `sum_i -log2 p(x_i | x_<i)` of its whole text; null in JSON if it is infinite, or if all
            are withheld.
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
    """One canary's measurement: the canary (`CanaryCost`), and the figures of an estimator (`CostEstimate`).

    Attributes:
        base_exposure_bits: its exposure under the base model; NaN without one. Training added `exposure_bits -
            base_exposure_bits`.
        effective_dose: how often the model was trained on it so far: the count in the training batches
            (`CanaryDose.whole`) if the report's `doses` have it; otherwise an estimate: rows delivered in an epoch x
            epochs x the share of its tokens that counts in the loss. NaN if neither is known.
        guessing_entropy_bits: log2 of the number of guesses of an attacker who has the model and tries secrets in its
            order: log2|R'| minus the exposure. Without the model it is log2|R'| - 1, so the work saved is the exposure
            minus one bit (Carlini et al. 2019, Section 4.1). NaN if the exposure is.
        lead_bits: by how many bits the likeliest text that was not inserted costs more than the canary: above 0 if the
            canary ranks first, below 0 if others are likelier. NaN if it was not computed (`lead=True`) or not found.
    """

    base_exposure_bits: Figure = math.nan
    guessing_entropy_bits: Figure = math.nan
    lead_bits: Figure = math.nan
    effective_dose: Amount = math.nan


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Facts about a search, common to all kinds of search.

    Attributes:
        certified: whether the search ended with a proof; each result says what is proven.
        expansions: states with more than one child that were expanded.
        forward_passes: calls of the model.
        model_rows: rows fed to the model, summed over the calls.
        seconds: wall time.
        backend: name of the token automaton that was searched.
        exactness: "proven" if it is certain that the search covers every text: each was encoded, or the tokenizer's
            own data show it. "audited" if 10,000 sampled texts were encoded and none was missed, so that with 95 %
            confidence fewer than 0.03 % are outside the search.
        mode: the scoring mode: "packed", "cached", "plain" or "alone" (`CausalScorer`).
        note: why it is not certified or not proven, and other limitations; "" otherwise.
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
    """The likeliest texts of a template under a model, most likely first, and the cost of the search (`SearchResult`).

    Certified means that no text of the template outside `candidates` is likelier than the last of them.

    Attributes:
        candidates: tuple of `Candidate`, ascending by log-perplexity.
        rest_is_impossible: whether every text outside `candidates` has probability 0 under the model, as have
            candidates with infinitely many bits. There may then be fewer candidates than `top_k`, or none.
    """

    candidates: tuple[Candidate, ...]
    rest_is_impossible: bool = False


@dataclass(frozen=True, kw_only=True)
class RankBounds(SearchResult):
    """Bounds on the rank of one text among all texts of its template, `low <= rank <= high`, and the cost of the
    search.

    Certified means that the search was completed; then `low < high` only for ties within the stated tolerance.

    Attributes:
        low, high: bounds as exact ints, from 1; ties count against the text.
        log_perplexity_bits: the log-perplexity of the text itself.
    """

    low: int
    high: int
    log_perplexity_bits: float


@dataclass(frozen=True, kw_only=True)
class Discoverability:
    """How likely a model is to generate one text after the prefix of its template.

    Attributes:
        text: the text; left out of `repr`, since it may be a canary.
        bits: `-log2` of the probability that one sample is the text, verbatim; inf if that is impossible.
        is_greedy: whether greedy decoding generates the text, verbatim.
        greedy_edits: number of characters to insert, delete or replace to turn the output of greedy decoding into the
            secret.
        argmax_known_tokens: number of the text's tokens after the prompt that an attacker must type (know or guess) so
            that an interface that only returns the likeliest continuation generates the rest: 0 if `is_greedy`, all of
            them if the last one is not the likeliest. None if it was not computed.
        samples, near_samples, near_edits: of `samples` samples, `near_samples` were within `near_edits` edits of it.

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
        """The probability that at least one of `samples` samples is the text: `1 - (1 - 2^-bits)^samples`.

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
        """The smallest number n of samples that contain the text with at least this probability p: the text is (n,
        p)-discoverable.

        It is inf if no number suffices. A `probability` of 0 needs none; 1 needs inf, unless every sample is the text.

        Raises:
            InputError: `probability` is outside 0 to 1.
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
    """Bounds on the probability that a sample nearly matches a text: that its beginning is within a few edits of the
    text.

    Attributes:
        text: the text; left out of `repr`, since it may be a canary.
        edits: the number of characters that may be inserted, deleted or replaced.
        low: lower bound: the probability of the near texts that were found.
        high: upper bound: the probability of everything that was not ruled out.
        found: the likeliest near texts that were found, cut where they are near enough, each with the bits of the
            lower bound of its probability. Left out of `repr`.
        tokens: number of tokens fed to the model; those of prompts and beginnings count in each call.
        forward_passes: calls of the model.
        expansions: number of beginnings whose next tokens were all examined.
        seconds: wall time.
        note: why the bounds differ; "" otherwise.
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
        """The difference of the bounds."""
        return self.high - self.low

    def probability_within(self, samples: int) -> tuple[float, float]:
        """Bounds on the probability that at least one of `samples` samples nearly matches it.

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
