"""What a search asks about one of its states, and the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["PathBits", "PathQuery"]


@dataclass(frozen=True)
class PathQuery:
    """One state of a search.

    Attributes:
        tokens: the path below the search's prefix.
        run: how many of its last tokens are forced, their bits not yet known.
        children: token ids whose bits after the path are wanted; may be empty.
    """

    tokens: tuple[int, ...]
    run: int
    children: np.ndarray


@dataclass(frozen=True)
class PathBits:
    """The answer: bits of the run summed, and (C,) bits of each child. Never renormalised over the children."""

    run_bits: float
    children_bits: np.ndarray

    @property
    def figures(self) -> np.ndarray:
        """(1 + C,) both as one array."""
        return np.concatenate([[self.run_bits], self.children_bits])
