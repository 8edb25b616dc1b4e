"""A bar that shows that a model is at work; there is none where the output is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["calls_shown"]


@contextmanager
def calls_shown(model: Any, what: str) -> Iterator[None]:
    """Counts the model's forward calls. Nobody knows how many are to come: a search ends when it ends."""
    from tqdm import tqdm

    with tqdm(desc=what, unit=" model calls", disable=None, file=sys.stderr, leave=False) as bar:
        hook = model.register_forward_hook(lambda *_: bar.update())
        try:
            yield
        finally:
            hook.remove()
