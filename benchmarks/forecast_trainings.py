"""Small training runs for the forecast of exposure: many byte models, with the exposures at a dozen steps of each.

`python -m benchmarks.forecast_trainings` adds the runs that `results/forecast_trainings.jsonl` lacks, one line each,
so an interrupted call can be continued. `benchmarks.forecast` fits and tests the forecast on them.

A run is identified by its part and its number, which determine everything else. The parts "fit" and "test" use a
perceptron that reads the last eight bytes; "transfer" uses a GPT-2 with two layers. Learning rates and data sizes are
drawn from values that the other parts do not use; schedules, epochs, widths and data from values that all parts use.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_exposure import CanaryTemplate, Digits, draw_canaries
from hf_exposure.estimators import enumeration_exposure

STORE = Path(__file__).parent / "results" / "forecast_trainings.jsonl"
TRAININGS = {"fit": 90, "test": 60, "transfer": 12}

LEARNING_RATES = {"fit": (1e-3, 3e-3, 1e-2), "test": (2e-3, 6e-3), "transfer": (1.5e-3, 5e-3)}
TEXT_ROWS = {"fit": (40, 160, 640), "test": (80, 320), "transfer": (60, 240)}
EPOCHS = 4, 6, 8
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
WIDTHS = {"fit": (32, 48), "test": (32, 48), "transfer": (24, 32)}
REPETITIONS = {1: 4, 4: 4, 16: 4, 64: 4}
DIGITS, BATCH, ROW_CHARACTERS = 4, 16, 24
MEASUREMENTS = 12
TEMPLATE = CanaryTemplate("The pin is {pin}", pin=Digits(DIGITS))
BYTES, CONTEXT = 128, 8
PAD = 0


class Perceptron(nn.Module):
    """The next byte from the last eight (Bengio et al. 2003)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, 8)
        self.layers = nn.Sequential(nn.Linear(8 * CONTEXT, width), nn.Tanh(), nn.Linear(width, BYTES))

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        windows_BTC = nn.functional.pad(ids_BT, (CONTEXT - 1, 0)).unfold(1, CONTEXT, 1)
        return self.layers(self.embedding(windows_BTC).flatten(2))


class Transformer(nn.Module):
    """A GPT-2 of two layers."""

    def __init__(self, width: int) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel  # takes seconds, and other parts do not need it

        super().__init__()
        self.inner = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=BYTES, n_layer=2, n_head=2, n_embd=width, n_positions=ROW_CHARACTERS, bos_token_id=None,
                eos_token_id=None, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
            )
        )  # fmt: skip

    def forward(self, ids_BT: torch.Tensor) -> torch.Tensor:
        return self.inner(input_ids=ids_BT).logits


def settings_of(part: str, number: int) -> dict[str, Any]:
    """The settings of a training run."""
    choice = random.Random(f"{part} training {number}")
    return {
        "part": part,
        "number": number,
        "learning_rate": choice.choice(LEARNING_RATES[part]),
        "text_rows": choice.choice(TEXT_ROWS[part]),
        "epochs": choice.choice(EPOCHS),
        "schedule": choice.choice(sorted(SCHEDULES)),
        "width": choice.choice(WIDTHS[part]),
        "seed": choice.randrange(2**31),
    }


