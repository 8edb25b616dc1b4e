"""Writes `docs/closer_look.md` and its plots from what the scripts stored: `python -m examples.closer_look.page`.

The files of a result, and the way it is shown, are those of `examples.secret_sharer.page`.
"""

from __future__ import annotations

from examples.closer_look import RESULTS
from examples.secret_sharer.page import Package, write_page

__all__ = ["CLOSER_LOOK"]

_HEAD = """# A Closer Look at Memorization, reproduced

Results of Arpit et al., "A Closer Look at Memorization in Deep Networks", ICML 2017
([arXiv 1706.05394](https://arxiv.org/abs/1706.05394)), and of measures within one training that a survey of
memorization lists, measured again with `hf_exposure`, with one script per result in
[examples/closer_look](../examples/closer_look). The aim is to reproduce the trends. The data are random parts of
MNIST's training images, mostly a few thousand, and the networks have two hidden layers of rectified linear units, as
in the paper's MNIST part. Both are smaller than the paper's, and training is SGD with momentum, where the paper has
none. Two new results are on texts: help topics that come with Python. Only trends can be compared with the paper, not
values.

A claim is a rule on stored numbers, in [examples/closer_look/results](../examples/closer_look/results); a test
evaluates each rule again. Scripts and rules were committed before the runs, and no rule was changed afterwards. A
claim is attributed to the paper, or to another work that the table names, where that work states the trend; how large
an effect a rule asks for is our choice. The other claims are ours. The verdict depends on the attributed claims alone:
it **holds** if all of them do, **holds in part** if all that were tested do, and **differs** if one does not. **Ours
alone** means that no claim is attributed. Claims were attributed after the runs.

Some results have a **second study**, planned after the results of the first one, with more data or with a rule that
the first one suggested, and at most one per claim. Its size and rules were committed before it ran. It uses new seeds,
as do the pilots that its text mentions. The first study and its verdict stay on the page.

Intervals and shaded bands are 95 % t-intervals of the mean over seeds; each seed draws its own images, noise,
initialization and order.

This page is made by `python -m examples.closer_look.page`. [Training dynamics](dynamics.md) describes the functions of
`hf_exposure` used here.
"""
CLOSER_LOOK = Package(
    name="closer_look",
    results=RESULTS,
    page="closer_look",
    order=(
        *("figure1_difficulty", "figure1_difficulty_second", "figure2_filters"),
        *("figure5_capacity", "figure5_capacity_second", "figure6_time_to_fit", "figure6_time_to_fit_second"),
        *("figure7_label_noise", "figure9_critical_samples", "figure3_loss_sensitivity"),
        *("figure10_regularizers", "figure10_regularizers_second"),
        *("survey_forgetting", "survey_forgetting_second", "survey_layers", "neighbors_by_layer", "same_examples"),
        *("text_noise", "text_noise_second", "canary_forgetting"),
    ),
    head=_HEAD,
)


if __name__ == "__main__":
    write_page(CLOSER_LOOK)
