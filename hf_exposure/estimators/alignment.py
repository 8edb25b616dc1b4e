"""Do the weights of a first layer lie along the principal components of its inputs?

A network that is trained on random labels learns the directions in which its inputs vary: the covariance of its
first-layer weights, over the neurons, becomes aligned with that of the inputs, so that both have the same
eigenvectors. This explains why pre-training on random labels can help.

With principal components e_k of the inputs and the covariance A of the weights, restricted to them,

    misalignment  =  mean over k of  sqrt( (e_k' A e_k) (e_k' A^-1 e_k) )  -  1

which is 0 if all e_k are eigenvectors of A. A covariance estimated from few neurons is never exactly aligned, so two
values are computed for comparison: that of aligned normal weights, and that of the same weights in other directions.

Legend: N examples, D inputs, H neurons, K components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import gammaln

from hf_exposure.checks import real_number, whole_number
from hf_exposure.errors import InputError
from hf_exposure.estimators.arrays import FloatArray, number_array
from hf_exposure.limits import LARGEST_SEED


@dataclass(frozen=True, eq=False, kw_only=True)
class PrincipalAlignment:
    """Alignment of the weights of neurons with the principal components of the inputs.

    Attributes:
        input_variance_K: variance of the inputs along each component, largest first.
        weight_variance_K: variance of the weights over the neurons, along the same components.
        transfer: Spearman's rank correlation of the two; NaN with fewer than 3 components, or if one of the two does
            not vary.
        misalignment: the misalignment; 0 if the components are eigenvectors of the weights' covariance.
        if_aligned: mean misalignment of the same number of neurons with normal weights whose covariance is aligned.
        if_rotated: misalignment of these weights with random orthogonal directions, mean over `rotations`. It is near
            `if_aligned` if the weights have about equal variance in all directions, as at initialization; then nothing
            can be concluded.
        score: (if_rotated - misalignment) / (if_rotated - if_aligned): 1 if weights are aligned, 0 if the components
            are no better than random directions. NaN if all directions of the weights are alike (`if_rotated` is not
            above `if_aligned`).
    """

    input_variance_K: FloatArray
    weight_variance_K: FloatArray
    transfer: float
    misalignment: float
    if_aligned: float
    if_rotated: float
    score: float


def principal_alignment(
    inputs_ND: ArrayLike, weights_HD: ArrayLike, variance: float = 0.9, rotations: int = 20, seed: int = 0
) -> PrincipalAlignment:
    """Alignment of first-layer weights with the principal components of the inputs.

    Args:
        inputs_ND: inputs of the layer, such as pixels.
        weights_HD: a row for each neuron: `layer.weight` of a linear layer; of a convolution flattened filters, with
            patches as `inputs_ND`.
        variance: as many components are used as are needed for this share of the inputs' variance.
        rotations, seed: random directions for comparison.

    Returns:
        `PrincipalAlignment`.

    Raises:
        InputError: the arrays do not match, or there are too few neurons: there must be 3 more neurons than
            components.

    Source: Maennel et al., "What Do Neural Networks Learn When Trained With Random Labels?", NeurIPS 2020, section 2,
        for aligned covariances and transfer; the misalignment is their sum over components, taken as a mean.

    Example (weights that are along the axes, and inputs that are, too):
        >>> generator = np.random.default_rng(0)
        >>> inputs = generator.normal(size=(500, 2)) * [3.0, 1.0]
        >>> weights = generator.normal(size=(500, 2)) * [5.0, 1.0]
        >>> found = principal_alignment(inputs, weights, variance=1.0)
        >>> round(found.misalignment, 2), found.if_rotated > 0.3
        (0.0, True)
    """
    inputs, weights = number_array("inputs_ND", inputs_ND), number_array("weights_HD", weights_HD)
    if inputs.ndim != 2 or weights.ndim != 2 or inputs.shape[1] != weights.shape[1] or len(inputs) < 2:
        rule, shapes = "must be matrices with as many columns", f"shapes {inputs.shape} and {weights.shape}"
        raise InputError("inputs_ND, weights_HD", rule, shapes, "Pass inputs of the layer, and its weight matrix.")
    if not (np.isfinite(inputs).all() and np.isfinite(weights).all()):
        raise InputError("inputs_ND, weights_HD", "must be finite", "others", "Leave diverged runs out.")
    rule = "must be above 0 and at most 1"
    share = real_number("variance", variance, rule, "Write 0.9.", above=0.0, at_most=1.0)
    rotations = whole_number("rotations", rotations, 1, 10_000)
    generator = np.random.default_rng(whole_number("seed", seed, 0, LARGEST_SEED))
    _, singular, components = np.linalg.svd(inputs - inputs.mean(0), full_matrices=False)
    variances = singular**2 / (len(inputs) - 1)
    positive = variances > variances[0] * 1e-10 if variances[0] > 0 else variances > 0
    if not positive.any():
        raise InputError("inputs_ND", "must vary", "equal rows", "Pass different inputs.")
    variances, components = variances[positive], components[positive]
    kept = int(np.searchsorted(np.cumsum(variances), share * variances.sum() * (1 - 1e-12))) + 1
    kept = min(kept, len(variances))
    if len(weights) < kept + 3:
        rule = f"must have 3 more neurons than the {kept} components"
        raise InputError("weights_HD", rule, len(weights), "Lower variance, or use a wider layer.")
    # Coordinates of the neurons in the components.
    places_HK = (weights - weights.mean(0)) @ components[:kept].T
    covariance_KK = places_HK.T @ places_HK / (len(weights) - 1)
    along_K = np.diag(covariance_KK).copy()
    inverse_KK = np.linalg.pinv(covariance_KK, hermitian=True)
    found = _misalignment(covariance_KK, inverse_KK, np.eye(kept))
    turned = []
    for _ in range(rotations):
        basis_KK = np.linalg.qr(generator.normal(size=(kept, kept)))[0]
        turned.append(_misalignment(covariance_KK, inverse_KK, basis_KK))
    if_aligned, if_rotated = _if_aligned(len(weights), kept), float(np.mean(turned))
    varies = kept >= 3 and np.ptp(along_K) > 0.0 and np.ptp(variances[:kept]) > 0.0
    gap = if_rotated - if_aligned
    return PrincipalAlignment(
        input_variance_K=variances[:kept],
        weight_variance_K=along_K,
        transfer=float(stats.spearmanr(variances[:kept], along_K).statistic) if varies else math.nan,
        misalignment=found,
        if_aligned=if_aligned,
        if_rotated=if_rotated,
        score=(if_rotated - found) / gap if gap > 0.0 else math.nan,
    )


def _misalignment(covariance_KK: FloatArray, inverse_KK: FloatArray, basis_KK: FloatArray) -> float:
    """Mean over the columns of a basis; rounding may make a product slightly smaller than 1."""
    products_K = (basis_KK * (covariance_KK @ basis_KK)).sum(0) * (basis_KK * (inverse_KK @ basis_KK)).sum(0)
    return float(np.sqrt(np.maximum(products_K, 1.0)).mean() - 1.0)


def _if_aligned(neurons: int, components: int) -> float:
    """The mean for normal weights of diagonal covariance.

    A product is 1 / (1 - R^2), where R^2 belongs to the regression of one coordinate on the others, and 1 - R^2 has a
    beta law with a = (H - K) / 2 and b = (K - 1) / 2.
    """
    if components == 1:
        return 0.0
    a, b = (neurons - components) / 2.0, (components - 1) / 2.0
    return float(np.exp(gammaln(a - 0.5) + gammaln(a + b) - gammaln(a) - gammaln(a + b - 0.5)) - 1.0)
