"""Random pipelines with each process's own count by brute force: `doses_job.py FOLDER SEED...`"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
from datasets import IterableDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from pipelines import random_pipeline


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, found = Path(sys.argv[1]), {}
    for seed in map(int, sys.argv[2:]):
        pipeline = random_pipeline(seed)
        if isinstance(pipeline.data, IterableDataset):
            # One that ends sooner on one process than on the other ends the job, with the callback or without it.
            pipeline.data = pipeline.data.repeat(None)
        whole = pipeline.callback(strategy="steps", steps=3)
        if seed % 2:
            # Stopped and resumed, with a measurement on the way: neither counts anything twice.
            first = pipeline.callback()
            pipeline.trainer(folder / str(seed), [first], save_strategy="steps", save_steps=2, max_steps=2).train()
            trainer = pipeline.trainer(folder / str(seed), [whole], max_steps=5)
            trainer.train(resume_from_checkpoint=str(folder / str(seed) / "checkpoint-2"))
        else:
            pipeline.trainer(folder / str(seed), [whole]).train()
        doses = whole.measures[0].doses(0.0)  # as of the end of training
        found[seed] = {
            "label": pipeline.label,
            "own": pipeline.counted().whole,
            "doses": list(whole.doses.values()),
            "uncounted": doses.uncounted,
            "counted": [one.whole for one in doses.counted],
        }
    (folder / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
