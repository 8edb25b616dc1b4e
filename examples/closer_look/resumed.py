"""Many runs of one script. Each is stored when it ends, so an interrupted script continues where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from examples.closer_look.images import Options

__all__ = ["each_run"]


def each_run(
    options: Options, name: str, settings: Any, keys: Iterable[Any], make: Callable[..., dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """What `make` returns for each key, in order, and the total cost.

    Runs are kept in a file in the output folder, by key and settings, until a later call has other settings.

    Args:
        settings: whatever else determines a run, such as the size.
        keys: tuples of arguments for `make`.
    """
    path = options.out / f".{name}.runs.jsonl"
    whose = json.loads(json.dumps([repr(settings), str(options.mnist)]))
    kept: dict[str, dict[str, Any]] = {}
    if path.exists():
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = {line["key"]: line for line in lines if line["of"] == whose}
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in kept.values()), encoding="utf-8")
    made = []
    for key in keys:
        label = repr(key)
        if label not in kept:
            clock, processor = time.perf_counter(), time.process_time()
            found = make(*key)
            cost = {"seconds": time.perf_counter() - clock, "processor_seconds": time.process_time() - processor}
            kept[label] = json.loads(json.dumps({"key": label, "of": whose, "cost": cost, "run": found}))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(kept[label]) + "\n")
        made.append(kept[label])
    total = {name: round(sum(one["cost"][name] for one in made), 1) for name in ("seconds", "processor_seconds")}
    return [one["run"] for one in made], total
