"""Random pipelines with each process's own count by brute force: `doses_job.py FOLDER SEED...`

A seed followed by a colon and a number is a pipeline under that stage of DeepSpeed's ZeRO.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import IterableDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from pipelines import random_pipeline


def zero_settings(stage: str) -> dict[str, Any]:
    """Settings of a trainer with a torch optimizer, since DeepSpeed runs here without its compiled one."""
    import deepspeed

    # Faster communication over shared memory would be compiled on first use, which takes minutes and a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    config = {
        "zero_optimization": {"stage": int(stage), "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True,
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
    }  # fmt: skip
    return {"deepspeed": config}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, found = Path(sys.argv[1]), {}
    for wanted in sys.argv[2:]:
        number, _, stage = wanted.partition(":")
        seed = int(number)
        pipeline = random_pipeline(seed)
        pipeline.settings |= zero_settings(stage) if stage else {}
        if isinstance(pipeline.data, IterableDataset):
            # A stream that ends earlier on one process than on the other ends the job, with or without the callback.
            pipeline.data = pipeline.data.repeat(None)
        whole = pipeline.callback(strategy="steps", steps=3)
        if seed % 2:
            # Stopped and resumed, with a measurement in between: nothing is counted twice.
            first = pipeline.callback()
            pipeline.trainer(folder / str(seed), [first], save_strategy="steps", save_steps=2, max_steps=2).train()
            trainer = pipeline.trainer(folder / str(seed), [whole], max_steps=5)
            trainer.train(resume_from_checkpoint=str(folder / str(seed) / "checkpoint-2"))
        else:
            trainer = pipeline.trainer(folder / str(seed), [whole])
            trainer.train()
        doses = whole.measures[0].doses(0.0)  # as of the end of training
        optimizer = trainer.model_wrapped.optimizer if stage else None
        found[wanted] = {
            "label": pipeline.label,
            "wrapper": type(trainer.model_wrapped).__name__,
            "optimizer": type(optimizer).__name__,
            "own": pipeline.counted().whole,
            "doses": list(whole.doses.values()),
            "uncounted": doses.uncounted,
            "counted": [one.whole for one in doses.counted],
        }
        (folder / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
    if torch.distributed.is_initialized():  # threads of a remaining process group may abort a process
        torch.distributed.destroy_process_group()
