"""The paper's extrapolation: fit a skew-normal law to the references' costs and read its tail.

There are three steps, which can be used separately: `fit_skew_normal` finds the maximum-likelihood law, `judge_fit`
checks whether its tail contains as many references as it should, and `skew_normal_exposure` computes `-log2` of the
CDF at a canary's cost.

That CDF must be accurate far beyond the point where it underflows. `scipy.stats.skewnorm.cdf` is 0 and `.logcdf` -inf
some ten standard deviations out on the short side, since the textbook form `Phi(z) - 2 T(z, a)` (T is Owen's function)
subtracts two equal numbers there. Below a CDF of 1e-5, `log_cdf` integrates the density relative to its value at z
instead, which neither cancels nor underflows.

Legend: K canaries, N references, z standardized cost, a shape; natural logarithms unless bits are named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize
from scipy.special import erfcx, log_ndtr, ndtr, owens_t
from scipy.stats import binomtest, kstest, skew

from hf_exposure.checks import flag, instance_of, real_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, checked_costs, number_array
from hf_exposure.estimators.estimate import CostEstimate

_LOG_2 = np.log(2.0)
_HALF_LOG_2_PI = 0.5 * np.log(2.0 * np.pi)
# Owen's T is accurate to about 1e-16 absolute, so at 1e-5 the difference keeps ten digits.
_TAIL_BELOW = 1e-5
# The integrand is cut off where it has fallen by at least this many nats.
_DEPTH = 40.0
# Panels as fractions of that reach, finer near z, where the mass is, with 20 nodes each.
_PANELS = (0.0, 0.125, 0.25, 0.5, 1.0)


def log_cdf(x: ArrayLike, shape: float, loc: float = 0.0, scale: float = 1.0) -> FloatArray:
    """`ln P(X <= x)` for a skew-normal X: density `2 phi(z) Phi(shape z) / scale`, with `z = (x - loc) / scale`.

    Args:
        x: any shape; +inf gives 0, -inf gives -inf, NaN stays NaN.
        shape: finite; positive leans right (short left tail), 0 is the normal law.
        loc, scale: finite, scale above 0.

    Returns:
        Natural logarithms, with the shape of `x`. The CDF is accurate to 1e-9 relative down to 1e-300, and the
        logarithm itself to 1e-12 relative beyond; near a CDF of 1 it is accurate to 1e-15 absolute. This was checked
        against mpmath for |shape| <= 1000.

    Raises:
        InputError: shape, loc or scale is not finite, or scale is not above 0.

    Source: Azzalini, Scand. J. Stat. 12 (1985); the quadrature is our own.

    Example:
        >>> log_cdf([0.0, -60.0], 0.0).round(4).tolist()      # a normal law: ln 1/2, and far out
        [-0.6931, -1805.0136]
        >>> log_cdf(-30.0, 4.0).round(2).item()               # scipy: -inf
        -7662.17
    """
    remedy = "Fit them to references."
    names, rule = "shape, loc, scale", "must be finite, the scale above 0"
    shape, loc = real_number(names, shape, rule, remedy), real_number(names, loc, rule, remedy)
    scale = real_number(names, scale, rule, remedy, above=0.0)
    z = (number_array("x", x) - loc) / scale
    flat = z.ravel()
    owen = 2.0 * owens_t(flat, shape)
    cdf = ndtr(flat) - owen
    with np.errstate(divide="ignore", invalid="ignore"):
        # Near 1 the complement is more accurate.
        out: FloatArray = np.where(
            cdf > 0.5, np.log1p(-np.clip(ndtr(-flat) + owen, 0.0, 1.0)), np.log(np.maximum(cdf, 0.0))
        )
    far = (cdf < _TAIL_BELOW) & np.isfinite(flat) & (_slope(flat, shape) > 0.0)
    out[far] = _integrated(flat[far], shape)
    return out.reshape(z.shape)


def inverse_mills(u: FloatArray) -> FloatArray:
    """`phi(u) / Phi(u)`, without forming either: about -u far to the left, 0 far to the right.

    Example:
        >>> inverse_mills(np.array([0.0, -1e6])).round(6).tolist()
        [0.797885, 1000000.000001]
    """
    # erfcx overflows to inf on the right, where the ratio is correctly 0.
    with np.errstate(divide="ignore"):  # u = -inf
        ratio: FloatArray = np.sqrt(2.0 / np.pi) / erfcx(-u / np.sqrt(2.0))
    return ratio


def _slope(z: FloatArray, shape: float) -> FloatArray:
    """Derivative of the log-density at z: positive left of the mode, where the density falls off to the left."""
    return -z + shape * inverse_mills(shape * z)


def _integrated(z: FloatArray, shape: float) -> FloatArray:
    """`ln P(Z <= z)` left of the mode: the density at z times the integral over t > 0 of density(z - t) / density(z).

    The log-density is concave, so that ratio falls ever faster: its reach is found by bisection and cut into panels.
    """
    at_z = log_ndtr(shape * z)

    def log_ratio(t: FloatArray) -> FloatArray:
        # The normal factor's difference is written out: z t - t^2 / 2 has no large terms to cancel.
        fall: FloatArray = t * (z - 0.5 * t) + (log_ndtr(shape * (z - t)) - at_z)
        return fall

    reach, too_far = np.zeros_like(z), _DEPTH / _slope(z, shape)
    for _ in range(40):
        middle = 0.5 * (reach + too_far)
        deep = log_ratio(middle) < -_DEPTH
        reach, too_far = np.where(deep, reach, middle), np.where(deep, middle, too_far)
    nodes, node_weights = np.polynomial.legendre.leggauss(20)
    integral = np.zeros_like(z)
    for left, right in zip(_PANELS[:-1], _PANELS[1:], strict=True):
        half = 0.5 * (right - left) * too_far
        for node, weight in zip(nodes, node_weights, strict=True):
            integral += weight * half * np.exp(log_ratio(left * too_far + half * (1.0 + node)))
    log_density: FloatArray = _LOG_2 - _HALF_LOG_2_PI - 0.5 * z**2 + at_z
    return log_density + np.log(integral)


FEWEST_REFERENCES = 20
# A larger |shape| cannot be distinguished from the half-normal law, to which the likelihood may tend.
LARGEST_SHAPE = 1000.0
# The fit is judged by the number of references below this quantile, and rejected below this p-value.
TAIL_QUANTILE = 0.01
REFUSED_BELOW = 0.001
# No skew-normal has a skewness beyond 0.9953, so the method of moments starts below that.
_LARGEST_SKEWNESS = 0.99
_ROUNDING = 1e-14


@dataclass(frozen=True, kw_only=True)
class SkewNormalFit:
    """Density `2 phi(z) Phi(shape z) / scale`, `z = (cost - loc) / scale`, costs in bits; natural log-likelihood."""

    shape: float
    loc: float
    scale: float
    log_likelihood: float


@dataclass(frozen=True, kw_only=True)
class FitJudgment:
    """Whether the fitted law matches the references' left tail.

    Attributes:
        good: the tail count does not refute it (`p_value >= REFUSED_BELOW`); with few references, little can refute
            it.
        observed: references at or below the fitted 1 % quantile.
        predicted: 1 % of the references.
        p_value: the two-sided binomial p-value.
        quantile_bits: the fitted 1 % quantile.
        ks_p_value: p-value of the Kolmogorov-Smirnov test, for information only: it depends on the number of
            references, is too favorable because the fit has seen them, and hardly considers the tail.
    """

    good: bool
    observed: int
    predicted: float
    p_value: float
    quantile_bits: float
    ks_p_value: float


def fit_skew_normal(references: ArrayLike) -> SkewNormalFit:
    """Fits a skew-normal law by maximum likelihood from several starts; deterministic.

    Args:
        references: (N,) finite costs in bits, N >= 20, not all equal.

    Returns:
        The likeliest `SkewNormalFit` with `|shape| <= 1000`.

    Raises:
        InputError: there are fewer than 20 references, one is NaN or infinite, or all are equal.

    Source: Carlini et al. 2019, Section 4.2; Azzalini 1985. The likelihood has a saddle at shape 0 and may have a mode
        on either side of it (Azzalini and Capitanio, JRSS B 61, 1999): hence the starts on both sides.

    Example:
        >>> fit = fit_skew_normal(np.arange(-50.0, 51.0) ** 3)
        >>> abs(fit.loc) < fit.scale
        True
    """
    references_N = checked_costs("references", references, smallest_count=FEWEST_REFERENCES, finite=True)
    mean, deviation = float(references_N.mean()), float(references_N.std())
    # If costs differ by rounding alone, the standardized ones are noise.
    if deviation <= _ROUNDING * float(np.abs(references_N).max()):
        raise InputError(
            "references", "must not all be equal", float(references_N[0]), "Score more texts, in higher precision."
        )
    standard_N = (references_N - mean) / deviation
    observed = float(np.clip(skew(standard_N), -_LARGEST_SKEWNESS, _LARGEST_SKEWNESS))
    best = min(
        (_climb(_start(skewness), standard_N) for skewness in (observed, -observed, 0.5, -0.5)),
        key=lambda found: found[1],
    )
    (shape, loc, log_scale), loss = best
    return SkewNormalFit(
        shape=shape,
        loc=mean + deviation * loc,
        scale=deviation * math.exp(log_scale),
        log_likelihood=-references_N.size * (loss + math.log(deviation)),
    )


def _start(skewness: float) -> FloatArray:
    """Shape, loc, log-scale of the skew-normal with mean 0, variance 1 and that skewness (method of moments)."""
    # A start at shape 0, a saddle point, would stay there.
    third = max(abs(skewness), 1e-3) ** (2.0 / 3.0)
    delta = math.copysign(math.sqrt(0.5 * math.pi * third / (third + (2.0 - 0.5 * math.pi) ** (2.0 / 3.0))), skewness)
    scale = 1.0 / math.sqrt(1.0 - 2.0 * delta**2 / math.pi)
    return np.array([delta / math.sqrt(1.0 - delta**2), -scale * delta * math.sqrt(2.0 / math.pi), math.log(scale)])


def _climb(start: FloatArray, standard_N: FloatArray) -> tuple[tuple[float, float, float], float]:
    """Minimizes the mean negative log-likelihood of standardized costs from `start`."""
    found = minimize(
        _loss,
        start,
        args=(standard_N,),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-LARGEST_SHAPE, LARGEST_SHAPE), (None, None), (-20.0, 5.0)],
        options={"maxiter": 2000, "maxfun": 10000, "maxcor": 20, "ftol": 1e-16, "gtol": 1e-10},
    )
    shape, loc, log_scale = (float(value) for value in found.x)
    return (shape, loc, log_scale), float(found.fun)


def _loss(parameters: FloatArray, standard_N: FloatArray) -> tuple[float, FloatArray]:
    """Mean negative log-likelihood, and its gradient in shape, loc and log-scale."""
    shape, loc, log_scale = parameters
    z = (standard_N - loc) * math.exp(-log_scale)
    mills = inverse_mills(shape * z)
    log_density = 0.5 * math.log(2.0 / math.pi) - log_scale - 0.5 * z**2 + log_ndtr(shape * z)
    in_z = shape * mills - z
    gradient = np.array([(mills * z).mean(), -in_z.mean() * math.exp(-log_scale), -1.0 - (in_z * z).mean()])
    return -float(log_density.mean()), -gradient


FitJudgement = FitJudgment
"""The earlier spelling of `FitJudgment`."""


def judge_fit(references: ArrayLike, fit: SkewNormalFit) -> FitJudgment:
    """Compares the number of references below the fitted 1 % quantile with the 1 % that should lie there.

    Args:
        references: (N,) costs in bits, those that were fitted.
        fit: the result of `fit_skew_normal`.

    Returns:
        `FitJudgment`; `good` is False below p = 0.001.

    Raises:
        InputError: there are no references, or one is NaN or infinite.

    Example (a flat law has no tail at all):
        >>> flat = np.linspace(40.0, 60.0, 2001)
        >>> judgment = judge_fit(flat, fit_skew_normal(flat))
        >>> judgment.good, judgment.observed, judgment.predicted
        (False, 0, 20.01)
    """
    references_N = checked_costs("references", references, smallest_count=1, finite=True)
    instance_of("fit", fit, SkewNormalFit, "Pass what fit_skew_normal returned.")
    law = (fit.shape, fit.loc, fit.scale)
    target = math.log(TAIL_QUANTILE)
    log_cdf(0.0, *law)  # refuses an invalid law
    try:
        quantile = brentq(
            lambda cost: float(log_cdf(cost, *law)) - target,
            fit.loc - 50.0 * fit.scale,
            fit.loc + 50.0 * fit.scale,
            xtol=1e-12 * fit.scale,
        )
    except ValueError:  # there are no floats between the ends, or no figures there
        rule = "must be a law whose quantiles floats can hold"
        raise InputError("fit", rule, law, "Pass what fit_skew_normal returned.") from None
    observed = int((references_N <= quantile).sum())
    p_value = float(binomtest(observed, references_N.size, TAIL_QUANTILE).pvalue)
    return FitJudgment(
        good=p_value >= REFUSED_BELOW,
        observed=observed,
        predicted=TAIL_QUANTILE * references_N.size,
        p_value=p_value,
        quantile_bits=float(quantile),
        ks_p_value=float(kstest(references_N, lambda cost: np.exp(log_cdf(cost, *law))).pvalue),
    )


def skew_normal_exposure(
    costs: ArrayLike, references: ArrayLike, *, accept_bad_fit: bool = False
) -> list[CostEstimate]:
    """Exposure as `-log2` of a skew-normal CDF fitted to uniform draws, at the canary's cost.

    This is an extrapolation, for comparison with the literature: at 30 bits it uses the fitted curve at probabilities
    a million times smaller than those of the references. So it has no interval (NaN: its sampling error is not its
    error), and it is never clipped at `log2 |R|`, which would make it look measured; the paper's Tables 2 and 6 do not
    clip it either.

    Args:
        costs: (K,) costs of the canaries in bits; +inf is exposure 0.
        references: (N,) finite costs of uniform draws, N >= 20.
        accept_bad_fit: whether to return the figure even if `judge_fit` rejects the fit.

    Returns:
        One `CostEstimate` per cost, in input order, with `low_bits` and `high_bits` NaN and `bound` "extrapolated". A
        rejected fit makes `exposure_bits` NaN too and `bound` "undefined"; the note gives observed and predicted tail
        counts.

    Raises:
        InputError: as for `fit_skew_normal`, or a cost is NaN.

    Source: Carlini et al. 2019, Section 4.2 "approximation by distribution modeling".

    Example (evenly spread quantiles of a normal law; at its mean -log2 of 1/2, six deviations below it 29.9 bits):
        >>> from scipy.stats import norm
        >>> references = 50 + 3 * norm.ppf((np.arange(4000) + 0.5) / 4000)
        >>> middle, far = skew_normal_exposure([50.0, 32.0], references)
        >>> round(middle.exposure_bits, 1), abs(far.exposure_bits + np.log2(norm.cdf(-6))) < 1
        (1.0, np.True_)
    """
    costs_K = checked_costs("costs", costs)
    flag("accept_bad_fit", accept_bad_fit)
    fit = fit_skew_normal(references)
    judgment = judge_fit(references, fit)
    bits_K = -log_cdf(costs_K, fit.shape, fit.loc, fit.scale) / math.log(2.0) + 0.0
    # Where the law has no mass in double precision, it gives no figure.
    bits_K = np.where(np.isfinite(bits_K), bits_K, np.nan)
    count = np.asarray(references).size
    note = f"extrapolated from a skew-normal fitted to {count} references, without a valid interval"
    if abs(fit.shape) >= LARGEST_SHAPE:
        note += f"; its shape reached the limit of {LARGEST_SHAPE:.0f}, so its tail is arbitrary"
    if not judgment.good:
        note = (
            f"the skew-normal does not fit: {judgment.observed} of {count} references lie below its 1 % quantile, "
            f"{judgment.predicted:.1f} predicted (p = {judgment.p_value:.1g})"
        )
        if not accept_bad_fit:
            bits_K = np.full(costs_K.shape, np.nan)
            note += "; accept_bad_fit=True shows the figure anyway"
    return [
        CostEstimate(
            exposure_bits=float(bits),
            low_bits=math.nan,
            high_bits=math.nan,
            method="skew_normal",
            bound="undefined" if math.isnan(bits) else "extrapolated",
            note=note,
        )
        for bits in bits_K
    ]
