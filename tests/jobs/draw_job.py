"""Draws in a job: `draw_job.py FOLDER` runs in each process; `draw_job.py FOLDER start` starts two of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch import free_port

from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries

TEMPLATE = CanaryTemplate("pin {pin}", pin=Digits(6))


def drawn(canaries: CanarySet) -> tuple[str, str, str]:
    return " ".join(c.text for c in canaries), " ".join(c.id for c in canaries), canaries.salt


def draw(**arguments: Any) -> CanarySet:
    return draw_canaries(TEMPLATE, {1: 2}, controls=2, **arguments)


def main() -> None:
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["start"]:
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        command = [sys.executable, __file__, str(folder)]
        started = [subprocess.Popen(command, env={**os.environ, **shared, "RANK": str(rank)}) for rank in (1, 0)]
        sys.exit(max(process.wait(timeout=100) for process in started))
    rank = int(os.environ["RANK"])
    with_torch = ["torch" in sys.modules]
    if rank == 1:
        draw(seed=77)  # one more than the first process
    sets = [draw(), draw(), draw(seed=4), draw(seed=4), CanarySet.from_secrets(TEMPLATE, ["pin 123456"], controls=1)]
    other = draw(seed=10 + rank)
    import torch

    torch.distributed.init_process_group("gloo")
    sets.append(draw())
    torch.distributed.destroy_process_group()
    with_torch.append("torch" in sys.modules)
    found = {"sets": [drawn(one) for one in sets], "other": drawn(other)[0], "with_torch": with_torch}
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
