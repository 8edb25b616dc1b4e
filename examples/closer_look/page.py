"""Writes `docs/closer_look.md` and its plots from what the scripts stored: `python -m examples.closer_look.page`.

Results, words, verdicts and claims are kept and shown as those of `examples.secret_sharer.page`; a result without a
JSON file was not run.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from examples.closer_look import RESULTS
from examples.secret_sharer import page as common
from examples.secret_sharer.page import Result
from examples.secret_sharer.plots import draw_plot

__all__ = ["NOT_WRITTEN", "load_results", "page", "write_page"]

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = "closer_look"
ORDER = (
    *("figure1_difficulty", "figure5_capacity", "figure6_time_to_fit", "figure7_label_noise"),
    *("figure9_critical_samples", "figure3_loss_sensitivity", "figure10_regularizers", "survey_forgetting"),
    *("survey_layers", "neighbors_by_layer", "same_examples"),
)
NOT_WRITTEN = (
    ("Figure 3, right: loss-sensitivity with as many classes as examples", "no script yet"),
    ("Section 5: adversarial training beside dropout", "no script yet"),
    ("The same on a text classifier", "no script yet"),
)
_HEAD = """# A Closer Look at Memorization, reproduced

Results of Arpit et al., "A Closer Look at Memorization in Deep Networks", ICML 2017
([arXiv 1706.05394](https://arxiv.org/abs/1706.05394)), and of measures within one training that a survey of
memorization lists, measured again with `hf_exposure`: one script a result in
[examples/closer_look](../examples/closer_look). What must come back is the trend. Data are MNIST's training images, in
random parts of a few thousand, and networks have two hidden layers of rectified linear units, as in the paper's MNIST
part. Both are smaller than the paper's, and training is SGD with momentum, which the paper's is without. Figures are
not to be compared digit by digit.

Every claim is a rule on numbers stored in [examples/closer_look/results](../examples/closer_look/results). Scripts and
rules were committed before the runs, and no rule was changed after. Intervals and shaded bands are 95 % t-intervals of
the mean over seeds; each seed draws its own images, noise, initialization and order. A test evaluates every claim
anew.

This page is made by `python -m examples.closer_look.page`. What `hf_exposure` offers for this is in
[training dynamics](dynamics.md).
"""


def load_results(folder: Path = RESULTS) -> list[Result]:
    """All results that have words, in the page's order."""
    found = [dataclasses.replace(one, package=PACKAGE) for one in common.load_results(folder)]
    return sorted(found, key=lambda one: ORDER.index(one.name) if one.name in ORDER else len(ORDER))


def page(results: list[Result]) -> str:
    """The whole page as Markdown."""
    text = common.page(results, head=_HEAD)
    rows = "\n".join(f"| {title} | not run | {why} |" for title, why in NOT_WRITTEN)
    return f'{text}\n<a id="not-run"></a>\n\n## Not run\n\n| result | verdict | why |\n|---|---|---|\n{rows}\n'


def write_page(docs: Path = DOCS) -> None:
    """The page, and every plot."""
    results = load_results()
    for result in results:
        for spec, image in zip(result.record["plots"] if result.record else [], result.images, strict=True):
            draw_plot(spec, docs / image)
    (docs / "closer_look.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    write_page()
