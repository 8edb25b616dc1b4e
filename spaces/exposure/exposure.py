"""Exposure as a module for `evaluate`: log-perplexities in, bits out.

Loaded by path, as every `evaluate` module: `evaluate.load(hf_exposure.hub.metric_path())`.
"""

from __future__ import annotations

from typing import Any

import datasets
import evaluate

# The loader looks for this name among the installed packages.
import hf_exposure.estimators

_CITATION = """\
@inproceedings{carlini2019secret,
  title={The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural Networks},
  author={Carlini, Nicholas and Liu, Chang and Erlingsson, Ulfar and Kos, Jernej and Song, Dawn},
  booktitle={USENIX Security},
  year={2019}
}
"""

_DESCRIPTION = """\
Exposure of a canary: how much likelier a model finds a secret from its training data than other secrets of the same
form. log2 of the number of possible secrets less log2 of its rank among them, estimated from the log-perplexities of
random ones. A secret that the model never saw has 1.44 bits on average, and exceeds x bits with probability 2^-x.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: log-perplexity of each canary: the sum over its tokens of -log2 p(token), in bits.
    references: for each canary a list of log-perplexities of random texts of its template (the same list again for
        canaries that share a template).
    method: "sample" (default) counts references at or below the canary: log2((N + 1) / (m + 1)), exactly valid for a
        canary that was never inserted, at most log2(N + 1). "skew_normal" extrapolates from a skew-normal fitted to at
        least 20 references, as the paper does; an exposure whose fit is refused is None.
    space_size: the number of texts of the template, an upper limit for "sample".
    confidence_level: of the intervals of "sample".
Returns:
    exposure: list of exposures in bits, one for each canary, in order; None where undefined.
    exposure_mean: their mean; None where one is undefined.
    low, high: lists with the ends of the confidence intervals; None where there is none.
    bound: list with what kind of figure each is: "interval", "lower" (a lower bound), "extrapolated" or "undefined".
Examples:
    Of nine texts (eight references and the canary) the first canary is likelier than all, the second has four at or
    below it: log2(9 / 1) and log2(9 / 5).

    >>> import evaluate
    >>> from hf_exposure.hub import metric_path
    >>> exposure = evaluate.load(metric_path())
    >>> references = [1.0, 2.0, 3.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    >>> results = exposure.compute(predictions=[0.5, 3.0], references=[references, references])
    >>> [round(bits, 4) for bits in results["exposure"]], round(results["exposure_mean"], 4)
    ([3.1699, 0.848], 2.009)
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Exposure(evaluate.Metric):  # type: ignore[misc]  # it has no types
    """See `_DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            module_type="metric",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Sequence(datasets.Value("float64")),
                }
            ),
            codebase_urls=["https://pypi.org/project/hf-exposure"],
            reference_urls=["https://arxiv.org/abs/1802.08232"],
        )

    def _compute(
        self,
        predictions: Any,
        references: Any,
        method: str = "sample",
        space_size: int | None = None,
        confidence_level: float = 0.95,
    ) -> dict[str, Any]:
        estimates = [
            _estimate([cost], list(others), method, space_size, confidence_level)
            for cost, others in zip(predictions, references, strict=True)
        ]
        bits = [_finite(estimate.exposure_bits) for estimate in estimates]
        defined = [value for value in bits if value is not None]
        return {
            "exposure": bits,
            "exposure_mean": sum(defined) / len(bits) if bits and len(defined) == len(bits) else None,
            "low": [_finite(estimate.low_bits) for estimate in estimates],
            "high": [_finite(estimate.high_bits) for estimate in estimates],
            "bound": [estimate.bound for estimate in estimates],
        }


def _estimate(
    costs: list[float], references: list[float], method: str, space_size: int | None, confidence_level: float
) -> Any:
    if method == "sample":
        (estimate,) = hf_exposure.estimators.sampling_exposure(
            costs, references, space_size=space_size, confidence_level=confidence_level
        )
    elif method == "skew_normal":
        (estimate,) = hf_exposure.estimators.skew_normal_exposure(costs, references)
    else:
        raise ValueError(f"method: must be 'sample' or 'skew_normal', got {method!r}. Leave it out for 'sample'.")
    return estimate


def _finite(value: float) -> float | None:
    value = float(value)
    return value if abs(value) < float("inf") else None
