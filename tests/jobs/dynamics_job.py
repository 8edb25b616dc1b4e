"""A training whose dynamics are recorded: `dynamics_job.py KIND FOLDER`; each process writes `FOLDER/{rank}.json`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from callback_runs import make_trainer, small_model
from torch import nn
from toy_measures import classify, pictures

from hf_exposure import DynamicsMeasure, MeasureCallback
from hf_exposure.runtime.model_state import is_sharded

TEXTS = ["pin 12.", "a longer one, pin 3456.", "pin", "pins 7 and 8", "x"]


def main(kind: str, folder: Path) -> None:
    rank = os.environ.get("RANK", "0")
    if kind == "pictures":
        measure = DynamicsMeasure(pictures(11), noisy=[n % 3 == 0 for n in range(11)], batch_size=3)
        callback = MeasureCallback(measure, strategy="steps", steps=1)
        # As many rows a step, and the same ones, on one process and on two.
        batch = 4 if "RANK" not in os.environ else 2
        trainer = classify(folder / "out", [callback], max_steps=3, per_device_train_batch_size=batch, model=plain())
    else:
        callback = MeasureCallback(DynamicsMeasure(TEXTS, batch_size=2), strategy="steps", steps=1)
        more: dict[str, Any] = {}
        if kind == "fsdp":
            more = {"fsdp": True, "fsdp_config": {"fsdp_version": 2, "reshard_after_forward": True,
                                                  "transformer_layer_cls_to_wrap": ["GPT2Block"]}}  # fmt: skip
        trainer = make_trainer(folder / "out", [callback], model=small_model(), max_steps=2, learning_rate=0.0, **more)
    trainer.train()
    assert is_sharded(trainer.model) == (kind == "fsdp")
    figures = [
        {key: value for key, value in record.metrics().items() if not key.endswith("seconds")}
        for record in callback.records["dynamics"]
    ]
    (folder / f"{rank}.json").write_text(json.dumps(figures))


def plain() -> nn.Module:
    """Without dropout, which differs between one process and two."""
    from toy_measures import Classifier

    model = Classifier()
    model.layers[1].p = 0.0
    return model


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
