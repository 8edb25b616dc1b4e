"""Whether this process is one of a job, and a random token that all its processes share, before any framework is
loaded.

A launcher (`torchrun`, `accelerate launch`, `deepspeed`) starts a script many times, and tells each copy its rank in
environment variables. Canaries are drawn at the top of such a script, long before a trainer connects the processes,
and must be the same in all of them. The package that can connect processes registers here how they agree on a token.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_makers: list[Callable[[], str]] = []


def register_job_token(make: Callable[[], str]) -> None:
    """Registers the function that returns the same token on all processes of a job."""
    _makers[:] = [make]


def job_token() -> str | None:
    """A random text that all processes of this job share and nobody else knows; None if this process is alone.

    A process does not wait until the others call this.

    Example:
        >>> job_token() is None
        True
    """
    return _makers[0]() if _makers and count_of_processes() > 1 else None


def count_of_processes() -> int:
    """The number of processes of the job, according to the process group if there is one, and otherwise to the
    launcher.
    """
    if is_launched():
        return int(os.environ["WORLD_SIZE"])
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return 1


def is_launched() -> bool:
    """Whether a launcher has set the environment variables that `torch.distributed` needs to connect the processes."""
    return all(os.environ.get(name) for name in _NEEDED) and os.environ["WORLD_SIZE"].isdigit()
