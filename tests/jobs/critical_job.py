"""Critical samples in a job: `critical_job.py FOLDER`; each process writes `FOLDER/{rank}.json`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from job import digest, finish
from toy_measures import classify

from hf_exposure import CriticalSampleRatio, MeasureCallback, critical_samples
from hf_exposure.errors import ProcessesDifferError
from hf_exposure.runtime.processes import SINGLE_PROCESS

ROWS = torch.as_tensor(np.random.default_rng(0).normal(size=(23, 4)), dtype=torch.float32)


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ.get("RANK", 0))
    callback = MeasureCallback(CriticalSampleRatio({"pixels": ROWS}, 0.2, max_steps=20), strategy="epoch")
    trainer = classify(folder / "with", [callback])
    callback.attach(trainer)
    trainer.train()
    plain = classify(folder / "without", [])
    plain.train()
    alone = critical_samples(trainer.model, {"pixels": ROWS}, 0.2, max_steps=20, processes=SINGLE_PROCESS)
    found = {
        "world": trainer.args.world_size,
        "records": [record.details["critical_rows"] for record in callback.records["critical"]],
        "figures": [record.figures["eval_critical_ratio"] for record in callback.records["critical"]],
        "history": [e["eval_critical_ratio"] for e in trainer.state.log_history if "eval_critical_ratio" in e],
        "alone": np.flatnonzero(alone).tolist(),
        "weights": [digest(trainer.model), digest(plain.model)],
        "different": "",
    }
    try:
        other = CriticalSampleRatio({"pixels": ROWS}, 0.2 if rank else 0.3)
        classify(folder / "different", [MeasureCallback(other)]).train()
    except ProcessesDifferError as error:
        found["different"] = str(error)
    finish(folder, found)


if __name__ == "__main__":
    main()
