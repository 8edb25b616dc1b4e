"""A bar that shows that a measurement is under way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def calls_shown(model: nn.Module, what: str, *, hidden: bool = False) -> Iterator[None]:
    """Counts the model's forward calls on the terminal. Nobody knows how many are to come: a search ends when it ends.

    The bar goes away at the end. Where there is no terminal, nothing is shown and no hook is put on the model.

    Args:
        model: that is called.
        what: word before the bar.
        hidden: show nothing.
    """
    # The command line imports this module before it knows whether a model is needed.
    from tqdm import tqdm

    from hf_exposure.runtime.model_state import unwrap_model

    with tqdm(desc=what, unit=" model calls", disable=True if hidden else None, file=sys.stderr, leave=False) as bar:

        def count(*_: Any) -> None:  # whatever a hook returns would take the place of the output
            bar.update()

        hook = None if bar.disable else unwrap_model(model).register_forward_hook(count)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
