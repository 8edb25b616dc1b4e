"""Watching a long search: a bar on the terminal, and Ctrl-C that ends it with what is certain by then."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from hf_exposure.checks import flag

__all__ = ["SearchWatch"]


class SearchWatch:
    """Lets a search say how far it is, and be stopped between two batches, when its open nodes are whole.

    As a context manager it takes Ctrl-C for itself, in the main thread only: the first one asks the search to stop,
    a second one interrupts at once, as usual.

    Args:
        progress: True shows the bar, False shows none, None shows it where stderr is a terminal.
        description: what stands before the bar.
    """

    def __init__(self, progress: bool | None = False, description: str = "Searching") -> None:
        self.interrupted = False
        self._disable = None if progress is None else not flag("progress", progress)
        self._description, self._bar, self._before = description, None, None  # type: Any, Any, Any

    def __enter__(self) -> SearchWatch:
        self._bar = tqdm(desc=self._description, unit=" expansions", disable=self._disable)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._ask_to_stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._bar.close()

    def goes_on(self, expansions: int, open_nodes: int, best_bits: float, certain_bits: float) -> bool:
        """Shows where a search stands; whether it may go on.

        Args:
            expansions: so far.
            open_nodes: states not yet expanded.
            best_bits: of the likeliest text found, after the prefix; inf for none.
            certain_bits: no text that is still to be found costs less.
        """
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(
                f"{open_nodes} open, best {best_bits:.2f} bits, certain up to {certain_bits:.2f}"
            )
            self._bar.update(expansions - self._bar.n)
        return not self.interrupted

    def _ask_to_stop(self, signum: int, frame: Any) -> None:
        self.interrupted = True
        signal.signal(signal.SIGINT, self._before)
