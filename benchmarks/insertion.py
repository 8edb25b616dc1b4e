"""Compares inserting 1,000 canary rows into 10**6 rows of short text with an identity map with the same options.

Run as `python -m benchmarks.insertion`. Both alternate in one process, three times each, without caches. Then the peak
memory of inserting into 10**6 and 10**7 rows on disk is measured in separate processes: the memory of the process
itself, without the pages of mapped files. This takes about two minutes and 2 GB of disk space. `--rows 20000` runs
everything in seconds and writes no result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from benchmarks.record import write_result
from hf_exposure import CanarySet, CanaryTemplate, Digits, draw_canaries, insert_canaries

ROWS, REPEATS, LIMIT = 1_000_000, 3, 3.0
TIMES_LARGER, MEMORY_LIMIT = 10, 1.5
_ROWS_AT_ONCE = 100_000


def identity(table: pa.Table, indices: list[int]) -> pa.Table:
    return table


def canaries_to_insert() -> CanarySet:
    template = CanaryTemplate("The random number is {number}", number=Digits(9))
    canaries = draw_canaries(template, repetitions={1: 40, 8: 40, 16: 40}, controls=0, seed=0)
    assert canaries.total_insertions == 1000
    return canaries


def write_rows(path: Path, rows: int) -> None:
    """Rows of short text in Arrow's stream format, a hundred thousand at a time."""
    schema = pa.schema({"text": pa.string()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for start in range(0, rows, _ROWS_AT_ONCE):
            numbers = pc.cast(pa.array(range(start, min(start + _ROWS_AT_ONCE, rows))), pa.string())
            texts = pc.binary_join_element_wise("row ", numbers, " of some short text, as one line", "")
            writer.write_table(pa.table({"text": texts}), max_chunksize=1000)


def seconds_of(work: Callable[[], Dataset]) -> float:
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    result.cleanup_cache_files()
    return elapsed


def own_bytes() -> int:
    """Returns the memory of this process, without the pages of mapped files."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not separate private memory from that of files: run this on Linux")


def measure_memory(path: Path) -> dict[str, float]:
    """Peak memory growth in bytes, and seconds, of inserting into the rows at `path`."""
    dataset, canaries = Dataset.from_file(str(path)), canaries_to_insert()
    insert_canaries(dataset.select(range(2000)), canaries)  # load everything that is loaded on first use
    before, done = own_bytes(), threading.Event()
    peak = [before]

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    merged = insert_canaries(dataset, canaries)
    elapsed = time.perf_counter() - start
    done.set()
    watcher.join()
    assert len(merged) == len(dataset) + canaries.total_insertions
    return {"peak_bytes": peak[0] - before, "seconds": elapsed, "process_bytes": peak[0]}


def memory_in_a_process(folder: Path, rows: int) -> dict[str, float]:
    path = folder / f"{rows}.arrow"
    write_rows(path, rows)
    command = [sys.executable, "-m", "benchmarks.insertion", "--measure", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for file in folder.glob("*.arrow"):
        file.unlink()
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare_speed(folder: Path, rows: int) -> dict[str, list[float]]:
    write_rows(folder / "rows.arrow", rows)
    dataset, canaries = Dataset.from_file(str(folder / "rows.arrow")), canaries_to_insert()
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
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--measure", type=Path, help="a file of rows: print the memory of inserting into it")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    if arguments.measure:
        print(json.dumps(measure_memory(arguments.measure)))
        return
    datasets.disable_caching()
    with tempfile.TemporaryDirectory() as folder:
        figures = compare_speed(Path(folder), arguments.rows)
        sizes = (arguments.rows, arguments.rows * TIMES_LARGER)
        memory = {rows: memory_in_a_process(Path(folder), rows) for rows in sizes}
    medians = {name: statistics.median(values) for name, values in figures.items()}
    ratio = medians["insertion_seconds"] / medians["identity_seconds"]
    small, large = (memory[rows]["process_bytes"] for rows in sizes)
    print(f"insertion: {ratio:.2f} times an identity map (limit {LIMIT:g})")
    for rows in sizes:
        grown = memory[rows]["peak_bytes"] / 2**20
        print(f"{rows} rows: {memory[rows]['seconds']:.1f} s, {grown:.0f} MiB more than before")
    print(f"memory of the process: {large / small:.2f} times that for a tenth of the rows (limit {MEMORY_LIMIT:g})")
    if arguments.rows == ROWS:
        rounded = {name: [round(value, 3) for value in values] for name, values in figures.items()}
        record = {"ratio": round(ratio, 3), "limit": LIMIT, **rounded, "rows": ROWS, "inserted_rows": 1000}
        record |= {"memory": {str(rows): {k: round(v, 3) for k, v in one.items()} for rows, one in memory.items()}}
        print(f"written to {write_result('insertion', {**record, 'memory_limit': MEMORY_LIMIT})}")
    if ratio >= LIMIT or large >= MEMORY_LIMIT * small:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
