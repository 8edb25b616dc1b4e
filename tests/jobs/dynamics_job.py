"""A training whose dynamics are recorded: `dynamics_job.py KIND FOLDER`; each process writes `FOLDER/{rank}.json`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from callback_runs import TOKENIZER, make_start, small_model
from sharded import fully_sharded
from torch import distributed, nn
from toy_measures import Classifier, classify, pictures

from hf_exposure import BatchDynamicsMeasure, DynamicsMeasure, MeasureCallback
from hf_exposure.measures.protocol import SeenBatch
from hf_exposure.runtime.model_state import is_sharded, unwrap_model
from hf_exposure.runtime.processes import Processes
from hf_exposure.runtime.tap import tap_outputs

TEXTS = ["pin 12.", "a longer one, pin 3456.", "pin", "pins 7 and 8", "x"]


def main(kind: str, folder: Path) -> None:
    if kind != "pictures":
        texts(kind, folder)
        return
    noisy = [n % 3 == 0 for n in range(11)]
    measures = [
        DynamicsMeasure(pictures(11), noisy, batch_size=3),
        BatchDynamicsMeasure(pictures(11), noisy, name="batches"),
    ]
    callback = MeasureCallback(measures, strategy="steps", steps=1)
    # One process and two processes use the same rows in each step.
    batch = 4 if "RANK" not in os.environ else 2
    trainer = classify(folder / "out", [callback], max_steps=3, per_device_train_batch_size=batch, model=undropped())
    trainer.train()
    write(folder, [*callback.records["dynamics"], *callback.records["batches"]])


def texts(kind: str, folder: Path) -> None:
    """Records the dynamics of a language model, sharded over the processes or not, without a trainer."""
    model = fully_sharded() if kind == "fsdp" else small_model()
    assert is_sharded(model) == (kind == "fsdp")
    measure = DynamicsMeasure(TEXTS, batch_size=2)
    first = os.environ.get("RANK", "0") == "0"
    processes = Processes.of_job(model, calls_model=False)
    measure.prepare(make_start(model=model, processes=processes, output_dir=folder / "out", is_first_process=first))
    write(folder, [*(measure.measure(model) for _ in range(2)), seen_in_batches(model, folder, first)])
    if kind == "fsdp":
        distributed.destroy_process_group()


def seen_in_batches(model: Any, folder: Path, first: bool) -> Any:
    """Forward passes of one row each, equally many on every process: a sharded model gathers its weights in each."""
    measure = BatchDynamicsMeasure(TEXTS, batch_size=2, name="batches")
    processes = Processes.of_job(model, calls_model=False)
    measure.prepare(make_start(model=model, processes=processes, output_dir=folder / "out", is_first_process=first))

    def receive(inputs: dict[str, Any], output: Any) -> None:
        measure.on_output(SeenBatch(inputs=inputs, step=0), output)

    tap = tap_outputs(unwrap_model(model), receive)
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    for place in range(-(-len(TEXTS) // count)):
        ids = TOKENIZER(TEXTS[(place * count + rank) % len(TEXTS)], return_tensors="pt").input_ids
        model(input_ids=ids, labels=ids)
    tap.remove()
    return measure.measure(model)


def write(folder: Path, records: list[Any]) -> None:
    figures = [
        {key: value for key, value in record.metrics().items() if not key.endswith("seconds")} for record in records
    ]
    rank = os.environ.get("RANK", "0")
    (folder / f"{rank}.json").write_text(json.dumps(figures))


def undropped() -> nn.Module:
    """A model without dropout, which differs between one process and two."""
    model = Classifier()
    model.layers[1].p = 0.0
    return model


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
