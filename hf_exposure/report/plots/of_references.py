"""How surprised the model is by texts of the template, and where the canaries stand: the paper's Figure 3."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_exposure.report.plots.style import group_name, marker_style, new_figure

if TYPE_CHECKING:
    from hf_exposure.estimators import SkewNormalFit
    from hf_exposure.report.exposure_report import ExposureReport
    from hf_exposure.report.references import ReferenceCosts

__all__ = ["of_references"]

# Rows of canaries below the histogram: with more counts than this the rare ones in the middle are left out.
_MOST_ROWS = 8


def of_references(report: ExposureReport) -> Any:
    """The histogram of reference costs with the fitted skew-normal law; below it, a row of canaries for each count."""
    references = report.references
    assert references is not None
    groups = report.groups
    shown = groups if len(groups) <= _MOST_ROWS else (*groups[:1], *groups[1 - _MOST_ROWS :])
    what = "all texts of the template" if references.whole_space else "uniformly drawn texts of the template"
    title = f"Log-perplexity of {references.count:,} {what}, and of the canaries"
    figure, (above, below) = new_figure(title, panels=2, heights=(0.7, 0.14 + 0.07 * len(shown)))
    counts, edges = _readable(references)
    above.stairs(counts, edges, fill=True, color="#bbbbbb", label="references")
    law = references.law
    if law is not None:
        costs = np.linspace(edges[0] - 0.1 * (edges[-1] - edges[0]), edges[-1], 400)
        width = edges[1] - edges[0]
        expected = references.count * width * skew_normal_density(costs, law)
        above.plot(costs, expected, color="black", linewidth=1.4, label="fitted skew-normal")
    above.set_ylabel("references per bin")
    above.legend(frameon=False, fontsize=9)
    for place, group in enumerate(shown):
        marks = [e.log_perplexity_bits for e in report.estimates if e.repetitions == group.repetitions]
        style = marker_style(groups.index(group))
        below.plot(
            marks, [place] * len(marks), linestyle="none", markersize=5.5, alpha=0.7, markeredgewidth=0, **style
        )
    below.set_yticks(range(len(shown)), [group_name(group.repetitions) for group in shown], fontsize=9)
    below.set_ylim(-0.6, len(shown) - 0.4)
    below.set_ylabel("inserted")
    below.set_xlabel("log-perplexity (bits; left is likelier)")
    return figure


def _readable(references: ReferenceCosts) -> tuple[Any, Any]:
    """Counts and edges of the bins, joined by twos until they are few enough to show a shape and not the noise."""
    counts, edges = np.array(references.counts), references.edges_bits
    while len(counts) % 2 == 0 and len(counts) > max(16, 2 * math.sqrt(references.count)):
        counts, edges = counts.reshape(-1, 2).sum(axis=1), edges[::2]
    return counts, edges


def skew_normal_density(costs: Any, law: SkewNormalFit) -> Any:
    """`2 phi(z) Phi(shape z) / scale` with `z = (cost - loc) / scale`: per bit."""
    from scipy.special import ndtr

    z = (np.asarray(costs) - law.loc) / law.scale
    return 2.0 / law.scale * np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi) * ndtr(law.shape * z)
