"""Values that the processes of a job must share before training starts: distributing and checking them."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from torch import distributed

from hf_exposure.errors import InputError, ProcessesDifferError, first_line
from hf_exposure.launch import is_launched
from hf_exposure.runtime.processes import Processes, job_store

SECONDS_FOR_ALL_TO_START = 120.0
"""The largest delay between the processes of a job when training starts."""
SECONDS_FOR_A_STORE = 600.0
"""How long a process waits for the first one to open the job's store, which may prepare data before it does."""
_calls = itertools.count()


@cache
def token_of_job() -> str:
    """256 random bits in hex, the same on every process of this job, and different for every job.

    The first process that asks makes them, and no process waits for another. They are shared through the job's
    key-value store, which exists before the process group: torchrun's own, or the one that `init_process_group` makes
    at MASTER_ADDR and MASTER_PORT. Anyone who can read that store while the job runs can redraw the canaries.

    Raises:
        InputError: the store cannot be reached or opened.
    """
    store = _launched_store() if is_launched() else job_store()
    return str(store.compare_set("hf_exposure/token", "", secrets.token_hex(32)).decode())


@cache
def _launched_store() -> Any:
    """The store at the address that the launcher gave; it is kept, since the process group may use the same server.

    torchrun runs the server itself; otherwise the first process does, and `multi_tenant` lets `init_process_group`
    join it.
    """
    address, rank = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", os.environ["RANK"]
    launcher_serves = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = distributed.TCPStore(  # type: ignore[attr-defined]  # star-imported there
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            None,
            rank == "0" and not launcher_serves,
            timedelta(seconds=SECONDS_FOR_A_STORE),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "canaries",
            "must be the same on every process, for which the job's store must answer at MASTER_ADDR and MASTER_PORT",
            f"none at {address} for process {rank} ({first_line(error)[:60]})",
            "Draw once, save the set, and load the file on every process: CanarySet.load(path).",
        ) from error
    # A job that torchrun restarts must not read the values of the previous attempt.
    return distributed.PrefixStore(  # type: ignore[attr-defined]
        f"hf_exposure/attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store
    )


def check_alike(processes: Processes, values: Mapping[str, object], remedies: Mapping[str, str]) -> None:
    """Raises unless every process has the same values; every process must make this call.

    Args:
        processes: the processes that measure together.
        values: the values that must be equal, by the name of the argument. They are exchanged unchanged, as one line
            of text each: pass a digest of secret or long values.
        remedies: what to do if a value differs, by name; "" is for all others.

    Raises:
        InputError: values differ. It is raised on every process, and names the first value that differs, and the
            processes.
    """
    if processes.count == 1:
        return
    said = processes.all_gather_texts("\n".join(f"{name}\t{value}" for name, value in values.items()))
    of_all = [dict(line.split("\t", 1) for line in text.split("\n")) for text in said]
    for name in dict.fromkeys(name for held in of_all for name in held):
        found: dict[str, list[int]] = {}
        for rank, held in enumerate(of_all):
            found.setdefault(held.get(name, "nothing"), []).append(rank)
        if len(found) > 1:
            shown = "; ".join(f"{value[:40]} on {_named(ranks)}" for value, ranks in found.items())
            remedy = remedies.get(name, remedies[""])
            raise ProcessesDifferError(name, "must be the same on every process of the job", shown, remedy)


def _named(ranks: list[int]) -> str:
    listed = ", ".join(map(str, ranks))
    return f"process {listed}" if len(ranks) == 1 else f"processes {listed}"


def check_all_present(what: str) -> None:
    """Raises unless every process of the job makes this call, as often as this one, within two minutes.

    It uses the job's key-value store and not a collective, which a process without the callback would never join, so
    that this one would deadlock. No code of this package runs on such a process. The launcher ends it, as torchrun and
    `accelerate launch` end all processes of a job if one fails.

    Raises:
        InputError: a process did not make the call. It is raised on every process that did.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    rank, world_size, number = distributed.get_rank(), distributed.get_world_size(), next(_calls)
    store = job_store()
    keys = [f"hf_exposure/present/{number}/{other}" for other in range(world_size)]
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
    """Refuses jobs whose processes do not each run forward passes of whole texts.

    Raises:
        InputError: the job uses context or sequence parallelism.
    """
    from accelerate.state import AcceleratorState

    config = getattr(arguments, "parallelism_config", None)
    if config is None:
        # `accelerate launch` sets it in the environment.
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
