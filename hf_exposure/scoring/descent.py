"""Random draws going down a graph of texts together, a level at a time.

While the draws still share most of their states, each distinct state is asked for by its whole path. Once they part,
a scorer that can keeps the caches of the paths, so that no token is fed twice.

Shapes: D draws, A of them alive in a step, T new tokens at most, C children at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_exposure.runtime.batches import all_close
from hf_exposure.runtime.logits import CacheRefused
from hf_exposure.scoring.protocol import Scorer
from hf_exposure.scoring.row_caches import RowCaches
from hf_exposure.scoring.token_tree import IntArray, PathQuery, pad_sequences

# Caches are kept from the level on at which the draws stand at this share of distinct states.
_APART = 0.25
_CHECKED_DRAWS = 8
# Figures that differ by more than so many times the scorer's noise are other figures: the cache was not read as meant.
_AGREEMENT = 20.0


class Descent:
    """The paths of D draws below one prefix.

    Args:
        scorer: answers for whole paths; one with a method `row_caches(prefix, draws, length)` may keep their caches.
        prefix: tokens that all paths begin with.
        draws: D.
        length: tokens that a path is expected to have; for the caches' size only.
    """

    def __init__(self, scorer: Scorer, prefix: Sequence[int], draws: int, length: int) -> None:
        self._scorer, self._prefix, self._length = scorer, tuple(prefix), length
        self._row_caches: Any = getattr(scorer, "row_caches", None)
        self._caches: RowCaches | None = None
        self._order = np.full(draws, -1, dtype=np.int64)  # the number of each draw among the rows
        self._kept = np.zeros(draws, dtype=np.int64)  # tokens of each that the caches hold
        self._steps_cached = 0

    @property
    def keeps_caches(self) -> bool:
        """Whether the paths' caches are kept by now."""
        return self._caches is not None

    def step(
        self, alive: IntArray, paths: Sequence[tuple[int, ...]], run: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads what comes after some draws' paths.

        Args:
            alive: (A,) draws, ascending.
            paths: of each, from the prefix on; each goes on from the one that it had a step before.
            run: (A,) how many of the last tokens, all of them new, are asked for.
            children_AC: tokens whose bits after the path are asked for, padded with -1.

        Returns:
            (A,) bits of the run, and (A, C) bits of the children, inf for padding.
        """
        may_begin = self._row_caches is not None and self._caches is None and all(paths)
        if may_begin and len(set(paths)) >= _APART * len(alive):
            self._begin(alive, paths)
        if self._caches is None:
            return self._by_paths(paths, run, children_AC)
        return self._by_caches(alive, paths, run, children_AC)

    def _begin(self, alive: IntArray, paths: Sequence[tuple[int, ...]]) -> None:
        """Numbers the draws so that those that share most of their paths stand side by side."""
        by_path = alive[sorted(range(len(alive)), key=paths.__getitem__)]
        self._order[by_path] = np.arange(len(alive))
        self._caches = self._row_caches(self._prefix, len(alive), self._length)
        if self._caches is None:
            self._row_caches = None

    def _by_caches(
        self, alive: IntArray, paths: Sequence[tuple[int, ...]], run: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self._caches is not None
        new = [path[kept:] for path, kept in zip(paths, self._kept[alive].tolist(), strict=True)]
        by_row = np.argsort(self._order[alive])
        try:
            found = self._caches.step(
                self._order[alive][by_row], pad_sequences(new)[by_row], run[by_row], children_AC[by_row]
            )
        except CacheRefused:
            return self._without_caches(paths, run, children_AC)
        self._kept[alive] = [len(path) for path in paths]
        back = np.argsort(by_row)
        run_bits, children_bits = found[0][back], found[1][back]
        self._steps_cached += 1
        # The second step is the first that reads what a step has kept.
        if self._steps_cached == 2 and not self._agrees(paths, run, children_AC, run_bits, children_bits):
            return self._without_caches(paths, run, children_AC)
        return run_bits, children_bits

    def _without_caches(
        self, paths: Sequence[tuple[int, ...]], run: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        self._caches = self._row_caches = None
        return self._by_paths(paths, run, children_AC)

    def _agrees(
        self,
        paths: Sequence[tuple[int, ...]],
        run: IntArray,
        children_AC: IntArray,
        run_bits: np.ndarray,
        children_bits: np.ndarray,
    ) -> bool:
        """Whether some draws get the figures that their whole paths give. NaN never does: the paths then say so."""
        some = np.unique(np.linspace(0, len(paths) - 1, _CHECKED_DRAWS).astype(np.int64))
        expected = self._by_paths([paths[line] for line in some.tolist()], run[some], children_AC[some])
        tolerance = _AGREEMENT * self._scorer.noise_bits
        return bool(
            all_close(run_bits[some], expected[0], tolerance)
            and all_close(children_bits[some], expected[1], tolerance)
            and not np.isnan(run_bits).any()
            and not np.isnan(children_bits).any()
        )

    def _by_paths(
        self, paths: Sequence[tuple[int, ...]], run: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each distinct path asked for once, from its beginning."""
        numbers: dict[tuple[int, ...], int] = {}
        number_A = np.array([numbers.setdefault(path, len(numbers)) for path in paths])
        _, first = np.unique(number_A, return_index=True)
        queries = [
            PathQuery(path, int(run[at]), children_AC[at][children_AC[at] >= 0])
            for path, at in zip(numbers, first.tolist(), strict=True)
        ]
        answers = self._scorer.path_bits(self._prefix, queries)
        children_bits = np.full((len(queries), children_AC.shape[1]), np.inf)
        for line, answer in enumerate(answers):
            children_bits[line, : len(answer.children_bits)] = answer.children_bits
        return np.array([answer.run_bits for answer in answers])[number_A], children_bits[number_A]
