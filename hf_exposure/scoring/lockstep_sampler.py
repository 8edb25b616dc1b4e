"""Random samples that descend a graph of texts together, one level at a time.

While the samples share most of their states, each distinct state is scored by its whole path. Once they diverge, a
scorer that supports it keeps the caches of the paths, so that no token is fed twice.

Shapes: S samples, A of them active in a step, T new tokens of each at most, C children of each at most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_exposure.runtime.batches import all_close
from hf_exposure.runtime.logits import CacheRefused
from hf_exposure.scoring.protocol import SampleReader, Scorer
from hf_exposure.scoring.token_tree import IntArray, PathQuery, pad_sequences

# Caches are kept from the level on at which this share of the samples' states is distinct.
_APART = 0.25
_CHECKED_SAMPLES = 8
# If cached and uncached figures differ by more than this many times the tolerance, the model misread the cache.
_AGREEMENT = 20.0


class LockstepSampler:
    """The paths of S samples below one prefix.

    Args:
        scorer: the scorer, which answers for whole paths, and may keep the caches of samples.
        prefix: the tokens with which all paths begin.
        samples: the number of samples, S.
        length: the expected number of tokens of a path; used only to size the caches.
    """

    def __init__(self, scorer: Scorer, prefix: Sequence[int], samples: int, length: int) -> None:
        self._scorer, self._prefix, self._length = scorer, tuple(prefix), length
        self._reader: SampleReader | None = None
        self._may_cache = True
        self._order_S = np.full(samples, -1, dtype=np.int64)  # the number of each sample in the reader's order
        self._cached_S = np.zeros(samples, dtype=np.int64)  # the number of tokens of each that the reader has cached
        self._steps_cached = 0

    @property
    def keeps_caches(self) -> bool:
        """Whether the paths' caches are kept now."""
        return self._reader is not None

    def step(
        self, sample_A: IntArray, paths: Sequence[tuple[int, ...]], run_A: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores what follows the paths of the given samples.

        Args:
            sample_A: the samples, ascending.
            paths: their paths after the prefix; each continues the path of the sample one step before.
            run_A: the number of last tokens whose bits are requested; fewer than those that are new.
            children_AC: tokens whose bits after the path are requested, padded with -1.

        Returns:
            (A,) bits of the run, and (A, C) bits of the children, inf for padding.
        """
        is_apart = all(paths) and len(set(paths)) >= _APART * len(sample_A)
        if self._may_cache and self._reader is None and is_apart:
            self._begin(sample_A, paths)
        found = None if self._reader is None else self._by_caches(self._reader, sample_A, paths, run_A, children_AC)
        return self._by_paths(paths, run_A, children_AC) if found is None else found

    def _begin(self, sample_A: IntArray, paths: Sequence[tuple[int, ...]]) -> None:
        """Numbers the samples so that neighbors share most of their paths."""
        by_path = sample_A[sorted(range(len(sample_A)), key=paths.__getitem__)]
        self._order_S[by_path] = np.arange(len(sample_A))
        self._reader = self._scorer.sample_reader(self._prefix, len(sample_A), self._length)
        self._may_cache = self._reader is not None

    def _by_caches(
        self,
        reader: SampleReader,
        sample_A: IntArray,
        paths: Sequence[tuple[int, ...]],
        run_A: IntArray,
        children_AC: IntArray,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """The answer from the caches; None, from now on, if they are refused or found wrong."""
        new = pad_sequences([path[old:] for path, old in zip(paths, self._cached_S[sample_A].tolist(), strict=True)])
        order_A = self._order_S[sample_A]
        by_order = np.argsort(order_A)
        try:
            answers = reader.step(order_A[by_order], new[by_order], run_A[by_order], children_AC[by_order])
        except CacheRefused:
            self._reader, self._may_cache = None, False
            return None
        back = np.argsort(by_order)
        run_bits_A, children_bits_AC = answers[0][back], answers[1][back]
        self._cached_S[sample_A] = [len(path) for path in paths]
        self._steps_cached += 1
        # Step 2 is the first to read a cache that step 1 wrote.
        if self._steps_cached == 2:
            some = np.unique(np.linspace(0, len(paths) - 1, _CHECKED_SAMPLES).astype(np.int64))
            by_paths = self._by_paths([paths[line] for line in some.tolist()], run_A[some], children_AC[some])
            found = np.column_stack([run_bits_A, children_bits_AC])
            expected, tolerance = np.column_stack(by_paths), _AGREEMENT * self._scorer.tolerance_bits
            # If a figure is NaN, whole paths are scored, which shows the text.
            if np.isnan(found).any() or not all_close(found[some], expected, tolerance):
                self._reader, self._may_cache = None, False
                return None
        return run_bits_A, children_bits_AC

    def _by_paths(
        self, paths: Sequence[tuple[int, ...]], run_A: IntArray, children_AC: IntArray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores each distinct path once, from its beginning."""
        numbers: dict[tuple[int, ...], int] = {}
        number_A = np.array([numbers.setdefault(path, len(numbers)) for path in paths])
        _, first = np.unique(number_A, return_index=True)
        queries = [
            PathQuery(path, int(run_A[at]), children_AC[at][children_AC[at] >= 0])
            for path, at in zip(numbers, first.tolist(), strict=True)
        ]
        answers = self._scorer.path_bits(self._prefix, queries)
        children_bits = np.full((len(queries), children_AC.shape[1]), np.inf)
        for line, answer in enumerate(answers):
            children_bits[line, : len(answer.children_bits)] = answer.children_bits
        return np.array([answer.run_bits for answer in answers])[number_A], children_bits[number_A]
