"""Figure 4 and Section 6.1: seven-word canaries, the middle three words random, inserted up to ten thousand times.

The model is trained for one epoch, like models with very large training sets. The paper uses a word model trained on
e-mail; here a character model is trained on the same kind of phrase.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, band, interval, write_result
from examples.secret_sharer.training import Corpus, Training
from examples.secret_sharer.trial import run_trial
from hf_exposure import draw_canaries, presets

SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        **{"characters": 6_000, "width": 16, "plans": [{1: 1}, {10: 1}], "references": 32, "seeds": [0]},
    },
    "small": {
        **{"characters": 400_000, "width": 64, "plans": [{1: 4, 10: 4, 100: 2, 1000: 1}, {10_000: 1}]},
        **{"references": 4096, "seeds": [0, 1, 2, 3]},
    },
    "full": {
        **{"characters": 4_000_000, "width": 268, "plans": [{1: 4, 10: 4, 100: 4, 1000: 2, 10_000: 1}]},
        **{"references": 4096, "seeds": [0, 1, 2, 3, 4]},
    },
}
TEMPLATE = presets.smart_compose()
# Rows are short, so that a text of 400,000 characters has as many rows as the most frequent phrase.
ROW_CHARACTERS, BATCH_ROWS = 35, 32


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus, runs = options.corpus(settings["characters"], ROW_CHARACTERS), []
    counts = [count for plan in settings["plans"] for count in plan]
    for seed in settings["seeds"]:
        # Ten thousand rows of one phrase would be most of the data of the model with the other phrases.
        trials = [one_model(corpus, settings, plan, seed) for plan in settings["plans"]]
        found = {count: values for trial in reversed(trials) for count, values in trial["exposures"].items()}
        means = {count: float(np.mean(values)) for count, values in found.items()}
        growth = means[str(max(counts))] - means[str(min(counts))]
        of_models = {
            "validation_bits": [trial["validation_bits"] for trial in trials],
            "controls_of_models": [float(np.mean(trial["exposures"]["0"])) for trial in trials],
        }
        runs.append({"seed": seed, **of_models, "exposures": found, "means": means, "growth": growth})
        print(runs[-1], flush=True)
    figures = {"runs": runs, "log2_space_size": TEMPLATE.log2_space_size}
    write_result(
        options,
        "figure4_phrases",
        corpus=corpus,
        settings=settings
        | {
            "architecture": "lstm",
            "batch_size": BATCH_ROWS,
            "learning_rate": 6e-3,
            "epochs": 1,
            "row_characters": ROW_CHARACTERS,
        },
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs, counts),
        plots=[page_plot(runs, counts)],
        cost=watch.read(),
    )


def one_model(corpus: Corpus, settings: dict[str, Any], plan: dict[int, int], seed: int) -> dict[str, Any]:
    """Trains one epoch on the text and the phrases of `plan`, and measures these and held-out phrases."""
    trial = run_trial(
        corpus,
        {"phrase": draw_canaries(TEMPLATE, plan, controls=8, seed=seed)},
        Training(epochs=1, batch_size=BATCH_ROWS, learning_rate=6e-3),
        seed=seed,
        references=settings["references"],
        architecture="lstm",
        width=settings["width"],
    )
    return trial | {"exposures": trial["exposures"]["phrase"]}


def over_seeds(runs: list[dict[str, Any]], count: int) -> list[float]:
    return [run["means"][str(count)] for run in runs]


def page_table(runs: list[dict[str, Any]], counts: list[int]) -> dict[str, Any]:
    rows = [
        [
            f"{count:,}×" if count else "held out",
            "{:.1f} ({:.1f} to {:.1f})".format(*interval(over_seeds(runs, count))),
        ]
        for count in (0, *counts)
    ]
    return {"columns": ["inserted", f"exposure (bits, of {TEMPLATE.log2_space_size:.1f})"], "rows": rows}


def page_plot(runs: list[dict[str, Any]], counts: list[int]) -> dict[str, Any]:
    series = band("seven-word phrases", counts, [over_seeds(runs, count) for count in counts])
    return {
        "title": "Phrases with three random words, one epoch",
        "x": "times inserted",
        "y": "exposure (bits)",
        "log_x": 10,
        "series": [series],
        "lines": [
            {"y": TEMPLATE.log2_space_size, "label": "log2|R|"},
            {"y": 1.4427, "label": "chance level (1.44 bits)"},
        ],
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
