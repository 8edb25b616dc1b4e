"""What is checked of a job of many processes before training starts."""

from __future__ import annotations

import itertools
import time
from datetime import timedelta
from typing import Any

from torch import distributed

from hf_exposure.errors import InputError

__all__ = ["SECONDS_FOR_ALL_TO_START", "call_roll", "check_parallelism"]

SECONDS_FOR_ALL_TO_START = 120.0
"""How far apart the processes of a job may start to train."""
_calls = itertools.count()


def call_roll(what: str) -> None:
    """Raises unless every process of the job makes this call, as often as this one, within two minutes.

    By the job's key-value store, not by a collective: a process without the callback would never join one, and this
    one would wait for it for ever. No code of ours runs on such a process. It is ended by the launcher, as torchrun
    and `accelerate launch` end all processes of a job of which one fails.

    Raises:
        InputError: on every process that made the call, if one did not.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    rank, world_size, number = distributed.get_rank(), distributed.get_world_size(), next(_calls)
    store = distributed.distributed_c10d._get_default_store()  # torch has no public name for it
    keys = [f"hf_exposure/roll/{number}/{other}" for other in range(world_size)]
    store.set(keys[rank], "here")
    deadline = time.monotonic() + SECONDS_FOR_ALL_TO_START
    for other, key in enumerate(keys):
        try:
            store.wait([key], timedelta(seconds=max(0.1, deadline - time.monotonic())))
        except RuntimeError as error:
            raise InputError(
                what,
                f"must be on every one of the {world_size} processes",
                f"none on process {other}",
                "Add it everywhere, not under `if rank == 0`: all processes measure together.",
            ) from error


def check_parallelism(arguments: Any) -> None:
    """Refuses to measure where a forward pass of whole texts is not what the processes do together.

    Raises:
        InputError: context or sequence parallelism.
    """
    from accelerate.state import AcceleratorState

    config = getattr(arguments, "parallelism_config", None)
    if config is None:
        # As `accelerate launch` sets it, in the environment.
        config = AcceleratorState._shared_state.get("parallelism_config")
    for name, kind in (("cp_size", "context"), ("sp_size", "sequence")):
        size = getattr(config, name, None) or 1
        if size > 1:
            raise InputError(
                "parallelism_config",
                f"must be without {kind} parallelism, which splits each text over processes, to measure in training",
                f"{name}={size}",
                "Measure the saved checkpoints with measure_exposure, or train with data or tensor parallelism.",
            )
