"""All measures on the same examples: rank correlations of critical samples, loss-sensitivity, forgetting and exposure.

python -m examples.closer_look.same_examples --mnist FOLDER

For each training image, with 20 % random labels, these are the exposure of its training label among all classes,
averaged over training; the smallest box in which the image is critical; its sensitivity; and how often it was
forgotten. For each canary of a small character language model, inserted 1 to 16 times, they are its exposure, the
smallest box around its embeddings, the sensitivity of its loss, and how often its tokens were forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from examples.closer_look import RESULTS
from examples.closer_look.images import Images, Options, noisy, parse_options
from examples.closer_look.resumed import each_run
from examples.closer_look.training import Training, look, network, train
from examples.secret_sharer.results import interval, write_result
from hf_exposure import CanaryTemplate, Digits, critical_samples, draw_canaries, measure_exposure
from hf_exposure.estimators import forgetting_events
from hf_exposure.signals import MovableRows, checkpoint_sensitivity

BOXES = [0.005 * 2**place for place in range(6)]
SHARES = [0.02 * 2**place for place in range(7)]
NOISE = 0.2


@dataclass(frozen=True, kw_only=True)
class Size:
    """`searched` of the images are searched; the language model has `texts` rows in addition to its canaries."""

    images: int
    searched: int
    width: int
    epochs: int
    steps: int
    canaries: int
    texts: int
    text_epochs: int
    seeds: int


SIZES = {
    "smallest": Size(
        images=80, searched=30, width=32, epochs=3, steps=10, canaries=1, texts=20, text_epochs=2, seeds=2
    ),
    "small": Size(
        images=2_000, searched=300, width=256, epochs=30, steps=30, canaries=6, texts=150, text_epochs=12, seeds=3
    ),
    "full": Size(
        images=25_000, searched=5_000, width=4096, epochs=200, steps=100, canaries=40, texts=5_000, text_epochs=40,
        seeds=5,
    ),
}  # fmt: skip


def run(options: Options) -> None:
    size = SIZES[options.size]
    runs, cost = each_run(
        options,
        "same_examples",
        replace(size, seeds=0),
        [(seed,) for seed in range(size.seeds)],
        lambda seed: {"seed": seed, "images": _of_images(options, size, seed), "text": _of_text(size, seed)},
    )
    figures: dict[str, Any] = {"runs": runs}
    rows = []
    for where in ("images", "text"):
        for pair in runs[0][where]:
            values = [run[where][pair] for run in runs]
            mean, low, high = interval(values)
            spread = f"{mean:.2f} ({low:.2f} to {high:.2f})"
            rows.append([where, pair, *(f"{value:.2f}" for value in values), spread])
    write_result(
        options,
        "same_examples",
        claims=RESULTS,
        settings={"size": size.__dict__, "data": options.draw(0, 1)[0].name, "boxes": BOXES, "shares": SHARES},
        seeds=list(range(size.seeds)),
        figures=figures,
        table={
            "columns": ["examples", "rank correlation of", *(f"seed {run['seed']}" for run in runs), "mean (95 %)"],
            "rows": rows,
        },
        plots=[],
        cost=cost,
    )


def _of_images(options: Options, size: Size, seed: int) -> dict[str, float]:
    (images,) = options.draw(seed, size.images)
    images, _ = noisy(images, seed, labels=NOISE)
    model = network(images.pixels_NP.shape[1], Training(width=size.width, epochs=size.epochs, seed=seed))
    few = images.take(np.arange(size.searched))
    correct, exposures, states = [], [], [_state(model)]

    def after_epoch(epoch: int) -> None:
        correct.append(look(model, images).correct_N)
        exposures.append(_label_exposure(model, few))
        states.append(_state(model))

    train(model, images, Training(width=size.width, epochs=size.epochs, seed=seed), after_epoch)
    return _correlations(
        {
            "exposure": np.mean(exposures, axis=0),
            "box": _smallest_box(model, few.pixels_NP, BOXES, size.steps),
            "sensitivity": checkpoint_sensitivity(model, states, few.pixels_NP, few.labels_N),
            "forgetting": forgetting_events(np.array(correct)).counts_N[: size.searched],
        }
    )


def _of_text(size: Size, seed: int) -> dict[str, float]:
    template = CanaryTemplate("The code of the door is {code}.", code=Digits(6))
    canaries = draw_canaries(template, dict.fromkeys((1, 2, 4, 8, 16), size.canaries), controls=0, seed=seed)
    tokenizer, generator = ByT5Tokenizer(), np.random.default_rng(seed)
    words = ["green", "small", "house", "river", "seven", "apple", "night", "stone", "light", "paper"]
    texts = [" ".join(generator.choice(words, size=5)) for _ in range(size.texts)]
    rows = texts + [canary.text for canary in canaries for _ in range(canary.repetitions)]
    encoded = tokenizer(rows, return_tensors="pt", padding=True)
    labels = encoded.input_ids.masked_fill(encoded.attention_mask == 0, -100)
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=384, n_layer=2, n_head=2, n_embd=64, n_positions=64, bos_token_id=1, eos_token_id=1)
    )
    asked = dict(tokenizer([canary.text for canary in canaries], return_tensors="pt", padding=True))
    targets = asked["input_ids"].masked_fill(asked["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    correct, states = [], [_state(model)]
    for _ in range(size.text_epochs):
        model.train()
        for batch in torch.as_tensor(generator.permutation(len(rows))).split(16):
            optimizer.zero_grad()
            model(
                input_ids=encoded.input_ids[batch], attention_mask=encoded.attention_mask[batch], labels=labels[batch]
            ).loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            guesses = model(**asked).logits[:, :-1].argmax(2)
        right = guesses == targets[:, 1:]
        correct.append(right.numpy())
        states.append(_state(model))
    count = len(targets)
    events = forgetting_events(np.array(correct).reshape(len(correct), -1)).counts_N.reshape(count, -1)
    scored = (targets[:, 1:] != -100).numpy()
    report = measure_exposure(model, tokenizer, canaries, references=1024)
    exposure = {estimate.canary_id: estimate.exposure_bits for estimate in report.estimates}
    # The text is cut inside the secret, so the decision is the next digit.
    cut = {name: values[:, :-4] for name, values in asked.items()}
    scale = MovableRows(model, cut).embedding_scale() or 1.0
    return _correlations(
        {
            "exposure": np.array([exposure[canary.id] for canary in canaries]),
            "box": _smallest_box(model, cut, [share * scale for share in SHARES], size.steps),
            "sensitivity": checkpoint_sensitivity(model, states, asked, targets),
            "forgetting": np.where(scored, events, 0).sum(axis=1) / scored.sum(axis=1),
        }
    )


def _label_exposure(model: nn.Module, images: Images) -> Any:
    """(N,) log2 of the number of classes minus log2 of the rank of the label; ties count against it."""
    with torch.no_grad():
        logits = model.eval()(torch.as_tensor(images.pixels_NP)).double().numpy()
    own = np.take_along_axis(logits, images.labels_N[:, None], axis=1)
    return np.log2(logits.shape[1]) - np.log2((logits >= own).sum(axis=1))


def _smallest_box(model: nn.Module, inputs: Any, radii: list[float], steps: int) -> Any:
    """The index of the smallest radius at which each row is critical; `len(radii)` if it never is."""
    found = np.array([critical_samples(model, inputs, radius, max_steps=steps) for radius in radii])
    return np.where(found.any(axis=0), found.argmax(axis=0), len(radii))


def _correlations(values: dict[str, Any]) -> dict[str, float]:
    names = list(values)
    found = {}
    for first, name in enumerate(names):
        for other in names[first + 1 :]:
            varies = np.ptp(values[name]) > 0 and np.ptp(values[other]) > 0
            statistic = float(spearmanr(values[name], values[other]).statistic) if varies else float("nan")
            found[f"{name} and {other}"] = statistic
    print(found, flush=True)
    return found


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


if __name__ == "__main__":
    run(parse_options(__doc__ or ""))
