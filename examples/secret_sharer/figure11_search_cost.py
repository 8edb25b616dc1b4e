"""Figure 11: what it costs to find a canary, against its exposure, by our search and by the paper's.

A model is stopped after every epoch. The paper's search is Dijkstra's: one prefix a call, the cheapest first. Ours
gives the certified rank and feeds many prefixes in one call. Both must expand every prefix cheaper than the canary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, claim, write_result
from examples.secret_sharer.training import Corpus, Training, train
from hf_exposure import draw_canaries, extract, presets, rank_bounds

TEMPLATE = presets.random_number(9)
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 8_000, "width": 16, "epochs": 2, "repetitions": {8: 1}, "budget": 20, "seeds": [0]},
    "small": {
        "characters": 100_000,
        "width": 96,
        "epochs": 8,
        "repetitions": {4: 1, 8: 1, 16: 1},
        "budget": 600,
        "seeds": [0, 1, 2],
    },
    "full": {
        "characters": 400_000,
        "width": 268,
        "epochs": 20,
        "repetitions": {1: 1, 2: 1, 4: 1, 8: 1, 16: 1},
        "budget": 100_000,
        "seeds": [0, 1, 2, 3, 4],
    },
}
NEAR_TOP_BITS = 2.0


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    canaries = draw_canaries(TEMPLATE, settings["repetitions"], controls=0, seed=seed)
    torch.manual_seed(seed)
    model, points = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), []

    def look(epoch: int) -> None:
        for canary in canaries.inserted:
            point = search_both_ways(model, corpus, canary.text, settings["budget"])
            if point is not None:
                points.append(point | {"epoch": epoch, "repetitions": canary.repetitions})

    train(model, corpus.train_with(canaries, seed), Training(epochs=settings["epochs"], seed=seed), after_epoch=look)
    return {"seed": seed, "points": points}


def search_both_ways(model: Any, corpus: Corpus, text: str, budget: int) -> dict[str, float] | None:
    """The cost of both searches for one canary; None where ours does not end within the budget."""
    ours = rank_bounds(model, corpus.tokenizer, text, TEMPLATE, max_expansions=budget)
    if not ours.certified:
        return None
    # Dijkstra's search has found the canary once it has as many texts as the canary's rank.
    paper = extract(
        model, corpus.tokenizer, TEMPLATE, top_k=ours.high, unbatched=True, max_expansions=max(2 * budget, 100)
    )
    return {
        "exposure": TEMPLATE.log2_space_size - math.log2(ours.high),
        "rank": ours.high,
        "expansions": ours.expansions,
        "calls": ours.forward_passes,
        "seconds": ours.seconds,
        "paper_found": int(any(candidate.text == text for candidate in paper.candidates)),
        "paper_expansions": paper.expansions,
        "paper_calls": paper.forward_passes,
        "paper_seconds": paper.seconds,
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    for each in runs:
        exposures = [point["exposure"] for point in each["points"]]
        costs = np.log2([point["expansions"] for point in each["points"]])
        each["slope"] = float(np.polyfit(exposures, costs, 1)[0]) if len(set(exposures)) > 1 else math.nan
        each["log2_calls_ratio"] = mean_or_nan([math.log2(p["paper_calls"] / p["calls"]) for p in each["points"]])
        near = [p for p in each["points"] if p["exposure"] >= TEMPLATE.log2_space_size - NEAR_TOP_BITS]
        each["paper_expansions_near_top"] = mean_or_nan([p["paper_expansions"] for p in near])
    figures = {"runs": runs}
    write_result(
        options,
        "figure11_search_cost",
        corpus=corpus,
        settings=settings | {"architecture": "lstm"},
        seeds=settings["seeds"],
        figures=figures,
        claims=claims_of(figures),
        table=page_table(runs),
        plots=page_plots(runs),
        cost=watch.read(),
    )


def claims_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        claim(
            figures,
            "The cost falls as a power of two in exposure: the slope of log2(prefixes) is negative.",
            "mean_below",
            "runs.*.slope",
            0.0,
        ),
        claim(
            figures,
            "Within 2 bits of the highest exposure the paper's search needs at most 10^4 of 10^9 numbers' prefixes.",
            "all_at_most",
            "runs.*.paper_expansions_near_top",
            1e4,
        ),
        claim(
            figures,
            "Batched search takes fewer calls of the model: log2 of the paper's calls over ours.",
            "mean_above",
            "runs.*.log2_calls_ratio",
            0.0,
        ),
    ]


def mean_or_nan(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians by exposure."""
    points = [point for run in runs for point in run["points"]]
    rows = []
    for low in range(0, 30, 5):
        own = [point for point in points if low <= point["exposure"] < low + 5]
        if own:
            keys = ("expansions", "calls", "seconds", "paper_expansions", "paper_calls", "paper_seconds")
            middle = {key: float(np.median([point[key] for point in own])) for key in keys}
            rows.append([f"{low} to {low + 5}", len(own), *(f"{middle[key]:.4g}" for key in keys)])
    columns = ["exposure", "searches", "ours: prefixes", "calls", "seconds", "Dijkstra: prefixes", "calls", "seconds"]
    return {"columns": columns, "rows": rows}


def page_plots(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points = [point for run in runs for point in run["points"]]
    exposures = [point["exposure"] for point in points]
    plots = []
    for what, title in (("expansions", "Prefixes expanded"), ("calls", "Calls of the model")):
        series = [
            {"name": name, "kind": "points", "x": exposures, "y": [point[key + what] for point in points]}
            for name, key in (("the paper's Dijkstra, one prefix a call", "paper_"), ("ours: certified rank", ""))
        ]
        spec = {"title": f"{title} until the canary is found", "x": "exposure (bits)", "y": what, "log_y": 10}
        plots.append(spec | {"series": series})
    return plots


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
