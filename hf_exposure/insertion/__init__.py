"""Where canaries go: into a dataset's texts, and out again."""

from __future__ import annotations

from hf_exposure.insertion.insert import insert_canaries, remove_canaries
from hf_exposure.insertion.inserter import CanaryInserter

__all__ = ["CanaryInserter", "insert_canaries", "remove_canaries"]
