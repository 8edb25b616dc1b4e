"""Membership statistics: was this record trained on? Each scores one text from its tokens; higher means member.

Every statistic is a pure function of `TokenSignals`, the results of one forward pass over a text, and, if it needs
them, of the same signals under a base model. Your own statistic can be any function of these two arguments:

    def surprise_of_the_worst_token(text, base):
        return float(text.log_probability_T.min())

    measure_membership(..., statistics={"worst_token": surprise_of_the_worst_token})

With `base_model=None`, `base` is None; return NaN where the score is undefined.

Shapes: T scored tokens of one text. Logarithms are base 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from hf_exposure.checks import real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.estimators.control_test import control_test

LEAST_LIKELY_SHARE = 0.2
"""The share of tokens that Min-K% and Min-K%++ use, as in their papers' main results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSignals:
    """The results of one forward pass for the T scored tokens of a text.

    Attributes:
        log_probability_T: log2 p of each token given those before it; -inf where the model excludes it.
        mean_T: mean of log2 p over the vocabulary, under the model's own distribution at that position: minus its
            entropy.
        variance_T: variance of log2 p over the vocabulary, under the same distribution.
        is_likeliest_T: whether the token is the model's first choice.
        compressed_bits: size of the scored text after compression by zlib.

    Example:
        >>> fair = TokenSignals(log_probability_T=np.array([-1.0, -1.0]), mean_T=np.array([-1.0, -1.0]),
        ...     variance_T=np.zeros(2), is_likeliest_T=np.array([True, False]), compressed_bits=80.0)
        >>> loss(fair), zlib_ratio(fair), exact_memorization(fair)
        (-1.0, -0.025, 0.5)
    """

    log_probability_T: FloatArray
    mean_T: FloatArray
    variance_T: FloatArray
    is_likeliest_T: NDArray[np.bool_]
    compressed_bits: float


Statistic = Callable[[TokenSignals, TokenSignals | None], float]
"""A membership statistic: the score of a text, from its signals and those under the base model, or None."""


def loss(text: TokenSignals, base: TokenSignals | None = None) -> float:
    """Minus the loss: the mean of log2 p over the text's tokens.

    Source: Yeom et al. 2018, "Privacy Risk in Machine Learning", Section 3.2.
    """
    return float(text.log_probability_T.mean())


def base_calibrated(text: TokenSignals, base: TokenSignals | None) -> float:
    """How much likelier the text's tokens are than under the base model: the mean of log2 p - log2 p_base.

    A token to which both models give probability 0 counts as 0. NaN without a base model.

    Source: Carlini et al. 2021, "Extracting Training Data from Large Language Models", Section 5.2; Watson et al.
        2022, "On the Importance of Difficulty Calibration in Membership Inference Attacks".
    """
    return math.nan if base is None else float(_gain(text, base).mean())


def zlib_ratio(text: TokenSignals, base: TokenSignals | None = None) -> float:
    """Minus the text's log-perplexity over its zlib entropy, both in bits and for the whole text.

    Texts that are easy for any compressor are expected to be easy for the model. With a mean over tokens in the
    numerator, as in some implementations, long texts would look like non-members; for texts of equal length the order
    is the same.

    Source: Carlini et al. 2021, Section 5.2.
    """
    return float(text.log_probability_T.sum() / text.compressed_bits)


def min_k(text: TokenSignals, base: TokenSignals | None = None, *, share: float = LEAST_LIKELY_SHARE) -> float:
    """Min-K%: the mean of log2 p over the least likely fifth of the tokens, at least one.

    Source: Shi et al. 2024, "Detecting Pretraining Data from Large Language Models", equation 1.
    """
    return _mean_of_lowest(text.log_probability_T, share)


def min_k_plus_plus(
    text: TokenSignals, base: TokenSignals | None = None, *, share: float = LEAST_LIKELY_SHARE
) -> float:
    """Min-K%++: like Min-K%, with log2 p in standard deviations from its mean over the vocabulary.

    If all tokens with positive probability are equally likely, the deviation is 0 and such a token scores 0.

    Source: Zhang et al. 2025, "Min-K%++: Improved Baseline for Detecting Pre-Training Data", equation 3.
    """
    above_T, spread_T = text.log_probability_T - text.mean_T, np.sqrt(text.variance_T)
    with np.errstate(divide="ignore", invalid="ignore"):
        score_T = np.where(spread_T > 0, above_T / spread_T, np.where(np.isneginf(above_T), -np.inf, 0.0))
    return _mean_of_lowest(score_T, share)


def error_zone(text: TokenSignals, base: TokenSignals | None) -> float:
    """EZ-MIA: at tokens that are not the model's first choice, the share of changes from the base model that are
    gains.

    With P the sum of all gains in log2 p at these tokens and N that of all losses, it is P / (P + N). It increases
    with the paper's P / N, so it ranks texts equally, and it is also defined if there are no losses. A text without
    such tokens scores 1, since the paper counts it as a member (Appendix E); one whose probabilities did not change
    scores 0.5. All scored tokens count, whereas the released code leaves out the first and scores 0 for fewer than two
    errors. NaN without a base model.

    Source: Ilić et al. 2026, "Powerful Training-Free Membership Inference Against Autoregressive Language Models"
        (arXiv 2601.12104).
    """
    if base is None:
        return math.nan
    gain_E = _gain(text, base)[~text.is_likeliest_T]
    up, down = float(gain_E[gain_E > 0].sum()), float(-gain_E[gain_E < 0].sum())
    if not gain_E.size:
        return 1.0
    if up == math.inf or down == math.inf:  # a token that has probability 0 under only one of the models
        return 0.5 if up == down else float(up > down)
    return 0.5 if up + down == 0 else up / (up + down)


