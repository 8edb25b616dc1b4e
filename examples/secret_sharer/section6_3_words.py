"""Section 6.3: a character model memorizes a random sequence of words less than a random number.

Both have about 30 bits of randomness: nine digits, or three words of a list of a thousand. They are inserted equally
often into the same text, and the same model is trained on both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, band, interval, write_result
from examples.secret_sharer.training import Training
from examples.secret_sharer.trial import run_trial
from hf_exposure import CanaryTemplate, Digits, Words, draw_canaries

SIZES: dict[str, dict[str, Any]] = {
    "smallest": {
        **{"characters": 6_000, "width": 16, "epochs": 1, "each": 1, "repetitions": [1], "references": 32},
        **{"seeds": [0]},
    },
    "small": {
        **{"characters": 60_000, "width": 96, "epochs": 8, "each": 3, "repetitions": [1, 2, 4, 8]},
        **{"references": 4096, "seeds": [0, 1, 2, 3]},
    },
    "full": {
        **{"characters": 400_000, "width": 268, "epochs": 10, "each": 5, "repetitions": [1, 2, 4, 8, 16]},
        **{"references": 4096, "seeds": [0, 1, 2, 3, 4]},
    },
}
WORDS = 1000


def templates() -> dict[str, CanaryTemplate]:
    words = list(Words(1).words)
    # Words are taken at equal distances in the list, so that short and long ones are among them in any order.
    chosen = words[:: max(1, len(words) // WORDS)][:WORDS]
    return {
        "number": CanaryTemplate("The random number is {number}.", number=Digits(9)),
        "words": CanaryTemplate("The random words are {words}.", words=Words(3, words=chosen)),
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus, kinds = options.corpus(settings["characters"]), templates()
    plan = dict.fromkeys(settings["repetitions"], settings["each"])
    runs = []
    for seed in settings["seeds"]:
        trial = run_trial(
            corpus,
            {name: draw_canaries(kind, plan, controls=0, seed=seed) for name, kind in kinds.items()},
            Training(epochs=settings["epochs"], batch_size=16, learning_rate=6e-3),
            seed=seed,
            references=settings["references"],
            architecture="lstm",
            width=settings["width"],
        )
        means = {name: float(np.mean(list(found.values()))) for name, found in trial["exposures"].items()}
        runs.append(trial | {"difference": means["number"] - means["words"]})
        print(runs[-1], flush=True)
    figures = {"log2_space_size": {name: kind.log2_space_size for name, kind in kinds.items()}, "runs": runs}
    write_result(
        options,
        "section6_3_words",
        corpus=corpus,
        settings=settings | {"architecture": "lstm", "batch_size": 16, "learning_rate": 6e-3, "words": WORDS},
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs, settings["repetitions"]),
        plots=[page_plot(runs, settings["repetitions"])],
        cost=watch.read(),
    )


def over_seeds(runs: list[dict[str, Any]], name: str, count: int) -> list[float]:
    return [float(np.mean(run["exposures"][name][str(count)])) for run in runs]


def page_table(runs: list[dict[str, Any]], repetitions: list[int]) -> dict[str, Any]:
    rows = [
        [
            f"{count}×",
            *(
                "{:.1f} ({:.1f} to {:.1f})".format(*interval(over_seeds(runs, name, count)))
                for name in ("number", "words")
            ),
        ]
        for count in repetitions
    ]
    return {"columns": ["inserted", "nine digits", "three words of a thousand"], "rows": rows}


def page_plot(runs: list[dict[str, Any]], repetitions: list[int]) -> dict[str, Any]:
    series = []
    for name, label in (("number", "nine digits"), ("words", "three words of a thousand")):
        series.append(band(label, repetitions, [over_seeds(runs, name, count) for count in repetitions]))
    title = "A random number and random words of equal randomness"
    spec = {"title": title, "x": "times inserted", "y": "exposure (bits)", "log_x": 2}
    return spec | {"series": series}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