def train(settings: dict[str, Any], rows: list[str]) -> dict[str, Any]:
    """Runs the training; returns it with the exposures of all canaries at each measured step."""
    started = time.process_time()
    seed = settings["seed"]
    canaries = draw_canaries(TEMPLATE, REPETITIONS, controls=0, seed=seed)
    text = random.Random(seed).sample(rows, settings["text_rows"])
    texts = [*text, *(one.text for one in canaries.inserted for _ in range(one.repetitions))]
    torch.manual_seed(seed)
    model = (Transformer if settings["part"] == "transfer" else Perceptron)(settings["width"])
    per_epoch = math.ceil(len(texts) / BATCH)
    steps = per_epoch * settings["epochs"]
    due = {round(steps * (place + 1) / MEASUREMENTS) for place in range(MEASUREMENTS)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"])
    warmup = min(20, steps // 10)
    shape = SCHEDULES[settings["schedule"]]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda at: (at + 1) / warmup if at < warmup else shape((at - warmup) / (steps - warmup))
    )
    measured, order, step = [], random.Random(seed + 1), 0
    for _ in range(settings["epochs"]):
        for batch in _batches(texts, order):
            ids = _ids(batch)
            logits = model(ids)[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step in due:
                bits = _exposures(model, [one.text for one in canaries.inserted])
                by_count: dict[str, list[float]] = {}
                for one, own in zip(canaries.inserted, bits.tolist(), strict=True):
                    by_count.setdefault(str(one.repetitions), []).append(round(own, 3))
                measured.append({"step": step, "loss": round(loss.item(), 4), "exposure_bits": by_count})
    return {
        **settings,
        "steps": steps,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "log2_space_size": round(math.log2(TEMPLATE.space_size), 3),
        "measured": measured,
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def _batches(texts: list[str], order: random.Random) -> Iterator[list[str]]:
    places = list(range(len(texts)))
    order.shuffle(places)
    for first in range(0, len(places), BATCH):
        yield [texts[place] for place in places[first : first + BATCH]]


def _ids(texts: list[str]) -> torch.Tensor:
    longest = max(map(len, texts))
    return torch.tensor([[*text.encode("ascii"), *[PAD] * (longest - len(text))] for text in texts])


@torch.no_grad()
def _exposures(model: nn.Module, secrets: list[str]) -> np.ndarray:
    """The exposure of each secret, from the bits of all texts of the template; other secrets do not compete."""
    bits = np.zeros(1)
    for known in range(DIGITS):
        beginnings = [TEMPLATE.prefix + f"{number:0{known}}"[:known] for number in range(10**known)]
        logits = torch.cat([model(_ids(beginnings[at : at + 256]))[:, -1] for at in range(0, len(beginnings), 256)])
        own = -torch.log_softmax(logits.double(), dim=1)[:, ord("0") : ord("9") + 1].numpy() / math.log(2)
        bits = (bits[:, None] + own).ravel()
    own = np.array([int(secret.removeprefix(TEMPLATE.prefix)) for secret in secrets])
    rivals = np.delete(bits, own)
    return np.array([one.exposure_bits for one in enumeration_exposure(bits[own], rivals, includes_self=False)])


def stored(store: Path = STORE) -> list[dict[str, Any]]:
    """The trainings in a store, in the order in which they were made; an incomplete line is ignored."""
    if not store.exists():
        return []
    lines = store.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=STORE)
    for part, count in TRAININGS.items():
        parser.add_argument(f"--{part}", type=int, default=count, help="number of runs in that part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = "\n".join(topics.values())
    rows = [text[at : at + ROW_CHARACTERS] for at in range(0, 300_000, ROW_CHARACTERS)]
    rows = [row for row in rows if row.isascii()]
    found = stored(arguments.store)
    if arguments.store.exists():  # without an incomplete line
        arguments.store.write_text("".join(_line(one) for one in found), encoding="utf-8")
    known = {(one["part"], one["number"]) for one in found}
    counts = {part: getattr(arguments, part) for part in TRAININGS}
    wanted = [(number / count, part, number) for part, count in counts.items() for number in range(count)]
    for _, part, number in sorted(wanted):  # so that an unfinished store has some of each part
        if (part, number) in known:
            continue
        done = train(settings_of(part, number), rows)
        with arguments.store.open("a", encoding="utf-8") as file:
            file.write(_line(done))
            file.flush()
            os.fsync(file.fileno())
        print(part, number, done["steps"], "steps", done["cpu_seconds"], "s", flush=True)


def _line(training: dict[str, Any]) -> str:
    return json.dumps(training, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    main()
