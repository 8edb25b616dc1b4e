"""Figure 11: the cost of finding a canary against its exposure, by this package's search and by the paper's.

Training is stopped at every other epoch. The paper's search is Dijkstra's algorithm: one prefix per call, the cheapest
first. This package's search returns the certified rank and evaluates many prefixes per call. Both must expand every
prefix with a lower cost than the canary.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, train
from hf_exposure import Canary, draw_canaries, extract, presets, rank_bounds

SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        **{"characters": 6_000, "width": 16, "epochs": 2, "every": 1, "repetitions": {8: 1}, "digits": 3},
        **{"budget": 1_000, "paper_budget": 1_000, "seeds": [0]},
    },
    "small": {
        **{"characters": 60_000, "width": 96, "epochs": 14, "every": 2, "repetitions": {4: 1, 16: 1}, "digits": 6},
        **{"budget": 120_000, "paper_budget": 2_000, "seeds": [0, 1, 2]},
    },
    "full": {
        **{"characters": 400_000, "width": 268, "epochs": 20, "every": 1, "repetitions": {1: 1, 4: 1, 16: 1}},
        **{"digits": 9, "budget": 300_000, "paper_budget": 100_000, "seeds": [0, 1, 2, 3, 4]},
    },
}
TRAINING: dict[str, Any] = {"batch_size": 16, "learning_rate": 6e-3}
NEAR_TOP_BITS = 2.0


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    canaries = draw_canaries(presets.random_number(settings["digits"]), settings["repetitions"], controls=0, seed=seed)
    torch.manual_seed(seed)
    model, points = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), []

    def look(epoch: int) -> None:
        if epoch % settings["every"] == 0:
            found = [search_both_ways(model, corpus, canary, settings) for canary in canaries.inserted]
            points.extend(point | {"epoch": epoch} for point in found if point is not None)

    training = Training(epochs=settings["epochs"], seed=seed, **TRAINING)
    train(model, corpus.train_with(canaries, seed), training, after_epoch=look)
    return {"seed": seed, "points": points}


def search_both_ways(model: Any, corpus: Corpus, canary: Canary, settings: dict[str, Any]) -> dict[str, float] | None:
    """The cost of both searches for one canary; None if ours does not end within its budget.

    The paper's search is left out (NaN) if it would need more calls of the model than its own budget allows.
    """
    template = canary.template
    ours = rank_bounds(model, corpus.tokenizer, canary.text, template, max_expansions=settings["budget"])
    if not ours.certified:
        return None
    point = {
        "repetitions": canary.repetitions,
        "exposure": template.log2_space_size - math.log2(ours.high),
        "below_top": math.log2(ours.high),
        "expansions": ours.expansions,
        "calls": ours.forward_passes,
        "seconds": ours.seconds,
    }
    if ours.expansions > settings["paper_budget"]:
        return point | dict.fromkeys(("paper_expansions", "paper_calls", "paper_seconds"), math.nan)
    # Dijkstra's search has found the canary once the number of texts it found equals the canary's rank.
    paper = extract(model, corpus.tokenizer, template, top_k=ours.high, unbatched=True)
    return point | {
        "paper_expansions": paper.expansions,
        "paper_calls": paper.forward_passes,
        "paper_seconds": paper.seconds,
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    for each in runs:
        each.update(summary(each["points"], settings["digits"]))
    figures = {"runs": runs}
    write_result(
        options,
        "figure11_search_cost",
        corpus=corpus,
        settings=settings | {"architecture": "lstm"} | TRAINING,
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs),
        plots=page_plots(runs),
        cost=watch.read(),
    )


def summary(points: list[dict[str, Any]], digits: int) -> dict[str, float]:
    """One seed's slope of log2(prefixes) on exposure, and its means; NaN if it has no such search."""
    exposures, costs = [p["exposure"] for p in points], np.log2([p["expansions"] for p in points])
    both = [math.log2(p["paper_calls"] / p["calls"]) for p in points if math.isfinite(p["paper_calls"])]
    near = [p["expansions"] for p in points if p["below_top"] <= NEAR_TOP_BITS]
    return {
        "slope": float(np.polyfit(exposures, costs, 1)[0]) if len(set(exposures)) > 1 else math.nan,
        "log2_calls_ratio": float(np.mean(both)) if both else math.nan,
        "largest_share_near_top": max(near) / ((10**digits - 1) // 9) if near else math.nan,
    }


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians by exposure."""
    points = [point for run in runs for point in run["points"]]
    rows = []
    for low in range(0, 30, 3):
        own = [point for point in points if low <= point["exposure"] < low + 3]
        if own:
            ours = [f"{np.median([point[key] for point in own]):.3g}" for key in ("expansions", "calls", "seconds")]
            paper = [point for point in own if math.isfinite(point["paper_calls"])]
            theirs = [
                f"{np.median([point[key] for point in paper]):.3g}" if paper else "not run"
                for key in ("paper_calls", "paper_seconds")
            ]
            rows.append([f"{low} to {low + 3}", len(own), *ours, *theirs])
    columns = ["exposure", "searches", "prefixes expanded", "ours: calls", "seconds", "Dijkstra: calls", "seconds"]
    return {"columns": columns, "rows": rows}


def page_plots(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points = [point for run in runs for point in run["points"]]
    paper = [point for point in points if math.isfinite(point["paper_calls"])]
    series = [
        {"name": name, "kind": "points", "x": [p["exposure"] for p in own], "y": [p[key] for p in own]}
        for name, own, key in (
            ("prefixes expanded", points, "expansions"),
            ("calls, Dijkstra: one prefix each", paper, "paper_calls"),
            ("calls, ours: many prefixes each", points, "calls"),
        )
    ]
    title = "Cost of finding a canary, by its exposure"
    return [{"title": title, "x": "exposure (bits)", "y": "number", "log_y": 10, "series": series}]


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
