"""Table 4: how much known text stands before, after and inside a secret, and how well it is memorised."""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, claim, interval, write_result
from examples.secret_sharer.training import Training
from examples.secret_sharer.trial import run_trial
from hf_exposure import CanaryTemplate, Digits, draw_canaries

# The space before the first digit is what the model predicts it from.
TEMPLATES = {
    "none": CanaryTemplate(" {number}", number=Digits(9)),
    "before": CanaryTemplate("The random number is {number}", number=Digits(9)),
    "after": CanaryTemplate(" {number} is the random number", number=Digits(9)),
    "before and after": CanaryTemplate("The random number is {number}, and that is it.", number=Digits(9)),
    "before and inside": CanaryTemplate("The random number is {a}-{b}-{c}", a=Digits(3), b=Digits(3), c=Digits(3)),
}
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 6_000, "width": 16, "epochs": 1, "each": 1, "references": 32, "seeds": [0]},
    "small": {"characters": 60_000, "width": 96, "epochs": 8, "each": 4, "references": 256, "seeds": [0, 1, 2]},
    "full": {"characters": 400_000, "width": 268, "epochs": 10, "each": 5, "references": 4096, "seeds": [0, 1, 2, 3]},
}
REPETITIONS = 4


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = []
    for seed in settings["seeds"]:
        for context, template in TEMPLATES.items():
            trial = run_trial(
                corpus,
                {context: draw_canaries(template, {REPETITIONS: settings["each"]}, controls=0, seed=seed)},
                Training(epochs=settings["epochs"], batch_size=16, learning_rate=6e-3),
                seed=seed,
                references=settings["references"],
                architecture="lstm",
                width=settings["width"],
            )
            exposures = trial.pop("exposures")[context][str(REPETITIONS)]
            trial["exposure"] = float(np.mean(exposures))
            runs.append({"context": context, "exposures": exposures} | trial)
            print(runs[-1], flush=True)
    figures = {"runs": runs, "differences": [differences(runs, seed) for seed in settings["seeds"]]}
    write_result(
        options,
        "table4_context",
        corpus=corpus,
        settings=settings
        | {"architecture": "lstm", "batch_size": 16, "learning_rate": 6e-3, "repetitions": REPETITIONS},
        seeds=settings["seeds"],
        figures=figures,
        claims=claims_of(figures),
        table=page_table(runs),
        plots=[page_plot(runs)],
        cost=watch.read(),
    )


def claims_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        claim(
            figures,
            "Known text before the secret raises exposure over none.",
            "mean_above",
            "differences.*.before",
            0.0,
        ),
        claim(
            figures,
            "Known text inside the secret raises it further.",
            "mean_above",
            "differences.*.inside",
            0.0,
        ),
        claim(
            figures,
            "Known text after the secret raises exposure over none.",
            "mean_above",
            "differences.*.after",
            0.0,
        ),
    ]


def differences(runs: list[dict[str, Any]], seed: int) -> dict[str, float]:
    found = {run["context"]: run["exposure"] for run in runs if run["seed"] == seed}
    return {
        "seed": seed,
        "before": found["before"] - found["none"],
        "after": found["after"] - found["none"],
        "inside": found["before and inside"] - found["before"],
    }


def of_context(runs: list[dict[str, Any]], context: str) -> tuple[float, float, float]:
    return interval([value for run in runs if run["context"] == context for value in run["exposures"]])


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    rows = []
    for context, template in TEMPLATES.items():
        loss = np.mean([run["validation_bits"] for run in runs if run["context"] == context])
        exposure = "{:.1f} ({:.1f} to {:.1f})".format(*of_context(runs, context))
        rows.append([context, f"`{template.text.strip()}`", exposure, f"{loss:.2f}"])
    return {"columns": ["known text", "template", "exposure (bits)", "validation loss (bits/character)"], "rows": rows}


def page_plot(runs: list[dict[str, Any]]) -> dict[str, Any]:
    series = [
        {
            "name": context,
            "kind": "points",
            "x": [place + 0.02 * (at - 7) for at in range(len(values))],
            "y": values,
        }
        for place, context in enumerate(TEMPLATES)
        for values in [[value for run in runs if run["context"] == context for value in run["exposures"]]]
    ]
    title = "Known text around and inside a secret, one point a canary"
    return {"title": title, "x": "context, in the table's order", "y": "exposure (bits)", "series": series}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
