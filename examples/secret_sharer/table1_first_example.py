"""Table 1 and Section 3: a number inserted once into a text is the most likely of 10^9, followed by similar numbers.

The paper's model was trained on the Penn Treebank with "The random number is 281265017" inserted once. Here the search
for the most likely numbers is certified: none is missing from the list.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Corpus, Training, loss_bits, train
from hf_exposure import CanarySet, extract, presets, rank_bounds

TEMPLATE = presets.random_number(9)
SECRET = TEMPLATE.render(number="281265017")
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 8_000, "width": 32, "epochs": 2, "budget": 20, "seeds": [0]},
    "small": {"characters": 100_000, "width": 128, "epochs": 40, "budget": 20_000, "seeds": [0, 1, 2]},
    "full": {"characters": 250_000, "width": 268, "epochs": 25, "budget": 20_000, "seeds": [0, 1, 2, 3, 4]},
}
LISTED = 10


def one_run(corpus: Corpus, settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains a new model on the text and one canary, and lists its likeliest numbers."""
    canaries = CanarySet.from_secrets(TEMPLATE, [SECRET])
    torch.manual_seed(seed)
    model = make_model("lstm", len(corpus.tokenizer), width=settings["width"])
    train(model, corpus.train_with(canaries, seed), Training(epochs=settings["epochs"], seed=seed))
    found = extract(model, corpus.tokenizer, TEMPLATE, top_k=LISTED, max_expansions=settings["budget"])
    rank = rank_bounds(model, corpus.tokenizer, SECRET, TEMPLATE, max_expansions=settings["budget"])
    others = [candidate.text for candidate in found.candidates if candidate.text != SECRET]
    digits_off = [sum(a != b for a, b in zip(text, SECRET, strict=True)) for text in others]
    return {
        "seed": seed,
        "validation_bits": loss_bits(model, corpus.held_out),
        "list": [[found_one.text, found_one.log_perplexity_bits] for found_one in found.candidates],
        "certified": int(found.certified),
        "expansions": found.expansions,
        "rank_low": rank.low,
        "rank_high": rank.high,
        "digits_off": digits_off,
        "mean_digits_off": sum(digits_off) / max(1, len(digits_off)),
    }


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = [one_run(corpus, settings, seed) for seed in settings["seeds"]]
    figures = {"runs": runs}
    write_result(
        options,
        "table1_first_example",
        corpus=corpus,
        settings=settings | {"architecture": "lstm", "training": asdict(Training(epochs=settings["epochs"]))},
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs),
        plots=[page_plot(runs)],
        cost=watch.read(),
    )


def page_table(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The first seed's list, in the paper's format."""
    rows = [[text, f"{bits:.2f}"] for text, bits in runs[0]["list"]]
    return {"columns": [f"likeliest (seed {runs[0]['seed']})", "log-perplexity (bits)"], "rows": rows}


def page_plot(runs: list[dict[str, Any]]) -> dict[str, Any]:
    series = [
        {
            "name": f"seed {run['seed']}, {run['validation_bits']:.2f} bits/character on held-out text",
            "x": list(range(1, len(run["list"]) + 1)),
            "y": [bits for _, bits in run["list"]],
        }
        for run in runs
    ]
    title = "The likeliest numbers: the canary, followed by similar numbers"
    return {"title": title, "x": "rank among all 10^9 numbers", "y": "log-perplexity (bits)", "series": series}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
