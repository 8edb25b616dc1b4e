"""Inserting 1,000 canary rows into 10**6 rows of short text, against an identity map with the same options.

Run as `python -m benchmarks.insertion`. Both in one process, alternating, three times each, nothing cached.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable

import datasets
import pyarrow as pa
from datasets import Dataset, load_from_disk

from benchmarks.record import write_result
from hf_exposure import CanaryTemplate, Digits, draw_canaries, insert_canaries

ROWS, REPEATS, LIMIT = 1_000_000, 3, 3.0


def identity(table: pa.Table, indices: list[int]) -> pa.Table:
    return table


def seconds_of(work: Callable[[], Dataset]) -> float:
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    result.cleanup_cache_files()
    return elapsed


def main() -> None:
    datasets.disable_caching()
    datasets.disable_progress_bars()
    template = CanaryTemplate("The random number is {number}", number=Digits(9))
    canaries = draw_canaries(template, repetitions={1: 40, 8: 40, 16: 40}, controls=0, seed=0)
    assert canaries.total_insertions == 1000
    with tempfile.TemporaryDirectory() as folder:
        texts = [f"row {row} of some short text, as one line" for row in range(ROWS)]
        Dataset.from_dict({"text": texts}).save_to_disk(folder)
        dataset = load_from_disk(folder)
        figures: dict[str, list[float]] = {"identity_seconds": [], "insertion_seconds": []}
        for _ in range(REPEATS):
            figures["identity_seconds"].append(
                seconds_of(
                    lambda: dataset.with_format("arrow").map(
                        identity, batched=True, with_indices=True, batch_size=1000, features=dataset.features
                    )
                )
            )
            figures["insertion_seconds"].append(seconds_of(lambda: insert_canaries(dataset, canaries)))
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ratio = medians["insertion_seconds"] / medians["identity_seconds"]
    rounded = {name: [round(value, 3) for value in values] for name, values in figures.items()}
    what = {"rows": ROWS, "inserted_rows": canaries.total_insertions}
    path = write_result("insertion", {"ratio": round(ratio, 3), "limit": LIMIT, **rounded, **what})
    print(f"insertion: {ratio:.2f} times an identity map (limit {LIMIT:g}), written to {path}")
    if ratio >= LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
