"""Figure 5: utility against exposure for many hyperparameters: whether better models memorize more.

Settings are drawn at random. A setting is on the Pareto front if no other has both a lower loss and less exposure.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from examples.secret_sharer.options import Options, parse_options
from examples.secret_sharer.results import Stopwatch, write_result
from examples.secret_sharer.training import Training
from examples.secret_sharer.trial import run_trial
from hf_exposure import draw_canaries, presets

TEMPLATE = presets.random_number(9)
SIZES: dict[str, dict[str, Any]] = {
    "smallest": {"characters": 6_000, "models": 2, "widths": [8, 16], "epochs": 1, "each": 1, "references": 32},
    "small": {"characters": 60_000, "models": 24, "widths": [32, 64, 96], "epochs": 12, "each": 2}
    | {"references": 4096},
    "full": {"characters": 400_000, "models": 300, "widths": [64, 128, 256], "epochs": 20, "each": 2}
    | {"references": 4096},
}
# The mean over canaries of all three counts: a single count would be at chance level in one model and at the
# maximum in another.
REPETITIONS, BLOCKS = (1, 2, 4), 4


def drawn_settings(number: int, widths: list[int], epochs: int) -> dict[str, Any]:
    generator = random.Random(number)
    return {
        "architecture": generator.choice(["lstm", "gru", "cnn"]),
        "layers": generator.choice([1, 2]),
        "width": generator.choice(widths),
        "dropout": generator.choice([0.0, 0.1, 0.2]),
        "learning_rate": generator.choice([1e-3, 3e-3, 6e-3]),
        "batch_size": generator.choice([8, 16, 32, 64]),
        "epochs": generator.randint(max(1, epochs // 3), epochs),
    }


def one_model(corpus: Any, settings: dict[str, Any], number: int) -> dict[str, Any]:
    drawn = drawn_settings(number, settings["widths"], settings["epochs"])
    trial = run_trial(
        corpus,
        {"number": draw_canaries(TEMPLATE, dict.fromkeys(REPETITIONS, settings["each"]), controls=0, seed=number)},
        Training(**{name: drawn[name] for name in ("epochs", "learning_rate", "batch_size")}),
        seed=number,
        references=settings["references"],
        **{name: drawn[name] for name in ("architecture", "layers", "width", "dropout")},
    )
    exposure = float(np.mean(list(trial.pop("exposures")["number"].values())))
    print(number, drawn, trial["validation_bits"], exposure, flush=True)
    return drawn | {"seed": number, "validation_bits": trial["validation_bits"], "exposure": exposure}


def run(options: Options) -> None:
    settings, watch = SIZES[options.size], Stopwatch()
    corpus = options.corpus(settings["characters"])
    models = [one_model(corpus, settings, number) for number in range(settings["models"])]
    for model in models:
        model["on_front"] = is_on_front(model, models)
    figures: dict[str, Any] = {"models": models, "blocks": correlations(models)}
    figures["spread_at_equal_loss"] = spread_at_equal_loss(models)
    figures |= pearson(models) | best_model(models)
    write_result(
        options,
        "figure5_many_settings",
        corpus=corpus,
        settings=settings | {"repetitions": REPETITIONS},
        seeds=list(range(settings["models"])),
        figures=figures,
        table=page_table(models),
        plots=[page_plot(models)],
        cost=watch.read(),
    )


def is_on_front(model: dict[str, Any], models: list[dict[str, Any]]) -> bool:
    """Whether no other model has both a lower loss and less exposure."""
    return not any(
        other["validation_bits"] < model["validation_bits"] and other["exposure"] < model["exposure"]
        for other in models
    )


def correlations(models: list[dict[str, Any]]) -> list[float]:
    """Correlations of loss and exposure in `BLOCKS` disjoint groups of models, which are independent."""
    blocks = [models[start::BLOCKS] for start in range(BLOCKS)]
    pairs = [[(m["validation_bits"], m["exposure"]) for m in block] for block in blocks if len(block) > 2]
    return [float(spearmanr(*zip(*pair, strict=True)).statistic) for pair in pairs]


def pearson(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The correlation of perplexity (per character) and exposure, as in the paper, with its 95 % interval (Fisher)."""
    if len(models) < 4:
        return {}
    found = pearsonr([2.0 ** model["validation_bits"] for model in models], [model["exposure"] for model in models])
    return {"pearson": float(found.statistic), "pearson_interval": [float(end) for end in found.confidence_interval()]}


def best_model(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The maximum exposure minus that of the model with the lowest loss."""
    best = min(models, key=lambda model: model["validation_bits"])
    return {"best_model_below_top": TEMPLATE.log2_space_size - best["exposure"]}


def spread_at_equal_loss(models: list[dict[str, Any]], apart: float = 0.1) -> list[float]:
    """The largest difference in exposure between two models whose losses differ by at most `apart`."""
    return [
        max(
            abs(a["exposure"] - b["exposure"])
            for a in models
            for b in models
            if abs(a["validation_bits"] - b["validation_bits"]) <= apart
        )
    ]


def page_table(models: list[dict[str, Any]]) -> dict[str, Any]:
    front = sorted((model for model in models if model["on_front"]), key=lambda model: model["validation_bits"])
    names = ["architecture", "layers", "width", "dropout", "learning_rate", "batch_size", "epochs"]
    rows = [
        [*(model[name] for name in names), f"{model['validation_bits']:.2f}", f"{model['exposure']:.1f}"]
        for model in front
    ]
    columns = [name.replace("_", " ") for name in names]
    return {"columns": [*columns, "loss of the front's models", "exposure"], "rows": rows}


def page_plot(models: list[dict[str, Any]]) -> dict[str, Any]:
    series = []
    for name in ("lstm", "gru", "cnn"):
        own = [model for model in models if model["architecture"] == name]
        x, y = [model["validation_bits"] for model in own], [model["exposure"] for model in own]
        series.append({"name": name, "kind": "points", "x": x, "y": y})
    front = sorted((m["validation_bits"], m["exposure"]) for m in models if m["on_front"])
    series.append({"name": "Pareto front", "x": [loss for loss, _ in front], "y": [bits for _, bits in front]})
    title = "Models of random settings: utility against exposure"
    return {"title": title, "x": "validation loss (bits per character)", "y": "exposure (bits)", "series": series}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
