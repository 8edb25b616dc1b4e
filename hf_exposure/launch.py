"""Which process of a job this is, and what the first one says to the others, before any framework is loaded.

A launcher (`torchrun`, `accelerate launch`, `deepspeed`) starts a script many times and tells each copy in the
environment which one it is. Canaries are drawn at the top of such a script, long before a trainer connects the
processes, and must be the same in all of them. Whoever can connect processes registers here how.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["Exchange", "from_first_process", "rank_and_count", "register_exchange"]

Exchange = Callable[[str | None], str | None]
"""Called with a text on the first process, and with None on the others, which get that text."""
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_exchanges: list[Exchange] = []


def register_exchange(exchange: Exchange) -> None:
    """Makes `exchange` the way from the first process to the others."""
    _exchanges[:] = [exchange]


def rank_and_count() -> tuple[int, int]:
    """The number of this process in its job, and how many there are: 0 and 1 where it is alone.

    Example:
        >>> rank_and_count()
        (0, 1)
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if not all(os.environ.get(name) for name in _NEEDED):
        return 0, 1
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except ValueError:
        return 0, 1


def from_first_process(make: Callable[[], str]) -> str:
    """What `make` gives on the first process of the job. Every process must make this call, equally often.

    The first process does not wait for the others.

    Example:
        >>> from_first_process(lambda: "alone")
        'alone'
    """
    rank, count = rank_and_count()
    if count == 1 or not _exchanges:
        return make()
    text = _exchanges[0](make() if rank == 0 else None)
    assert text is not None
    return text
