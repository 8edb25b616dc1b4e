"""Figure 3: the log-perplexities of a million random numbers, and the skew-normal law fitted to them.

Exposure by extrapolation relies on this distribution. It is tested as in the paper, by a Kolmogorov-Smirnov test, and
also in the left tail, which is relevant for memorized canaries.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import kstest, skewnorm

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, train
from hf_exposure import draw_canaries, log_perplexity, presets, rank_bounds
from hf_exposure.estimators.skew_normal import SkewNormalFit, fit_skew_normal, judge_fit

SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 8_000, "width": 16, "epochs": 1, "samples": 2_000, "seeds": [0]},
    "small": {"characters": 100_000, "width": 32, "epochs": 12, "samples": 1_000_000, "seeds": [0, 1, 2]},
    "full": {"characters": 250_000, "width": 268, "epochs": 12, "samples": 1_000_000, "seeds": [0, 1, 2, 3, 4]},
}
TEMPLATE = presets.random_number(9)
# The test uses the paper's million samples and fewer, to show from how many on the difference is detected.
TESTED = (1_000, 10_000, 100_000, 1_000_000)
BINS = 80


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    canaries = draw_canaries(TEMPLATE, {4: 1}, controls=0, seed=seed)
    torch.manual_seed(seed)
    model = make_model("lstm", len(corpus.tokenizer), width=settings["width"])
    train(model, corpus.train_with(canaries, seed), Training(epochs=settings["epochs"], seed=seed))
    secret = canaries.inserted[0].text
    drawn = np.random.default_rng(seed).integers(TEMPLATE.space_size, size=settings["samples"]).tolist()
    texts = [secret, *(TEMPLATE.text_at(index) for index in drawn)]
    # A recurrent model needs as many steps for many rows as for few.
    canary_bits, *others = log_perplexity(model, corpus.tokenizer, texts, max_batch_tokens=2**16).tolist()
    costs_N = np.asarray(others)
    fit = fit_skew_normal(costs_N)
    counts, edges = np.histogram(costs_N, bins=BINS)
    exact = rank_bounds(model, corpus.tokenizer, secret, TEMPLATE, max_expansions=50_000)
    return {
        "seed": seed,
        "canary_bits": canary_bits,
        "shape": fit.shape,
        "loc": fit.loc,
        "scale": fit.scale,
        "tests": [tested(fit, costs_N[:count], count) for count in TESTED if count <= len(costs_N)],
        "extrapolated_exposure_bits": float(-skewnorm.logcdf(canary_bits, fit.shape, fit.loc, fit.scale) / np.log(2)),
        "certified_exposure_bits": [float(TEMPLATE.log2_space_size - np.log2(r)) for r in (exact.high, exact.low)],
        "counts": counts.tolist(),
        "edges": edges.tolist(),
    }


def tested(fit: SkewNormalFit, costs_N: np.ndarray, count: int) -> dict[str, float]:
    """The law fitted to all samples, tested on the first `count` of them."""
    ks = kstest(costs_N, skewnorm(fit.shape, fit.loc, fit.scale).cdf)
    judged = judge_fit(costs_N, fit)
    return {
        "samples": count,
        "distance": float(ks.statistic),
        "p_value": float(ks.pvalue),
        "tail_observed": judged.observed,
        "tail_predicted": judged.predicted,
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    for each in runs:
        each["last_p_value"] = each["tests"][-1]["p_value"]
        each["last_distance"] = each["tests"][-1]["distance"]
        each["p_value_at_10_000"] = each["tests"][min(1, len(each["tests"]) - 1)]["p_value"]
    figures = {"runs": runs}
    write_result(
        options,
        "figure3_skew_normal",
        corpus=corpus,
        settings=settings | {"architecture": "lstm", "repetitions": 4},
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs),
        plots=[page_plot(runs[0])],
        cost=watch.read(),
    )


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = ["seed", "samples", "KS distance", "KS p-value", "numbers below the law's 1 % quantile", "expected"]
    rows = [
        [
            run["seed"],
            f"{test['samples']:,}",
            f"{test['distance']:.4f}",
            f"{test['p_value']:.2g}",
            test["tail_observed"],
            f"{test['tail_predicted']:.0f}",
        ]
        for run in runs
        for test in run["tests"]
    ]
    return {"columns": columns, "rows": rows}


def page_plot(run: dict[str, Any]) -> dict[str, Any]:
    edges = np.asarray(run["edges"])
    centers, width = (edges[1:] + edges[:-1]) / 2, float(edges[1] - edges[0])
    law = skewnorm(run["shape"], run["loc"], run["scale"]).pdf(centers) * width
    shares = np.asarray(run["counts"]) / sum(run["counts"])
    return {
        "title": f"Log-perplexities of {sum(run['counts']):,} numbers and the skew-normal law (seed 0)",
        "x": "log-perplexity (bits)",
        "y": "share of the numbers",
        "series": [
            {"name": "measured", "kind": "bars", "x": centers.tolist(), "y": shares.tolist(), "width": width},
            {"name": "skew-normal", "x": centers.tolist(), "y": law.tolist()},
        ],
        "lines": [{"x": run["canary_bits"], "label": "the canary"}],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
