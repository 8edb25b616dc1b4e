"""Table 4: memorization of a secret against the amount of known text before, after and inside it.

Every context has its own template and its own model. This differs from the paper, whose first four rows score one
model with different amounts of the surrounding text known (`CanarySet.in_template`).

The model is trained on one long stream, split into rows as is usual for language models, so a secret can be at any
position of its row and, without known text, after any text. A split may cut a canary: rows have 200 characters, so it
cuts 3 % of the canaries without known text and up to 18 % of those with the most known text. Every exposure is exact:
all 10^5 secrets are scored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from examples.secret_sharer.models import make_model
from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, interval, write_result
from examples.secret_sharer.training import Corpus, Training, encode_rows, loss_bits, train
from hf_exposure import CanarySet, CanaryTemplate, Digits, ExposureMeter, draw_canaries, insert_canaries

_TWO_ONE_TWO = {"a": Digits(2), "b": Digits(1), "c": Digits(2)}
_ONE_BY_ONE = {name: Digits(1) for name in "abcde"}
# The model predicts the first digit from the space before it.
TEMPLATES = {
    "none": CanaryTemplate(" {number}", number=Digits(5)),
    "before": CanaryTemplate("The random number is {number}", number=Digits(5)),
    "after": CanaryTemplate(" {number} is the random number", number=Digits(5)),
    "before and after": CanaryTemplate("The random number is {number} as we said", number=Digits(5)),
    "before and inside": CanaryTemplate("The random number is {a}-{b}-{c}", **_TWO_ONE_TWO),
    "before and after every digit": CanaryTemplate("The random number is {a}-{b}-{c}-{d}-{e}", **_ONE_BY_ONE),
}
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 6_000, "width": 16, "looks": [1], "each": 1, "seeds": [0]}
    | {"contexts": ["none", "before"]},
    "small": {"characters": 60_000, "width": 96, "looks": [4, 8], "each": 8, "seeds": [0, 1, 2, 3, 4, 5]}
    | {"contexts": list(TEMPLATES)},
    "full": {"characters": 400_000, "width": 268, "looks": [5, 10], "each": 8, "seeds": [0, 1, 2, 3]}
    | {"contexts": list(TEMPLATES)},
}
REPETITIONS, ROW_CHARACTERS = 2, 200
TRAINING: dict[str, Any] = {"batch_size": 8, "learning_rate": 6e-3}


def stream_rows(corpus: Corpus, canaries: CanarySet, seed: int) -> torch.Tensor:
    """(N, T) tokens: the rows and the canaries among them as one text, cut into rows again."""
    text = " ".join(insert_canaries(corpus.train, canaries, seed=seed)["text"])
    starts = range(0, len(text) - ROW_CHARACTERS + 1, ROW_CHARACTERS)
    return encode_rows(corpus.tokenizer, [text[at : at + ROW_CHARACTERS] for at in starts])


def one_run(corpus: Corpus, settings: dict[str, Any], context: str, seed: int) -> dict[str, Any]:
    """Exposures at each measured epoch; the canaries' numbers are the same for all contexts of a seed."""
    canaries = draw_canaries(TEMPLATES[context], {REPETITIONS: settings["each"]}, controls=0, seed=seed)
    torch.manual_seed(seed)
    model, exposures = make_model("lstm", len(corpus.tokenizer), width=settings["width"]), {}
    meter = ExposureMeter(canaries, corpus.tokenizer, method="enumerate", max_batch_tokens=2**16)

    def look(epoch: int) -> None:
        if epoch in settings["looks"]:
            exposures[str(epoch)] = [estimate.exposure_bits for estimate in meter.measure(model).estimates]

    training = Training(epochs=max(settings["looks"]), seed=seed, **TRAINING)
    train(model, stream_rows(corpus, canaries, seed), training, after_epoch=look)
    found = {"seed": seed, "context": context, "exposures": exposures, "last": exposures[str(training.epochs)]}
    return found | {"exposure": float(np.mean(found["last"])), "validation_bits": loss_bits(model, corpus.held_out)}


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    runs = []
    for seed in settings["seeds"]:
        for context in settings["contexts"]:
            runs.append(one_run(corpus, settings, context, seed))
            means = {epoch: float(np.mean(values)) for epoch, values in runs[-1]["exposures"].items()}
            print(seed, context, means, runs[-1]["validation_bits"], flush=True)
    differences = [differences_of(runs, seed) for seed in settings["seeds"]]
    figures = {"runs": runs, "differences": differences}
    write_result(
        options,
        "table4_context",
        corpus=corpus,
        settings=settings
        | {"architecture": "lstm", "repetitions": REPETITIONS}
        | {"row_characters": ROW_CHARACTERS}
        | TRAINING,
        seeds=settings["seeds"],
        figures=figures,
        table=page_table(runs, settings),
        plots=[page_plot(runs, settings["contexts"])],
        cost=watch.read(),
    )


# The pairs that are compared, in the order of the claims.
COMPARED = {
    "before": ("before", "none", "Known text before the secret raises exposure over none."),
    "after": ("after", "none", "Known text after the secret raises exposure over none."),
    "both": ("before and after", "none", "Known text before and after it raises exposure over none."),
    "inside": ("before and inside", "before", "Known characters inside it raise exposure further."),
    "every_digit": (
        "before and after every digit",
        "before and inside",
        "One after every digit raises it further still.",
    ),
}


def differences_of(runs: list[dict[str, Any]], seed: int) -> dict[str, float]:
    """Differences after the last epoch between the contexts that were run."""
    found = {run["context"]: run["exposure"] for run in runs if run["seed"] == seed}
    return {"seed": seed} | {
        key: found[more] - found[less] for key, (more, less, _) in COMPARED.items() if {more, less} <= set(found)
    }


def page_table(runs: list[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for context in settings["contexts"]:
        own = [run for run in runs if run["context"] == context]
        cells = []
        for epoch in map(str, settings["looks"]):
            # Over seeds, since the canaries of one model are not independent.
            cells.append("{:.1f} ({:.1f} to {:.1f})".format(*interval([np.mean(r["exposures"][epoch]) for r in own])))
        loss = np.mean([run["validation_bits"] for run in own])
        rows.append([context, f"`{TEMPLATES[context].text.strip()}`", *cells, f"{loss:.2f}"])
    looks = [f"exposure after {epoch} epochs" for epoch in settings["looks"]]
    return {"columns": ["known text", "template", *looks, "validation loss (bits/character)"], "rows": rows}


def page_plot(runs: list[dict[str, Any]], contexts: list[str]) -> dict[str, Any]:
    series = []
    for place, context in enumerate(contexts):
        values = [value for run in runs if run["context"] == context for value in run["last"]]
        x = [place + 0.6 * (at / len(values) - 0.5) for at in range(len(values))]
        series.append({"name": context, "kind": "points", "x": x, "y": values})
    title = "Known text around and inside a secret, one point per canary"
    lines = [{"y": TEMPLATES["none"].log2_space_size, "label": "log2|R|"}]
    return {
        "title": title,
        "x": "context, in the table's order",
        "y": "exposure (bits)",
        "series": series,
        "lines": lines,
    }


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
