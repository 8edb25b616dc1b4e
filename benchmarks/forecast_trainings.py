"""Small trainings for the forecast of exposure: many runs of a byte model, with the exposures at a dozen steps of each.

`python -m benchmarks.forecast_trainings` makes those that `results/forecast_trainings.jsonl` lacks, one line each, so
that a run that was stopped goes on where it ended. `benchmarks.forecast` fits and tests the forecast on them.

A training is known by its part ("fit" or "test") and its number, from which everything else follows: its learning rate
and size of data are drawn from those of its part, which the other part does not have; schedule, epochs, width and the
data from values that both have.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel, get_scheduler

from hf_exposure import CanaryTemplate, Digits, Enumerate, ExposureMeter, draw_canaries
from hf_exposure.demo.inputs import load_rows

STORE = Path(__file__).parent / "results" / "forecast_trainings.jsonl"
TRAININGS = {"fit": 36, "test": 24}

LEARNING_RATES = {"fit": (1e-3, 3e-3, 1e-2), "test": (2e-3, 6e-3)}
TEXT_ROWS = {"fit": (40, 160), "test": (80, 240)}
EPOCHS, SCHEDULES, WIDTHS = (4, 6, 8), ("linear", "constant", "cosine"), (32, 48)
REPETITIONS = {1: 4, 4: 4, 16: 4, 64: 4}
DIGITS, BATCH, ROW_CHARACTERS, LAYERS = 4, 16, 24, 2
MEASUREMENTS = 12
TEMPLATE = CanaryTemplate("The pin is {pin}", pin=Digits(DIGITS))


def settings_of(part: str, number: int) -> dict[str, Any]:
    """What a training is made with."""
    choice = random.Random(f"{part} training {number}")
    return {
        "part": part,
        "number": number,
        "learning_rate": choice.choice(LEARNING_RATES[part]),
        "text_rows": choice.choice(TEXT_ROWS[part]),
        "epochs": choice.choice(EPOCHS),
        "schedule": choice.choice(SCHEDULES),
        "width": choice.choice(WIDTHS),
        "seed": choice.randrange(2**31),
    }


def train(settings: dict[str, Any], rows: list[str]) -> dict[str, Any]:
    """The training with its measurements: the exposures of all canaries at each step that was measured."""
    started = time.process_time()
    seed, tokenizer = settings["seed"], ByT5Tokenizer()
    canaries = draw_canaries(TEMPLATE, REPETITIONS, controls=0, seed=seed)
    text = random.Random(seed).sample(rows, settings["text_rows"])
    texts = [*text, *(one.text for one in canaries.inserted for _ in range(one.repetitions))]
    transformers.set_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer), n_layer=LAYERS, n_head=2, n_embd=settings["width"], n_positions=ROW_CHARACTERS,
            bos_token_id=None, eos_token_id=None,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip
    per_epoch = math.ceil(len(texts) / BATCH)
    steps = per_epoch * settings["epochs"]
    due = {round(steps * (place + 1) / MEASUREMENTS) for place in range(MEASUREMENTS)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"])
    schedule = get_scheduler(settings["schedule"], optimizer, num_warmup_steps=min(20, steps // 10), num_training_steps=steps)
    meter = ExposureMeter(canaries, tokenizer, method=Enumerate())
    measured, order = [], random.Random(seed + 1)
    losses: list[float] = []

    def measure(step: int) -> None:
        report = meter.measure(model)
        loss = float(np.mean(losses[-per_epoch:])) if losses else None
        bits = {str(group.repetitions): [round(one.exposure_bits, 3) for one in group.estimates] for group in report.groups}
        measured.append({"step": step, "train_loss": loss, "exposure_bits": bits})

    step = 0
    for _ in range(settings["epochs"]):
        for batch in _batches(texts, order):
            model.train()
            inputs = tokenizer(batch, add_special_tokens=False, padding=True, return_tensors="pt")
            labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step(), schedule.step(), optimizer.zero_grad()
            losses.append(loss.item())
            step += 1
            if step in due:
                measure(step)
    parameters = sum(weight.numel() for weight in model.parameters())
    return {
        **settings,
        "steps": steps,
        "parameters": parameters,
        "log2_space_size": round(math.log2(TEMPLATE.space_size), 3),
        "measured": measured,
        "cpu_seconds": round(time.process_time() - started, 2),
    }


def _batches(texts: list[str], order: random.Random) -> Iterator[list[str]]:
    places = list(range(len(texts)))
    order.shuffle(places)
    for first in range(0, len(places), BATCH):
        yield [texts[place] for place in places[first : first + BATCH]]


def stored(store: Path = STORE) -> list[dict[str, Any]]:
    """The trainings in a store, in the order in which they were made; a line that was cut off is none."""
    if not store.exists():
        return []
    lines = store.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--fit", type=int, default=TRAININGS["fit"], help="how many to fit on")
    parser.add_argument("--test", type=int, default=TRAININGS["test"], help="how many to test on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = [row for row in load_rows(None, None, 300_000, ROW_CHARACTERS)["text"] if len(row) == ROW_CHARACTERS and row.isascii()]
    found = stored(arguments.store)
    if arguments.store.exists():  # without a line that was cut off
        arguments.store.write_text("".join(_line(one) for one in found), encoding="utf-8")
    known = {(one["part"], one["number"]) for one in found}
    # In turn, so that a store that is not finished has both parts.
    wanted = {"fit": arguments.fit, "test": arguments.test}
    numbers = range(max(wanted.values()))
    for part, number in [(part, number) for number in numbers for part in wanted if number < wanted[part]]:
        if (part, number) not in known:
            done = train(settings_of(part, number), rows)
            with arguments.store.open("a", encoding="utf-8") as file:
                file.write(_line(done))
                file.flush()
                os.fsync(file.fileno())
            last = {count: round(float(np.mean(bits)), 1) for count, bits in done["measured"][-1]["exposure_bits"].items()}
            print(part, number, done["steps"], "steps", done["cpu_seconds"], "s", last, flush=True)


def _line(training: dict[str, Any]) -> str:
    return json.dumps(training, separators=(",", ":")) + "\n"


if __name__ == "__main__":
    main()
