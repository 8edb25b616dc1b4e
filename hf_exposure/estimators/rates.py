"""True-positive rates at a fixed false-positive rate, with intervals, and the ROC curve.

The AUC of an attack hides its strongest part: an attack that identifies one member in a hundred and is never wrong has
an AUC near 0.5. Hence the true-positive rate at a small false-positive rate (Carlini et al. 2022), computed from the
scores of members and of controls.

The threshold is estimated too. A false-positive rate of 1 % read from 100 controls is the rate of *these* controls;
that of the population may well be 2 %. An interval that treats the threshold as given covers the truth too rarely, so
`tpr_at_fpr` uses half of its error for the threshold and half for the members:

    t       the threshold that a share `fpr` of all controls exceeds
    order statistics of the controls hold t between two of them: the number of controls above t is binomial
    Clopper-Pearson limits of the members' share, at the two ends

Legend: n members, m controls, V distinct scores and the point before the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom, nhypergeom, rankdata

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_confidence, number_array
from hf_exposure.estimators.control_test import auc_limits

# Tolerance for a rate that is not exact in binary: 1 / (1 / 49) is slightly above 49.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class TruePositiveRate:
    """The share of members recognized at a false-positive rate of at most `fpr`.

    Attributes:
        rate: share of the given members at the lowest threshold that at most a share `fpr` of the given controls
            passes; None with fewer than `needed` controls, since no control would then pass, and the rate would not be
            the one asked for.
        low, high: confidence limits on the rate of all members at the threshold that a share `fpr` of all controls
            passes. They are defined for any number of controls; few of them give 0 or 1.
        fpr, confidence_level: as asked.
        needed: the number of controls from which on the rate is defined: 1 / fpr, rounded up.
        needed_for_low: the number of controls from which on a `low` above 0 is possible.
        members, controls: how many were given.
        true_positives: members beyond the threshold; None if `rate` is.
        false_positives: controls beyond it; None if `rate` is.
    """

    rate: float | None
    low: float
    high: float
    fpr: float
    confidence_level: float
    needed: int
    needed_for_low: int
    members: int
    controls: int
    true_positives: int | None
    false_positives: int | None


@dataclass(frozen=True, kw_only=True)
class ChanceRate:
    """The distribution of `tpr_at_fpr(...).rate` if members and controls are exchangeable and scores have no ties.

    Attributes:
        mean: slightly above `fpr`, since the threshold is the first control that must not pass.
        low, high: central range of the rate of one attack, with a probability of at least `confidence_level`.
        variance: the variance of the rate of one attack.
        fpr, confidence_level, members, controls: as given.
    """

    mean: float
    low: float
    high: float
    variance: float
    fpr: float
    confidence_level: float
    members: int
    controls: int


@dataclass(frozen=True, eq=False, kw_only=True)
class RocCurve:
    """True-positive rate against false-positive rate at every threshold.

    Attributes:
        fpr_V, tpr_V: from (0, 0), the threshold that nothing passes, to (1, 1). Tied scores share a point.
        thresholds_V: a score passes if it is at least this; inf first.
        auc: the area below the line through the points; ties count half.
        auc_low, auc_high: its two-sided confidence interval, as in `control_test`.
        confidence_level: of that interval.
        members, controls: how many were given.
    """

    fpr_V: FloatArray
    tpr_V: FloatArray
    thresholds_V: FloatArray
    auc: float
    auc_low: float
    auc_high: float
    confidence_level: float
    members: int
    controls: int


def tpr_at_fpr(
    member_scores: ArrayLike, control_scores: ArrayLike, fpr: float = 0.01, confidence_level: float = 0.95
) -> TruePositiveRate:
    """The share of members above the score that at most a share `fpr` of the controls exceeds.

    A score that is tied with the first control that must not pass does not pass either: ties count against the attack.

    Args:
        member_scores: (n,) higher means member: minus the log-perplexity, say. Infinite scores are allowed.
        control_scores: (m,) scores of texts that the model never saw, but that are otherwise exchangeable with the
            members.
        fpr: strictly between 0 and 1.
        confidence_level: two-sided, of `low` to `high`.

    Returns:
        `TruePositiveRate`. Its interval accounts for the sampling of members and of controls, and covers the true rate
        with probability at least `confidence_level`, whatever the two distributions are. (If scores have ties, there
        may be no threshold with exactly the rate `fpr`; the true rate is then that of the lowest threshold whose rate
        is at most `fpr`.) At 1 % and 95 % no `low` above 0 is possible with fewer than 437 controls.

    Raises:
        InputError: a group is empty, a score is NaN, or the rate or level is impossible.

    Source: Carlini et al., "Membership Inference Attacks From First Principles" (2022), section 4, for the rate; order
        statistics as limits of a quantile: David and Nagaraja, Order Statistics (2003), section 7.1; the share:
        Clopper and Pearson, Biometrika 26 (1934).

    Example (3 of 4 members exceed the largest of 4 controls but one):
        >>> found = tpr_at_fpr([0.9, 0.8, 0.7, 0.1], [0.75, 0.6, 0.5, 0.2], fpr=0.25)
        >>> found.rate, found.true_positives, found.false_positives
        (0.75, 3, 1)
        >>> tpr_at_fpr([0.9], [0.1], fpr=0.01).rate, tpr_at_fpr([0.9], [0.1], fpr=0.01).needed
        (None, 100)
    """
    members_n = _checked_scores("member_scores", member_scores)
    controls_m = _checked_scores("control_scores", control_scores)
    rule, remedy = "must lie strictly between 0 and 1", "Type 0.01."
    fpr = real_number("fpr", fpr, rule, remedy, above=0.0, below=1.0)
    level = checked_confidence(confidence_level)
    n, m = members_n.size, controls_m.size
    descending_m = np.sort(controls_m)[::-1]
    allowed = min(math.floor(fpr * m + _ROUNDING), m - 1)
    true_positives = false_positives = None
    if allowed:
        first_out = descending_m[allowed]
        true_positives = int((members_n > first_out).sum())
        false_positives = int((controls_m > first_out).sum())
    tail = (1.0 - level) / 4.0
    # t is at most the j-th largest control unless fewer than j controls reach t; at least a share fpr of the
    # population does.
    j = int(binom.ppf(tail, m, fpr))
    low = 0.0
    if j:
        hits = int((members_n > descending_m[j - 1]).sum())
        low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    # t is at least the k-th largest control unless k or more controls exceed t; at most a share fpr of the population
    # does.
    k = int(binom.isf(tail, m, fpr)) + 1
    high = 1.0
    if k <= m:
        hits = int((members_n > descending_m[k - 1]).sum())
        high = float(beta.isf(tail, hits + 1, n - hits)) if hits < n else 1.0
    return TruePositiveRate(
        rate=None if true_positives is None else true_positives / n,
        low=low,
        high=high,
        fpr=fpr,
        confidence_level=level,
        needed=math.ceil(1.0 / fpr - _ROUNDING),
        needed_for_low=math.ceil(math.log(tail) / math.log1p(-fpr)),
        members=n,
        controls=m,
        true_positives=true_positives,
        false_positives=false_positives,
    )


def chance_tpr(members: int, controls: int, fpr: float = 0.01, confidence_level: float = 0.95) -> ChanceRate:
    """The result of `tpr_at_fpr` by chance, for members and controls that differ only by random labels.

    The threshold is the control of rank `floor(fpr * m) + 1`, and the number of members that a random order of all
    scores puts above it has a negative hypergeometric distribution, whatever the scores are.

    Args:
        members, controls: their numbers, n and m.
        fpr: as for `tpr_at_fpr`.
        confidence_level: the level of the central range.

    Raises:
        InputError: there are no members, or fewer controls than `tpr_at_fpr` needs for a rate, or the rate or level is
            impossible.

    Source: Johnson, Kemp and Kotz, Univariate Discrete Distributions (2005), section 6.2.2.

    Example (by hand: of 4 controls one may pass, and a member has one of 5 places among them, 2 of which are above the
    second control):
        >>> round(chance_tpr(3, 4, fpr=0.25).mean, 6)
        0.4
        >>> found = chance_tpr(1000, 1000)
        >>> round(found.mean, 4), found.low, found.high
        (0.011, 0.003, 0.021)
    """
    n = whole_number("members", members, 1)
    rule = "must lie strictly between 0 and 1"
    fpr = real_number("fpr", fpr, rule, "Type 0.01.", above=0.0, below=1.0)
    level = checked_confidence(confidence_level)
    m = whole_number("controls", controls, math.ceil(1.0 / fpr - _ROUNDING))
    allowed = min(math.floor(fpr * m + _ROUNDING), m - 1)
    law = nhypergeom(n + m, n, allowed + 1)
    low, high = (float(end) / n for end in law.ppf([(1.0 - level) / 2.0, (1.0 + level) / 2.0]))
    return ChanceRate(
        mean=(allowed + 1) / (m + 1),
        low=low,
        high=high,
        variance=float(law.var()) / n**2,
        fpr=fpr,
        confidence_level=level,
        members=n,
        controls=m,
    )


def roc_curve(member_scores: ArrayLike, control_scores: ArrayLike, confidence_level: float = 0.95) -> RocCurve:
    """True- and false-positive rates at every threshold, and the area below them with its interval.

    Args:
        member_scores: (n,) higher means member. Infinite scores are allowed.
        control_scores: (m,) scores of texts that the model never saw.
        confidence_level: two-sided, of the area.

    Returns:
        `RocCurve`.

    Raises:
        InputError: a group is empty, a score is NaN, or the level is impossible.

    Source: Fawcett, "An introduction to ROC analysis" (2006), Algorithm 1; the interval is that of `control_test`.

    Example:
        >>> curve = roc_curve([0.9, 0.8, 0.3], [0.8, 0.2])
        >>> curve.fpr_V.tolist(), curve.tpr_V.round(3).tolist()
        ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.333, 0.667, 1.0, 1.0])
        >>> round(curve.auc, 4)
        0.75
    """
    members_n = _checked_scores("member_scores", member_scores)
    controls_m = _checked_scores("control_scores", control_scores)
    level = checked_confidence(confidence_level)
    n, m = members_n.size, controls_m.size
    values_V = np.unique(np.concatenate([members_n, controls_m]))[::-1]
    # The number of each that reach a value, that is, are not below it.
    tpr_V = (n - np.searchsorted(np.sort(members_n), values_V, side="left")) / n
    fpr_V = (m - np.searchsorted(np.sort(controls_m), values_V, side="left")) / m
    midranks = rankdata(np.concatenate([members_n, controls_m]))
    auc = (float(midranks[:n].sum()) - n * (n + 1) / 2) / (n * m)
    low, high = auc_limits(auc, n, m, level)
    return RocCurve(
        fpr_V=np.append(0.0, fpr_V),
        tpr_V=np.append(0.0, tpr_V),
        thresholds_V=np.append(math.inf, values_V),
        auc=auc,
        auc_low=low,
        auc_high=high,
        confidence_level=level,
        members=n,
        controls=m,
    )


def _checked_scores(argument: str, values: ArrayLike) -> FloatArray:
    scores = number_array(argument, values)
    if scores.ndim != 1:
        raise InputError(argument, "must be a flat list of numbers", f"an array of shape {scores.shape}", "Ravel it.")
    if not scores.size:
        raise InputError(argument, "must hold at least 1 score", 0, "Score more texts.")
    if np.isnan(scores).any():
        raise InputError(argument, "must not hold NaN", int(np.isnan(scores).sum()), "Find out why it is undefined.")
    return scores
