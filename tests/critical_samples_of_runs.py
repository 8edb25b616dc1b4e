"""Hand-made critical sample ratios of training runs, for the tests that use such results."""

from __future__ import annotations

import math
from pathlib import Path

from hf_exposure.records.critical import CriticalRun
from hf_exposure.records.run_log import PlainRecord, RunLog

DETAILS = {
    "radius": 0.03, "step": 0.25, "noise": 0.2, "max_steps": 100, "seed": 77, "rows": 200, "confidence_level": 0.95,
    "embedding_scale": None, "critical_rows": [1, 187],
}  # fmt: skip


def critical_run(*ratios: float, name: str = "critical") -> CriticalRun:
    """One measurement every ten steps, with intervals of 0.1 around the ratios; NaN is a failure."""
    records = [
        PlainRecord(
            figures={
                f"eval_{name}_ratio": ratio,
                f"eval_{name}_low": ratio - 0.1,
                f"eval_{name}_high": ratio + 0.1,
                f"eval_{name}_seconds": 1.5,
            },
            details=DETAILS,
            step=10 * place,
            epoch=float(place),
        )
        for place, ratio in enumerate(ratios)
    ]
    return CriticalRun(records, name)


def write_run(folder: Path, *ratios: float, name: str = "critical") -> CriticalRun:
    """Writes the same figures as the log of a training run."""
    made, log = critical_run(*ratios, name=name), RunLog(name, PlainRecord.from_dict)
    log.start(folder, 0)
    for record in made.records:
        log.append(folder, record)
    return made


FAILED = math.nan
