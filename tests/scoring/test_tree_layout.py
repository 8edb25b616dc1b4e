"""Slots, masks and queries of packed rows against a loop over samples that keeps whole paths."""

from __future__ import annotations

import numpy as np
import pytest

from hf_exposure.scoring.tree_layout import NewSlots, TreeLayout

# Tokens, each with the time when it was appended: shared tokens were appended at the same time.
Path = tuple[tuple[int, int], ...]


class NaiveRows:
    """Each row is a dictionary from a path to its slot; a known path takes no second slot."""

    def __init__(self, row_of: list[int], batch_of: list[int]) -> None:
        self.row_of, self.batch_of = row_of, batch_of
        self.slots: list[dict[Path, int]] = [{} for _ in batch_of]
        self.filled = [0] * (max(batch_of) + 1)
        self.paths: list[Path] = [()] * len(row_of)
        self.time = 0

    def append(self, samples: list[int], tokens: list[list[int]]) -> list[list[int]]:
        """The slots of each sample's new tokens: first tokens before second ones, then by their parents' slots."""
        taken = [self.filled[batch] for batch in self.batch_of]
        found: list[list[int]] = [[] for _ in samples]
        for column in range(max(map(len, tokens))):
            self.time += 1
            here = [line for line, own in enumerate(tokens) if column < len(own)]

            def place(line: int) -> tuple[int, int, int]:
                sample = samples[line]
                row, path = self.row_of[sample], self.paths[sample]
                return row, self.slots[row].get(path, -1), tokens[line][column]  # noqa: B023

            for line in sorted(here, key=place):
                sample, row = samples[line], self.row_of[samples[line]]
                path = (*self.paths[sample], (self.time, tokens[line][column]))
                if path not in self.slots[row]:
                    self.slots[row][path] = taken[row]
                    taken[row] += 1
                found[line].append(self.slots[row][path])
                self.paths[sample] = path
        for row, batch in enumerate(self.batch_of):
            self.filled[batch] = max(self.filled[batch], taken[row])
        return found


def padded(lines: list[list[int]], width: int) -> np.ndarray:
    return np.array([line + [-1] * (width - len(line)) for line in lines], dtype=np.int64)


def check_batch(naive: NaiveRows, new: NewSlots, batch: int, before: int) -> None:
    """Checks the inputs of a batch of rows by the paths in its slots."""
    rows = [row for row, other in enumerate(naive.batch_of) if other == batch]
    width = naive.filled[batch] - before
    assert (new.filled_G[batch], new.width_G[batch]) == (before, width)
    if not width:
        return
    # After the last row there is one without samples, since another process may have more rows.
    lines = len(rows) + (batch == max(naive.batch_of))
    token_BW, depth_BW, sees_BWF = new.of_batch(batch, rows[0], rows[0] + lines)
    assert token_BW.shape == depth_BW.shape == (lines, width) and sees_BWF.shape == (lines, width, before + width)
    for line in range(lines):
        path_in = {slot: path for path, slot in naive.slots[rows[line]].items()} if line < len(rows) else {}
        for column in range(width):
            path = path_in.get(before + column)
            if path is None:  # padding sees only itself below the prefix
                assert sees_BWF[line, column].nonzero()[0].tolist() == [before + column]
                continue
            assert (token_BW[line, column], depth_BW[line, column]) == (path[-1][1], len(path) - 1)
            seen = [slot for slot, other in sorted(path_in.items()) if other == path[: len(other)]]
            assert sees_BWF[line, column].nonzero()[0].tolist() == seen


@pytest.mark.parametrize("seed", range(6))
def test_slots_and_masks_are_those_of_a_loop_over_paths(seed: int) -> None:
    generator = np.random.default_rng(seed)
    row_of = sorted(generator.integers(0, 4, 17).tolist()) + [4]
    batch_of = [0, 0, 1, 1, 2]
    layout, naive = TreeLayout(np.array(row_of), np.array(batch_of)), NaiveRows(row_of, batch_of)
    for _ in range(5):
        samples = np.flatnonzero(generator.random(len(row_of)) < 0.8)
        tokens = [generator.integers(7, 9, generator.integers(1, 4)).tolist() for _ in samples]
        before = list(naive.filled)
        width = max(map(len, tokens))
        new = layout.append(samples, padded(tokens, width))
        expected = naive.append(samples.tolist(), tokens)
        assert new.slot_AT.tolist() == padded(expected, width).tolist()
        for batch in range(3):
            check_batch(naive, new, batch, before[batch])


@pytest.mark.parametrize("seed", range(4))
def test_each_query_is_made_once_and_in_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    row_of = np.arange(12) // 4
    layout, naive = TreeLayout(row_of, np.zeros(3, dtype=np.int64)), NaiveRows(row_of.tolist(), [0, 0, 0])
    paths: list[Path] = [()] * 12
    for _ in range(3):
        tokens = [generator.integers(7, 9, generator.integers(1, 4)).tolist() for _ in paths]
        run = np.array([generator.integers(0, len(own)) for own in tokens])
        tokens_AT = padded(tokens, 3)
        new = layout.append(np.arange(12), tokens_AT)
        naive.append(list(range(12)), tokens)
        paths = list(naive.paths)
        # The continuations depend on the path, as in a graph of texts.
        sums = [sum(token for _, token in path) for path in paths]
        children = [sorted({number % 5, number % 3}) for number in sums]
        asked = new.queries(tokens_AT, run, padded(children, 2))
        found = list(zip(asked.row_Q.tolist(), asked.slot_Q.tolist(), asked.token_Q.tolist(), strict=True))
        assert len(set(found)) == len(found)
        assert [(row, slot) for row, slot, _ in found] == sorted((row, slot) for row, slot, _ in found)
        expected = set()
        for sample, path in enumerate(paths):
            row = int(row_of[sample])
            of_sample = [path[at:] for at in range(len(path) - int(run[sample]), len(path))]
            wanted = [(path[: len(path) - len(rest)], rest[0][1]) for rest in of_sample]
            wanted += [(path, child) for child in children[sample]]
            queries = [(row, naive.slots[row][before], token) for before, token in wanted]
            expected.update(queries)
            numbers = [number for number in asked.number_AX[sample].tolist() if number >= 0]
            assert [found[number] for number in numbers] == queries
        assert set(found) == expected
        part = asked.of_rows(1, 2)
        assert asked.row_Q[part].tolist() == [row for row, _, _ in found if row == 1]
