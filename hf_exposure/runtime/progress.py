"""A progress bar for measurements."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def calls_shown(model: nn.Module, what: str, *, hidden: bool = False) -> Iterator[None]:
    """Counts the model's forward calls on the terminal. Their total is unknown, since the length of a search is.

    The bar disappears at the end. Without a terminal, nothing is shown and the model gets no hook.

    Args:
        model: the model that is called.
        what: the word before the bar.
        hidden: whether to show nothing.
    """
    # The command line imports this module before it knows whether a model is needed.
    from tqdm import tqdm

    from hf_exposure.runtime.model_state import unwrap_model

    with tqdm(desc=what, unit=" model calls", disable=True if hidden else None, file=sys.stderr, leave=False) as bar:

        def count(*_: Any) -> None:  # a returned value would replace the model's output
            bar.update()

        hook = None if bar.disable else unwrap_model(model).register_forward_hook(count)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
