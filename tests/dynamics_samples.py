"""Hand-made records of training runs, for the tests that use such records."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hf_exposure.records.dynamics import DynamicsRecord, DynamicsStore
from hf_exposure.records.run_log import PlainRecord, RunLog

MEASUREMENTS, EXAMPLES, CLASSES = 6, 40, 3


def write_run(folder: Path, *, tokens: bool = False, noise: bool = True) -> DynamicsRecord:
    """A record like that of a training run: clean examples are right from the start, noisy ones keep changing."""
    generator = np.random.default_rng(0)
    noisy_N, labels_N = np.arange(EXAMPLES) % 5 == 0, np.arange(EXAMPLES) % CLASSES
    store, log = DynamicsStore(folder / "_dynamics"), RunLog("dynamics", PlainRecord.from_dict)
    columns = {
        "example": np.arange(EXAMPLES) // (4 if tokens else 1),
        "position": np.arange(EXAMPLES) % 4 if tokens else np.full(EXAMPLES, -1),
        "label": np.full(EXAMPLES, -1) if tokens else labels_N,
        **({"noisy": noisy_N} if noise else {}),
    }
    store.write_examples(columns, {"noise": {"seed": 3}, "batch_size": 64})
    log.start(folder, 0)
    for number in range(MEASUREMENTS):
        margin_N = np.where(noisy_N, number - 3.5 + 2 * (-1) ** number, 1.0 + number) + 0.1 * generator.random(
            EXAMPLES
        )
        probability_N = 1 / (1 + np.exp(-margin_N))
        own = {
            "loss_bits": (-np.log2(probability_N)).astype(np.float32),
            "probability": probability_N.astype(np.float32),
            "correct": margin_N > 0,
            "margin": margin_N.astype(np.float32),
        }
        if not tokens:
            rest_NC = np.repeat((1 - probability_N)[:, None] / (CLASSES - 1), CLASSES, axis=1)
            rest_NC[np.arange(EXAMPLES), labels_N] = probability_N
            own["class_probability"] = list(rest_NC.astype(np.float32))
        store.append(number, own)
        figures = {"eval_dynamics_accuracy": 0.5, "eval_dynamics_validation_accuracy": 0.9 - 0.1 * abs(number - 2)}
        log.append(
            folder, PlainRecord(figures=figures, details={"measurement": number}, step=10 * number, epoch=number)
        )
    return DynamicsRecord.load(folder)
