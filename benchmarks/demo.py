"""How long the demo takes, from the command to the end of its output.

`python -m benchmarks.demo`: `hf-exposure demo` in a folder of its own, in new processes one after another, with as
many threads as the machine has cores. Imports, training, measuring, extraction and the report are all part of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

from benchmarks.record import write_result

RUNS = 3


def seconds_of_one() -> float:
    """Seconds of one run, which must end well."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = "from hf_exposure.cli import main; main()"
        subprocess.run(
            [sys.executable, "-c", command, "demo", "--out", os.path.join(folder, "demo")],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - started


def main() -> None:
    seconds = [seconds_of_one() for _ in range(RUNS)]
    print(seconds)
    print(write_result("demo", {"seconds": seconds, "cores": os.cpu_count()}))


if __name__ == "__main__":
    main()
