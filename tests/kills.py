"""Ends a child process at each point, in turn, of its work on files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import hf_exposure.files

_CALLS = ("open", "mkdir", "chmod", "rename", "replace", "unlink", "rmdir")
_KILLED = 77


def killed_at_each_call(work: Callable[[], Any], prepare: Callable[[], Any]) -> Iterator[int]:
    """Prepares and does the work in a child process that ends at its first file-changing call, then at the second, ...

    Yields the number of the call after each child, until a child completes its work.
    """
    number = 1
    while True:
        prepare()
        if not _ends_at(number, work):
            return
        yield number
        number += 1


def _ends_at(number: int, work: Callable[[], Any]) -> bool:
    """Whether a child was ended before its call of that number."""
    child = os.fork()
    if child == 0:
        try:
            _work_until(number, work)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, _KILLED), "the child failed"
    return status == _KILLED


def _work_until(number: int, work: Callable[[], Any]) -> None:
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os._exit(_KILLED)
            return function(*arguments, **named)

        return call

    for name in _CALLS:
        patch.object(os, name, counted(getattr(os, name))).start()
    patch.object(hf_exposure.files, "_exchange", counted(hf_exposure.files._exchange)).start()
    work()
