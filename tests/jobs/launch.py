"""Jobs with two processes, started as users start them, and ended if they hang."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import transformers
from packaging.version import Version

SCRIPTS = Path(__file__).parent
ROOT = SCRIPTS.parents[1]
resumes = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.18"),
    reason="before 5.18, the Trainer of transformers resumes no job of several CPU processes",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def torchrun(processes: int = 2) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes),
            "--master_port", str(free_port())]  # fmt: skip


def accelerate_launch(processes: int = 2, *options: str) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", *(options or ["--multi_gpu"]),
            "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--main_process_port", str(free_port())]  # fmt: skip


def plain() -> list[str]:
    return [sys.executable]


def run(
    launcher: list[str], script: str | Path, *arguments: str | Path, seconds: float = 150.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a job to its end. A job that hangs is killed and counts as a failure."""
    command = [*launcher, str(SCRIPTS / script), *map(str, arguments)]
    started = subprocess.Popen(
        command, env=job_environment(**environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = started.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # Launchers give each process of a job its own group.
        launcher_process = psutil.Process(started.pid)
        for process in [*launcher_process.children(recursive=True), launcher_process]:
            process.kill()
        said, _ = started.communicate()
        raise AssertionError(f"the job hung for {seconds} s:\n{said[-4000:]}") from None
    return subprocess.CompletedProcess(command, started.returncode, said)


def results(done: subprocess.CompletedProcess[str], folder: Path, processes: int = 2) -> list[dict[str, Any]]:
    """The results written by each process of a successful job."""
    assert done.returncode == 0, done.stdout[-6000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def job_environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), str(SCRIPTS.parent), str(SCRIPTS)]
    own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
           "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(paths)}  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, **own, **more}
