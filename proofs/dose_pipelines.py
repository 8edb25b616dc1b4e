"""Compares doses with a brute-force count in the training batches, for 200 random training pipelines.

`python -m proofs.dose_pipelines [PIPELINES]`, takes about five minutes on one idle core. Each pipeline is a test of
`tests/test_dose_pipelines.py`, which `make proof` also runs; here the results are stored, after every tenth pipeline,
in `benchmarks/results/dose_pipelines.json`. A second run continues where the first was stopped.

Rule, written before the first run: no pipeline is miscounted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.record import write_result

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "dose_pipelines.json"
_NOTHING: dict[str, Any] = {
    "pipelines": 0, "miscounted": [], "failed": [], "kinds": {}, "batches": 0, "whole": 0, "cpu_seconds": 0.0,
}  # fmt: skip


def run_one(seed: int, folder: Path, so_far: dict[str, Any]) -> None:
    """Adds one pipeline to the results so far."""
    from test_dose_pipelines import check

    started = time.process_time()
    try:
        pipeline = check(seed, folder)
    except AssertionError as error:
        so_far["miscounted"].append({"seed": seed, "said": str(error)[:400]})
    except Exception as error:
        so_far["failed"].append({"seed": seed, "said": f"{type(error).__name__}: {error}"[:400]})
    else:
        so_far["batches"] += len(pipeline.recorded)
        so_far["whole"] += sum(pipeline.counted().whole)
        so_far["kinds"] = dict(sorted((Counter(so_far["kinds"]) + Counter([pipeline.kind])).items()))
    so_far["pipelines"] = seed + 1
    so_far["cpu_seconds"] += time.process_time() - started


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    so_far = dict(_NOTHING)
    if RESULT.exists():
        stored = json.loads(RESULT.read_text(encoding="utf-8"))
        so_far = {name: stored[name] for name in _NOTHING}
    for seed in range(so_far["pipelines"], wanted):
        with tempfile.TemporaryDirectory() as folder:
            run_one(seed, Path(folder), so_far)
        if so_far["pipelines"] % 10 == 0 or so_far["pipelines"] == wanted:
            write_result("dose_pipelines", {**so_far, "trl": metadata.version("trl")})
            print(so_far, flush=True)


if __name__ == "__main__":
    main()
