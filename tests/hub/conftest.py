"""One training for several tests: it pushes to a Hub on this machine, and logs to every tracker that is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import Hub, hub_environment, running_hub

TRACKERS = [name for name in ("tensorboard", "trackio", "wandb") if find_spec(name) is not None]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A training of 6 steps with a push at each of two saves and two at the end, in a process of its own.

    The folder holds `run` (the output folder), `canaries.json`, `events`, `trackio` and `wandb`.
    """
    folder = tmp_path_factory.mktemp("trainer")
    with running_hub() as hub:
        environment = {
            **hub_environment(hub, folder / "home"), "TENSORBOARD_LOGGING_DIR": str(folder / "events"),
            "TRACKIO_DIR": str(folder / "trackio"), "WANDB_MODE": "offline", "WANDB_DIR": str(folder),
            "WANDB_SILENT": "true", "WANDB_DATA_DIR": str(folder / "wandb-data"),
            "WANDB_CACHE_DIR": str(folder / "wandb-cache"), "WANDB_CONFIG_DIR": str(folder / "wandb-config"),
        }  # fmt: skip
        script = Path(__file__).with_name("trainer_worker.py")
        done = subprocess.run(
            [sys.executable, str(script), str(folder), *TRACKERS],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        assert "was not attached" not in done.stderr, done.stderr
        yield hub, folder