STATISTICS: Mapping[str, Statistic] = MappingProxyType(
    {
        "loss": loss,
        "zlib": zlib_ratio,
        "min_k": min_k,
        "min_k_plus_plus": min_k_plus_plus,
        "base_calibrated": base_calibrated,
        "error_zone": error_zone,
    }
)
"""The statistics that are always computed, by their names in a report."""
NEED_BASE = frozenset({"base_calibrated", "error_zone"})
"""The statistics that are undefined without a base model."""


def exact_memorization(text: TokenSignals) -> float:
    """The share of tokens that are the model's first choice given those before them, from 0 to 1.

    Source: Tirumala et al. 2022, "Memorization Without Overfitting", Definition 1.
    """
    return float(text.is_likeliest_T.mean())


def extraction_strength(text: TokenSignals) -> float:
    """The longest suffix of the text that greedy decoding produces from everything before it, as a share of the
    tokens.

    1 if greedy decoding produces the whole text without a prompt, 0 if the last token is wrong. One forward pass is
    enough: greedy decoding reproduces a suffix if and only if each of its tokens is the first choice given the true
    ones before it.

    Source: Carlini et al. 2021, Section 3; Wang et al. 2025, "Towards Effective Evaluations and Comparisons for LLM
        Unlearning Methods", where it is 1 - k / T for the shortest prefix of k tokens.
    """
    wrong = np.flatnonzero(~text.is_likeliest_T)
    tokens = text.is_likeliest_T.size
    return 1.0 if not wrong.size else float((tokens - 1 - wrong[-1]) / tokens)


@dataclass(frozen=True, kw_only=True)
class Separation:
    """How well scores separate members from held-out records.

    Attributes:
        auc: share of (member, held-out) pairs in which the member scores higher, ties count half; None if undefined.
        auc_low, auc_high: ends of its two-sided confidence interval.
        p_value: one-sided: the probability that random labels put members at least this high.
        reason: why the figures are None; "" if they are defined.

    Example:
        >>> separation([3.0, 2.0], [1.0, 2.0]).auc
        0.875
    """

    auc: float | None
    auc_low: float | None
    auc_high: float | None
    p_value: float | None
    reason: str = ""


def separation(member_scores: ArrayLike, held_out_scores: ArrayLike, *, confidence_level: float = 0.95) -> Separation:
    """The AUC of some scores, with its interval and a rank test. Only their order counts, so infinite scores are
    allowed.

    If both kinds of record come from one distribution and the model saw neither, the p-value is uniform (up to ties).

    Args:
        member_scores, held_out_scores: (n,) and (m,); a higher score means member.
        confidence_level: of the interval.

    Raises:
        InputError: the scores are not a flat list of numbers.

    Source: see `control_test`.
    """
    level = checked_confidence(confidence_level)
    members_n, held_out_m = (
        _scores(name, values)
        for name, values in (("member_scores", member_scores), ("held_out_scores", held_out_scores))
    )
    undefined = int(np.isnan(members_n).sum() + np.isnan(held_out_m).sum())
    reason = ""
    if not members_n.size or not held_out_m.size:
        reason = "there are no members" if not members_n.size else "there are no held-out records"
    elif undefined:
        reason = f"the statistic is undefined for {undefined} of {members_n.size + held_out_m.size} records"
    if reason:
        return Separation(auc=None, auc_low=None, auc_high=None, p_value=None, reason=reason)
    costs = -rankdata(np.concatenate([members_n, held_out_m]))
    tested = control_test(costs[: members_n.size], costs[members_n.size :], confidence_level=level)
    return Separation(auc=tested.auc, auc_low=tested.auc_low, auc_high=tested.auc_high, p_value=tested.p_value)


def _scores(argument: str, values: ArrayLike) -> FloatArray:
    scores = number_array(argument, values)
    if scores.ndim != 1:
        raise InputError(argument, "must be a flat list of numbers", f"an array of shape {scores.shape}", "Ravel it.")
    return scores


def _gain(text: TokenSignals, base: TokenSignals) -> FloatArray:
    """(T,) log2 p - log2 p_base; 0 where both models give the token probability 0."""
    own_T, base_T = text.log_probability_T, base.log_probability_T
    if own_T.shape != base_T.shape:
        rule = f"must be the signals of the same {own_T.size} tokens"
        raise InputError("base", rule, f"{base_T.size} tokens", "Use a base model with the same tokenizer.")
    with np.errstate(invalid="ignore"):
        return np.where(np.isneginf(own_T) & np.isneginf(base_T), 0.0, own_T - base_T)


def _mean_of_lowest(score_T: FloatArray, share: float) -> float:
    rule = "must be above 0 and at most 1"
    share = real_number("share", share, rule, "Write share=0.2.", above=0.0, at_most=1.0)
    lowest = max(1, int(share * score_T.size))
    return float(np.sort(score_T)[:lowest].mean())
