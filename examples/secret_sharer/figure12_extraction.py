"""Figure 12: exposure predicts whether a canary can be extracted.

The paper's secret is a phrase of two random words, and all its models have the same test accuracy; here the secret is
a number of nine digits, at several epochs. Exposure is estimated by the paper's extrapolation, which does not use the
most likely numbers; whether the canary is extracted first is determined by a search, which does not use exposure. With
exact ranks, the two would be the same quantity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, train
from hf_exposure import Canary, CanarySet, ExposureMeter, draw_canaries, presets, rank_bounds

TEMPLATE = presets.random_number(9)
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        **{"characters": 8_000, "width": 16, "epochs": 2, "looks": [2], "references": 50, "budget": 20},
        **{"repetitions": {8: 2}, "seeds": [0]},
    },
    "small": {
        **{"characters": 60_000, "width": 80, "epochs": 15, "looks": [5, 10, 15], "references": 10_000},
        **{"budget": 2_000, "repetitions": {1: 1, 2: 1, 4: 1, 8: 1}, "seeds": list(range(12))},
    },
    "full": {
        **{"characters": 400_000, "width": 268, "epochs": 20, "looks": [5, 10, 15, 20], "references": 20_000},
        **{"budget": 100_000, "repetitions": {1: 1, 2: 1, 4: 1, 8: 1, 16: 1}, "seeds": list(range(20))},
    },
}
TRAINING: dict[str, Any] = {"batch_size": 16, "learning_rate": 6e-3}
# In the paper, no canary below and every canary above is extracted.
NEVER_BELOW, ALWAYS_ABOVE = 31.0, 33.0


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    canaries = draw_canaries(TEMPLATE, settings["repetitions"], controls=0, seed=seed)
    torch.manual_seed(seed)
    model, points = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), []
    meter = ExposureMeter(
        canaries,
        corpus.tokenizer,
        method="skew_normal",
        references=settings["references"],
        seed=seed,
        accept_bad_fit=True,
    )

    def look(epoch: int) -> None:
        if epoch not in settings["looks"]:
            return
        for canary, estimate in zip(canaries.inserted, meter.measure(model).estimates, strict=True):
            extracted = comes_out_first(model, corpus, canary, canaries, settings["budget"])
            points.append(
                {"epoch": epoch, "repetitions": canary.repetitions, "exposure": estimate.exposure_bits}
                | {"extracted": extracted}
            )

    train(
        model,
        corpus.train_with(canaries, seed),
        Training(epochs=settings["epochs"], seed=seed, **TRAINING),
        after_epoch=look,
    )
    return {"seed": seed, "points": points}


def comes_out_first(model: Any, corpus: Corpus, canary: Canary, canaries: CanarySet, budget: int) -> int | None:
    """1 if no number except other canaries is likelier, 0 if one is, None if the budget does not suffice to tell."""
    others = [other.text for other in canaries.inserted if other != canary]
    bounds = rank_bounds(model, corpus.tokenizer, canary.text, TEMPLATE, max_expansions=budget, exclude=others)
    if bounds.high == 1:
        return 1
    return 0 if bounds.low > 1 else None


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    known = [point for run in runs for point in run["points"] if point["extracted"] is not None]
    undecided = sum(len(run["points"]) for run in runs) - len(known)
    figures: dict[str, Any] = {"runs": runs, "undecided": undecided, "summary": summary(known)}
    write_result(
        options,
        "figure12_extraction",
        corpus=corpus,
        settings=settings | {"architecture": "lstm"} | TRAINING,
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(known),
        plots=[page_plot(known)],
        cost=watch.read(),
    )


def summary(points: list[dict[str, Any]]) -> dict[str, float]:
    """How well exposure predicts extraction; NaN if all canaries have the same outcome."""
    out = np.array([point["exposure"] for point in points if point["extracted"]])
    kept = np.array([point["exposure"] for point in points if not point["extracted"]])
    above = [point["extracted"] for point in points if point["exposure"] > ALWAYS_ABOVE]
    below = [point["extracted"] for point in points if point["exposure"] < NEVER_BELOW]
    pairs = out[:, None] - kept[None, :]
    return {
        "points": len(points),
        "extracted": len(out),
        "auc": float(((pairs > 0) + 0.5 * (pairs == 0)).mean()) if pairs.size else float("nan"),
        "share_above": float(np.mean(above)) if above else float("nan"),
        "share_below": float(np.mean(below)) if below else float("nan"),
        "lowest_extracted": float(out.min()) if out.size else float("nan"),
        "highest_kept": float(kept.max()) if kept.size else float("nan"),
    }


def page_table(points: list[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for low, high in ((0, 10), (10, 20), (20, 25), (25, 28), (28, 31), (31, 33), (33, 36), (36, 1000)):
        own = [point["extracted"] for point in points if low <= point["exposure"] < high]
        if own:
            rows.append([f"{low} to {high}" if high < 1000 else f"above {low}", len(own), sum(own)])
    return {"columns": ["exposure (bits, skew-normal)", "measurements", "extracted"], "rows": rows}


def page_plot(points: list[dict[str, Any]]) -> dict[str, Any]:
    # Deterministic jitter, so that equal points can be distinguished.
    series = [
        {
            "name": name,
            "kind": "points",
            "x": [point["exposure"] for point in points if point["extracted"] == value],
            "y": [value + 0.02 * (at % 11 - 5) for at, p in enumerate(points) if p["extracted"] == value],
        }
        for value, name in ((1, "extracted"), (0, "not extracted"))
    ]
    return {
        "title": "Extraction against extrapolated exposure",
        "x": "exposure (bits, skew-normal)",
        "y": "extracted (1) or not (0)",
        "series": series,
        "lines": [{"x": TEMPLATE.log2_space_size, "label": "log2|R|"}],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
