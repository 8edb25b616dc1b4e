"""Whether this process is one of a job, and what is random in all of them alike, before any framework is loaded.

A launcher (`torchrun`, `accelerate launch`, `deepspeed`) starts a script many times, and tells each copy in the
environment which one it is. Canaries are drawn at the top of such a script, long before a trainer connects the
processes, and must be the same in all of them. Whoever can connect processes registers here how a token is agreed on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_makers: list[Callable[[], str]] = []


def register_job_token(make: Callable[[], str]) -> None:
    """Makes `make` what gives all processes of a job one token."""
    _makers[:] = [make]


def job_token() -> str | None:
    """A random text that all processes of this job share, and nobody else knows; None where this process is alone.

    No process waits for another one to ask.

    Example:
        >>> job_token() is None
        True
    """
    return _makers[0]() if _makers and count_of_processes() > 1 else None


def count_of_processes() -> int:
    """How many processes the job has, as the launcher says, or the process group where there is one already."""
    if is_launched():
        return int(os.environ["WORLD_SIZE"])
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return 1


def is_launched() -> bool:
    """Whether a launcher has put into the environment what `torch.distributed` needs to connect the processes."""
    return all(os.environ.get(name) for name in _NEEDED) and os.environ["WORLD_SIZE"].isdigit()
